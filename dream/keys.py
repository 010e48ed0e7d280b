"""The user's own key, by which what the user's runs wrote is told from what came from elsewhere."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
from contextlib import suppress
from functools import cache
from pathlib import Path

from dream.files import opened, read_bytes

log = logging.getLogger(__name__)


def user_key() -> bytes | None:
    """Return the user's key of 32 bytes, made on first use; None, and a line in the log, if it cannot be.

    It is `dream/key` in the user's configuration folder, which nobody else may read.
    """
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")  # noqa: PTH111, PTH118
    return _key_in(Path(base) / "dream")


@cache
def _key_in(folder: Path) -> bytes | None:
    path = folder / "key"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(folder.stat(), 0o022, folder)
        if not path.exists() and not path.is_symlink():
            _make_key(path)
        with opened(path) as file:
            _require_private(os.fstat(file.fileno()), 0o077, path)
        key = read_bytes(path, 32)
        if len(key) != 32:
            raise OSError(errno.EINVAL, "it does not hold 32 bytes", str(path))
    except (OSError, RuntimeError) as error:
        log.warning(
            "runs are not signed, since the key %s cannot be used (%s): this user's runs will be treated "
            "like those of anybody else.",
            path,
            getattr(error, "strerror", None) or error,
        )
        return None
    return key


def _make_key(path: Path) -> None:
    """Make the key, whole or not at all; of several processes that do so at once, one wins."""
    temporary = path.with_name(f".key.{secrets.token_hex(8)}.tmp")
    place = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(place, "wb") as file:
            file.write(secrets.token_bytes(32))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_private(found: os.stat_result, mode: int, path: Path) -> None:
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise OSError(errno.EPERM, "it belongs to another user", str(path))
    if stat.S_IMODE(found.st_mode) & mode:
        raise OSError(errno.EPERM, "others have access to it; `chmod go-rwx` it", str(path))
