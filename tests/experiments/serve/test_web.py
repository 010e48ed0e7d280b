"""`dream serve --http`: a real process, a real client and a real browser."""

from __future__ import annotations

import http.client
import json
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from dream.errors import ConfigError
from experiments.serve.server import _bound
from experiments.serve.service import PAUSE
from tests.soak import service
from tests.soak.service import served, trained

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "of nobody else"
Address = tuple[str, int]
FLAGS = ("--queue=40", "--body=20000", "--timeout=1", f"--token={TOKEN}", "--flush-every=3")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("service")
    trained().save(folder / "model")
    with served(folder, folder / "model", *FLAGS) as (_, found):
        yield found


def ask(
    address: Address, path: str, content: Any = None, token: str | None = TOKEN, accept: str = "*/*"
) -> Any:
    """Status, headers, and the answer: of JSON what it holds, else the text."""
    connection = http.client.HTTPConnection(*address, timeout=20)
    headers = {"Accept": accept} | ({} if token is None else {"Authorization": f"Bearer {token}"})
    body = content if content is None or isinstance(content, bytes) else json.dumps(content)
    connection.request("GET" if content is None else "POST", path, body, headers)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    as_json = response.headers["Content-Type"] == "application/json"
    return response.status, response.headers, json.loads(text) if as_json else text


def row(key: Any, seq: int | None = None) -> dict[str, Any]:
    return {"key": key, "x": {"u": 0.5, "v": -0.5}} | ({} if seq is None else {"seq": seq})


def test_a_row_or_a_list_of_rows(address: Address) -> None:
    status, _, one = ask(address, "/learn", row("one", 5))
    assert (status, one["key"], one["seq"]) == (200, "one", 5)
    status, _, many = ask(address, "/learn", [row("one", 5), row("one", 6), row("two"), row("one", 7)])
    assert status == 200
    assert [(a["key"], a["seq"], "repeated" in a) for a in many] == [
        ("one", 5, True),
        ("one", 6, False),
        ("two", 1, False),
        ("one", 7, False),
    ]
    assert [a["flushed"] for a in many] == [7, 7, 1, 7]
    status, _, same = ask(address, "/predict", {"key": "one"})
    assert same["prediction"] == many[3]["prediction"]
    told = [
        ask(address, path, row("one") | ({"seq": 8} if path == "/learn" else {}))[2]
        for path in ("/predict", "/learn")
    ]
    assert told[0]["prediction"] == told[1]["prediction"] != same["prediction"]


@pytest.mark.parametrize(
    ("path", "content", "status", "why"),
    [
        ("/learn", b"{", 400, "in JSON"),
        ("/learn", b'{"key": "\xff"}', 400, "in JSON"),
        ("/learn", b"[" * 15_000, 400, "in JSON"),
        ("/learn", b"7", 400, "must be an object"),
        ("/learn/", row("one"), 404, "Not Found"),
        ("/learn", b" " * 20_001, 413, "at most 20000 bytes"),
        ("/learn", [row("many")] * 41, 413, "at most 40 rows"),
        ("/score", row("one"), 400, "must be asked to predict"),
        ("/drift?key=nobody", None, 404, "'nobody' is none"),
        (f"/drift?key={'1' * 5000}", None, 404, "is none"),
        ("/other", None, 404, "Not Found"),
    ],
)
def test_what_is_refused(address: Address, path: str, content: Any, status: int, why: str) -> None:
    found = ask(address, path, content)
    assert found[0] == status
    assert why in found[2]["error"]


def test_one_refused_row_of_a_list_leaves_the_others(address: Address) -> None:
    rows = [row("left"), {"key": "left", "x": {"w": 1}}, row("left"), 7, {"key": "left", "seq": 0}]
    status, _, answers = ask(address, "/learn", rows)
    assert status == 400
    whys = ("`w` is none", "must be an object", "from 1 to")
    assert all(why in answers[place]["error"] for place, why in zip((1, 3, 4), whys, strict=True))
    assert [answers[0]["seq"], answers[2]["seq"]] == [1, 2]


def test_an_address_that_is_taken(address: Address) -> None:
    for host in (address[0], "no.such.name.invalid", "a" * 99):
        with pytest.raises(ConfigError, match="an address of this machine and a free port"):
            _bound(host, address[1])


