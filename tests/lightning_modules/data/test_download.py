"""Servers that send too much, too slowly, something else or somewhere else; links where a file should go."""

from __future__ import annotations

import gzip
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dream.errors import DataError
from lightning_modules.data import download as module
from lightning_modules.data.download import Download

BODY = bytes(range(256)) * 300
SIZE = len(BODY)
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server(ThreadingHTTPServer):
    """A server whose answers `answer` writes; it records the ranges that it was asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer: Answer = honest
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: the other side hangs up on purpose."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["Range"])
        self.server.answer(self)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None: ...


def head(handler: BaseHTTPRequestHandler, status: int = 200, **headers: object) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()


def honest(handler: BaseHTTPRequestHandler) -> None:
    start = int((handler.headers["Range"] or "bytes=0-")[6:-1])
    known = {"Content_Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
    head(handler, 206 if start else 200, Content_Length=SIZE - start, **known)
    handler.wfile.write(BODY[start:])


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(server: Server, folder: Path, path: str = "a.bin") -> bytes:
    sums = hashlib.sha256(BODY).hexdigest()
    return (
        Download("toy", folder / "toy", "a.bin", f"{server.url}/{path}", sums, SIZE, False).run().read_bytes()
    )


def left(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def endless(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    while True:
        handler.wfile.write(bytes(1 << 16))


def endless_in_chunks(handler: BaseHTTPRequestHandler) -> None:
    head(handler, Transfer_Encoding="chunked")
    while True:
        handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")


def packed(handler: BaseHTTPRequestHandler) -> None:
    content = gzip.compress(bytes(1 << 24))
    head(handler, Content_Encoding="gzip", Content_Length=len(content))
    handler.wfile.write(content)


def longer(handler: BaseHTTPRequestHandler) -> None:
    head(handler, Content_Length=10**15)
    handler.wfile.write(bytes(1 << 20))


def shorter(handler: BaseHTTPRequestHandler) -> None:
    head(handler, Content_Length=10)
    handler.wfile.write(BODY[:10])


def part_unasked(handler: BaseHTTPRequestHandler) -> None:
    head(handler, 206, Content_Range=f"bytes 0-{SIZE - 1}/{SIZE}", Content_Length=SIZE)
    handler.wfile.write(BODY)


def to(address: str) -> Answer:
    return lambda handler: head(handler, 302, Location=address)


REFUSED: dict[str, tuple[Answer, str]] = {
    "endless": (endless, f"the server sends more than the {SIZE} bytes that it has"),
    "endless, in chunks": (endless_in_chunks, f"the server sends more than the {SIZE} bytes that it has"),
    "packed": (packed, "the server packs it as gzip"),
    "longer": (longer, f"the server has {10**15} bytes for us, its publisher {SIZE}"),
    "shorter": (shorter, f"the server has 10 bytes for us, its publisher {SIZE}"),
    "a part of a whole": (part_unasked, "the server answered 206"),
    "a local file": (to("file:///etc/hostname"), "sends on to file:///etc/hostname, which is not https"),
    "another host": (to("http://127.0.0.1:9/a?key=secret"), "sends on to http://127.0.0.1:9/a, which is not"),
    "no address": (to("http://[/"), "Invalid IPv6 URL"),
    "in a circle": (to("/a.bin"), "the server sends on more than 5 times"),
    "no content": (lambda handler: head(handler, 204), "the server answered 204"),
    "nowhere": (lambda handler: head(handler, 302), "the server answered 302"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_of_another_kind_is_refused_and_nothing_is_left(
    name: str, server: Server, tmp_path: Path
) -> None:
    server.answer, message = REFUSED[name]
    with pytest.raises(DataError, match=r"a\.bin could not be fetched .*; 0 bytes are kept") as refused:
        fetch(server, tmp_path)
    assert message in str(refused.value)
    assert "secret" not in str(refused.value)
    assert left(tmp_path) == {}


def drip_body(handler: BaseHTTPRequestHandler) -> None:
    head(handler)
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.02)


def drip(before: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(before)
        for _ in range(40):
            handler.wfile.write(b"0")
            handler.wfile.flush()
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (drip_body, "too slow: "),
        (drip(b"HTTP/1.1 "), "no answer within 0.3 s"),
        (drip(b"HTTP/1.1 200 OK\r\nX-A: "), "no answer within 0.3 s"),
        (drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), "no answer within 0.3 s"),
    ],
)
def test_a_byte_now_and_then_does_not_hold_it_up(
    answer: Answer, message: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.15)
    server.answer = answer
    begun = time.monotonic()
    with pytest.raises(DataError) as refused:
        fetch(server, tmp_path)
    assert message in str(refused.value)
    assert time.monotonic() - begun < 3


def test_a_file_has_a_time_limit_as_a_whole(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough bytes in each look, and still too few."""

    def slow(handler: BaseHTTPRequestHandler) -> None:
        head(handler)
        for place in range(0, SIZE, 1024):
            handler.wfile.write(BODY[place : place + 1024])
            time.sleep(0.02)

    monkeypatch.setattr(module, "_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(module, "_LEAST_RATE", 10**6)
    server.answer = slow
    with pytest.raises(DataError, match=r"too slow: below 1000000 bytes a second\); (\d+) bytes are kept"):
        fetch(server, tmp_path)
    kept = left(tmp_path)["a.bin.part"]
    assert BODY.startswith((tmp_path / "toy/a.bin.part").read_bytes())
    server.answer = honest
    assert fetch(server, tmp_path) == BODY
    assert server.asked == [None, f"bytes={kept}-"]


def wrong_range(handler: BaseHTTPRequestHandler) -> None:
    if handler.headers["Range"] is None:
        return honest(handler)
    head(handler, 206, Content_Range=f"bytes 5-{SIZE - 1}/{SIZE}", Content_Length=SIZE - 1000)
    handler.wfile.write(bytes(SIZE - 1000))
    return None


@pytest.mark.parametrize(
    ("part", "answer", "asked"),
    [
        (BODY[:1000], honest, ["bytes=1000-"]),
        (BODY[:1000], wrong_range, ["bytes=1000-", None]),
        (b"x" * 1000, honest, ["bytes=1000-", None]),  # begun with a file that has changed since
        (b"x" * SIZE, honest, [None]),
        (b"x" * (SIZE + 1), honest, [None]),
    ],
)
def test_what_an_earlier_call_left_is_continued_or_begun_anew(
    part: bytes, answer: Answer, asked: list[str | None], server: Server, tmp_path: Path
) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy/a.bin.part").write_bytes(part)
    server.answer = answer
    assert fetch(server, tmp_path) == BODY
    assert server.asked == asked
    assert left(tmp_path) == {"a.bin": SIZE}


@pytest.mark.parametrize("place", ["toy", "toy/a.bin", "toy/a.bin.part"])
def test_nothing_is_written_through_a_link(place: str, server: Server, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("mine")
    (tmp_path / "data/toy").mkdir(parents=True)
    link = tmp_path / "data" / place
    if place == "toy":
        link.rmdir()
    link.symlink_to(elsewhere if place == "toy" else elsewhere / "mine")
    with pytest.raises(DataError, match=r"cannot be written \(it is a link, to .*elsewhere"):
        fetch(server, tmp_path / "data")
    assert left(elsewhere) == {"mine": 4}
    assert link.is_symlink()


def test_a_second_name_of_a_file_is_not_written_to(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "mine").write_text("mine")
    os.link(tmp_path / "mine", tmp_path / "toy/a.bin.part")
    assert fetch(server, tmp_path) == BODY
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_link_to_the_right_file_will_do(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "right").write_bytes(BODY)
    (tmp_path / "toy/a.bin").symlink_to(tmp_path / "right")
    assert fetch(server, tmp_path) == BODY
    assert server.asked == []


def test_a_redirect_on_the_same_server_is_followed(server: Server, tmp_path: Path) -> None:
    server.answer = lambda handler: (to("/b.bin") if handler.path == "/a.bin" else honest)(handler)
    assert fetch(server, tmp_path) == BODY


def test_messages_hold_no_password_of_an_address(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("//", "//bob:password@")
    server.answer = shorter
    with pytest.raises(DataError) as refused:
        Download("toy", tmp_path, "a.bin", f"{url}/a?token=abc", "0" * 64, SIZE, False).run()
    assert f"from {server.url}/a (" in str(refused.value)
    assert "password" not in str(refused.value)
    assert "abc" not in str(refused.value)
