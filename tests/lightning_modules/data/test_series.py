from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch

from dream.errors import ConfigError, DataError
from lightning_modules.data import limits
from lightning_modules.data.disk import blocks, convert
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.series import Scaler, Series, fill_missing, read_table
from lightning_modules.data.split import split_rows

CSV = "date,load,heat\n2024-01-01 00:00,1.5,10\n2024-01-01 01:00,,20\n2024-01-01 02:00,3.5,30\n"


def write(folder: Path, text: str | bytes, name: str = "table.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def make_series(values: list[list[float]], time: np.ndarray | None = None) -> Series:
    array = np.array(values, dtype=np.float32)
    return Series(array, tuple("abc"[: array.shape[1]]), time, "memory")


def test_a_large_offset_keeps_its_signal(tmp_path: Path) -> None:
    wave = np.sin(np.arange(50.0))
    pd.DataFrame({"meter": 1e8 + wave}).to_csv(tmp_path / "meter.csv", index=False)
    series = read_table(tmp_path / "meter.csv")
    scaler = Scaler.fit(series.values, series.columns)
    np.testing.assert_allclose(
        scaler.transform(series.values)[:, 0], (wave - wave.mean()) / wave.std(), atol=1e-6
    )


def test_a_comma_too_many_at_the_end_is_no_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,\n1,2,\n3,4,\n")
    assert read_table(tmp_path / "a.csv").columns == ("a", "b")


class TestReadTable:
    def check(self, series: Series) -> None:
        assert series.columns == ("load", "heat")
        assert series.values.dtype == np.float64
        np.testing.assert_array_equal(series.values, [[1.5, 10], [np.nan, 20], [3.5, 30]])
        assert series.time is not None
        assert series.time.dtype == np.dtype("datetime64[ns]")
        assert series.time[1] == np.datetime64("2024-01-01T01:00")

    @pytest.mark.parametrize("time_column", [None, "date"])
    def test_csv(self, tmp_path: Path, time_column: str | None) -> None:
        self.check(read_table(write(tmp_path, CSV), time_column))

    def test_gzipped_csv(self, tmp_path: Path) -> None:
        self.check(read_table(write(tmp_path, gzip.compress(CSV.encode()), "table.csv.gz")))

    @pytest.mark.parametrize("indexed", [False, True])
    def test_parquet(self, tmp_path: Path, indexed: bool) -> None:
        frame = pd.read_csv(write(tmp_path, CSV), parse_dates=["date"])
        (frame.set_index("date") if indexed else frame).to_parquet(tmp_path / "table.parquet")
        self.check(read_table(tmp_path / "table.parquet"))

    def test_zones_become_utc(self, tmp_path: Path) -> None:
        series = read_table(write(tmp_path, "t,a\n2024-01-01T01:00+01:00,1\n2024-01-01T02:00+01:00,2\n"))
        assert series.time is not None
        assert series.time[0] == np.datetime64("2024-01-01T00:00")

    def test_without_dates_rows_are_numbered(self, tmp_path: Path) -> None:
        series = read_table(write(tmp_path, "a,b\n1,2\n3,4\n"))
        assert series.time is None
        np.testing.assert_array_equal(series.values, [[1, 2], [3, 4]])

    def test_text_columns_are_left_out_aloud(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        series = read_table(write(tmp_path, "a,place,b\n1,north,2\n3,south,4\n"))
        assert series.columns == ("a", "b")
        assert "place" in caplog.text

    def test_covariates_come_last(self, tmp_path: Path) -> None:
        assert read_table(write(tmp_path, "a,b,c\n1,2,3\n"), covariates=["a"]).columns == ("b", "c", "a")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "the file is empty"),
            ("\n\n", "the file is empty"),
            ("date,a\n", "column names but no rows"),
            ("a,b\n1,2\n1,2,3,4\n", "cannot be read"),
            ("a,b\n1,2,3\n4,5,6\n", "cannot be read"),
            ("a,b\n1,\x01\xff\n".encode("latin-1"), "no text in utf-8"),
            ("0.5,0.7\n1,2\n", "first line must name the columns"),
            ("a,b\n1,2\n1,x7\n3,y\n", r"`b` must hold numbers; row 1 holds 'x7' \(2 such values\)"),
            (
                "a,b\n1,2\n1,inf\n3,-inf\n",
                "`b` must be finite and at most 1.8e\\+19 .*row 1 holds inf .2 such",
            ),
            ("a,b\n1,2\n1,1e300\n", "`b` must be finite .*row 1 holds 1e\\+300 .1 such"),
            ("a,b\n1,\n2,\n", "`b` holds no value at all"),
            ("place\nnorth\n", "no column to predict holds numbers"),
            ("t,a\n2024-01-02,1\n2024-01-01,2\n", r"row 1 \(2024-01-01\) is earlier than 2024-01-02"),
            (
                "t,a\n2024-01-01,1\n2024-01-02,1\n2024-01-02,2\n",
                r"row 2 \(2024-01-02\) repeats the one before",
            ),
            (
                "t,a\n2024-01-01,1\n2024-01-02,1\nsoon,2\n",
                "`t` must hold dates such as 2016-07-01 00:00; row 2",
            ),
        ],
    )
    def test_refuses(self, tmp_path: Path, text: str | bytes, message: str) -> None:
        path = write(tmp_path, text)
        with pytest.raises(DataError, match=message) as error:
            read_table(path)
        assert str(path) in str(error.value)

    def test_missing_file_and_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"nowhere\.csv: no such file"):
            read_table(tmp_path / "nowhere.csv")
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(DataError, match="is a folder"):
            read_table(tmp_path / "folder.csv")
        with pytest.raises(DataError, match=r"ending in \.csv"):
            read_table(write(tmp_path, "a", "table.xlsx"))

    def test_unknown_columns_name_the_nearest(self, tmp_path: Path) -> None:
        path = write(tmp_path, CSV)
        with pytest.raises(DataError, match=r"no column `laod`. Did you mean `load`?"):
            read_table(path, columns=["laod"])
        with pytest.raises(DataError, match=r"no column `dte`. Did you mean `date`?"):
            read_table(path, "dte")
        with pytest.raises(DataError, match=r"no column `heta`. Did you mean `heat`?"):
            read_table(path, covariates=["heta"])

    def test_numbers_are_no_time_stamps(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"`heat` must hold dates .* Leave `time_column` out"):
            read_table(write(tmp_path, CSV), "heat")
        with pytest.raises(DataError, match="`date` must hold numbers; row 0"):
            read_table(write(tmp_path, CSV), columns=["date"])

    def test_damaged_files(self, tmp_path: Path) -> None:
        whole = tmp_path / "table.parquet"
        pd.DataFrame({"a": np.arange(1000.0)}).to_parquet(whole)
        with pytest.raises(DataError, match="cannot be read"):
            read_table(write(tmp_path, whole.read_bytes()[:-50], "cut.parquet"))
        noise = np.random.default_rng(0).random(2000)
        packed = gzip.compress(("a\n" + "\n".join(map(str, noise))).encode())
        with pytest.raises(DataError, match="cannot be read"):
            read_table(write(tmp_path, packed[:-500], "cut.csv.gz"))
        with pytest.raises(DataError, match="cannot be read"):
            read_table(write(tmp_path, CSV, "plain.csv.gz"))

    def test_parquet_with_repeated_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
        table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0])], names=["a", "a"])
        parquet.write_table(table, tmp_path / "twice.parquet")
        for read in (read_table, stored_table):
            assert read(tmp_path / "twice.parquet").columns == ("a", "a.1")


