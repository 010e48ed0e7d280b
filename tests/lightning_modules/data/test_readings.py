"""Tables that could be read as something else: read right or refused, and alike from every kind of source."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from dream.errors import DataError
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.disk import convert
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.series import Series, read_table
from lightning_modules.forecasting import TableData
from lightning_modules.online import TableStream

ROWS = 300
COUNT = np.arange(ROWS)
HOURS = pd.date_range("2024-01-01", periods=ROWS, freq="h")
DAYS = pd.date_range("2024-01-01", periods=ROWS, freq="D")
MONTHS = pd.date_range("2000-01-01", periods=ROWS, freq="MS")
NANOSECONDS = HOURS.as_unit("ns").astype("int64").to_numpy()
A, B = np.sin(COUNT / 7).round(4), (1000 + 50 * np.cos(COUNT / 9)).round(3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


def frame(place: Any = 0, **columns: Any) -> pd.DataFrame:
    """Two columns of numbers, and these before column `place` or in place of them."""
    table = pd.DataFrame({"a": A, "b": B})
    for name, values in columns.items():
        if name in table:
            table[name] = values
        else:
            table.insert(place, name, values)
    return table


def written(hours: pd.DatetimeIndex, form: str) -> list[str]:
    return hours.strftime(form).tolist()


def readers(table: pd.DataFrame, folder: Path, **options: Any) -> Iterator[Callable[[], Series]]:
    """`read_table` of the table itself, and from CSV and Parquet, in memory and in blocks on disk."""

    def on_disk(path: Path) -> Series:
        series = stored_table(path, **options)
        values = np.concatenate([block.values for block in series.blocks(slice(None))])
        return Series(values, series.columns, series.time, str(path))

    yield partial(read_table, table, **options)
    text, packed = folder / "table.csv", folder / "table.parquet"
    table.to_csv(text, index=False)
    table.to_parquet(packed)
    yield partial(read_table, text, **options)
    yield partial(on_disk, text)
    yield partial(read_table, packed, **options)
    yield partial(on_disk, packed)


def check(table: pd.DataFrame, folder: Path, time: pd.DatetimeIndex | None, **options: Any) -> None:
    for read in readers(table, folder, **options):
        series = read()
        assert series.columns == ("a", "b")
        np.testing.assert_array_equal(series.values, np.stack([A, B], axis=1))
        if time is None:
            assert series.time is None
        else:
            np.testing.assert_array_equal(np.array(series.time), time.to_numpy("datetime64[ns]"))


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks or so."""
    monkeypatch.setattr(convert, "BLOCK", 4000)


