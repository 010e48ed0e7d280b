"""``python -m dream.ops``: which implementations of the scan this machine has, and why not the others."""

from __future__ import annotations

from dream.ops import native

found = native.kernel()
print(f"cpu: {found}" if isinstance(found, str) else f"cpu: {found.path}")  # noqa: T201
print("reference: serves everywhere")  # noqa: T201