class TestFillMissing:
    GAPS = make_series([[np.nan, 1], [2, np.nan], [np.nan, np.nan], [4, 4]])

    def test_error_counts_and_names_the_remedy(self) -> None:
        with pytest.raises(DataError, match=r"\(a 2, b 2\).*--data.missing=ffill`, show a forecaster"):
            fill_missing(self.GAPS, "error")

    def test_ffill_uses_the_past(self, caplog: pytest.LogCaptureFixture) -> None:
        filled = fill_missing(self.GAPS, "ffill")
        np.testing.assert_array_equal(filled.values, [[2, 1], [2, 1], [2, 1], [4, 4]])
        assert filled.values.dtype == np.float64
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "a 2, b 2" in caplog.text
        assert np.isnan(self.GAPS.values[0, 0])

    def test_whole_series_is_untouched(self) -> None:
        whole = make_series([[1], [2]])
        assert fill_missing(whole, "error") is whole


class TestSplitRows:
    TIME = np.datetime64("2024-01-01", "ns") + np.arange(10) * np.timedelta64(1, "D")

    @pytest.mark.parametrize(
        ("split", "borders"),
        [
            ([0.7, 0.1, 0.2], (0, 7, 8, 10)),
            ([0.5, 0.2, 0.1], (0, 5, 7, 8)),
            ([6, 2, 2], (0, 6, 8, 10)),
            ([3, 2, 1], (0, 3, 5, 6)),
            (["2024-01-06", "2024-01-08"], (0, 5, 7, 10)),
            (["2024-01-06", "2024-01-08", "2024-01-09T00:00"], (0, 5, 7, 8)),
        ],
    )
    def test_borders(self, split: list[int | float | str], borders: tuple[int, ...]) -> None:
        train, val, test = split_rows(10, split, self.TIME)
        assert (train.start, train.stop, val.stop, test.stop) == borders
        assert (val.start, test.start) == borders[1:3]

    def test_fractions_follow_the_published_rounding(self) -> None:
        assert [part.stop for part in split_rows(7588, [0.7, 0.1, 0.2])] == [5311, 6071, 7588]

    @pytest.mark.parametrize(
        ("split", "message"),
        [
            ([0.7, 0.2, 0.2], "sum of at most 1"),
            ([0.7, -0.1, 0.2], "positive fractions"),
            ([0.7, float("nan"), 0.2], "positive fractions"),
            ([6, 2, 3], "at most the 10 rows"),
            ([6, 0, 3], "positive row counts"),
            ([-6, 2, 3], "positive row counts"),
            ([True, True, True], "not mixed"),
            ([0.7, 1, 2], "not mixed"),
            ([0.7, 0.3], "three fractions"),
            ([], "three fractions"),
            (["2024-01-06", 8], "not mixed"),
            (["2024-01-08", "2024-01-06"], "increasing order"),
            (["2024-01-06", "2024-01-06"], "increasing order"),
            (["2024-01-06", "2024-13-06"], "ISO dates"),
            (["2023-01-06", "2024-01-08"], "the training part .* is empty"),
            (["2024-01-06", "2025-01-08"], "the test part .* is empty"),
            ([0.95, 0.04, 0.01], "part .* is empty"),
        ],
    )
    def test_refuses(self, split: list[int | float | str], message: str) -> None:
        with pytest.raises(ConfigError, match=message) as error:
            split_rows(10, split, self.TIME)
        assert error.value.key == "split"
        assert f"got {split}" in str(error.value)

    def test_dates_need_time_stamps(self) -> None:
        with pytest.raises(ConfigError, match="without time stamps"):
            split_rows(10, ["2024-01-06", "2024-01-08"])


