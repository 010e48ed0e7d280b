"""Tables on disk against the same in memory: equal data and refusals, whatever the size of a block."""

from __future__ import annotations

import errno
import gzip
import os
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
import pytest
import torch

from dream.errors import DataError
from lightning_modules.data.dialect import PLAIN
from lightning_modules.data.disk import convert, stored
from lightning_modules.data.disk.blocks import file_blocks
from lightning_modules.data.disk.convert import stored_table
from lightning_modules.data.series import read_table
from lightning_modules.forecasting import TableData

ROWS, AHEAD = 90, 6


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DREAM_CACHE", str(tmp_path / "cache"))
    # thousands of small files need not outlive a power failure
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return tmp_path / "cache"


def set_block(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(convert, "BLOCK", size)


def table(folder: Path, gaps: bool = False, ahead: int = AHEAD, name: str = "table.csv") -> Path:
    """Two loads, a wind and a price that is known for some rows more; uneven hours; gaps of many lengths."""
    draw = np.random.default_rng(0)
    rows = ROWS + ahead
    frame = pd.DataFrame(draw.normal(5, 2, (rows, 4)), columns=["load", "heat", "wind", "price"])
    if gaps:
        frame = frame.mask(draw.random(frame.shape) < 0.3)
        frame.loc[:9, "load"], frame.loc[40:60, "heat"] = np.nan, np.nan
        frame.loc[ROWS:, "price"] = 4.0
    frame.loc[ROWS:, ["load", "heat", "wind"]] = np.nan
    time = pd.Timestamp("2024-01-30") + pd.to_timedelta(draw.integers(20, 90, rows).cumsum(), unit="min")
    frame.insert(0, "date", time)
    path = folder / name
    frame.to_parquet(path, row_group_size=11) if name.endswith("parquet") else frame.to_csv(path, index=False)
    return path


def data(path: Path, mapped: bool, **options: Any) -> TableData:
    shape = {"look_back": 8, "horizon": AHEAD, "season": 4, "batch_size": 4, "stride": 4, "missing": "ffill"}
    return TableData(str(path), mapped=mapped, **{**shape, **options})


ROLES = {"targets": ["load", "heat"], "covariates": ["wind"], "known_covariates": ["price"]}


class TestSameTables:
    @pytest.mark.parametrize(
        ("size", "missing"),
        [(7, "mask"), (900, "error"), (900, "ffill"), (900, "mask"), (900, "model"), (1 << 20, "ffill")],
    )
    @pytest.mark.parametrize(
        "options",
        [
            {"calendar": ["hour", "weekday"], "timespans": True},
            ROLES,
            {**ROLES, "calendar": ["month"], "streams": True},
        ],
    )
    def test_as_in_memory(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        size: int,
        missing: str,
        options: dict[str, Any],
    ) -> None:
        set_block(monkeypatch, size)
        path = table(tmp_path, gaps=missing != "error", ahead=AHEAD if "targets" in options else 0)
        ours, theirs = (data(path, mapped, missing=missing, **options) for mapped in (True, False))
        assert len(ours.whole.shards) == {7: len(ours.whole), 1 << 20: 1}.get(size, len(ours.whole.shards))
        if size < 1 << 20:
            assert len(ours.whole.shards) > 4
        assert (ours.columns, ours.target_columns, ours.shape) == (
            theirs.columns,
            theirs.target_columns,
            theirs.shape,
        )
        assert ours.parts == theirs.parts
        np.testing.assert_allclose(ours.scaler.mean, theirs.scaler.mean, rtol=1e-14)
        np.testing.assert_allclose(ours.scaler.scale, theirs.scaler.scale, rtol=1e-14)
        for name, mine, other in zip(
            ours.prepared.tables._fields, ours.prepared.tables, theirs.prepared.tables, strict=True
        ):
            assert (mine is None) == (other is None), name
            if mine is not None:
                torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-7, equal_nan=True, msg=name)
        torch.testing.assert_close(ours.mase_scale, theirs.mase_scale)
        assert ours.describe() == theirs.describe()
        assert (
            ours.future_times(len(ours.series)).tolist() == theirs.future_times(len(theirs.series)).tolist()
        )
        for loader in ("train_dataloader", "test_dataloader", "predict_dataloader"):
            for a, b in zip(getattr(ours, loader)(), getattr(theirs, loader)(), strict=True):
                torch.testing.assert_close(a.future, b.future, equal_nan=True)
                torch.testing.assert_close(a.past, b.past)
                assert torch.equal(a.origin, b.origin)

    @pytest.mark.parametrize("missing", ["ffill", "mask", "model"])
    def test_of_columns_in_another_order_on_other_scales(self, tmp_path: Path, missing: str) -> None:
        path = table(tmp_path, gaps=True, ahead=0)
        options = {"missing": missing, "calendar": ["hour"], "timespans": True}
        learned = data(path, False, **options)
        frame = pd.read_csv(path)
        altered = frame.assign(load=frame.load.where(frame.index > len(frame) - 60, 100.0))
        altered[["date", *reversed(frame.columns[1:])]].to_csv(tmp_path / "other.csv", index=False)
        turned, followed = (data(tmp_path / "other.csv", True, **options) for _ in range(2))
        assert turned.prepared.values.shape == learned.prepared.values.shape  # and is kept on disk
        followed.follow(learned.schema)
        assert (turned.columns[:4], followed.columns) == (learned.columns[3::-1], learned.columns)
        assert torch.equal(followed.prepared.values[-40:], learned.prepared.values[-40:])
        assert torch.equal(followed.prepared.tables.timespans, learned.prepared.tables.timespans)
        assert not torch.equal(followed.prepared.values, learned.prepared.values)

    @pytest.mark.parametrize("missing", ["mask", "model"])
    def test_of_one_block_bit_for_bit(self, tmp_path: Path, missing: str) -> None:
        path = table(tmp_path, gaps=True)
        ours, theirs = (
            data(path, mapped, missing=missing, timespans=True, **ROLES).prepared.tables
            for mapped in (True, False)
        )
        assert (ours.observed is None) == (missing == "mask")
        for mine, other in zip(ours, theirs, strict=True):
            assert mine is other is None or torch.equal(mine.nan_to_num(9), other.nan_to_num(9))

    @pytest.mark.parametrize("name", ["table.csv.gz", "table.parquet"])
    def test_of_other_formats(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        set_block(monkeypatch, 300)
        path = table(tmp_path, name=name)
        series, whole = stored_table(path), read_table(path)
        assert len(series.shards) > 5
        np.testing.assert_array_equal(
            np.concatenate([block.values for block in series.blocks(slice(None))]), whole.values
        )
        assert whole.time is not None
        np.testing.assert_array_equal(series.time, whole.time)

    @pytest.mark.parametrize("blank", [(), (2,), (50,), (2, 3, 50)])
    def test_of_truth_values_with_gaps(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: tuple[int, ...]
    ) -> None:
        set_block(monkeypatch, 20)
        path = tmp_path / "table.csv"
        cells = ["" if row in blank else str(row % 3 == 0) for row in range(60)]
        path.write_text("open,load\n" + "".join(f"{cell},{row}\n" for row, cell in enumerate(cells)))
        expected = [[np.nan if row in blank else float(row % 3 == 0), row] for row in range(60)]
        np.testing.assert_array_equal(read_table(path).values, expected)
        blocks = [block.values for block in stored_table(path).blocks(slice(None))]
        assert len(blocks) > 10
        np.testing.assert_array_equal(np.concatenate(blocks), expected)

    def test_messages_name_the_file_as_it_was_typed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = table(tmp_path, gaps=True)
        monkeypatch.chdir(tmp_path)
        messages = []
        for mapped in (True, False):
            with pytest.raises(DataError, match=r"^table\.csv: values are missing") as found:
                data(Path(path.name), mapped, missing="error").setup()
            messages.append(str(found.value))
        assert messages[0] == messages[1]
        (tmp_path / "table.csv").write_text("a,b\n1,2\n3,x\n")
        with pytest.raises(DataError, match=r"^table\.csv: column `b` must hold numbers"):
            stored_table(path.name)

    def test_workers_share_the_map(self, tmp_path: Path) -> None:
        path = table(tmp_path, ahead=0)
        batches = [list(data(path, True, num_workers=workers).test_dataloader()) for workers in (0, 2)]
        assert all(torch.equal(a.past, b.past) for a, b in zip(*batches, strict=True))

    def test_size_decides(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = table(tmp_path, ahead=0)
        monkeypatch.setattr("lightning_modules.forecasting.sets.LARGE", path.stat().st_size)
        assert isinstance(TableData(str(path)).read(), type(read_table(path)))
        monkeypatch.setattr("lightning_modules.forecasting.sets.LARGE", path.stat().st_size - 1)
        assert isinstance(TableData(str(path)).read(), stored.StoredSeries)


def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_block(monkeypatch, 1 << 14)
    monkeypatch.setattr("lightning_modules.forecasting.member.ROWS", 1 << 9)
    monkeypatch.setattr("lightning_modules.data.schema._STEPS", 1 << 9)
    path = tmp_path / "table.csv"

    def peak(rows: int, mapped: bool) -> int:
        values = pd.DataFrame(
            np.random.default_rng(0).normal(size=(rows, 8)).round(4), columns=list("abcdefgh")
        )
        values.insert(0, "date", pd.date_range("2000-01-01", periods=rows, freq="h"))
        values.to_csv(path, index=False)
        usual = pyarrow.default_memory_pool()
        pool = pyarrow.proxy_memory_pool(usual)  # it has seen nothing of other tests
        pyarrow.set_memory_pool(pool)
        tracemalloc.start()
        try:
            made = data(path, mapped, calendar=["hour"], timespans=True)
            _, _ = made.mase_scale, made.describe()
            for loader in (made.train_dataloader(), made.test_dataloader()):
                for _, _ in zip(loader, range(20), strict=False):
                    pass
            return tracemalloc.get_traced_memory()[1] + pool.max_memory()
        finally:
            tracemalloc.stop()
            pyarrow.set_memory_pool(usual)

    peak(500, True)  # what is loaded on first use
    small, large = peak(2000, True), peak(8000, True)
    assert large < 1.15 * small
    assert peak(8000, False) > 2 * large


class TestBlocks:
    TEXT = (
        '\n \nn,"a ""name"",\nof two lines",b\r\n1,x,"3"\n"4",y,6\n\n7,"\nz ""\n",9\n10,5" pipe,12\n"13",w,15'
    )

    @pytest.mark.parametrize("packed", [False, True])
    def test_any_cut_of_quoted_text_gives_the_same_rows(self, tmp_path: Path, packed: bool) -> None:
        path = tmp_path / ("t.csv.gz" if packed else "t.csv")
        path.write_bytes(gzip.compress(self.TEXT.encode()) if packed else self.TEXT.encode())
        whole = pd.read_csv(BytesIO(self.TEXT.encode())).astype(str)
        whole.columns = ["n", 'a "name", of two lines', "b"]
        for size in range(1, len(self.TEXT) + 1, 3):
            blocks = list(file_blocks(path, PLAIN, 0, 0, size))
            found = pd.concat([block.frame.astype(str) for block in blocks])
            pd.testing.assert_frame_equal(found, whole)
            for block in blocks[:-1]:
                rest = list(file_blocks(path, PLAIN, block.stop, block.frame.index[-1] + 1, size))
                again = pd.concat([other.frame.astype(str) for other in rest])
                pd.testing.assert_frame_equal(again, whole.loc[block.frame.index[-1] + 1 :])

    @pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet"])
    def test_end_at_the_same_rows_wherever_they_start(self, tmp_path: Path, name: str) -> None:
        frame = pd.DataFrame({"a": np.arange(700) / 7, "b": np.sqrt(np.arange(700))})
        if name.endswith(".parquet"):
            frame.to_parquet(tmp_path / name, row_group_size=90)
        else:
            frame.to_csv(tmp_path / name, index=False)
        blocks = list(file_blocks(tmp_path / name, PLAIN, 0, 0, 1000))
        assert len(blocks) > 9
        for number, block in enumerate(blocks, 1):
            rest = file_blocks(tmp_path / name, PLAIN, block.stop, block.frame.index[-1] + 1, 1000)
            assert [again.stop for again in rest] == [later.stop for later in blocks[number:]]

    def test_an_open_quote_is_refused_before_it_fills_the_memory(self, tmp_path: Path) -> None:
        path = tmp_path / "t.csv"
        path.write_text('a,b\n1,2\n3,"4\n' + "5,6\n" * 1000)
        with pytest.raises(DataError, match=r"t\.csv: row 1 does not end within .* Is a quote left open"):
            list(file_blocks(path, PLAIN, 0, 0, 8))


class TestConversion:
    def test_goes_on_where_it_was_killed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = table(tmp_path)
        set_block(monkeypatch, 300)
        write, written = stored_writer(monkeypatch)
        for stop in (0, 1, 2, 7, 8):
            written.clear()

            def full(target: Any, content: Any, stop: int = stop) -> Path:
                if len(written) >= stop:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return write(target, content)

            monkeypatch.setattr(convert, "write_atomic", full)
            with pytest.raises(
                DataError, match=r"cannot be written \(No space left on device\).*set DREAM_CACHE"
            ):
                stored_table(path)
        made = len(list(tmp_path.glob("cache/tables/*/*.arrow")))
        assert made == 0 + 1 + 2 + 7 + 8 - 2  # besides source.json and roles.sealed
        written.clear()
        monkeypatch.setattr(convert, "write_atomic", write)
        series = stored_table(path)
        assert len([name for name in written if name.endswith(".arrow")]) == len(series.shards) - made
        whole = read_table(path)
        np.testing.assert_array_equal(
            np.concatenate([block.values for block in series.blocks(slice(None))]), whole.values
        )
        np.testing.assert_array_equal(series.time, whole.time)
        written.clear()
        stored_table(path)
        assert not written

    def test_an_altered_shard_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        set_block(monkeypatch, 300)
        series = stored_table(table(tmp_path))
        shard = series.folder / series.shards[3].name
        content = shard.read_bytes()
        for damage in (content[:-1], bytes([*content[:400], content[400] ^ 1, *content[401:]]), b""):
            shard.write_bytes(damage)
            with pytest.raises(
                DataError, match=rf"000003-.*\.arrow: .* altered. Delete the folder .*{series.folder.name}"
            ):
                list(series.blocks(slice(None)))
        assert len(list(series.blocks(slice(0, 3)))) == 1 + (series.shards[0].stop < 3)

    def test_a_changed_file_is_converted_again(self, tmp_path: Path) -> None:
        path = table(tmp_path)
        first = stored_table(path)
        path.write_text("date,load\n2024-01-01,1\n2024-01-02,2\n")
        second = stored_table(path)
        assert (second.folder, len(second)) == (first.folder, 2)
        assert len(list(second.folder.glob("*.arrow"))) == 1

    @pytest.mark.parametrize("damage", [None, lambda old: old[:-3], lambda old: old[:-3] + b"xyz"])
    @pytest.mark.parametrize("name", ["values", "arrays.sealed", "time", "table.sealed"])
    def test_what_can_be_made_again_is(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        name: str,
        damage: Callable[[bytes], bytes] | None,
    ) -> None:
        set_block(monkeypatch, 300)
        path = table(tmp_path, ahead=0)
        good = data(path, True, calendar=["hour"])
        tables, times = (
            [part.clone() for part in good.prepared.tables if part is not None],
            good.future_times(ROWS),
        )
        file = next(tmp_path.glob(f"cache/tables/**/{name}"))
        before = file.read_bytes()
        parts = {part.name: part.stat().st_mtime_ns for part in tmp_path.glob("cache/tables/*/*.arrow")}
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(before))
        with caplog.at_level("WARNING"):
            again = data(path, True, calendar=["hour"])
            found = [part for part in again.prepared.tables if part is not None]
        if (name, damage) != ("table.sealed", None):
            assert any(name in line and "made again" in line for line in caplog.messages)
        for mine, other in zip(found, tables, strict=True):
            torch.testing.assert_close(mine, other, rtol=0, atol=0, equal_nan=True)
        assert again.future_times(ROWS).tolist() == times.tolist()
        assert file.read_bytes() == before
        assert parts == {
            part.name: part.stat().st_mtime_ns for part in tmp_path.glob("cache/tables/*/*.arrow")
        }

    @pytest.mark.parametrize("lost", [["000003-*"], ["000000-*"], ["000002-*", "000004-*"], ["roles.sealed"]])
    @pytest.mark.parametrize("torn", [True, False])
    def test_no_row_is_lost_with_a_part(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: list[str], torn: bool
    ) -> None:
        set_block(monkeypatch, 300)
        path = table(tmp_path, gaps=True)
        series = stored_table(path)
        time = np.array(series.time)
        (series.folder / "table.sealed").unlink()
        for name in lost:
            file = next(series.folder.glob(name))
            if torn and name == "roles.sealed":
                file.write_text("{")
            else:
                file.unlink()
        again, whole = stored_table(path), read_table(path)
        np.testing.assert_array_equal(
            np.concatenate([block.values for block in again.blocks(slice(None))]), whole.values
        )
        np.testing.assert_array_equal(again.time, time)
        assert sorted(part.name for part in series.folder.glob("*.arrow")) == [
            shard.name for shard in again.shards
        ]

    def test_tables_are_made_once_for_each_setting(self, tmp_path: Path) -> None:
        path = table(tmp_path, ahead=0)
        folders = []
        for horizon in (4, 4, 5):
            data(path, True, horizon=horizon).setup()
            folders.append(sorted(tmp_path.glob("cache/tables/*/prepared-*/values")))
        assert [len(found) for found in folders] == [1, 1, 2]


def stored_writer(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """`write_atomic`, and the names of the files that it wrote."""
    written: list[str] = []
    write = convert.write_atomic

    def noted(target: Any, content: Any) -> Path:
        written.append(Path(target).name)
        return write(target, content)

    monkeypatch.setattr(convert, "write_atomic", noted)
    return noted, written


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n", "the file is empty"),
        ("date,a\n", "column names but no rows"),
        ("a,b\n1,2\n1,2\n1,2,3,4\n", "cannot be read"),
        ("a,b\n1,2\n3,4\n1,\xff\n".encode("latin-1"), "`b` must hold numbers; row 2 holds 'ÿ'"),
        ("0.5,0.7\n1,2\n", "first line must name the columns"),
        ("a,b\n1,2\n1,3\n3,y\n", r"`b` must hold numbers; row 2 holds 'y' \(1 such values\)"),
        ("a,b\n1,2\n1,inf\n3,-inf\n", "`b` must be finite and at most 1.8e.19 .* row 1 holds inf"),
        ("a,b\n1,\n2,\n", "`b` holds no value at all"),
        ("place\nnorth\n", "no column to predict holds numbers"),
        ("t,a\n2024-01-02,1\n2024-01-01,2\n", r"row 1 \(2024-01-01\) is earlier than 2024-01-02"),
        ("t,a\n2024-01-01,1\n2024-01-02,1\n2024-01-02,2\n", r"row 2 \(2024-01-02\) repeats the one before"),
        (
            "t,a\n2024-01-01,1\n2024-01-02,1\nsoon,2\n",
            "`t` must hold dates such as 2016-07-01 00:00; row 2 holds 'soon'",
        ),
        (
            "t,a\n01/02/2024,1\n01/13/2024,1\n13/03/2024,2\n",
            "`t` must hold dates .*; row 2 holds '13/03/2024'",
        ),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_refuses_what_is_refused_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | bytes, message: str, size: int
) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=message) as in_memory:
        read_table(path)
    set_block(monkeypatch, size)
    with pytest.raises(DataError, match=message) as on_disk:
        stored_table(path)
    if size > 1:
        assert str(on_disk.value) == str(in_memory.value)


