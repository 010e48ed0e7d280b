"""One table, written in many ways: each is read to the same numbers, in memory and in blocks on disk."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.classification.sets import SequenceTable
from lightning_modules.data import limits
from lightning_modules.data.dialect import Dialect, dialect_as
from lightning_modules.data.disk import convert
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.notation import Evidence, evidence
from lightning_modules.data.series import Series, read_table
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream
from lightning_modules.speech.sets import read_manifest

ROWS = 300
HOURS = pd.date_range("2024-01-01", periods=ROWS, freq="h")
A = (1000 * np.sin(np.arange(ROWS) / 7)).round(2)
B = np.arange(ROWS) * 37 + 500


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(convert, "BLOCK", 3000)


def text(
    separator: str = ",", decimal: str = ".", thousands: str = "", name: str = "a", rows: int = ROWS
) -> str:
    """The table, with these signs; values that hold the separator are quoted."""

    def written(number: float, form: str) -> str:
        signs = str.maketrans({",": thousands, ".": decimal})
        value = f"{number:{form}}".translate(signs)
        return f'"{value}"' if separator in value else value

    lines = [
        separator.join((str(at), written(a, ",.2f"), written(b, ",d")))
        for at, a, b in zip(HOURS[:rows], A, B.tolist(), strict=False)
    ]
    return "\n".join([separator.join(("time", name, "b")), *lines, ""])


def both(path: Path, **options: Any) -> list[Series]:
    """As `read_table` and `stored_table` read it."""
    stored = stored_table(path, **options)
    values = np.concatenate([block.values for block in stored.blocks(slice(None))])
    return [
        read_table(path, **options),
        Series(values, stored.columns, stored.time, str(path), dialect=stored.dialect),
    ]


def check(path: Path, name: str = "a", **options: Any) -> None:
    for series in both(path, **options):
        assert series.columns == (name, "b")
        np.testing.assert_array_equal(series.values, np.stack([A, B], axis=1))
        np.testing.assert_array_equal(np.array(series.time), HOURS.to_numpy("datetime64[ns]"))


WRITTEN = {
    "commas": (text(), None),
    "semicolons": (text(";"), "';' between values"),
    "tabs": (text("\t"), "tab between values"),
    "bars": (text("|"), "'|' between values"),
    "the continent": (text(";", ","), "';' between values and ',' as the decimal sign"),
    "with thousands": (
        text(";", ",", "."),
        "';' between values and ',' as the decimal sign and '.' between thousands, as its rows show; "
        "`data.separator` and `data.decimal` and `data.thousands` can state otherwise",
    ),
    "Swiss": (text(";", ".", "'"), "''' between thousands"),
    "French": (text(";", ",", "\u202f"), "space between thousands"),
    "English": (text(",", ".", ","), "',' between thousands"),
    "quoted decimal commas": (text(",", ","), "',' as the decimal sign"),
    "tabs and commas": (text("\t", ","), "',' as the decimal sign"),
    "Excel": ("sep=;\n" + text(";", ","), "';' between values"),
    "Excel with commas": ("sep=,\n" + text(), None),
}


@pytest.mark.parametrize(("content", "said"), WRITTEN.values(), ids=WRITTEN)
def test_signs_are_found(
    content: str, said: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t.csv").write_text(content)
    check(tmp_path / "t.csv")
    if said is None:
        assert "read with" not in caplog.text
    else:
        assert said in caplog.text


ENCODINGS = ["utf-8-sig", "cp1252", "latin-1", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_encodings_are_found(encoding: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "t.csv").write_bytes(text(";", ",", name="größe").encode(encoding))
    check(tmp_path / "t.csv", "größe")
    assert ("the encoding" in caplog.text) == (encoding != "utf-8-sig")


def test_a_letter_far_down_tells_the_encoding(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [f"{k},plain" for k in range(40_000)]
    (tmp_path / "t.csv").write_bytes("\n".join(["a,b", *lines, "0,größe"]).encode("cp1252"))
    for series in both(tmp_path / "t.csv"):
        assert len(series.values) == 40_001
    assert caplog.text.count("the encoding cp1252") == 2


def packed(content: bytes, kind: str) -> bytes:
    if kind == "zip":
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("__MACOSX/._t.csv", b"x")
            archive.writestr("folder/t.csv", content)
        return file.getvalue()
    if kind == "zst":
        sink = pyarrow.BufferOutputStream()
        with pyarrow.CompressedOutputStream(sink, "zstd") as out:
            out.write(content)
        return sink.getvalue().to_pybytes()
    return {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind](content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst", "zip"])
def test_packed_files(kind: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.csv.{kind}"
    path.write_bytes(packed(text(";", ",").encode(encoding), kind))
    check(path)
    path.write_bytes(path.read_bytes()[:-100])
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=r"cannot be read|no text in utf-16"):
            read(path)


def test_an_archive_of_several_tables(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "t.zip", "w") as archive:
        archive.writestr("a.csv", text())
        archive.writestr("b.csv", text())
    with pytest.raises(DataError, match=r"must hold one table; it holds a.csv, b.csv. Unpack it"):
        read_table(tmp_path / "t.zip")


def test_quoted_ends_of_lines_and_names_that_come_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t.csv").write_text(
        '"Load\n(MW)";note;Load;Load\n1,5;"two\nlines; and\n""more""";2,5;3,5\n4,5;x;5,5;6,5\n'
    )
    for series in both(tmp_path / "t.csv"):
        assert series.columns == ("Load (MW)", "Load", "Load.1")
        np.testing.assert_array_equal(series.values, [[1.5, 2.5, 3.5], [4.5, 5.5, 6.5]])
    assert "columns whose name comes again are called Load.1" in caplog.text


