"""The files of a run, known by their sums: one sealed list in its folder, signed by the user who ran it.

The list names every text of ours in the folder with its size and SHA-256. Whoever writes such a file writes
its entry in the same step, and before the file: while a file is replaced, its entry holds the old sum and the
new one, so that a process may be killed at any moment and no honest file is ever taken for an altered one.

The signature is an HMAC with a key that only the user can read. A folder whose list carries it is the
user's own, wherever it was moved; that of anybody else is not, whatever it holds. Nothing that came from
elsewhere is ever signed: a writer enters the sum of what it writes, and only a list that is the user's own is
signed again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import Any

from dream import files
from dream.digests import Sum, has, stamp, sum_of
from dream.errors import CheckpointError
from dream.files import inside
from dream.keys import user_key
from dream.locks import locked
from dream.sealed import note, read_note

SUMS = "sums.sealed"
"""The list, in the folder whose files it names."""
FORMAT = 1
MOST = 16 * 2**20
"""Largest list that is read, in bytes."""
PATTERNS = ("*.json", "*.jsonl", "*.yaml", "*.csv", "*.txt", "*.png", "*.html", "figures/*.png")
"""Files of ours in the folder of a run."""
REPORT = "report.html"
"""A page for people, which nothing reads."""
FOREIGN = "wandb"
"""Folder that others write."""
SETTINGS = (".yaml", ".yml")
COMMANDS = ("run.json", "plan.json")
SHOWN = 8  # names in a message

Content = bytes | str


@dataclass(frozen=True)
class Sums:
    """A list: for each name the sums that its file may have.

    It has one, and several only while it is being replaced; None stands for no file.
    """

    files: dict[str, list[Sum | None]] = field(default_factory=dict)
    growing: frozenset[str] = frozenset()
    """Names of files that still grow: the sum is that of their first bytes."""
    by_tasks: frozenset[str] = frozenset()
    """Names of files that code of a task wrote, see `written_by_task`."""
    writing: bool = False
    """Whether such code was writing at that time: the sums of its files are not known until it is done."""
    own: bool = True
    """Whether this user has signed it."""

    def allows(self, name: str, content: bytes) -> bool:
        """Whether the file `name` may have this content, so that what was read is what is used."""
        found = self.files.get(name, [])
        return (len(content), hashlib.sha256(content).hexdigest()) in found and name not in self.growing


def read(folder: str | os.PathLike[str]) -> Sums | None:
    """Return the list in `folder`; None where there is none.

    Raises:
        CheckpointError: it is damaged, or no list.
    """
    path = Path(folder) / SUMS
    try:
        content = read_note(path, MOST)
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']!r}")
        files = {_name(name): [_sum(one) for one in some] for name, some in content["files"].items()}
        growing = frozenset(_name(name) for name in content["growing"])
        by_tasks = frozenset(_name(name) for name in content["by_tasks"])
        signature, writing = content["signature"], content["writing"]
        if not isinstance(signature, str | None) or not isinstance(writing, bool):
            raise ValueError("it has no signature")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path} must be the list of sums that dream wrote; it is damaged: {reason}. If nobody else can "
            "have changed this folder, delete that file: its files are then no longer checked."
        ) from None
    found = Sums(files, growing, by_tasks, writing)
    expected = _sign(found)
    own = expected is not None and hmac.compare_digest(expected.encode(), (signature or "").encode())
    return replace(found, own=own)


def differing(folder: str | os.PathLike[str]) -> list[str]:
    """Return the names of the files in `folder` that are not as they were written, or are missing or new.

    Empty where there is no list: its files are not sealed. A list that is damaged differs itself.
    """
    folder = Path(folder)
    while True:
        try:
            found = read(folder)
        except CheckpointError:
            return [SUMS]
        names = [] if found is None else _differing(found, folder)
        if not names or read(folder) == found:  # otherwise the run went on meanwhile
            return names


def _differing(found: Sums, folder: Path) -> list[str]:
    changed = [name for name in found.files if not _matches(found, folder, name)]
    present = {path.relative_to(folder).as_posix() for path in _present(folder, PATTERNS)}
    new = sorted(present - found.files.keys() - {REPORT})
    return sorted(changed) + [name for name in new if not _being_written(found, name)]


def signed(folder: str | os.PathLike[str]) -> bool:
    """Whether `folder` is that of a run of this user's, and what would be run or set by it is as it was.

    That is: its list carries this user's signature, each configuration and each Python file of the list has
    its sum, and there is no other configuration. Python that is not in the list may lie there, and must not
    be run: see `Sums.allows`.
    """
    folder = Path(folder)
    try:
        found = read(folder)
    except CheckpointError:
        return False
    if found is None or not found.own:
        return False
    settings = [path.name for path in _present(folder, [f"*{suffix}" for suffix in SETTINGS])]
    named = [name for name in found.files if name.endswith((*SETTINGS, *all_suffixes())) or name in COMMANDS]
    return all(name in found.files and _is(found, folder, name) for name in {*settings, *named})


def altered(folder: str | os.PathLike[str], used: Iterable[str] = ()) -> str:
    """Return a sentence that names what is not as it was written in `folder`; empty where all is.

    Raises:
        CheckpointError: one of the files `used` that are there is among them, or a configuration, Python or
            the list itself in any case: they must not be taken for what the run wrote.
    """
    found = differing(folder)
    refused = [name for name in used if os.path.lexists(Path(folder) / name)]
    way_out = (
        "Put back what was there, and take out what was not. If you changed it on purpose, delete "
        f"{Path(folder) / SUMS}: nothing there is checked then, and the run no longer counts as your own."
    )
    text = f"{folder} holds files that are not as they were written: {', '.join(found[:SHOWN])}"
    text += f" and {len(found) - SHOWN} more." if len(found) > SHOWN else "."
    if any(name in (*refused, SUMS) or name.endswith((*SETTINGS, *all_suffixes())) for name in found):
        raise CheckpointError(f"{text} {way_out}")
    return f"{text} {way_out}" if found else ""


def begin(folder: str | os.PathLike[str]) -> None:
    """Start a list in a folder that holds nothing yet but hidden files; do nothing in any other.

    Raises:
        OSError: it cannot be written.
    """
    folder = Path(folder)
    with locked(folder):
        if all(path.name.startswith(".") for path in folder.iterdir()):
            _write(folder, Sums())


def write_atomic(folder: str | os.PathLike[str], name: str, content: Content) -> Path:
    """Write a file of `folder`, whole or not at all, and its sum in the list, if there is one.

    Args:
        folder: The folder with the list.
        name: Path of the file below it. Folders between are made, `folder` itself is not.
        content: The content.

    Raises:
        OSError: it cannot be written, `folder` is not there, or the file is a link; the old one is untouched.
        CheckpointError: the list is damaged.
    """
    folder, content = Path(folder), content.encode() if isinstance(content, str) else content
    path = inside(folder, *_name(name).split("/"))
    new = (len(content), hashlib.sha256(content).hexdigest())

    def announce(sums: Sums) -> Sums:
        held = sums.files.get(name, [None])
        before = [one for one in held if has(path, one)]
        return replace(sums, files={**sums.files, name: [new, *(one for one in before if one != new)]})

    def settle(sums: Sums) -> Sums:
        return replace(sums, files={**sums.files, name: [new]})

    # several processes may write the same file, as those that share a sweep do
    with locked(folder) if _listed(folder) else nullcontext():
        listed = _rewrite(folder, announce)
        for parent in reversed(path.relative_to(folder).parents[:-1]):
            with suppress(FileExistsError):
                (folder / parent).mkdir()
        files.write_atomic(path, content)
        if listed:
            _rewrite(folder, settle)
    return path


def grow(folder: str | os.PathLike[str], name: str, reached: Sum, whole: bool = False) -> None:
    """Enter the sum of a file that is appended to.

    Args:
        folder: The folder with the list.
        name: Path of the file below it.
        reached: Size and SHA-256 of its first bytes, which are on the disk.
        whole: Whether that is all, and nothing is appended any more.
    """

    def enter(sums: Sums) -> Sums:
        growing = sums.growing - {name} if whole else sums.growing | {name}
        return replace(sums, files={**sums.files, name: [reached]}, growing=growing)

    update(Path(folder), enter)


@contextmanager
def written_by_task(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Enter the sums of the files that are written into `folder` while the block runs, by any code.

    Only theirs: what was there before and did not change keeps its entry.
    """
    folder = Path(folder)
    before = {path: stamp(path) for path in _present(folder, PATTERNS)}
    listed = update(folder, lambda sums: replace(sums, writing=True))
    try:
        yield
    finally:
        if listed:
            new: dict[str, list[Sum | None]] = {}
            for path in _present(folder, PATTERNS):
                if before.get(path) != stamp(path) and (found := sum_of(path)):
                    new[path.relative_to(folder).as_posix()] = [found]
            update(
                folder,
                lambda sums: replace(
                    sums, files={**sums.files, **new}, by_tasks=sums.by_tasks | new.keys(), writing=False
                ),
            )


