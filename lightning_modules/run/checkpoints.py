"""Checkpoint files: written whole or not at all, checked for damage, and loaded without running code in them.

Beside each file NAME lies NAME.sha256, in the format of `sha256sum`. It is written first, and while a file is
replaced it holds the sums of both versions: a run may be killed at any moment, and no intact file is ever
taken for a damaged one."""

from __future__ import annotations

import logging
import os
import re
import struct
from io import BufferedReader
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

import dream
from dream.digests import sha256
from dream.errors import CheckpointError
from dream.files import atomic, is_address, opened, read_bytes, write_atomic
from lightning_modules.checks import require_there

log = logging.getLogger(__name__)

FORMAT = 5
"""Version of the content of a checkpoint; raised when an older reader would misunderstand it.

Formats 1 to 3 hold weights of the first edition of the cell. Format 4 holds weights of this one, but not all
that new rows need to be read as in training."""
WEIGHTS_ONLY = (4,)
"""Earlier formats whose weights are read."""
_HEAD = struct.Struct("<4sHHHHHIIIHH")  # of an entry of a zip archive; the last two are lengths after it
_END = 22  # bytes at the end of an archive
_HAS_AFTER, _AFTER = 8, (12, 16, 20, 24)  # flag of an entry whose sum stands behind it, in so many bytes
_SPECS = ("class_path", "init_args", "dict_kwargs")
STEP = "step-{:08d}.ckpt"
"""Name of a save, from which a run resumes."""


def identity(task: str) -> dict[str, Any]:
    """Facts by which a checkpoint is recognised: its format, the version of dream, and the task."""
    return {"format": FORMAT, "version": dream.__version__, "task": task}


def digest(path: Path) -> str:
    """SHA-256 of a checkpoint, by which it is known again."""
    with opened(path) as file:
        return sha256(file)


def sums_file(path: Path) -> Path:
    """Path of the SHA-256 file of a checkpoint."""
    return path.with_name(f"{path.name}.sha256")


def _sums(path: Path) -> list[str]:
    """Sums that an intact file may have; none if there is no file of sums."""
    try:
        return re.findall(r"^[0-9a-f]{64}", read_bytes(sums_file(path)).decode(), flags=re.MULTILINE) or [
            "damaged"
        ]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        return ["damaged"]


def intact(path: Path) -> bool:
    """Whether a file is as it was written; a file without sums is trusted.

    Raises:
        OSError: it cannot be read, or is a link.
    """
    with opened(path) as file:
        return _is_intact(file, _sums(path))


def _is_intact(file: BufferedReader, sums: list[str]) -> bool:
    return not sums or sha256(file) in sums


def steps(folder: Path) -> list[Path]:
    """Saves in `folder`, the newest first."""
    return sorted(folder.glob(STEP.replace("{:08d}", "*")), reverse=True)


def newest(folder: Path) -> Path | None:
    """Newest intact save in `folder`; the damaged ones are named in the log.

    Returns:
        None if there is no save yet.

    Raises:
        CheckpointError: all saves are damaged.
    """
    found = steps(folder)
    for path in found:
        if _sums(path) and intact(path):
            return path
        log.warning(
            "%s is damaged: its SHA-256 is not in %s. The save before it is used.", path, sums_file(path).name
        )
    if found:
        raise CheckpointError(
            f"`{folder}` must hold an intact checkpoint; all {len(found)} are damaged. Start a new run."
        )
    return None


def remove(path: Path) -> None:
    """Remove a checkpoint and its sum."""
    path.unlink(missing_ok=True)
    sums_file(path).unlink(missing_ok=True)


def read(path: str | Path, task: str | None = None, *, links: bool = False) -> dict[str, Any]:
    """Content of a checkpoint, on the CPU, whatever device wrote it; no code in it is run.

    Args:
        path: A file.
        task: Class name of the module that will use it, if known.
        links: Whether `path` may be a link, as for a file that the user names.

    Raises:
        CheckpointError: the file does not exist, is a URL, is damaged, is no checkpoint of `dream fit`, has
            another format or task, or settings that name a class.
    """
    path = local(path)
    checkpoint = load(path.resolve() if links else path)
    try:
        found = checkpoint["dream"]
        _ = checkpoint["state_dict"], checkpoint["hyper_parameters"], found["version"], found["task"]
        number = int(found["format"])
    except Exception as error:
        raise _not_ours(path, error) from error
    if number not in (*WEIGHTS_ONLY, FORMAT):
        edition = "the first edition of the cell in " if number < FORMAT else ""
        raise CheckpointError(
            f"{path} has format {number}, written by {edition}dream {found['version']}; dream "
            f"{dream.__version__} reads format {FORMAT}. Use that version, or train again."
        )
    if task is not None and found["task"] != task:
        raise CheckpointError(
            f"{path} holds a {found['task']}; here is a {task}. Use the configuration it was trained with."
        )
    require_plain(checkpoint["hyper_parameters"], path)
    return checkpoint


