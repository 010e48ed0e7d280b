"""Records of a run: our own `metrics.jsonl` and `results.json`, and Weights & Biases beside them."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import platform
import subprocess
import sys
from argparse import Namespace
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

import dream
from dream import sums
from dream.digests import begun
from dream.errors import CheckpointError, DataError
from dream.files import extended, inside, json_text, lines, opened
from lightning_modules.checks import gone
from lightning_modules.redaction import redacted


class JSONLLogger(Logger):
    """Logger that writes each logging step as one line of JSON at once, so that a crash loses none.

    A line holds ``step`` and the metrics logged with it; values that JSON cannot express are the words
    "nan", "inf" and "-inf". The folder's list of sums, if it has one, covers the lines that `seal` found.

    Args:
        folder: Folder of `metrics.jsonl`; if it is not there, the first line makes it.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._made = not self.folder.is_dir()
        self._written: tuple[int, Any] | None = None
        """Length and running SHA-256 of the file; None before this object wrote."""

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return self.folder.name

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    @property
    def path(self) -> Path:
        return self.folder / "metrics.jsonl"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Do nothing: the whole configuration is in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        found = {"step": step, **{name: float(value) for name, value in metrics.items()}}
        line = json_text(found).encode() + b"\n"
        try:
            length, digest = self._written or self._take_up(None)
            with open(self.path, "ab", opener=_append) as file:
                file.write(line)
            digest.update(line)
            self._written = length + len(line), digest
        except FileNotFoundError:
            raise gone(self.folder) if not self.folder.is_dir() else _gone(self.path) from None
        except OSError as error:
            raise DataError(
                f"{self.path} could not be written: {error.strerror}. Free or change the disk."
            ) from error

    def sync(self) -> int:
        """Flush all lines to the disk; return their length in bytes.

        Raises:
            DataError: the file was deleted.
        """
        try:
            with opened(self.path) as file:
                os.fsync(file.fileno())
                return os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            if self._written is not None:
                raise _gone(self.path) from None
            return 0

    @rank_zero_only
    def seal(self, whole: bool = False) -> None:
        """Enter the lines into the folder's list of sums, all of them as the `whole` file.

        Raises:
            DataError: the file was deleted.
            OSError: the list cannot be written.
        """
        if self._written is not None:
            self.sync()
            length, digest = self._written
            sums.grow(self.folder, self.path.name, (length, digest.hexdigest()), whole)

    @rank_zero_only
    def cut(self, length: int) -> None:
        """Drop the lines after the first `length` bytes, which a resumed run writes again.

        Raises:
            CheckpointError: the file is not as it was written, or see `require`.
        """
        self.require(length)
        if not self.path.exists():
            return
        self._written = self._take_up(length)
        self.seal()  # before the lines go, so that a kill in between leaves what the list allows
        with extended(self.path) as file:
            file.truncate(length)

    def _take_up(self, length: int | None) -> tuple[int, Any]:
        """Length and SHA-256 of the lines that are there, or of the first `length` bytes.

        A file that is not there is made, after its entry in the list.
        """
        if self._made:
            self.folder.mkdir(parents=True, exist_ok=True)
        elif not self.folder.is_dir():
            raise gone(self.folder)
        name = self.path.name
        if not self.path.exists():
            digest = hashlib.sha256()
            sums.grow(self.folder, name, (0, digest.hexdigest()))
            self.path.open("xb").close()
            return 0, digest
        if not sums.matches(self.folder, name):
            raise CheckpointError(
                f"{self.path} was changed since it was written, and so nothing is added to it. Put it back, "
                "or start a new run."
            )
        with opened(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            return begun(file, size if length is None else length)

    def require(self, length: int) -> None:
        """Refuse a file that has lost some of its first `length` bytes, with which a run would go on.

        Raises:
            CheckpointError: naming the file and the way out.
        """
        held = self.sync()
        if held < length:
            lost = f"{held} of {length} bytes are left" if held else "it is missing or empty"
            raise CheckpointError(
                f"{self.path} must hold the metrics of the run so far, {length} bytes of them; {lost}. Put "
                "the file back, or start anew in another folder."
            )


def _append(path: str, flags: int) -> int:
    """Open a file that is there, and no link."""
    return os.open(path, flags & ~os.O_CREAT | getattr(os, "O_NOFOLLOW", 0))


def _gone(path: Path) -> DataError:
    return DataError(
        f"{path} is gone: it was deleted while the run went on, which ends here. Start the run anew."
    )


def best_validation(folder: Path, monitor: str, mode: Literal["min", "max"]) -> dict[str, float]:
    """Metrics of the best validation in `metrics.jsonl` of the run in `folder`, by name without ``val/``.

    The best has the lowest or highest `monitor`; the first of several that tie. Empty if there was none.

    Raises:
        CheckpointError: the file is damaged.
        OSError: it cannot be read, or is a link.
    """
    path = JSONLLogger(folder).path
    if not path.exists():
        return {}
    best: dict[str, Any] = {}
    better = operator.lt if mode == "min" else operator.gt
    with opened(path) as file:
        for number, line in enumerate(lines(file), 1):
            try:
                found = json.loads(line)
                value = found.get(monitor)
            except (ValueError, RecursionError, AttributeError):
                raise CheckpointError(
                    f"{path} is damaged: line {number} is not that of a logging step. Start a new run."
                ) from None
            # NaN and inf are strings, and so left out
            if isinstance(value, float) and (not best or better(value, best[monitor])):
                best = found
    return {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}


def wandb_logger(
    folder: Path, project: str, mode: str, group: str | None = None, id: str | None = None
) -> WandbLogger:
    """Tracked run in `folder`, as part of `group`; resumes the run of the same `id`.

    In the mode ``offline`` it writes files that ``wandb sync`` can send later. Weights & Biases reports its
    own errors and usage to its makers only if WANDB_ERROR_REPORTING is set so."""
    folder.mkdir(parents=True, exist_ok=True)
    inside(folder, "wandb")  # refuses a link there
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    secret = redacted(sys.argv) != sys.argv
    settings = {"silent": True, "x_disable_meta": secret}  # the metadata hold the command line
    logger = WandbLogger(
        name=redacted(folder.name),
        project=redacted(project),
        save_dir=folder,
        mode=mode,
        group=redacted(group),
        id=id,
        resume="allow",
        settings=settings,
    )
    logger._wandb_init.pop("anonymous", None)  # Lightning passes it, and wandb warns that it is gone
    return logger


def log_table(logger: WandbLogger, results: dict[str, dict[str, float]]) -> None:
    """Log the table of results to the tracked run, one row for each model."""
    metrics = list(next(iter(results.values()), {}))
    rows = [[model, *(values.get(name) for name in metrics)] for model, values in results.items()]
    logger.log_table("results", columns=["model", *metrics], data=rows)


def write_results(path: Path, results: dict[str, dict[str, float]], **facts: Any) -> None:
    """Write `results` as JSON, with other `facts` about the run, and its commit, versions and device.

    Numbers that JSON does not have are words, see `dream.files.json_text`; `experiments.records` reads both.
    """
    record = {
        "results": results,
        **facts,
        "commit": commit(),
        "versions": versions(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine(),
        "threads": torch.get_num_threads(),
    }
    sums.write_atomic(path.parent, path.name, json_text(record, indent=2) + "\n")


def versions() -> dict[str, str]:
    """Version of dream, of Python, and of the packages that results depend on."""
    packages = ("torch", "lightning", "numpy", "pandas", "torchmetrics")
    own = {"dream": dream.__version__, "python": platform.python_version()}
    return own | {name: version(name) for name in packages}


def commit() -> str | None:
    """Commit of the checkout that this code runs from, with ``-dirty`` if files differ; None outside one."""
    root = Path(dream.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        result = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