def update(folder: Path, change: Any) -> bool:
    """Replace the list in `folder` by `change` of it; return whether there is one that is rewritten.

    This user's signature is renewed. A list of anybody else's loses theirs and gets none.
    """
    if not _listed(folder):
        return False
    with locked(folder):
        return _rewrite(folder, change)


def _listed(folder: Path) -> bool:
    return os.path.lexists(folder / SUMS)


def _rewrite(folder: Path, change: Any) -> bool:
    found = read(folder)
    if found is None:
        return False
    if (changed := change(found)) != found:
        _write(folder, changed)
    return True


def _write(folder: Path, sums: Sums) -> None:
    content = {**_content(sums), "signature": _sign(sums) if sums.own else None}
    files.write_atomic(folder / SUMS, note(content))


def _content(sums: Sums) -> dict[str, Any]:
    files = {name: sums.files[name] for name in sorted(sums.files)}
    return {
        "format": FORMAT,
        "files": files,
        "growing": sorted(sums.growing),
        "by_tasks": sorted(sums.by_tasks),
        "writing": sums.writing,
    }


def _sign(sums: Sums) -> str | None:
    if (key := user_key()) is None:
        return None
    message = b"dream sums\0" + json.dumps(_content(sums), sort_keys=True, allow_nan=False).encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _name(name: Any) -> str:
    """`name` as it is, if it is a path below the folder of the list.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(name, str) or "\0" in name or "\\" in name:
        raise ValueError("it holds a name that is none")
    if name.startswith("/") or not all(part.strip(".") for part in name.split("/")):
        raise ValueError(f"it names {name[:80]!r}, which is not below it")
    return name


def _sum(one: Any) -> Sum | None:
    if one is None:
        return None
    size, digest = one
    if type(size) is not int or size < 0 or not isinstance(digest, str) or len(digest) != 64:
        raise ValueError("it holds a sum that is none")
    return size, digest


def matches(folder: str | os.PathLike[str], name: str) -> bool:
    """Whether a file is as it was written; True in a folder without a list.

    Raises:
        CheckpointError: the list is damaged.
    """
    found = read(folder)
    return found is None or _matches(found, Path(folder), name)


def _matches(sums: Sums, folder: Path, name: str) -> bool:
    return _being_written(sums, name) or _is(sums, folder, name)


def _is(sums: Sums, folder: Path, name: str) -> bool:
    return any(has(folder / name, one, name in sums.growing) for one in sums.files.get(name, []))


def _being_written(sums: Sums, name: str) -> bool:
    return sums.writing and (name in sums.by_tasks or name not in sums.files)


def _present(folder: Path, patterns: Iterable[str]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if not path.name.startswith(".") and not path.is_dir())
