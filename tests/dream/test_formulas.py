"""Texts that a spreadsheet would run."""

from __future__ import annotations

import csv
import io

import pytest

from dream.formulas import escaped, unescaped

FORMULAS = [
    *("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "--1", "  =1", "-1_0"),
    *("\t=1", "\r=1", "\n=1", "\tx", "\uff1d1"),
]
OTHERS = [
    *("", "a", "a-b", "a=b", "1+1", "a@b.org", "ok \n", "ä; b", "'quoted'"),
    *("-1.5", "+1e5", ".5", "-inf"),
]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_becomes_a_text_and_comes_back(text: str) -> None:
    assert escaped(text).lstrip(" ").startswith("'")
    assert unescaped(escaped(text)) == text
    assert unescaped(escaped(escaped(text))) == escaped(text)


@pytest.mark.parametrize("text", OTHERS)
def test_other_texts_and_texts_that_are_numbers_stay(text: str) -> None:
    assert escaped(text) == text
    assert unescaped(text) == text


def test_what_is_no_text_stays() -> None:
    assert [escaped(value) for value in (-1.5, -3, None, True)] == [-1.5, -3, None, True]


@pytest.mark.parametrize("sign", [";", "\t", ",", "\n"])
def test_no_cell_begins_with_a_formula_whatever_the_spreadsheet_separates_by(sign: str) -> None:
    """Excel reads a CSV file with semicolons in half of Europe."""
    text = f"a{sign}=1+1"
    written = io.StringIO()
    csv.writer(written).writerow(["x", escaped(text)])
    assert unescaped(next(csv.reader(io.StringIO(written.getvalue(), newline="")))[1]) == text
    other = written.getvalue() if sign == "," else written.getvalue().replace('"', "")
    cells = next(csv.reader(io.StringIO(other))) if sign == "," else other.split(sign)
    assert not any(cell.startswith("=") for cell in cells)
