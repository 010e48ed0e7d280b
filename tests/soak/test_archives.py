"""Short form of `tests.soak.archives`."""

from __future__ import annotations

from tests.soak import archives


def test_damaged_archives_are_read_right_or_refused() -> None:
    figures = archives.main(["--trials=150"])
    assert figures["recordings read"] > 50
    assert figures["refused"] > 50