HOURS = pd.date_range("2024-01-01", periods=24 * 40, freq="h")


def stamped(folder: Path, stamps: list[str]) -> Path:
    path = folder / "stamped.csv"
    pd.DataFrame({"time": stamps, "a": np.arange(len(stamps))}).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    "stamps",
    [
        HOURS.strftime("%d/%m/%Y %H:%M").tolist(),  # the first blocks leave the order of days and months open
        HOURS.strftime("%d.%m.%Y %H:%M").tolist(),
        HOURS.strftime("%m/%d/%Y %H:%M").tolist(),
        [f"{at:%Y-%m-%d}" if at.hour == 0 else f"{at:%Y-%m-%d %H:%M}" for at in HOURS],
        [f"{at:%Y-%m-%d %H:%M:%S}" + ".000" * (at.hour % 3 == 1) for at in HOURS],
        [f"{at:%Y-%m-%d}T{at:%H:%M:%S}" + ("Z" if at.hour % 2 else "+00:00") for at in HOURS],
    ],
)
def test_common_kinds_of_dates(
    stamps: list[str], tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stamped(tmp_path, stamps)
    set_block(monkeypatch, 800)
    for series in (read_table(path), stored_table(path)):
        assert series.columns == ("a",)
        np.testing.assert_array_equal(np.array(series.time), HOURS.to_numpy(dtype="datetime64[ns]"))
    swapped = [*stamps[:500], stamps[501], stamps[500], *stamps[502:]]
    path = stamped(tmp_path, swapped)
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=r"`time` must increase from row to row; row 501 "):
            read(path)