def test_names_with_commas_in_a_file_of_semicolons(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("t;load, MW;b\n1;2,5;3\n2;2,7;4\n")
    assert read_table(tmp_path / "t.csv").columns == ("t", "load, MW", "b")


EVIDENCE = {
    "1": Evidence(),
    "1.5": Evidence(decimal=frozenset(".")),
    "0,123": Evidence(decimal=frozenset(",")),
    "1234,567": Evidence(decimal=frozenset(",")),
    "1,234": Evidence(either=frozenset(",")),
    "1,234,567": Evidence(thousands=frozenset(",")),
    "-1.234,5": Evidence(frozenset(","), frozenset(".")),
    "1 234.5e-3": Evidence(frozenset("."), frozenset(" ")),
    "01.02.2024": Evidence(),  # no number
    "12.34.56": Evidence(),
    "2024-01-01": Evidence(),
}


@pytest.mark.parametrize(("number", "found"), EVIDENCE.items())
def test_evidence_of_one_number(number: str, found: Evidence) -> None:
    assert evidence([[number]]) == found


def test_a_number_of_two_sizes_is_refused_or_stated(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\tb\n1,234\t5\n2,345\t6\n")
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=r"one and a bit.*`--data.decimal=,` or `--data.thousands=,`"):
            read(path)
    for stated, value in ((Dialect(decimal=","), 1.234), (Dialect(thousands=","), 1234.0)):
        assert all(series.values[0, 0] == value for series in both(path, dialect=stated))
    (tmp_path / "semicolons.csv").write_text("a;b\n1,234;5\n2,345;6\n")
    assert read_table(tmp_path / "semicolons.csv").values[0].tolist() == [1.234, 5]
    (tmp_path / "points.csv").write_text("a;b\n1.234;5,5\n2.345;6,5\n")
    assert read_table(tmp_path / "points.csv").values[0].tolist() == [1234, 5.5]


def test_dates_are_no_numbers_with_thousands(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("tag;a\n01.02.2024;1.234,5\n02.02.2024;2.345,5\n")
    for series in both(tmp_path / "t.csv"):
        assert series.columns == ("a",)
        assert str(np.array(series.time)[0])[:10] == "2024-02-01"
        assert series.values[:, 0].tolist() == [1234.5, 2345.5]


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_feather(compression: str, tmp_path: Path) -> None:
    table = pd.DataFrame({"time": HOURS, "a": A, "b": B})
    table.to_feather(tmp_path / "t.feather", compression=compression, chunksize=70)
    check(tmp_path / "t.feather")
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "t.feather").read_bytes()[:-300])
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match="cannot be read"):
            read(tmp_path / "cut.arrow")


def test_a_feather_that_unpacks_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FREE_BYTES", 1 << 16)
    pd.DataFrame({"a": np.zeros(1_000_000)}).to_feather(tmp_path / "t.feather", compression="zstd")
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match="must unpack to at most"):
            read(tmp_path / "t.feather")


