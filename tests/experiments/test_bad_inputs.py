"""Bad files, settings, configurations and checkpoints through the command: exit 2, five lines, nothing
written."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from experiments.cli import main
from tests.experiments.support import SMALL

ROWS = 240
START = pd.Timestamp("2024-01-01")


def frame(rows: int = ROWS) -> pd.DataFrame:
    """Hourly rows of two columns of numbers, a label and a class."""
    random = np.random.default_rng(0)
    time = pd.date_range(START, periods=rows, freq="h").strftime("%Y-%m-%d %H:%M")
    a, b = random.standard_normal((2, rows)).round(4)
    label = (np.arange(rows) % 100 == 99).astype(int)
    return pd.DataFrame(
        {"time": time, "a": a, "b": b, "label": label, "class": np.where(a > 0, "up", "down")}
    )


def csv(change: Callable[[pd.DataFrame], Any] = lambda table: None, rows: int = ROWS) -> bytes:
    """The table as CSV, after `change`, which may change it in place or return another."""
    table = frame(rows)
    changed = change(table)
    return (table if changed is None else changed).to_csv(index=False).encode()


def cell(column: str, row: int, value: Any) -> bytes:
    """The table with one value replaced."""

    def change(table: pd.DataFrame) -> None:
        table[column] = table[column].astype(object)
        table.loc[row, column] = value

    return csv(change)


def swapped(first: int, second: int) -> bytes:
    lines = csv().splitlines()
    lines[first], lines[second] = lines[second], lines[first]
    return b"\n".join(lines)


def parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer)
    return buffer.getvalue()


class Case(NamedTuple):
    """One mistake: what is typed after the command, what lies in the folder, and what must be said of it."""

    arguments: list[str]
    files: dict[str, bytes]
    said: str


def of(task: str, content: bytes, said: str, *flags: str, name: str = "data.csv") -> Case:
    return Case(["check", "-c", f"{task}_csv", f"--data.path={name}", *flags], {name: content}, said)


def forecast(content: bytes, said: str, *flags: str, name: str = "data.csv") -> Case:
    return of("forecasting", content, said, *flags, name=name)


def anomaly(content: bytes, said: str, *flags: str, name: str = "data.csv") -> Case:
    return of("anomaly", content, said, *flags, name=name)


def online(content: bytes, said: str, *flags: str, name: str = "data.csv") -> Case:
    return of("online", content, said, *flags, name=name)


def steps(said: str, *flags: str, change: Callable[[pd.DataFrame], pd.DataFrame] = lambda t: t) -> Case:
    """A table of twelve sequences of ten steps, changed."""
    numbers = np.arange(120)
    table = pd.DataFrame(
        {"id": numbers // 10, "x": numbers % 7.0, "label": np.where(numbers % 3, "up", "down")}
    )
    return of("classification_steps", change(table).to_csv(index=False).encode(), said, *flags)


def text(content: bytes, said: str, *flags: str) -> Case:
    return Case(["check", "-c", "language_file", "--data.path=data.txt", *flags], {"data.txt": content}, said)


def wav(samples: np.ndarray | None = None, rate: int = 8000, kind: str = "PCM_16") -> bytes:
    """A WAV file; noise if nothing is given."""
    buffer = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(3000)
    soundfile.write(buffer, noise if samples is None else samples, rate, format="WAV", subtype=kind)
    return buffer.getvalue()


def packed(**members: bytes) -> bytes:
    """A zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def speech(content: bytes, said: str, *flags: str, table: bytes | None = None, name: str = "a.wav") -> Case:
    """Eleven recordings, the first of which is `content`; or another `table`, or an archive."""
    rows = [f"{name if k == 0 else f'{k}.wav'},{'yes' if k % 2 else 'no'}" for k in range(11)]
    files = {name: content, **{f"{k}.wav": wav() for k in range(1, 11)}}
    files["data.csv"] = "\n".join(["path,label", *rows]).encode() if table is None else table
    rate = "--data.mfcc.sample_rate=8000"
    return Case(["check", "-c", "speech_folder", "--data.path=data.csv", rate, *flags], files, said)


