from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dream.errors import ConfigError, DataError
from lightning_modules.data import catalogue
from lightning_modules.data import download as download_module
from lightning_modules.data.catalogue import DATASETS, DataFile, Dataset, data_folder, data_path, download

BODY = bytes(range(256)) * 1000


class Server(ThreadingHTTPServer):
    """Server of BODY; hangs up once after `cut` bytes, and records the requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.cut, self.ranges_work, self.asked = BODY, 0, True, list[str | None]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted, size = self.headers["Range"], len(self.server.body)
        self.server.asked.append(wanted)
        if not self.path.endswith("a.bin"):
            return self.send_error(404)
        start = (
            int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and self.server.ranges_work else 0
        )
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        stop, self.server.cut = self.server.cut or size, 0
        self.wfile.write(self.server.body[start:stop])
        return None

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        entry = DataFile(f"{server.url}/origin/a.bin", hashlib.sha256(BODY).hexdigest(), len(BODY))
        monkeypatch.setattr(
            catalogue, "DATASETS", {"toy": Dataset("toy", "bytes", "none", "here", {"a.bin": entry})}
        )
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_download_then_already_there(server: Server, tmp_path: Path) -> None:
    assert download("toy", tmp_path) == [tmp_path / "toy" / "a.bin"]
    assert (tmp_path / "toy" / "a.bin").read_bytes() == BODY
    download("toy", tmp_path)
    assert server.asked == [None]
    assert names(tmp_path) == ["a.bin"]


def test_progress_only_on_a_terminal(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    download("toy", tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    download("toy", tmp_path / "shown")
    shown = capsys.readouterr()
    assert "a.bin" in shown.err
    assert shown.out == ""


def test_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin").write_bytes(b"damaged")
    assert download("toy", tmp_path)[0].read_bytes() == BODY


def test_mirror(server: Server, tmp_path: Path) -> None:
    dead = DataFile("http://127.0.0.1:9/a.bin", hashlib.sha256(BODY).hexdigest(), len(BODY))
    catalogue.DATASETS["toy"].files["a.bin"] = dead  # type: ignore[index]
    assert download("toy", tmp_path, base_url=f"{server.url}/mirror/")[0].read_bytes() == BODY


def test_cut_connection_is_resumed_with_the_rest_only(server: Server, tmp_path: Path) -> None:
    server.cut = 150_000
    with pytest.raises(
        DataError, match=r"a\.bin could not be fetched .*connection was cut.*dream data get toy"
    ) as error:
        download("toy", tmp_path)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["a.bin.part"]
    kept = (tmp_path / "toy" / "a.bin.part").stat().st_size
    assert 0 < kept <= 150_000
    assert f"{kept} bytes are kept" in str(error.value)
    assert download("toy", tmp_path)[0].read_bytes() == BODY
    assert server.asked == [None, f"bytes={kept}-"]
    assert names(tmp_path) == ["a.bin"]


def test_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin.part").write_bytes(b"anything")
    server.ranges_work = False
    assert download("toy", tmp_path)[0].read_bytes() == BODY
    assert server.asked == ["bytes=8-"]


@pytest.mark.parametrize(("part", "asked"), [(BODY, []), (BODY + b"too long", [None])])
def test_part_that_is_whole_or_too_long(
    server: Server, tmp_path: Path, part: bytes, asked: list[str | None]
) -> None:
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "a.bin.part").write_bytes(part)
    assert download("toy", tmp_path)[0].read_bytes() == BODY
    assert server.asked == asked


def test_wrong_checksum_leaves_nothing(server: Server, tmp_path: Path) -> None:
    server.body = b"x" * len(BODY)
    with pytest.raises(DataError, match=r"a\.bin from .* has another SHA-256 .* removed"):
        download("toy", tmp_path)
    assert names(tmp_path) == []


def test_offline(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(
            DataError, match=rf"from {url}/a\.bin \(no connection\).* set DREAM_DATA"
        ) as error:
            download("toy", tmp_path, url)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == []


def test_silent_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "_TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(DataError, match=r"no answer within 0\.2 s"):
            download("ett", tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_bad_addresses(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`mirror` must be an address such as .*; got 'mirror'"):
        download("toy", tmp_path, "mirror")
    assert names(tmp_path) == []
    catalogue.DATASETS["toy"].files["b.bin"] = DataFile(f"{server.url}/b.bin", "0" * 64, 1)  # type: ignore[index]
    with pytest.raises(DataError, match="the server answered 404"):
        download("toy", tmp_path)
    assert names(tmp_path) == ["a.bin"]


def test_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    (tmp_path / "toy").write_text("a file where the folder should be")
    with pytest.raises(DataError, match=r"cannot be written .*Name another folder"):
        download("toy", tmp_path)


def test_folder_and_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DREAM_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    with pytest.raises(DataError, match="run `dream data get ett`, or set DREAM_DATA"):
        data_path("ett", "ETTh1.csv")
    (tmp_path / "ett").mkdir()
    (tmp_path / "ett" / "ETTh1.csv").touch()
    assert data_path("ett", "ETTh1.csv") == tmp_path / "ett" / "ETTh1.csv"
    monkeypatch.delenv("DREAM_DATA")
    assert data_folder().name == "dream"


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no data set `etf`. Did you mean `ett`?"):
        download("etf", tmp_path)


def test_every_entry_is_complete() -> None:
    for name, entry in DATASETS.items():
        assert entry.name == name
        assert entry.licence
        for file in entry.files.values():
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)
            assert file.url.startswith("https://") or (not file.url and "by hand" in entry.description)
            assert file.size > 0


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["ett", "elec2", "wth", "exchange_rate", "tiny_shakespeare", "wikitext2", "fsdd"]
)
def test_catalogue_agrees_with_the_files_at_hand(name: str) -> None:
    if not (data_folder() / name).is_dir():
        pytest.skip(f"DREAM_DATA names no folder with {name}/")
    for file, entry in DATASETS[name].files.items():
        body = data_path(name, file).read_bytes()
        assert (hashlib.sha256(body).hexdigest(), len(body)) == (entry.sha256, entry.size)


def test_what_is_not_offered_as_a_plain_file_is_said() -> None:
    with pytest.raises(
        DataError, match=r"`exchange_rate` is not offered as a plain file\. .* unpack exchange_rate\.txt\.gz"
    ):
        download("exchange_rate")
