"""Set-up for the whole suite: where the real data lie, what is skipped where, and the same process for every
test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

# the key that signs runs is not the developer's
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="dream-tests-")
atexit.register(shutil.rmtree, os.environ["XDG_CONFIG_HOME"], ignore_errors=True)

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
if "DREAM_DATA" not in os.environ and _SHARED.is_dir():
    os.environ["DREAM_DATA"] = str(_SHARED)

# as a run that tracks sets it for its process
os.environ["WANDB_ERROR_REPORTING"] = "false"

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


LEFT = ("PYTEST_CURRENT_TEST", "WANDB_SERVICE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
"""Variables that others set: pytest, wandb for a process of its own that lives as long as this one, and torch
where its compiler is first imported."""


def _variables() -> dict[str, str]:
    return {name: text for name, text in os.environ.items() if name not in LEFT}


def _set_variables(before: dict[str, str]) -> None:
    for name in _variables().keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "default device": (torch.get_default_device, lambda device: torch.set_default_device(None)),
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "folder": (Path.cwd, os.chdir),
    "variables": (_variables, _set_variables),
}
"""How the settings of a process that a test could change for all after it are read and put back."""


@pytest.fixture(autouse=True)
def _same_process() -> Iterator[None]:
    """The same random numbers for a test whichever ran before it, and a process that is left as it was."""
    torch.manual_seed(0)
    before = {name: read() for name, (read, _) in SETTINGS.items()}
    yield
    changed = []
    for name, (read, put_back) in SETTINGS.items():
        was, now = before[name], read()
        if was != now:
            put_back(was)
            if name == "variables":
                was, now = (dict(one.items() - other.items()) for one, other in ((was, now), (now, was)))
            changed.append(f"{name}: {was}, now {now}")
    assert not changed, f"the test changed the process for all that come after it: {'; '.join(changed)}"