def test_the_token(address: Address) -> None:
    for path, content in (("/learn", row("a")), ("/drift", None), ("/metrics", None)):
        for token in (None, "of somebody"):
            assert ask(address, path, content, token)[0] == 401
    assert ask(address, "/health", token=None)[2]["status"] == "ok"


def test_a_body_that_does_not_come(address: Address) -> None:
    with socket.create_connection(address, timeout=20) as client:
        head = (
            "POST /learn HTTP/1.1",
            "Host: a",
            f"Authorization: Bearer {TOKEN}",
            "Content-Length: 9",
            "",
            "{",
        )
        client.sendall("\r\n".join(head).encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("sent", [b"", b"GET /health HTTP/1.1\r\nHost: a\r\n\r\nGET /health HTTP/1.1\r\nHo"])
def test_a_request_that_does_not_come(address: Address, sent: bytes) -> None:
    with socket.create_connection(address, timeout=20) as client:
        client.sendall(sent)
        answers = b"".join(iter(lambda: client.recv(1000), b""))  # until it is closed
        assert answers.count(b"HTTP/1.1 200 ") == bool(sent)


def test_a_page_of_another_site_sends_no_rows(address: Address) -> None:
    connection = http.client.HTTPConnection(*address, timeout=20)
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)):
        headers = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": site}
        connection.request("POST", "/learn", json.dumps(row("sites")), headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def test_metrics_have_no_label_of_a_key(address: Address) -> None:
    ask(address, "/learn", row("a secret"))
    ask(address, "/learn", {"key": "a secret"})
    status, headers, text = ask(address, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "secret" not in text
    series = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(series['dream_rows_total{operation="learn",result="done"}']) >= 2
    assert float(series["dream_flushes_total"]) >= 1
    streams = series["dream_streams"]
    for name in ("dream_stream_surprise", "dream_stream_u_norm"):
        assert series[f"{name}_count"] == series[f'{name}_bucket{{le="+Inf"}}'] == streams
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            name = line.split()[2]
            assert any(one.startswith(name) for one in series) or name == "dream_requests_total"


def test_the_api_has_a_page(address: Address) -> None:
    assert "swagger" in ask(address, "/docs")[2]
    paths = ask(address, "/openapi.json")[2]["paths"]
    assert {"/predict", "/learn", "/score", "/health", "/metrics", "/drift"} == paths.keys()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_drift_page_in_a_browser(address: Address) -> None:
    name = "<script>document.title = 'taken'</script>"
    ask(address, "/learn", [row(name), row("quiet")])
    said, asked = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(extra_http_headers={"Authorization": f"Bearer {TOKEN}"})
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        at = "http://{}:{}/drift".format(*address)
        page.goto(at)
        assert page.title() == "Drift"
        assert name in page.locator("td:first-child").all_inner_texts()
        assert asked == [at]  # nothing else is fetched
        page.get_by_label("Stream").fill("quiet")
        page.get_by_role("button").click()
        assert page.locator("td:first-child").all_inner_texts() == ["quiet"]
        page.goto(f"{at}?key=nobody")
        assert "nobody" in page.get_by_role("alert").inner_text()
        browser.close()
    assert said == ["Failed to load resource: the server responded with a status of 404 (Not Found)"]


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="no prlimit on this system")
def test_a_service_whose_disk_and_log_are_full_goes_on(tmp_path: Path) -> None:
    trained().save(tmp_path / "model")
    with served(tmp_path, tmp_path / "model", "--flush-every=1") as (process, found):
        assert ask(found, "/learn", row("a"))[2]["flushed"] == 1
        pid, limits = process.pid or 0, resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, limits[1]))
        status, _, answer = ask(found, "/learn", row("a"))
        assert (status, answer["seq"], answer["flushed"]) == (200, 2, 1)
        status, _, told = ask(found, "/health")
        assert (status, told["status"]) == (503, "failing")
        assert "File too large" in told["error"]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)
        time.sleep(PAUSE)
        assert ask(found, "/learn", row("a"))[2]["flushed"] == 3
        assert ask(found, "/health")[0] == 200


def test_a_service_that_is_killed_answers_as_one_that_nobody_disturbs() -> None:
    figures = service.main(["--quick"])
    assert (figures["different"], figures["lost"], figures["exit code"]) == (0, 0, 0)
    assert figures["sent again"] > 0