ONE_CLASS = b"path,label\n" + b"\n".join(b"%d.wav,yes" % k for k in range(1, 11))
TWICE = ONE_CLASS + b"\n1.wav,no\n"
LABEL = "--data.label_column=label"
CLASS = "--data.targets=[class]"
AB = "--data.columns=[a,b]"
FILES = {
    "empty": forecast(b"", "data.csv: the file is empty"),
    "blank lines only": forecast(b"\n\n\n", "data.csv: the file is empty"),
    "header only": anomaly(b"time,a,b\n", "data.csv: there are column names but no rows"),
    "no header": online(
        csv(lambda t: t[["time", "a"]]).split(b"\n", 1)[1], "the first line must name the columns"
    ),
    "header of numbers": forecast(b"1,2\n3,4\n5,6\n", "the first line must name the columns"),
    "ragged, longer": forecast(csv() + b"2024-02-01 00:00,1,2,0,up,7,8\n", "data.csv: cannot be read"),
    "ragged, shorter": forecast(
        csv() + b"2024-02-01 00:00,1\n", "values are missing", "--data.targets=[a,b]"
    ),
    "wrong separator": anomaly(
        csv().replace(b",", b";"), "separated by ',', as `separator` states", "--data.separator=,"
    ),
    "an encoding that it does not have": online(
        csv(), "must be in utf-16, as `encoding` states", "--data.encoding=utf-16"
    ),
    "bytes of a picture": online(bytes(range(256)) * 40, "data.csv: "),
    "NUL bytes": forecast(csv()[:900] + b"\0" * 40 + csv()[940:], "data.csv: "),
    "NUL in a name": forecast(csv().replace(b"a,b", b"a\0x,b", 1), "data.csv: "),
    "a bell in a name": anomaly(
        csv(lambda t: t.rename(columns={"a": "a\a" * 9})), "column names must be printable"
    ),
    "escape in a name": online(
        csv(lambda t: t.rename(columns={"a": "\x1b[31ma"})), "column names must be printable"
    ),
    "a very long line": forecast(b"x" * 3_000_000 + b",y\n1,2\n", "no column `z`", "--data.targets=[z]"),
    "a very long value": anomaly(cell("a", 7, "y" * 200_000), "row 7 holds 'yyy", "--data.columns=[a]"),
    "a column that is not there": forecast(csv(), "no column `c`", "--data.targets=[c]"),
    "a label that is not there": anomaly(
        csv(), "no column `lable`. Did you mean `label`?", "--data.label_column=lable"
    ),
    "a target that is not there": online(csv(), "no column `klass`", "--data.targets=[klass]"),
    "duplicate time stamps": forecast(
        cell("time", 30, "2024-01-02 05:00"), "row 30 (2024-01-02 05:00) repeats"
    ),
    "unsorted time stamps": online(swapped(50, 90), "must increase from row to row; row 50"),
    "a time stamp that is none": anomaly(cell("time", 12, "noon"), "row 12 holds 'noon'"),
    "a missing time stamp": forecast(cell("time", 12, None), "row 12 holds nan"),
    "mixed time zones": forecast(cell("time", 12, "2024-01-01 12:00+02:00"), "row 12"),
    "time before nanoseconds": anomaly(cell("time", 0, "1500-01-01 00:00"), "row 0 holds '1500"),
    "time after nanoseconds": online(
        cell("time", ROWS - 1, "3500-01-01 00:00"), f"row {ROWS - 1} holds '3500"
    ),
    "numbers as time": forecast(csv(), "`a` must hold dates", "--data.time_column=a"),
    "mixed types": forecast(cell("b", 40, "broken"), "column `b` must hold numbers; row 40 holds 'broken'"),
    "thousands separators": anomaly(
        cell("a", 5, "1.234,5"), "column `a` must hold numbers; row 5 holds '1.234,5'"
    ),
    "decimal commas": online(
        cell("a", 5, "0,5"), "row 5 holds '0,5'", "--data.targets=[a]", "--data.task=forecasting"
    ),
    "inf": forecast(cell("a", 60, "inf"), "column `a` must be finite"),
    "minus inf": anomaly(cell("b", 61, "-Infinity"), "column `b` must be finite"),
    "squares overflow": online(cell("b", 62, "1e20"), "column `b` must be finite", "--data.targets=[b]"),
    "beyond float64": forecast(cell("b", 63, "1e999"), "column `b` must be finite"),
    "a whole number beyond 64 bits": anomaly(cell("b", 64, "9" * 400), "data.csv: "),
    "too far from the training rows": forecast(
        csv(lambda t: t.assign(a=np.where(t.index == 230, 1e9, t.a * 1e-12))),
        "row 230 holds 1e+09",
        "--data.look_back=12",
        "--data.horizon=2",
        "--data.season=2",
        "--data.targets=[a]",
    ),
    "missing values": forecast(cell("a", 9, None), "values are missing (a 1)"),
    "missing values in a stream": anomaly(cell("a", 9, None), "values are missing (a 1)", AB),
    "missing inputs": online(cell("a", 9, None), "values are missing (a 1)", CLASS),
    "an all-missing column": anomaly(csv(lambda t: t.assign(b=np.nan)), "column `b` holds no value at all"),
    "no numbers at all": forecast(csv(lambda t: t[["time", "class"]]), "no column to predict holds numbers"),
    "one row": forecast(csv(rows=1), "the training part of these 1 rows is empty"),
    "one row of a stream": anomaly(csv(rows=1), "the training part must have at least 100 rows", AB),
    "one row to learn online": online(csv(rows=1), "must leave rows for the stream"),
    "too few rows for a window": forecast(csv(rows=50), "one window needs"),
    "labels out of range": anomaly(cell("label", 20, 2), "must be 0 or 1; row 20 holds 2", LABEL),
    "labels that are words": anomaly(
        csv(lambda t: t.assign(label=t["class"])), "must hold numbers; row 0", LABEL
    ),
    "a missing label": anomaly(cell("label", 21, None), "must be 0 or 1; row 21 holds nan", LABEL),
    "a missing class": online(
        cell("class", 22, None), "must hold a class in every row; row 22 has none", CLASS
    ),
    "one class": online(csv(lambda t: t.assign(**{"class": "up"})), "must hold at least two classes", CLASS),
    "a class for each row": online(
        csv(lambda t: t.assign(**{"class": t.time})), "must hold classes that come again", CLASS
    ),
    "a missing target": online(
        cell("b", 23, None),
        "must hold a value in every row; row 23",
        "--data.targets=[b]",
        "--data.task=regression",
    ),
    "truncated Parquet": forecast(
        parquet(frame())[:-40], "data.parquet: cannot be read", name="data.parquet"
    ),
    "Parquet with a hole": anomaly(
        parquet(frame()).replace(parquet(frame())[200:400], b"\0" * 200), "data.pq: ", name="data.pq"
    ),
    "text called Parquet": online(csv(), "data.parquet: cannot be read", name="data.parquet"),
    "Parquet called text": forecast(parquet(frame()), "data.csv: "),
    "Parquet without rows": anomaly(
        parquet(frame()[:0]), "there are column names but no rows", name="data.parquet"
    ),
    "Parquet without columns": forecast(
        parquet(pd.DataFrame(index=range(5))), "data.parquet: ", name="data.parquet"
    ),
    "nested Parquet": online(
        parquet(pd.DataFrame({"a": [[1.0, 2.0]] * ROWS})), "data.parquet: ", name="data.parquet"
    ),
    "truncated gzip": forecast(
        gzip.compress(csv())[:-200], "data.csv.gz: cannot be read", name="data.csv.gz"
    ),
    "text called gzip": anomaly(csv(), "data.csv.gz: cannot be read", name="data.csv.gz"),
    "a spreadsheet": online(b"PK\3\4" + bytes(90), "expected a file ending in", name="data.xlsx"),
}
STEPS = {
    "no column of labels": steps(
        "`data.label` must be of data.csv; there is no column 'up'", "--data.label=up"
    ),
    "no column of sequences": steps(
        "`data.sequence` must be of data.csv; there is no column 'id'", change=lambda t: t.drop(columns="id")
    ),
    "no features": steps(
        "no column but the label's and the sequence's", change=lambda t: t.drop(columns="x")
    ),
    "a feature without a value": steps("column `x`", change=lambda t: t.assign(x=t["x"].where(t.index != 5))),
    "one class": steps("at least two classes must occur in `label`", change=lambda t: t.assign(label="up")),
    "one sequence": steps("the train part of its 1 labelled sequences is empty", change=lambda t: t.head(10)),
    "a step of no sequence": steps(
        "every row must name its sequence; row 5 has none",
        change=lambda t: t.assign(id=t["id"].where(t.index != 5)),
    ),
    "a delay of 0": steps("`data.label_delay` must be a whole number of at least 1", "--data.label_delay=0"),
    "a share of 1": steps("`data.validation` must be a share above 0", "--data.validation=1"),
}
SPOKEN = {
    "a WAV with a wrong header": speech(
        b"RIFX" + wav()[4:], "a.wav: must be a WAV file (RIFF, WAVE), FLAC or OGG; it starts with"
    ),
    "a WAV that is none": speech(b"ID3 music", "a.wav: must be a WAV file"),
    "an empty WAV": speech(b"", "a.wav: must be a WAV file"),
    "a truncated WAV": speech(wav()[:-500], "a.wav: truncated"),
    "a WAV with a broken chunk": speech(wav()[:16] + b"\xff" * 20 + wav()[36:], "a.wav: "),
    "a WAV without samples": speech(wav(np.zeros(0)), "a.wav: there is no sample in it"),
    "a WAV of 5 samples": speech(wav(np.zeros(5)), "a.wav: a recording must last at least 0.08 s"),
    "NaN in a WAV": speech(wav(np.full(900, np.nan), kind="FLOAT"), "number 0 is nan"),
    "inf in a WAV": speech(wav(np.full(900, np.inf), kind="DOUBLE"), "number 0 is inf"),
    "a WAV that is not there": speech(
        wav(), "z.wav: no such file", table=b"path,label\nz.wav,yes\n1.wav,no\n"
    ),
    "a path out of the folder": speech(
        wav(), "row 1 holds '../a.wav'", table=b"path,label\n../a.wav,yes\n1.wav,no\n"
    ),
    "an absolute path": speech(
        wav(), "row 1 holds '/etc/passwd'", table=b"path,label\n/etc/passwd,yes\n1.wav,no\n"
    ),
    "an address as a path": speech(wav(), "must lie below", table=b"path,label\n../../s3://a.wav,yes\n"),
    "no column of paths": speech(wav(), "there must be a column `path`", table=b"file,label\na.wav,yes\n"),
    "nothing said in the table": speech(wav(), "a column `label` or `text`", table=b"path,word\na.wav,yes\n"),
    "a table without rows": speech(wav(), "there are column names but no rows", table=b"path,label\n"),
    "an empty table": speech(wav(), "data.csv: the file is empty", table=b""),
    "a table of bytes": speech(wav(), "data.csv: ", table=wav()),
    "one class of recordings": speech(wav(), "at least two classes or tokens must occur", table=ONE_CLASS),
    "a recording twice": speech(wav(), "every recording must be there once; 1.wav", table=TWICE),
    "a part that is none": speech(
        wav(), "`split` must be train, val or test; row 1", table=b"path,label,split\na.wav,x,all\n"
    ),
    "a member out of the archive": speech(
        packed(**{"../a.wav": wav()}),
        "members must lie within the archive",
        "--data.archive=a.zip",
        name="a.zip",
    ),
    "an absolute member": speech(
        packed(**{"/etc/a.wav": wav()}),
        "members must lie within the archive",
        "--data.archive=a.zip",
        name="a.zip",
    ),
    "a bomb in the archive": speech(
        packed(bomb=bytes((1 << 26) + 1)), "'bomb' unpacks to 67108865", "--data.archive=a.zip", name="a.zip"
    ),
    "a broken archive": speech(
        packed(a=wav())[:-30], "cannot be read as a zip archive", "--data.archive=a.zip", name="a.zip"
    ),
    "a member that is not there": speech(
        packed(a=wav()), "there is no member", "--data.archive=a.zip", name="a.zip"
    ),
    "a WAV as archive": speech(wav(), "cannot be read as a zip archive", "--data.archive=a.wav"),
    "too few recordings": speech(
        wav(), "part of its 2 recordings is empty", table=b"path,label\na.wav,x\n1.wav,y\n"
    ),
    "a stack of 0": speech(
        wav(), "`data.stack` must be a whole number of at least 1; got 0", "--data.stack=0"
    ),
    "a hop of nothing": speech(wav(), "`data.mfcc.hop` must be from 8 samples", "--data.mfcc.hop=0"),
    "no test part": speech(wav(), "`data.test` must be a share", "--data.test=0"),
    "a beam of 0": speech(wav(), "`model.beam` must be from 1 to 1000; got 0", "--model.beam=0"),
}
SETTINGS = {
    "look_back 0": forecast(
        csv(), "`data.look_back` must be a whole number of at least 1; got 0", "--data.look_back=0"
    ),
    "horizon 0": forecast(
        csv(), "`data.horizon` must be a whole number of at least 1; got 0", "--data.horizon=0"
    ),
    "batch_size 0": online(
        csv(), "`data.batch_size` must be a whole number of at least 1; got 0", "--data.batch_size=0"
    ),
    "stride 0": forecast(
        csv(), "`data.stride` must be a whole number of at least 1; got 0", "--data.stride=0"
    ),
    "training 0": anomaly(csv(), "`data.training` must be a share above 0", "--data.training=0"),
    "training beyond the rows": anomaly(csv(), "it has 500 of 240", "--data.training=500", AB),
    "chunk 0": anomaly(csv(), "`data.chunk` must be a whole number of at least 1; got 0", "--data.chunk=0"),
    "crop 0": online(csv(), "`data.crop` must be a whole number of at least 1; got 0", "--data.crop=0"),
    "context of a whole crop": online(
        csv(), "`data.context` must be below `crop`, 16; got 16", "--data.crop=16", "--data.context=16"
    ),
    "all rows to warm up": online(csv(), "must leave rows for the stream", "--data.warm_up=240"),
    "a warm-up below 0": online(
        csv(), "`data.warm_up` must be a number of rows or a share", "--data.warm_up=-1"
    ),
    "no separator": anomaly(csv(), "`data.separator` must be one character", "--data.separator="),
    "a split that is too large": forecast(csv(), "a sum of at most 1", "--data.split=[0.9,0.2,0.2]"),
    "a split of nothing": forecast(csv(), "`data.split` must be", "--data.split=[]"),
    "dates that are none": forecast(csv(), "ISO dates such as", "--data.split=[soon,later]"),
    "no targets": forecast(csv(), "`data.targets` must name at least one column", "--data.targets=[]"),
    "a rank of words": anomaly(
        csv(), "`model.config.rank` must be a whole number; got many", "--model.config.rank=many"
    ),
    "a learning rate of nan": forecast(
        csv(), "`model.lr` must be a finite number above 0; got nan", "--model.lr=.nan"
    ),
    "no epochs that are a number": forecast(
        csv(), "`trainer.max_epochs` must be", "--trainer.max_epochs=[1]"
    ),
    "a seed below 0": forecast(csv(), "`seed` must lie between", "--seed=-1"),
    "a bad guard": forecast(
        csv(), "`nan_guard.max_skipped` must be at least 1; got 0", "--nan_guard.max_skipped=0"
    ),
}


