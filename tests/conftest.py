"""Set-up for the whole suite: where the real data lie, what is skipped where, one seed for every test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

# the key that signs runs is not the developer's
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="dream-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "DREAM_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["DREAM_DATA"] = str(_SHARED)

# The tests' tensors are small: one thread is faster than two, here and in the commands that tests start.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run, and say why; begin with what runs commands, so that no worker is
    left with it alone at the end."""
    items.sort(key=lambda item: item.path.parent.name not in ("experiments", "invocation", "soak", "tests"))
    folder = os.environ.get("DREAM_DATA")
    skips = {}
    if not torch.cuda.is_available():
        skips["gpu"] = "no CUDA device"
    if not folder:
        skips["data"] = "DREAM_DATA is not set"
    elif not Path(folder).is_dir():
        skips["data"] = f"DREAM_DATA={folder} is not a folder"
    for item in items:
        for marker, reason in skips.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers for a test whichever ran before it."""
    torch.manual_seed(0)
