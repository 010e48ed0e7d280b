"""`Download`: a file of known size and SHA-256, from a server that need not be trusted."""

from __future__ import annotations

import errno
import os
import queue
import stat
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from dream.digests import sha256
from dream.errors import DataError
from dream.files import opened
from lightning_modules.waiting import Lines

_CHUNK_BYTES = 1 << 16
_TIMEOUT_SECONDS = 20.0  # without a byte
_LOOK_SECONDS = 3.0
_LEAST_BYTES = 1024  # within that time, if any come: less than a packet of a slow line
_LEAST_RATE = 4096  # bytes a second over all, below a modem's
_MOST_REDIRECTS = 5
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


class _RefusedError(Exception):
    """Why a server's answer is not used, as part of a sentence."""


class Download:
    """A file that goes to `folder`/`file`, continued where an earlier call was stopped.

    Until its SHA-256 has been verified it is ``<file>.part``. No more than `size` bytes are kept of what the
    server sends, nothing is unpacked, and nothing is written through a link.

    Args:
        name: Name of the data set, for messages.
        folder: Where its files go.
        file: Name of the file there.
        url: Address of the file.
        sha256: Its SHA-256, in hexadecimal digits.
        size: Its size in bytes.
        progress: Whether to show how far it is.
    """

    def __init__(
        self, name: str, folder: Path, file: str, url: str, sha256: str, size: int, progress: bool = True
    ) -> None:
        self.name = name
        self.folder = folder
        self.path = folder / file
        self.part = folder / f"{file}.part"
        self.url = url
        self.sha256 = sha256
        self.size = size
        self.console = Console(stderr=True)
        self.quiet = not (progress and self.console.is_terminal)
        self.lines = Lines() if progress and self.quiet else None

    def run(self) -> Path:
        """Fetch the file, unless it is there; return its path.

        Raises:
            DataError: it could not be fetched or written, or is another one than its publisher's.
        """
        address = shown_address(self.url)
        try:
            if self.path.is_file() and self._is_right(self.path, links=True):
                return self.path
            self._make_folder()
            for start in dict.fromkeys((self._kept(), 0)):  # what is kept may be of another file
                self._fetch(start)
                if self._is_right(self.part):
                    return self.part.replace(self.path)
                self.part.unlink()
        except (_RefusedError, requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            kept = self.part.stat().st_size if self.part.exists() else 0
            raise DataError(
                f"{self.path.name} could not be fetched from {address} ({_reason(error)}); "
                f"{kept} bytes are kept. `dream data get {self.name}` continues from there; or set "
                f"DREAM_DATA to a folder that holds `{self.name}/`."
            ) from error
        except OSError as error:
            raise DataError(
                f"{error.filename or self.folder}: cannot be written ({error.strerror or error}). Name "
                "another folder with `--folder`."
            ) from error
        raise DataError(
            f"{self.path.name} from {address} has another SHA-256 than the one its publisher's file has, so "
            "it was removed. Run the command again, or name another source with `--mirror`."
        )

    def _is_right(self, path: Path, links: bool = False) -> bool:
        with opened(path, links=links) as file:
            return os.fstat(file.fileno()).st_size == self.size and sha256(file) == self.sha256

    def _make_folder(self) -> None:
        """Make the folder of the file; refuse links on the way from the folder of the data set to it."""
        inside = self.path.relative_to(self.folder).parts
        for count in range(len(inside) + 1):
            _refuse_link(self.folder.joinpath(*inside[:count]))
        _refuse_link(self.part)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def _kept(self) -> int:
        """Bytes of the file that an earlier call has left; removes what cannot be continued."""
        try:
            found = self.part.lstat()
        except FileNotFoundError:
            return 0
        ours = found.st_uid == (os.geteuid() if hasattr(os, "geteuid") else found.st_uid)
        # a second name of a file is as good as a link to it
        if stat.S_ISREG(found.st_mode) and ours and found.st_nlink == 1 and found.st_size <= self.size:
            return found.st_size
        self.part.unlink()
        return 0

    def _fetch(self, start: int) -> None:
        """Fetch what comes after the first `start` bytes, which `part` holds."""
        if start == self.size:
            return
        receiver = _Receiver(self.url, start, self.size)
        receiver.start()
        try:
            self._write(receiver, time.monotonic() + _TIMEOUT_SECONDS + self.size / _LEAST_RATE)
        finally:
            receiver.stopped.set()
            receiver.join(0.2)  # it ends by itself, unless the server holds it up

    def _write(self, receiver: _Receiver, deadline: float) -> None:
        """Write what `receiver` gets to `part`, and leave there what has come where it is not all."""
        place = receiver.next(deadline)
        assert isinstance(place, int)
        columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with (
            self._open(place) as file,
            Progress(
                TextColumn("{task.description}"), *columns, console=self.console, disable=self.quiet
            ) as bar,
        ):
            task = bar.add_task(self.path.name, completed=place, total=self.size)
            looked, before = time.monotonic(), place
            while place < self.size:
                piece = receiver.next(deadline)
                assert isinstance(piece, bytes)
                if not piece:
                    raise _RefusedError("the connection was cut")
                if place + len(piece) > self.size:
                    self.part.unlink()
                    raise _RefusedError(f"the server sends more than the {self.size} bytes that it has")
                place += file.write(piece)
                bar.update(task, completed=place)
                if self.lines:
                    self.lines.tell(self.path.name, place / self.size)
                if (now := time.monotonic()) - looked >= _LOOK_SECONDS:
                    if place - before < min(_LEAST_BYTES, self.size - before):
                        raise _RefusedError(f"too slow: {place - before} bytes in {now - looked:.0f} s")
                    looked, before = now, place
            file.flush()
            os.fsync(file.fileno())

    def _open(self, place: int) -> BinaryIO:
        """Open `part` for writing from byte `place` on; at its start it is another file."""
        if not place:
            self.part.unlink(missing_ok=True)
        how = os.O_WRONLY | _NO_LINK | getattr(os, "O_BINARY", 0) | (0 if place else os.O_CREAT | os.O_EXCL)
        file = os.fdopen(os.open(self.part, how, 0o666), "wb")
        file.seek(place)
        return file


class _Receiver(threading.Thread):
    """Receives a file, from byte `start` on if the server can do that.

    A thread of its own, since a server that sends a byte now and then, of a header or the length of a piece,
    say, can hold up any call for as long as it likes.
    """

    def __init__(self, url: str, start: int, size: int) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.start_byte = start
        self.size = size
        self.stopped = threading.Event()
        self._received: queue.Queue[int | bytes | Exception] = queue.Queue(8)

    def next(self, deadline: float) -> int | bytes:
        """Return what is next: the byte that the answer starts with, then pieces of the file, b"" at its end.

        Raises:
            _RefusedError: nothing came for too long, or until `deadline`, or the answer is of no use.
            requests.RequestException: there was no answer.
        """
        left = deadline - time.monotonic()
        try:
            found = self._received.get(timeout=max(min(left, _TIMEOUT_SECONDS), 0))
        except queue.Empty:
            slow = f"too slow: below {_LEAST_RATE} bytes a second"
            raise _RefusedError(slow if left < _TIMEOUT_SECONDS else _silent()) from None
        if isinstance(found, Exception):
            raise found
        return found

    def run(self) -> None:
        try:
            start, answer = self._answer()
            with answer:
                wanted = self._hand_on(start)
                while wanted:
                    piece = answer.raw.read1(_CHUNK_BYTES, decode_content=False)
                    wanted = self._hand_on(piece) and bool(piece)
        except Exception as error:  # raised by `next`
            self._hand_on(error)

    def _hand_on(self, found: int | bytes | Exception) -> bool:
        """Return whether more is wanted."""
        while not self.stopped.is_set():
            with suppress(queue.Full):
                self._received.put(found, timeout=0.1)
                return True
        return False

    def _answer(self) -> tuple[int, requests.Response]:
        """The byte that an answer starts with, and the answer; once more for all where it is not the rest."""
        start = self.start_byte
        answer = self._ask(start)
        rest = f"bytes {start}-{self.size - 1}/{self.size}"
        if start and answer.status_code in (206, 416) and answer.headers.get("Content-Range") != rest:
            answer.close()
            answer = self._ask(0)
            start = 0
        if answer.status_code == requests.codes.ok:
            start = 0
        if reason := self._unfit(answer, start):
            answer.close()
            raise _RefusedError(reason)
        return start, answer

    def _unfit(self, answer: requests.Response, start: int) -> str:
        """Reason why an answer is not the file from byte `start` on; empty if it may be."""
        if answer.status_code != (206 if start else 200):
            return f"the server answered {answer.status_code} {answer.reason}"
        if (packed := answer.headers.get("Content-Encoding", "identity")) != "identity":
            return f"the server packs it as {packed}, which it was asked not to do"
        length = answer.headers.get("Content-Length", str(self.size - start))
        if length != str(self.size - start):
            return f"the server has {length} bytes for us, its publisher {self.size - start}"
        return ""

    def _ask(self, start: int) -> requests.Response:
        """Ask for the file from byte `start` on."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        url = self.url
        for _ in range(_MOST_REDIRECTS + 1):
            answer = requests.get(
                url, headers=headers, stream=True, timeout=_TIMEOUT_SECONDS, allow_redirects=False
            )
            if not answer.is_redirect:
                return answer
            answer.close()
            here, there = urlsplit(url), urlsplit(urljoin(url, answer.headers["Location"]))
            same = (there.scheme, there.netloc) == (here.scheme, here.netloc)
            if not same and there.scheme != "https":
                raise _RefusedError(
                    f"the server sends on to {shown_address(there.geturl())}, which is not https"
                )
            url = there.geturl()
        raise _RefusedError(f"the server sends on more than {_MOST_REDIRECTS} times")


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise OSError(errno.ELOOP, f"it is a link, to {path.readlink()}", str(path))


def shown_address(url: str) -> str:
    """An address without user, password and query, any of which may be a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "there"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _silent() -> str:
    return f"no answer within {_TIMEOUT_SECONDS:g} s"


def _reason(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError)):
        return _silent()
    if isinstance(error, urllib3.exceptions.HTTPError):
        return "the connection was cut"
    if isinstance(error, ValueError):  # a malformed address
        return str(error)
    return "no connection"