CHARS, WORDS, SIZE = "--data.unit=chars", "--data.unit=words", "--data.vocabulary_size="
LINES = b"All work and no play makes Jack a dull boy.\n" * 60
TEXTS = {
    "an empty text": text(b"", "data.txt: is empty"),
    "a few bytes of text": text(b"abc", "data.txt: the train part must have at least 1025 bytes; it has 2"),
    "a text of few words": text(b"a b c\n", "the train part must have at least 1025 words", WORDS),
    "a test part of nothing": text(
        LINES, "the test part must have at least 2 bytes; it has 1", "--data.test=0.0001"
    ),
    "a binary file as characters": text(LINES + b"\xff\xd8", "byte 2640 is 0xff (invalid start byte)", CHARS),
    "half a character": text(LINES + b"\xe2\x82", "byte 2640 is 0xe2 (unexpected end of data)", WORDS),
    "a text with NUL": text(LINES + b"a\0b", "byte 2641 is NUL, so it is no text", CHARS),
    "a text in UTF-16": text(
        LINES.decode().encode("utf-16"), "data.txt: not UTF-8 text: byte 0 is 0xff", CHARS
    ),
    "a unit that is none": text(LINES, "`data.unit` must be", "--data.unit=letters"),
    "words of no vocabulary": text(
        LINES, "`data.vocabulary_size` must be a whole number of at least 2", WORDS, SIZE + "1"
    ),
    "a vocabulary of bytes": text(
        LINES, "`data.vocabulary_size` is for words; `unit` is bytes", SIZE + "100"
    ),
    "nothing left to train on": text(LINES, "must leave something to train on", "--data.test=0.97"),
    "no streams": text(
        LINES, "`data.batch_size` must be a whole number of at least 1; got 0", "--data.batch_size=0"
    ),
    "a temperature below 0": text(
        LINES, "`model.sampling.temperature` must be", "--model.sampling.temperature=-1"
    ),
    "nothing to choose from": text(
        LINES, "`model.sampling.top_k` must be a whole number of at least 1", "--model.sampling.top_k=0"
    ),
    "no text to write": text(
        LINES, "`model.sampling.length` must be a whole number of at least 1", "--model.sampling.length=0"
    ),
    "symbols that are set": text(LINES, "`model.symbols` is set by the data", "--model.symbols=7"),
    "a folder as text": Case(
        ["check", "-c", "language_file", "--data.path=a"], {"a/x": b""}, "is a folder, not a file"
    ),
    "no such text": Case(["check", "-c", "language_file", "--data.path=a.txt"], {}, "a.txt: no such file"),
    "no text named": Case(["check", "-c", "language_file"], {}, "data.path"),
    "a URL as text": Case(
        ["check", "-c", "language_file", "--data.path=http://127.0.0.1:9/a.txt"], {}, "not an address"
    ),
}