DATES = {
    "year first, of two digits": frame(time=written(HOURS, "%y-%m-%d %H:%M")),
    "day first, of two digits": frame(time=written(HOURS, "%d.%m.%y %H:%M")),
    "month first, of two digits": frame(time=written(HOURS, "%m/%d/%y %H:%M")),
    "a month in letters": frame(time=written(HOURS, "%d-%b-%y %H:%M")),
    "a long date": frame(time=written(HOURS, "%B %d, %Y %H:%M")),
    "AM and PM": frame(time=written(HOURS, "%m/%d/%Y %I:%M:%S %p")),
    "AM and PM after ISO": frame(time=written(HOURS, "%Y-%m-%d %I:%M %p")),
    "dates in the last column": frame(2, stamped=written(HOURS, "%Y-%m-%d %H:%M")),
    "dates after an index": frame(time=written(HOURS, "%Y-%m-%d %H:%M"), **{"Unnamed: 0": COUNT}),
    "seconds": frame(time=NANOSECONDS // 10**9),
    "milliseconds": frame(2, timestamp=NANOSECONDS // 10**6),
    "microseconds": frame(ts=NANOSECONDS // 10**3),
    "nanoseconds": frame(event_time=NANOSECONDS),
    "seconds as fractions": frame(UnixTime=NANOSECONDS / 1e9),
    "seconds as text": frame(time=[str(value) for value in NANOSECONDS // 10**9]),
    "seconds beside dates": frame(unix=NANOSECONDS // 10**9, date=written(HOURS, "%Y-%m-%d %H:%M")),
    "digits": frame(date=[int(text) for text in written(HOURS, "%Y%m%d%H%M")]),
    "digits that could be Unix time": frame(date=[int(text) for text in written(HOURS, "%Y%m%d%H")]),
    "another zone": frame(
        time=[at.isoformat() for at in HOURS.tz_localize("UTC").tz_convert("Asia/Kolkata")]
    ),
    "periods": frame(time=HOURS.to_period()),
    "more dates with gaps": frame(
        time=written(HOURS, "%Y-%m-%d %H:%M"), serviced=[None, *written(HOURS[1:], "%Y-%m-%d")]
    ),
}


@pytest.mark.parametrize("table", DATES.values(), ids=DATES)
def test_dates_are_read(table: pd.DataFrame, tmp_path: Path, block: None) -> None:
    check(table, tmp_path, HOURS)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%d.%m.%y", "%m/%d/%Y", "%b %Y", "%m/%Y", "%Y-%m"])
def test_months_are_even_steps(form: str, tmp_path: Path, block: None) -> None:
    check(frame(when=written(MONTHS, form)), tmp_path, MONTHS)


def test_days_and_months_are_told_apart_by_even_steps(tmp_path: Path) -> None:
    """No day is above 12."""
    for form in ("%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M"):
        few = frame(time=written(HOURS, form))[:200]
        for read in readers(few, tmp_path):
            np.testing.assert_array_equal(np.array(read().time), HOURS[:200].to_numpy("datetime64[ns]"))


def test_the_hour_that_comes_twice(tmp_path: Path) -> None:
    autumn = pd.date_range("2024-10-26", periods=ROWS, freq="h", tz="Europe/Berlin")
    check(frame(time=[at.isoformat() for at in autumn]), tmp_path, autumn.tz_convert(None))
    for read in readers(frame(time=written(autumn, "%Y-%m-%d %H:%M")), tmp_path):
        with pytest.raises(DataError, match=r"row 27 .*repeats the one before.*Berlin.* back, from \+02:00"):
            read()


NO_TIME = {
    "an index": frame(**{"Unnamed: 0": COUNT}),
    "an index of some rows": frame(**{"Unnamed: 0": COUNT * 3 + 7}),
    "two of them": frame(**{"Unnamed: 0": COUNT, "Unnamed: 0.1": COUNT}),
    "that of Parquet": frame(2, __index_level_0__=COUNT + 5),
    "one with a name": frame(index=COUNT),
    "an identity that counts": frame(id=COUNT + 1),
    "words": frame(switch=np.where(COUNT % 2, "on", "off")),
    "months without years": frame(month=["May", "June"] * (ROWS // 2)),
}


@pytest.mark.parametrize("table", NO_TIME.values(), ids=NO_TIME)
def test_no_number_to_predict(
    table: pd.DataFrame, tmp_path: Path, block: None, caplog: pytest.LogCaptureFixture
) -> None:
    check(table, tmp_path, None)
    name = next(name for name in table.columns if name not in ("a", "b"))
    assert f"left out: {name}" in caplog.text


def test_the_index_of_to_csv(tmp_path: Path) -> None:
    for table, time in ((frame(), None), (frame().set_index(HOURS), HOURS)):
        table.to_csv(tmp_path / "t.csv")
        for read in (read_table, stored_table):
            series = read(tmp_path / "t.csv")
            assert series.columns == ("a", "b")
            assert (series.time is None) == (time is None)


def test_it_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    table = frame(index=COUNT, time=COUNT * 0.5)
    for read in readers(table, tmp_path, columns=["a", "index", "time"]):
        assert read().columns == ("a", "index", "time")
        np.testing.assert_array_equal(read().values[:, 2], COUNT * 0.5)


def changed(values: Any, row: int, value: Any) -> list[Any]:
    values = list(values)
    values[row] = value
    return values


ZONED = [at.isoformat() for at in HOURS.tz_localize("Europe/Berlin")]
NAIVE = written(HOURS, "%Y-%m-%dT%H:%M:%S")
REFUSED = {
    "Unix time of no name": (
        frame(q=NANOSECONDS // 10**9),
        "`q` increases .* as Unix time.*row 0 holds 17040672",
    ),
    "digits of no name": (
        frame(q=[int(text) for text in written(DAYS, "%Y%m%d")]),
        "`q` increases .*row 0 holds 20240101.* name it as `time_column`; if it is not, subtract",
    ),
    "seconds from the start": (
        frame(**{"time (s)": COUNT * 0.1}),
        r"`time \(s\)` increases .*write it as dates",
    ),
    "years": (frame(year=1700 + COUNT), "`year` increases .*row 0 holds 1700.*write it as dates"),
    "days since 1900": (frame(Date=45292 + COUNT), "`Date` increases .*write it as dates"),
    "dates of six digits": (frame(date=[int(t) for t in written(DAYS, "%y%m%d")]), "`date` increases"),
    "two columns of dates": (
        frame(start=written(HOURS, "%Y-%m-%d %H:%M"), end=written(HOURS, "%d/%m/%Y %H:%M")),
        "several columns hold dates: `end`, `start`. Name the one to use as `time_column`",
    ),
    "two of Unix time": (frame(sent_ts=NANOSECONDS, got_ts=NANOSECONDS + 5), "several .*`got_ts`, `sent_ts`"),
    "no row tells": (
        frame(time=written(HOURS, "%y-%m-%d"))[:300:24],
        r"two ways, .*row 0, '24-01-01', is 2024-01-01 .*%y-%m-%d\) or 2001-01-24 .*%d-%m-%y\)",
    ),
    "an hour in digits": (
        frame(date=[int(t) for t in written(HOURS, "%Y%m%d%H")])[:20],
        "2024-01-01 00:00:00 .* write the dates as 2024-01-31",
    ),
    "times of day": (frame(q=written(HOURS, "%H:%M")), "`q` seems to hold the time.*row 0 holds '00:00'"),
    "weeks": (frame(week=[f"{1950 + k // 52}-W{k % 52 + 1:02}" for k in COUNT]), "holds '1950-W01'"),
    "a zone by its name": (frame(2, at=written(HOURS, "%Y-%m-%d %H:%M CET")), "`at` seems .*00:00 CET'"),
    "a time that is none": (frame(2, time=["morning", "evening"] * 150), "`time` seems .*'morning'"),
    "a zone missing": (frame(time=changed(ZONED, 40, NAIVE[40])), "row 40 holds '2024-01-02T16:00:00'"),
    "a zone too many": (frame(time=changed(NAIVE, 40, ZONED[40])), r"row 40 holds .*\+01:00'"),
    "mixed formats": (
        frame(
            time=[
                written(HOURS, form)[k] for k, form in zip(COUNT, ["%d/%m/%Y", "%Y-%m-%d"] * 150, strict=True)
            ]
        ),
        "`time` must hold dates .*row 1 holds '2024-01-01'",
    ),
    "the order of days changes": (
        frame(time=written(HOURS, "%m/%d/%Y %H:%M")[:200] + written(HOURS, "%d/%m/%Y %H:%M")[200:]),
        "`time` must increase from row to row; row 200",
    ),
    "twelve hours without half": (frame(time=written(HOURS, "%Y-%m-%d %I:%M")), "must increase .*row 1 "),
    "durations": (frame(time=HOURS - HOURS[0]), "`time` seems to hold the time, in no format that is"),
    "several series": (
        pd.concat([frame(time=NAIVE, id=k) for k in (1, 2)], ignore_index=True),
        "`time` has times that repeat, .* `--data.id=id`|tells them apart as `id`",
    ),
    "no index without a name": (
        frame(**{"Unnamed: 0": A}),
        "`Unnamed: 0` has no name, .*row 0 holds|row 1 holds",
    ),
    "units": (frame(b=[f"{v} kWh" for v in B]), "`b` holds numbers .*row 0 holds '1050.0 kWh'"),
    "per cent": (frame(b=[f"{v}%" for v in B]), "`b` holds numbers .*'1050.0%'"),
    "money": (frame(b=[f"${v}" for v in B]), "`b` holds numbers .*'\\$1050.0'"),
    "a minus of typographers": (frame(a=[str(v).replace("-", "\u2212") for v in A]), "Write plain numbers"),
    "one unit": (
        frame(b=changed(map(str, B), 50, "7 kW")),
        r"row 50 holds '7 kW' \(1 such values\). Write plain",
    ),
    "a word for a gap": (
        frame(b=changed(map(str, B), 5, "missing")),
        "row 5 holds 'missing' .* empty the cell",
    ),
    "a total": (frame(where=["x"] * (ROWS - 1) + ["Total"]), "row 299 is called 'Total' in column `where`"),
    "a total among dates": (
        frame(time=changed(NAIVE, ROWS - 1, "Total")),
        "row 299 holds 'Total'.*totals and remarks in another file",
    ),
}


@pytest.mark.parametrize(("table", "message"), REFUSED.values(), ids=REFUSED)
def test_refuses(table: pd.DataFrame, message: str, tmp_path: Path) -> None:
    for read in readers(table.reset_index(drop=True), tmp_path):
        with pytest.raises(DataError, match=message):
            read()


LINES = frame(time=written(HOURS, "%Y-%m-%d %H:%M")).to_csv(index=False)
TEXTS = {
    "a comment": ("# of the meter\n" + LINES, "first line must name the columns; it is '# of the meter'"),
    "a title": ("Readings, 2024\n" + LINES, "each of the 2 names in the first line .'Readings'"),
    "a line of units": (LINES.replace("\n", "\n,kW,bar\n", 1), "row 0 holds nan"),
    "no header": (LINES.partition("\n")[2].replace("\n", ",x\n"), "first line must name the columns"),
    "decimal commas": (LINES.replace(".", ","), "each of the 3 names .*write numbers as 1234.5"),
    "a comment at the end": (LINES + "# end\n", "row 300 holds '# end'"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_lines_that_are_no_rows(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=message):
            read(tmp_path / "t.csv")


@pytest.mark.parametrize("change", [str.encode, lambda text: text.replace("time", '"time"', 1).encode()])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_marks_and_quotes(change: Callable[[str], bytes], mark: bytes, tmp_path: Path, block: None) -> None:
    (tmp_path / "t.csv").write_bytes(mark + change(LINES).replace(b"\n", b"\r\n"))
    for read in (read_table, stored_table):
        series = read(tmp_path / "t.csv")
        assert series.columns == ("a", "b")
        np.testing.assert_array_equal(np.array(series.time), HOURS.to_numpy("datetime64[ns]"))


def test_words_of_text_are_those_of_a_file(tmp_path: Path) -> None:
    """True, false and words for gaps in columns of text mean the same as in a file."""
    table = frame(a=changed(map(str, A), 5, "NA"), on=np.where(COUNT % 2, "true", "false"))
    for read in readers(table, tmp_path):
        series = read()
        assert series.columns == ("on", "a", "b")
        np.testing.assert_array_equal(series.values[:, 0], COUNT % 2)
        assert np.isnan(series.values[:, 1]).nonzero()[0].tolist() == [5]


def test_a_column_that_holds_numbers_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On disk the first block decides, and no later number is lost."""
    monkeypatch.setattr(convert, "BLOCK", 500)
    table = frame(note=["x"] * 200 + [str(k) for k in range(100)])
    for read in readers(table, tmp_path):
        with pytest.raises(DataError, match="column `note` must "):
            read()


class TestInMemory:
    @pytest.mark.parametrize(
        "index",
        [
            HOURS,
            HOURS.to_period("h"),
            written(HOURS, "%Y-%m-%d %H:%M"),
            NANOSECONDS // 10**9,
            HOURS.tz_localize("UTC"),
        ],
        ids=["dates", "periods", "text", "Unix time", "zone"],
    )
    def test_an_index_of_dates(self, index: Any) -> None:
        data = TableData.of(frame().set_index(pd.Index(index)), look_back=24, horizon=4)
        assert data.target_columns == ("a", "b")
        np.testing.assert_array_equal(data.series.time, HOURS.to_numpy("datetime64[ns]"))

    def test_an_index_of_something_else(self) -> None:
        for index in (COUNT[::-1], [f"row {k}" for k in COUNT], [str(k) for k in COUNT], A):
            data = TableData.of(frame().set_index(pd.Index(index)), look_back=24, horizon=4)
            assert data.target_columns == ("a", "b")
            assert data.series.time is None

    def test_an_index_of_two_levels_or_a_taken_name(self) -> None:
        levels = pd.MultiIndex.from_product([["x", "y"], HOURS[:150]], names=["meter", "time"])
        with pytest.raises(DataError, match=r"one level, that of the time; it has 2 \(meter, time\)"):
            TableData.of(frame().set_index(levels))
        assert TableData.of(frame(time=1.0).set_index(HOURS)).target_columns == ("time.1", "a", "b")

    def test_masked_values_are_missing(self) -> None:
        masked = np.ma.masked_array(np.stack([A, B], axis=1), mask=np.zeros((ROWS, 2), bool))
        masked[7, 1] = np.ma.masked
        for table in (masked, masked[:, 1], (masked * 100).astype(int)):
            with pytest.raises(DataError, match=r"values are missing \(column_\d 1\)"):
                TableData.of(table, look_back=24, horizon=4).setup()

    @pytest.mark.parametrize("kind", [TableData, TableStream, AnomalyTable])
    @pytest.mark.parametrize(
        ("table", "message"),
        [
            (frame(a=A + 1j), "column `a` must hold real numbers; row 0 holds "),
            (np.stack([A, B], axis=1) + 1j, "column `column_1` must hold real numbers"),
            (frame(a=[[1.0, 2.0]] * ROWS, b=[{}] * ROWS), "no column to predict holds numbers"),
            (frame(a=[*A[1:].tolist(), object()]), "column `a` must hold numbers; row 299 holds <object"),
            (
                frame(a=np.array([*A[1:].tolist(), 2 + 1j], dtype=object)),
                "column `a` must hold numbers; row 299 holds (2+1j)",
            ),
            (frame(a=pd.array([*range(299), pd.NA], dtype="Int64")), "values are missing (a 1)"),
        ],
    )
    def test_what_is_no_number(self, kind: Any, table: Any, message: str) -> None:
        with pytest.raises(DataError) as said:
            kind.of(table).setup()
        assert message in str(said.value)