@pytest.mark.parametrize("kind", ["frame", "parquet"])
def test_texts_of_other_sources(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pd.DataFrame({"time": HOURS, "a": [f"{a:.2f}".replace(".", ",") for a in A], "b": B})
    if kind == "frame":
        np.testing.assert_array_equal(read_table(table).values[:, 0], A)
    else:
        table.to_parquet(tmp_path / "t.parquet")
        check(tmp_path / "t.parquet")
    assert "',' as the decimal sign" in caplog.text


STATED = [
    (dict(separator=""), "`separator` must be one character"),
    (dict(separator=";;"), "`separator` must be one character"),
    (dict(separator="a"), "`separator` must be one character"),
    (dict(decimal=";"), "`decimal` must be '.' or ','"),
    (dict(decimal=",", thousands=","), "differ from `decimal`"),
    (dict(thousands="x"), "`thousands` must be"),
    (dict(encoding="klingon"), "`encoding` must be one of text"),
    (dict(encoding="base64"), "`encoding` must be one of text"),
]


@pytest.mark.parametrize(("stated", "message"), STATED)
def test_what_cannot_be_stated(stated: dict[str, str], message: str) -> None:
    parts = dict.fromkeys(("separator", "decimal", "thousands", "encoding")) | stated
    with pytest.raises(ConfigError, match=message) as error:
        dialect_as(**parts)
    assert error.value.key in stated


def test_what_is_stated_and_not_so(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text(";"))
    with pytest.raises(DataError, match=r"separated by ',', as `separator` states; the first line uses ';'"):
        read_table(path, dialect=dialect_as(",", None, None, None))
    with pytest.raises(DataError, match="must be in utf-16, as `encoding` states"):
        read_table(path, dialect=dialect_as(None, None, None, "utf-16"))
    assert read_table(
        path, dialect=dialect_as("tab", None, None, None)._replace(learned=["\t", ".", "", "utf-8"])
    )


def sequences(separator: str, decimal: str) -> str:
    lines = text(separator, decimal).splitlines()
    extra = [f"id{separator}label", *(f"s{k % 6}{separator}{'ab'[k % 2]}" for k in range(ROWS))]
    return "\n".join(separator.join(pair) for pair in zip(lines, extra, strict=True))


TASKS: dict[str, Any] = {
    "windows": lambda path: TableData(str(path), look_back=24, horizon=4),
    "windows on disk": lambda path: TableData(str(path), look_back=24, horizon=4, mapped=True),
    "online": lambda path: TableStream(str(path), crop=24, context=8),
    "online with a target": lambda path: TableStream(str(path), targets=["a"], crop=24, context=8),
    "anomalies": lambda path: AnomalyTable(str(path), training=150),
    "sequences": lambda path: SequenceTable(str(path)),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_reads_and_remembers_it(
    task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = (lambda *signs: sequences(*signs)) if task == "sequences" else (lambda *signs: text(*signs))
    paths = {"there": tmp_path / "t.csv", "here": tmp_path / "u.csv", "two": tmp_path / "v.csv"}
    paths["there"].write_text(content(";", ","))
    paths["here"].write_text(content(",", "."))
    plain = TASKS[task](paths["here"])
    first = TASKS[task](paths["there"])
    assert first.fingerprint.keys() == plain.fingerprint.keys()
    assert first.schema.dialect == (";", ",", "", "utf-8")
    assert first.schema.scales == plain.schema.scales
    caplog.clear()
    again, other = (TASKS[task](paths[name]) for name in ("there", "here"))
    again.follow(first.schema)
    again.setup("test")
    assert "read with" not in caplog.text
    other.follow(first.schema)
    other.setup("test")
    assert "',' between values and '.' as the decimal sign, other than in training" in caplog.text


def test_a_run_decides_where_a_file_does_not_tell(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text("\t", ","))
    schema = TASKS["windows"](tmp_path / "t.csv").schema
    lines = [f"{at}\t1,234\t{k}" for k, at in enumerate(HOURS)]
    (tmp_path / "u.csv").write_text("\n".join(["time\ta\tb", *lines]))
    data = TASKS["windows"](tmp_path / "u.csv")
    data.follow(schema)
    assert data.whole.values[0].tolist() == [1.234, 0]
    lines = [f"{at},1.234,{k}" for k, at in enumerate(HOURS)]
    (tmp_path / "v.csv").write_text("\n".join(["time,a,b", *lines]))
    data = TASKS["windows"](tmp_path / "v.csv")
    data.follow(schema)
    assert data.whole.values[0].tolist() == [1.234, 0]
    assert data.whole.dialect[:2] == (",", ".")


def test_a_manifest_of_semicolons(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("path;label\na.wav;größe\nb.wav;null\n".encode("cp1252"))
    table = read_manifest(tmp_path / "t.csv")
    assert table["label"].tolist() == ["größe", "null"]
    assert table.index.tolist() == [1, 2]