class Trap:
    """What a pickle of it runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def checkpoint(**parts: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save({"hyper_parameters": {}, "state_dict": {}} | parts, buffer)
    return buffer.getvalue()


def config(content: bytes, said: str) -> Case:
    return Case(["fit", "-c", "mine.yaml"], {"mine.yaml": content}, said)


def loaded(content: bytes, said: str, command: str = "test") -> Case:
    return Case([command, "-c", "forecasting", "--ckpt_path=it.ckpt"], {"it.ckpt": content}, said)


WROTE = "a checkpoint that `dream fit` wrote"
DATA = b"data:\n  class_path: lightning_modules.forecasting.DriftingLoad\n"
MODEL = b"model:\n  class_path: lightning_modules.ForecastingModule\n"
OTHERS = {
    "no such file": Case(
        ["fit", "-c", "forecasting_csv", "--data.path=none.csv"], {}, "none.csv: no such file"
    ),
    "a folder": Case(
        ["fit", "-c", "anomaly_csv", "--data.path=data.csv"], {"data.csv/x": b""}, "is a folder, not a file"
    ),
    "a path of NUL": Case(["check", "-c", "online_csv", "--data.path=a\0b.csv"], {}, "a?b.csv: no such file"),
    "a URL as path": Case(
        ["fit", "-c", "forecasting_csv", "--data.path=https://127.0.0.1:9/x.csv"], {}, "not an address"
    ),
    "a URL as file": Case(
        ["fit", "-c", "anomaly_csv", "--data.path=file:///etc/x.csv"], {}, "not an address"
    ),
    "a bucket as path": Case(
        ["fit", "-c", "online_csv", "--data.path=s3://bucket/x.parquet"], {}, "not an address"
    ),
    "a URL as checkpoint": Case(
        ["test", "-c", "forecasting", "--ckpt_path=http://127.0.0.1:9/x.ckpt"], {}, "must be a local file"
    ),
    "a URL as configuration": Case(["fit", "-c", "http://127.0.0.1:9/x.yaml"], {}, "x.yaml"),
    "a missing checkpoint": Case(
        ["predict", "-c", "forecasting", "--ckpt_path=it.ckpt"], {}, "does not exist"
    ),
    "an empty checkpoint": loaded(b"", WROTE),
    "a truncated checkpoint": loaded(checkpoint()[:-300], WROTE),
    "text as checkpoint": loaded(b"weights: 1\n", WROTE, "predict"),
    "another program's checkpoint": loaded(checkpoint(hyper_parameters=7), WROTE, "validate"),
    "a crafted pickle": loaded(pickle.dumps(Trap(), protocol=2), WROTE),
    "a trap in a checkpoint": loaded(checkpoint(state_dict=Trap()), WROTE, "predict"),
    "no configuration": Case(["fit"], {}, "-c must name an experiment"),
    "a configuration that is not there": Case(["fit", "-c", "forcasting"], {}, "Did you mean"),
    "broken YAML": config(b"model: [1, 2\ndata: {", "mine.yaml"),
    "YAML of a list": config(
        b"- model\n- data\n", "must hold sections such as model, data and trainer; got list"
    ),
    "YAML of a number": config(b"7\n", "must hold sections such as"),
    "empty YAML": config(b"", "mine.yaml"),
    "YAML that is not text": config(bytes(range(256)), "mine.yaml"),
    "YAML with a trap": config(b"model: !!python/object/apply:os.mkdir [trapped]\n", "mine.yaml"),
    "YAML that refers to itself": config(b"model: &m\n  class_path: *m\n", ""),
    "an unknown section": config(
        MODEL + DATA + b"modle:\n  patch: 4\n", "`modle.patch` is not a setting. Did you mean `model.patch`?"
    ),
    "an unknown setting": config(MODEL + b"  init_args:\n    pach: 4\n", "`model.pach` is not a setting"),
    "a setting of the wrong kind": config(
        MODEL + b"  init_args:\n    patch: [4]\n", "`model.patch` must be a whole number"
    ),
    "a section that is a text": config(b"model: big\n", "`model`"),
    "a class that is no model": config(b"model:\n  class_path: os.system\n", "got os.system, which was not"),
    "a class from nowhere": config(b"data:\n  class_path: nowhere.Data\n", "got nowhere.Data, which was not"),
    "an unknown command": Case(["fti"], {}, "`fti` is not a command"),
    "an unknown data set": Case(["data", "get", "etth"], {}, "There is no data set `etth`"),
    "a mirror that is no address": Case(
        ["data", "get", "elec2", "--folder=x", "--mirror=y"], {}, "`mirror` must be an"
    ),
    "an unknown model to compare": Case(["compare", "-c", "forecasting", "--models", "dreem"], {}, "dreem"),
    "no seeds to compare": Case(["compare", "-c", "forecasting", "--seeds", "0"], {}, "seeds"),
}
TABLE = FILES | STEPS | SPOKEN | SETTINGS | TEXTS | OTHERS


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own, and no network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def listing() -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in sorted(Path.cwd().rglob("*"))}


@pytest.mark.parametrize("name", TABLE)
def test_it_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, files, said = TABLE[name]
    for path, content in files.items():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_bytes(content)
    before = listing()
    code = main(arguments)
    shown = capsys.readouterr()
    assert code == 2, shown.err
    lines = shown.err.splitlines()
    assert len(lines) <= 5
    assert max(map(len, lines)) <= 2000
    assert lines[-1].startswith("dream: ") or any(line.startswith("dream: ") for line in lines)
    assert said in shown.err
    assert "Traceback" not in shown.err + shown.out
    assert listing() == before


LEGAL = {
    "a byte order mark": b"\xef\xbb\xbf" + csv(),
    "a constant column": csv(lambda table: table.assign(b=3.0)),
    "semicolons and decimal commas": csv().replace(b",", b";").replace(b".", b","),
    "latin-1": csv(lambda table: table.assign(place="größe")).decode().encode("latin-1"),
    "utf-16": csv().decode().encode("utf-16"),
    "a name that comes again": csv(lambda t: t.rename(columns={"label": "a"})),
    "carriage returns": csv().replace(b"\n", b"\r\n"),
    "time zones": csv(lambda table: table.assign(time=table.time + "+02:00")),
    "large but legal numbers": csv(lambda table: table.assign(b=table.b / table.b.abs().max() * 1.8e19)),
    "numbers next to nothing": csv(lambda table: table.assign(b=table.b * 1e-300)),
}


@pytest.mark.parametrize("name", LEGAL)
def test_it_is_unusual_and_legal(
    name: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    Path("data.csv").write_bytes(LEGAL[name])
    small = [
        "--data.look_back=12",
        "--data.horizon=2",
        "--data.season=2",
        "--model.patch=4",
        "--data.targets=[a,b]",
    ]
    assert main(["check", "-c", "forecasting_csv", "--data.path=data.csv", *small]) == 0
    shown = capsys.readouterr()
    assert "a, b" in shown.out
    assert "nan" not in shown.out
    assert ("never change" in caplog.text) == (name == "a constant column")
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["data.csv"]


def test_a_run_that_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    """A learning rate at which nothing stays finite: the run stops in five lines and leaves good checkpoints
    only."""
    flags = [
        *SMALL,
        "--model.lr=1e30",
        "--nan_guard.max_skipped=2",
        "--run.wandb=disabled",
        "--run.folder=runs",
    ]
    assert main(["fit", "-c", "forecasting", *flags]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("dream: step ")
    assert "in a row, more than `nan_guard.max_skipped` allows" in last
    for path in Path("runs").rglob("*.ckpt"):
        weights = torch.load(path, weights_only=True)["state_dict"]
        assert all(value.isfinite().all() for value in weights.values())