def require_complete(checkpoint: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint by which new rows cannot be read as in training.

    Raises:
        CheckpointError: it is of an earlier format.
    """
    found = checkpoint["dream"]
    if int(found["format"]) != FORMAT:
        raise CheckpointError(
            f"{path} was written by dream {found['version']} in format {found['format']}, which holds the "
            "weights, but not all by which new rows are read as in training. Go on from its weights with "
            "`dream fit --from`, or train again."
        )


def require_plain(settings: Any, path: Path) -> None:
    """Refuse settings in a checkpoint that are none, but name what a loader would build.

    Raises:
        CheckpointError: naming the first.
    """
    left = [settings]
    while left:
        part = left.pop()
        for name, value in part.items() if isinstance(part, dict) else ():
            if not isinstance(name, str) or name in _SPECS or name.startswith("_"):
                raise CheckpointError(
                    f"the settings in {path} must be plain values; `{name}` names what would be built. Use "
                    "a checkpoint that `dream fit` wrote."
                )
            left.append(value)
    if not isinstance(settings, dict) or not all(name.isidentifier() for name in settings):
        raise CheckpointError(f"the settings in {path} must be names and values. Use another checkpoint.")


def load(path: Path) -> dict[str, Any]:
    """Content of a file that `write` wrote, on the CPU; no code in it is run.

    Raises:
        CheckpointError: the file is damaged.
    """
    sums = _sums(path)
    if not sums:
        _check_archive(path)
    try:
        with opened(path) as file:
            if not _is_intact(file, sums):
                raise CheckpointError(
                    f"{path} is damaged: its SHA-256 is not in {sums_file(path).name}. Use another "
                    "checkpoint of the run, step-*.ckpt, or train again."
                )
            file.seek(0)
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be read: {error.strerror or error}. Mend or remove it."
        ) from error
    except Exception as error:
        raise _not_ours(path, error) from error
    return content


def _check_archive(path: Path) -> None:
    """Check a file that came without its SHA-256 by the sums of its archive, which torch does not look at.

    Every entry must have its CRC, and the entries must be all that the file holds.

    Raises:
        CheckpointError: the file is damaged, or no archive.
    """
    try:
        with opened(path, links=True) as file, ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            starts = [entry.header_offset for entry in entries] + [archive.start_dir]
            reached = 0
            for entry, start, following in zip(entries, starts, starts[1:], strict=False):
                file.seek(start)
                *_, name, extra = _HEAD.unpack(file.read(_HEAD.size))
                apart = following - start - (_HEAD.size + name + extra + entry.file_size)
                followed = apart in _AFTER if entry.flag_bits & _HAS_AFTER else apart == 0
                if start != reached or entry.compress_type != ZIP_STORED or not followed:
                    raise BadZipFile(f"{entry.filename} is not where it should be")
                reached = following
            file.seek(-_END, os.SEEK_END)
            if not file.read().startswith(b"PK\5\6"):
                raise BadZipFile("it holds more than its entries")
            if len({entry.filename for entry in entries}) < len(entries):
                raise BadZipFile("it holds two entries of a name")
            if (broken := archive.testzip()) is not None:
                raise BadZipFile(f"{broken} is damaged")
    except (BadZipFile, OSError, ValueError, struct.error, EOFError, RuntimeError) as error:
        raise _not_ours(path, error) from error


def _not_ours(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error) or type(error).__name__).split(". ")[0].splitlines()[0][:80]
    return CheckpointError(f"`ckpt_path` must be a checkpoint that `dream fit` wrote; {path}: {reason}.")


def local(path: str | Path) -> Path:
    """`path` as a file on this machine.

    Raises:
        CheckpointError: it is a URL, or does not exist.
    """
    if is_address(str(path)):
        raise CheckpointError(
            f"`ckpt_path` must be a local file; got {path}. Download it, and check where it comes from."
        )
    if not Path(path).is_file():
        raise CheckpointError(
            f"what is named must be a run's folder or a checkpoint file; {path} does not exist."
        )
    return Path(path)


def write(content: dict[str, Any], path: Path) -> None:
    """Write `content` to `path`, and its SHA-256 beside it.

    Raises:
        CheckpointError: the file cannot be written; the previous one is untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as file:
            torch.save(content, file)
            ours = f"{sha256(file)}  {path.name}\n"
            before = [f"{known}  {path.name}\n" for known in _sums(path)] if path.exists() else []
            write_atomic(sums_file(path), ours + "".join(before))
        if before:
            write_atomic(sums_file(path), ours)
    except (OSError, RuntimeError) as error:
        # where a write fails, torch's writer complains about the position in the file
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) else str(error).splitlines()[0]
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {reason}. Free or change the disk; the previous "
            "one is intact."
        ) from error


class AtomicCheckpointIO(TorchCheckpointIO):
    """Reader and writer of the Trainer's checkpoints.

    Args:
        home: Folder of the run, without which nothing is written.
    """

    def __init__(self, home: Path | None = None) -> None:
        super().__init__()
        self.home = home

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """See `write`."""
        if self.home is not None:
            require_there(self.home)
        write(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """See `read`."""
        return read(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """See `remove`."""
        remove(Path(path))
