"""The soak of long streams, in short."""

from __future__ import annotations

import pytest

from tests.soak import rows


@pytest.mark.parametrize("kind", rows.MAKE)
def test_row_by_row_and_in_tables(kind: str) -> None:
    figures = rows.main(["--quick", "--kinds", kind])[kind]
    assert figures["rows"] == 900
    assert figures["largest difference"] < 1e-4
