"""Recordings from files: your own, and a public set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, cast, get_args

import pandas as pd

from dream.errors import ConfigError, DataError, nearest, shown
from lightning_modules.data.catalogue import data_path
from lightning_modules.data.limits import local, require_printable
from lightning_modules.data.series import check_file, read_texts
from lightning_modules.data.split import spread
from lightning_modules.speech.audio import ENDINGS, WavZip, read_wav
from lightning_modules.speech.data import SpeechData
from lightning_modules.speech.utterances import Part, Recording

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TESTED = 5  # recordings of each digit and speaker in the test part, the first ones


class FSDD(SpeechData):
    """The Free Spoken Digit Dataset: 3,000 recordings of ten digits by six speakers, read from its zip
    archive.

    Args:
        split: `official`: the first five recordings of each digit and speaker are the test part;
            `speaker=NAME`: all recordings of that speaker, who is then new at test time.
    """

    def __init__(self, split: str = "official", **options: Any) -> None:
        super().__init__(**options)
        self.chosen = split

    @property
    def source(self) -> str:
        return f"Free Spoken Digit Dataset, {self.chosen}"

    def read(self) -> list[Recording]:
        archive = WavZip(data_path("fsdd", "recordings.zip"))
        parsed = {name: name.rpartition("/")[2].removesuffix(".wav").split("_") for name in archive.names}
        if wrong := [
            name
            for name, parts in parsed.items()
            if len(parts) != 3 or parts[0] not in set("0123456789") or not parts[2].isdecimal()
        ]:
            raise DataError(
                f"{archive.path}: members must be called DIGIT_SPEAKER_NUMBER.wav; got {wrong[0]!r}."
            )
        speakers = sorted({speaker for _, speaker, _ in parsed.values()})
        kind, _, held = self.chosen.partition("=")
        if self.chosen != "official" and not (kind == "speaker" and held in speakers):
            raise ConfigError(
                f"`split` must be official or speaker=NAME with one of {', '.join(speakers)}; got "
                f"{self.chosen!r}. {nearest(held, speakers)}",
                key="split",
            )
        found = []
        for name, (digit, speaker, number) in parsed.items():
            test = speaker == held if held else int(number) < _TESTED
            samples = archive.read(name, self.mfcc.sample_rate)
            found.append(Recording(name, samples, DIGITS[int(digit)], "test" if test else "train", speaker))
        return found


class SpeechFolder(SpeechData):
    """Your own recordings, in a folder for each word, or listed in a table with their transcripts.

    They are WAV, FLAC or OGG files of any rate and number of channels, see `audio.decode`. The table is a CSV
    file whose first line names its columns: `path`, a file below the table's folder; `label` or `text`, the
    words; and optionally `speaker`, and `split`: train, val or test. Without a table the words are the names
    of the folders in `path`, such as `yes/001.wav`; those that begin with `_` or a dot are left out.
    Recordings without words, in a folder those beside the words, are for ``dream predict``.

    Args:
        path: The table, or the folder.
        archive: Zip archive with the files of a table, which is not unpacked; the table's folder if not
            given.
        test: Share of the recordings in the test part, if there is no column `split`.
    """

    def __init__(self, path: str, archive: str | None = None, test: float = 0.2, **options: Any) -> None:
        super().__init__(**options)
        if not 0 < test < 1:
            raise ConfigError(f"`test` must be a share above 0 and below 1; got {test!r}.", key="test")
        self.path = path
        self.archive = archive
        self.test = test

    @property
    def source(self) -> str:
        return str(self.path)

    def read(self) -> list[Recording]:
        root = local(self.path)
        if root.is_dir():
            if self.archive is not None:
                raise ConfigError(
                    "`archive` must be left out where `path` is a folder: it holds the files of a table.",
                    key="archive",
                )
            table = folder_table(root)
        else:
            table, root = read_manifest(check_file(self.path)), root.parent
        archive = None if self.archive is None else WavZip(local(self.archive))
        columns = ("label", "text") if self.task == "classification" else ("text", "label")
        column = next(name for name in columns if name in table)
        texts = table[column].str.split().str.join(" ")
        speakers = table["speaker"] if "speaker" in table else pd.Series("", table.index)
        parts = table["split"].where(texts != "", "predict") if "split" in table else None
        places = table["path"].map(lambda name: PurePath(name).as_posix())
        if again := places[places.duplicated()].tolist():
            raise DataError(
                f"{self.path}: every recording must be there once; {again[0]} is there more often."
            )
        found = []
        for row, name, transcript, speaker in zip(table.index, table["path"], texts, speakers, strict=True):
            part = parts[row] if parts is not None else "train" if transcript else "predict"
            if part not in get_args(Part):
                raise DataError(
                    f"{self.path}: `split` must be train, val or test; row {row} holds {shown(part)}."
                )
            if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
                raise DataError(
                    f"{self.path}: `path` must lie below the folder of the table; row {row} holds "
                    f"{shown(name)}. Move the file."
                )
            rate = self.mfcc.sample_rate
            samples = read_wav(root / name, rate) if archive is None else archive.read(name, rate)
            posix = PurePath(name).as_posix()
            found.append(Recording(posix, samples, transcript or None, cast("Part", part), speaker))
        if parts is None:
            tested = set(spread([r.key if r.transcript else None for r in found], self.test, self.seed))
            found = [replace(r, part="test") if k in tested else r for k, r in enumerate(found)]
        return found


def folder_table(root: Path) -> pd.DataFrame:
    """Table of the recordings in a folder, as `read_manifest` returns it: `yes/001.wav` is of the word yes.

    Raises:
        DataError: there is none.
    """
    names = sorted(
        path.relative_to(root)
        for path in root.rglob("*")
        if path.suffix.lower() in ENDINGS
        and not any(part[0] in "._" for part in path.relative_to(root).parts)
    )
    if not names:
        raise DataError(
            f"{root}: a folder must hold one for each word, with recordings in it, such as yes/001.wav; "
            f"there is no file ending in {', '.join(ENDINGS)}. Name another folder, or a table."
        )
    rows = [(name.as_posix(), name.parts[0] if len(name.parts) > 1 else "") for name in names]
    return pd.DataFrame(rows, columns=["path", "label"], index=range(1, len(rows) + 1))


def read_manifest(path: Path) -> pd.DataFrame:
    """Table of a `SpeechFolder`, all of it text; rows are numbered from 1, like the lines after the header.

    Raises:
        DataError: the table cannot be read, or lacks a column `path`, a column `label` or `text`, or any row.
    """
    table = read_texts(path)
    table.index += 1
    names = table.columns.tolist()
    require_printable(names, path)
    for wanted in ("path", "label"):
        if wanted not in table and not (wanted == "label" and "text" in table):
            what = "`path`" if wanted == "path" else "`label` or `text`"
            raise DataError(
                f"{path}: there must be a column {what}; there are {', '.join(names)}. Rename or add it."
            )
    if table.empty:
        raise DataError(f"{path}: there are column names but no rows.")
    return table