@pytest.mark.parametrize("wrong", ["02.01.2024 00:00", "yesterday", ""])
def test_dates_that_partly_are_none_name_the_row(
    wrong: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The column is not left out, however many of its values are not dates."""
    set_block(monkeypatch, 800)
    stamps = HOURS.strftime("%Y-%m-%d %H:%M").tolist()
    path = stamped(tmp_path, [*stamps[:3], *[wrong] * (len(stamps) - 3)])
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=r"`time` must hold dates such as .*; row 3 holds"):
            read(path)


def test_an_order_of_days_and_months_that_no_row_tells(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dozen days, or the first of every month."""
    path = stamped(tmp_path, [f"01/{month:02}/2024" for month in range(1, 13)])
    set_block(monkeypatch, 60)
    for read in (read_table, stored_table):
        with pytest.raises(
            DataError,
            match=r"`time` can be read in two ways.* row 1, '01/02/2024', is 2024-01-02 00:00:00 "
            r"\(%m/%d/%Y\) or 2024-02-01 00:00:00 \(%d/%m/%Y\). State which as `time_format`",
        ):
            read(path)


@pytest.mark.parametrize(
    "texts", [["1.5 kg", "x", "2 kg"], ["May", "Harry", "Jo"], ["10-11", "12-34", "x", "y"]]
)
def test_text_that_is_no_date_is_left_out(texts: list[str], tmp_path: Path, cache: Path) -> None:
    path = stamped(tmp_path, texts)
    for read in (read_table, stored_table):
        with pytest.raises(DataError, match=f"`time` seems to hold the time.*; row 0 holds '{texts[0]}'"):
            read(path)
    path.write_text(path.read_text().replace("time", "place", 1))
    for read in (read_table, stored_table):
        assert (read(path).time, read(path).columns) == (None, ("a",))
