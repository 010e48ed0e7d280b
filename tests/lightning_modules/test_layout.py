"""The rooms of `lightning_modules`: which may import which."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lightning_modules

ROOT = Path(lightning_modules.__file__).parent
WINGS = {"forecasting", "anomaly", "online", "classification", "language", "speech"}
ROOMS = {path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("__")}
FORBIDDEN = {
    "data": ROOMS - {"data"},
    "store": ROOMS - {"store"},
    "stream": ROOMS - {"stream", "data"},
    "labelled": ROOMS - {"labelled", "data"},
    "learners": WINGS - {"anomaly", "forecasting", "online"},
    "run": ROOMS - {"run", "data"},
    **{wing: (WINGS - {wing}) | {"run", "learners", "store"} for wing in WINGS},
}


def imported(room: str) -> set[tuple[str, str]]:
    """File and room of every import in a room that leads into another."""
    found = set()
    for path in (ROOT / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lightning_modules"):
                rooms = node.module.split(".")[1:2] or [alias.name for alias in node.names]
                found |= {(path.name, name) for name in rooms}
    return {(file, name) for file, name in found if name in ROOMS - {room}}


@pytest.mark.parametrize("room", sorted(FORBIDDEN))
def test_no_arrow_leads_up(room: str) -> None:
    assert {(file, name) for file, name in imported(room) if name in FORBIDDEN[room]} == set()


def test_every_room_has_its_rule() -> None:
    assert set(FORBIDDEN) == ROOMS
    assert ("module.py", "stream") in imported("online")  # the check sees imports


def test_few_files_lie_at_the_root() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 12
