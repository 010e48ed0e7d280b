"""Many series from a long table: the same numbers as from one file each, however the rows come."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dream.errors import DataError
from lightning_modules.data.long_table import Long, files_of, is_many, read_panel
from lightning_modules.data.series import read_table

LONG = Long("unique_id")
LENGTHS = {"north": 40, "east": 25, "007": 33}


def long_table(lengths: dict[str, int] = LENGTHS, frequency: str = "D") -> pd.DataFrame:
    """Series of unequal lengths and different starts, `size` the same throughout each."""
    draw = np.random.default_rng(0)
    parts = []
    for number, (name, rows) in enumerate(lengths.items()):
        time = pd.date_range("2024-01-01", periods=rows + number, freq=frequency)[number:]
        values = {"y": draw.normal(size=rows).round(6), "price": draw.normal(size=rows).round(6)}
        parts.append(pd.DataFrame({"unique_id": name, "ds": time, **values, "size": 10.0 * number}))
    return pd.concat(parts, ignore_index=True)


def shuffled(table: pd.DataFrame) -> pd.DataFrame:
    return table.sample(frac=1, random_state=1).reset_index(drop=True)


def written(table: pd.DataFrame, path: Path) -> str:
    table.to_parquet(path) if path.suffix == ".parquet" else table.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
@pytest.mark.parametrize("order", [shuffled, lambda table: table])
def test_the_numbers_are_those_of_one_file_each(tmp_path: Path, ending: str, order: object) -> None:
    table = long_table()
    panel = read_panel(written(order(table), tmp_path / f"all.{ending}"), LONG)  # type: ignore[operator]
    assert panel.ids == ("007", "east", "north")
    assert panel.columns == ("y", "price", "size")
    for name, series in zip(panel.ids, panel.series, strict=True):
        rows = table[table["unique_id"] == name].drop(columns="unique_id")
        alone = read_table(written(rows, tmp_path / f"one.{ending}"))
        np.testing.assert_array_equal(series.values, alone.values)
        np.testing.assert_array_equal(series.time, alone.time)
        assert (series.zone, series.form) == (alone.zone, alone.form)
        assert series.source == f"{tmp_path / f'all.{ending}'}, series {name}"


def test_a_table_in_memory_and_small_blocks_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = shuffled(long_table())
    whole = read_panel(path := written(table, tmp_path / "all.csv"), LONG)
    monkeypatch.setattr("lightning_modules.data.long_table.BLOCK", 512)
    for other in (read_panel(table, LONG), read_panel(path, LONG)):
        assert other.ids == whole.ids
        for one, same in zip(other.series, whole.series, strict=True):
            np.testing.assert_array_equal(one.values, same.values)
            np.testing.assert_array_equal(one.time, same.time)


def test_a_folder_and_a_pattern_of_files(tmp_path: Path) -> None:
    table, folder = long_table(), tmp_path / "shops"
    folder.mkdir()
    for name, rows in table.groupby("unique_id"):
        rows.drop(columns="unique_id").to_csv(folder / f"{name}.csv", index=False)
    for path in (str(folder), str(folder / "*.csv")):
        assert is_many(path)
        panel = read_panel(path, Long())
        expected = read_panel(table, LONG)
        assert panel.ids == expected.ids
        for one, same in zip(panel.series, expected.series, strict=True):
            np.testing.assert_array_equal(one.values, same.values)
    for name, rows in table.groupby("unique_id"):
        rows.to_csv(folder / f"{name}.csv", index=False)
    assert read_panel(str(folder), LONG).ids == expected.ids
    assert [file.name for file in files_of(str(folder))] == ["007.csv", "east.csv", "north.csv"]


def test_whole_numbers_are_ids_in_their_order() -> None:
    table = long_table({"10": 5, "9": 5, "1": 5})
    for kind in (int, float, "Int64", str):
        assert read_panel(table.astype({"unique_id": kind}), LONG).ids == ("1", "9", "10")


def test_static_columns_hold_one_value_for_each_series(tmp_path: Path) -> None:
    table = long_table()
    panel = read_panel(table, LONG._replace(static=["size"]))
    assert panel.columns == ("y", "price")
    np.testing.assert_array_equal(panel.static.values, [[20.0], [10.0], [0.0]])
    facts = pd.DataFrame({"unique_id": ["north", "007", "east", "west"], "floor": [1, 2, 3, 4], "rent": 5.5})
    for given in (facts, written(facts, tmp_path / "facts.csv")):
        beside = read_panel(table, LONG, facts=given)
        assert beside.static.columns == ("floor", "rent")
        np.testing.assert_array_equal(beside.static.values, [[2, 5.5], [3, 5.5], [1, 5.5]])
    one = read_panel(table, LONG._replace(static=["rent"]), facts=facts)
    assert one.static.columns == ("rent",)


def test_dates_whose_order_one_series_tells_are_read_so_in_all(tmp_path: Path) -> None:
    days = pd.date_range("2024-01-01", periods=30)
    parts = {"few": days[:9], "many": days}
    table = pd.concat(
        pd.DataFrame({"unique_id": name, "ds": time.strftime("%d/%m/%Y"), "y": range(len(time))})
        for name, time in parts.items()
    ).reset_index(drop=True)
    for order in (table, shuffled(table)):
        for series, time in zip(read_panel(order, LONG).series, parts.values(), strict=True):
            np.testing.assert_array_equal(series.time, time.to_numpy("datetime64[ns]"))


def test_rows_without_times_keep_their_order() -> None:
    table = pd.DataFrame({"unique_id": ["b", "a", "b", "a", "b"], "y": [1.0, 2, 3, 4, 5]})
    panel = read_panel(table, LONG)
    assert [series.values[:, 0].tolist() for series in panel.series] == [[2, 4], [1, 3, 5]]
    assert panel.series[0].time is None


class TestRefusals:
    def test_a_time_twice_names_series_and_stamp(self) -> None:
        table = long_table()
        again = pd.concat([table, table.iloc[[50]]], ignore_index=True)
        with pytest.raises(
            DataError, match=r"series east holds 2024-01-12T00:00:00 more than once \(1 such row.*combine"
        ):
            read_panel(again, LONG)

    def test_a_row_without_an_id(self) -> None:
        table = long_table()
        table.loc[3, "unique_id"] = None
        with pytest.raises(DataError, match="`unique_id` must tell the series of each row; row 3 has no id"):
            read_panel(table, LONG)

    def test_a_column_that_is_not_static(self) -> None:
        with pytest.raises(DataError, match=r"static column `price` must hold one value .* series 007 has"):
            read_panel(long_table(), LONG._replace(static=["price"]))

    def test_a_series_without_static_columns(self) -> None:
        facts = pd.DataFrame({"unique_id": ["north"], "floor": [1]})
        with pytest.raises(DataError, match="none have 007, east"):
            read_panel(long_table(), LONG, facts=facts)

    def test_unknown_columns_and_folders_without_tables(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no column `store`"):
            read_panel(long_table(), Long("store"))
        with pytest.raises(DataError, match="is a folder, not a file, and holds none ending in"):
            read_panel(str(tmp_path), LONG)

    def test_a_table_of_several_series_read_as_one_names_the_column_that_tells(self) -> None:
        table = long_table().rename(columns={"unique_id": "shop"})
        with pytest.raises(DataError, match=r"`shop` tells apart\. Name it: `--data\.id=shop`"):
            read_table(table)
