"""A rule of style that ruff does not know: docstrings open with a noun phrase or an imperative.

``python tests/style.py`` prints file and line of each that opens otherwise, and fails if there is one.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("dream", "lightning_modules", "experiments")
REFUSED = ("Of", "Says", "What")


def broken(path: Path) -> list[str]:
    """Place and first line of each docstring in a file that opens with one of `REFUSED`."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}: {node.value.value.strip().splitlines()[0]}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
        and node.value.value.strip().partition(" ")[0] in REFUSED
    ]


if __name__ == "__main__":
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    sys.exit("\n".join(line for path in files for line in broken(path)) or 0)