class TestScaler:
    def test_population_form(self) -> None:
        scaler = Scaler.fit(np.array([[1, 10], [3, 30]], dtype=np.float32), ("a", "b"))
        np.testing.assert_array_equal(scaler.mean, [2, 20])
        np.testing.assert_array_equal(scaler.scale, [1, 10])
        np.testing.assert_array_equal(scaler.transform(np.array([[4.0, 0.0]])), [[2, -2]])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_round_trip_in_both_libraries(self, dtype: torch.dtype) -> None:
        rows = np.random.default_rng(0).normal(5, 3, (50, 3)).astype(np.float32)
        scaler = Scaler.fit(rows, ("a", "b", "c"))
        tensor = torch.from_numpy(rows).to(dtype)
        scaled = scaler.transform(tensor)
        assert scaled.dtype == dtype
        torch.testing.assert_close(scaler.inverse(scaled), tensor)
        assert scaler.transform(rows).dtype == np.float32
        torch.testing.assert_close(scaler.inverse(scaled[..., :2], slice(2)), tensor[..., :2])
        torch.testing.assert_close(scaler.inverse(scaled[..., [2, 0]], [2, 0]), tensor[..., [2, 0]])

    def test_wrong_number_of_columns(self) -> None:
        scaler = Scaler(np.zeros(3), np.ones(3))
        with pytest.raises(DataError, match=r"must hold 3 columns; got shape \(4, 2\)"):
            scaler.inverse(torch.zeros(4, 2))

    def test_constant_column_is_only_centred(self, caplog: pytest.LogCaptureFixture) -> None:
        rows = np.array([[0.1, 1], [0.1, 2], [0.1, 3]], dtype=np.float32)
        scaler = Scaler.fit(rows, ("still", "b"))
        assert scaler.scale[0] == 1
        assert (scaler.transform(rows)[:, 0] == 0).all()
        assert "still" in caplog.text


class TestPackedFiles:
    """What a packed file may unpack to is bounded by its size, far beyond what tables are packed to."""

    @staticmethod
    def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(limits, "FREE_BYTES", 1 << 16)

    @pytest.mark.parametrize("members", [1, 300])
    @pytest.mark.parametrize("read", [read_table, stored_table])
    def test_a_text_that_unpacks_without_end(
        self, read: Callable[[Path], object], members: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.bounded(monkeypatch)
        monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
        body = gzip.compress(b"1\n" * (3_000_000 // members)) * members
        path = write(tmp_path, gzip.compress(b"a\n") + body, "table.csv.gz")
        with pytest.raises(
            DataError, match=r"table\.csv\.gz: a packed file of its size .* store it unpacked"
        ):
            read(path)

    @pytest.mark.parametrize("read", [read_table, stored_table])
    def test_values_of_parquet_that_are_stored_once(
        self, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.bounded(monkeypatch)
        monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
        path = tmp_path / "table.parquet"
        pd.DataFrame({"a": np.ones(1_000_000)}).to_parquet(path)
        assert path.stat().st_size < 20_000
        with pytest.raises(DataError, match=r"table\.parquet: .* goes beyond \(8000000\)"):
            read(path)

    def test_what_is_packed_well_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bounded(monkeypatch)
        values = np.tile(np.arange(100) % 7, 300)
        text = "a\n" + "\n".join(map(str, values))
        packed = gzip.compress(text.encode(), 1)
        assert (1 << 16) > len(text) > 30 * len(packed)
        assert read_table(write(tmp_path, packed, "t.csv.gz")).values[:, 0].tolist() == values.tolist()

    def test_a_first_line_without_end(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(blocks, "_LONGEST", 1)
        monkeypatch.setattr(convert, "BLOCK", 1000)
        with pytest.raises(DataError, match=r"its first line does not end within \d+ bytes"):
            stored_table(write(tmp_path, "a" * 5000))
