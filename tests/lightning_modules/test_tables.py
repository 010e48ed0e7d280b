"""Tables as text."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lightning_modules.tables import csv_text


def test_no_cell_and_no_name_of_a_column_is_a_formula() -> None:
    evil = ["=1", "-1", None]
    table = pd.DataFrame({"=cmd()": [-1.5, np.nan, 3.0], "+b": evil, "c": pd.Categorical(evil)})
    table["d"] = pd.array(evil, dtype="string")
    table["time"] = pd.to_datetime(["2024-01-01", "2024-01-02", "NaT"])
    table["e"] = [True, False, True]
    assert csv_text(table) == (
        "'=cmd(),'+b,c,d,time,e\n-1.5,'=1,'=1,'=1,2024-01-01,True\n,-1,-1,-1,2024-01-02,False\n3.0,,,,,True\n"
    )
    assert table.columns[0] == "=cmd()"  # the table itself stays


def test_columns_of_one_name_and_tables_without_rows() -> None:
    assert csv_text(pd.DataFrame([["=1", "=2"]], columns=["a", "a"])) == "a,a\n'=1,'=2\n"
    assert csv_text(pd.DataFrame({"@a": []})) == "'@a\n"


def test_numbers_come_back_bit_for_bit() -> None:
    values = np.random.default_rng(0).standard_normal(200) * 10.0 ** np.arange(-100, 100)
    written = csv_text(pd.DataFrame({"a": values})).splitlines()
    assert list(map(float, written[1:])) == values.tolist()
