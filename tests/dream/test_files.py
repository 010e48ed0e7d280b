"""Files are whole or absent, written and read through no link, and read in bounds."""

from __future__ import annotations

import ast
import json
import math
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dream.errors import CheckpointError
from dream.files import (
    LINE,
    atomic,
    extended,
    inside,
    is_name,
    json_text,
    lines,
    opened,
    read_bytes,
    read_json,
    write_atomic,
)


def test_write_atomic(tmp_path: Path) -> None:
    assert write_atomic(tmp_path / "a.txt", "one").read_bytes() == b"one"
    assert write_atomic(str(tmp_path / "a.txt"), b"\x00two").read_bytes() == b"\x00two"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_links_and_devices_stay_what_they_are(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "file").write_text("one")
    link.symlink_to("file")
    with pytest.raises(OSError, match="it is a link, to file"):
        write_atomic(link, "two")
    assert link.is_symlink()
    assert (tmp_path / "file").read_text() == "one"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="no regular file"):
        write_atomic(pipe, "two")
    assert pipe.is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link", "pipe"]


def test_two_writers_of_one_path_have_two_temporary_files(tmp_path: Path) -> None:
    with atomic(tmp_path / "a") as one, atomic(tmp_path / "a") as two:
        one.write(b"one" * 1000)
        two.write(b"two")
        assert len(list(tmp_path.iterdir())) == 2
    assert read_bytes(tmp_path / "a") == b"one" * 1000
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_threads_that_write_one_path_leave_a_whole_file(tmp_path: Path) -> None:
    contents = [bytes([letter]) * 100_000 for letter in b"abc"]
    wrong: list[bytes] = []

    def write(content: bytes) -> None:
        for _ in range(20):
            write_atomic(tmp_path / "it", content)
            if (found := read_bytes(tmp_path / "it")) not in contents:
                wrong.append(found)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert [file.name for file in tmp_path.iterdir()] == ["it"]


def test_what_is_read_is_a_regular_file_of_bounded_size(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", most=5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_bytes(tmp_path / "file", most=4)
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OSError, match="it is a link, to file"):
        read_bytes(tmp_path / "link")
    assert read_bytes(tmp_path / "link", links=True) == b"12345"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_bytes(path)
    with pytest.raises(IsADirectoryError):
        read_bytes(tmp_path)


@pytest.mark.parametrize(
    "text", [b"", b"{", b'{"a": "\xff"}', b"[1]", b"null", b"[" * 100_000, b'{"a": 1' + b"9" * 5000]
)
def test_damaged_json_is_refused_in_a_sentence(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "results.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"results\.json is damaged"):
        read_json(tmp_path / "results.json")


def test_json_is_read(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a.json", '{"a": [1, null]}')
    assert read_json(tmp_path / "a.json") == {"a": [1, None]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    (tmp_path / "link.json").symlink_to("a.json")
    with pytest.raises(CheckpointError, match="it is a link"):
        read_json(tmp_path / "link.json")


def strict(text: str) -> Any:
    """JSON as browsers and jq read it, without NaN and Infinity."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON: {text}")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_does_not_have_are_words() -> None:
    content = {
        "a": [math.nan, (math.inf, 1.5)],
        "b": {"c": -math.inf, "d": None, "e": True, "f": np.float64("inf")},
    }
    told = {"a": ["nan", ["inf", 1.5]], "b": {"c": "-inf", "d": None, "e": True, "f": "inf"}}
    assert strict(json_text(content)) == strict(json_text(content, indent=2)) == told


def test_no_json_is_written_with_numbers_that_json_does_not_have() -> None:
    """Every call of json.dump and json.dumps in the packages says so."""
    calls = [
        (path.name, node.lineno, node)
        for package in ("dream", "lightning_modules", "experiments")
        for path in (Path(__file__).parents[2] / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("dump", "dumps")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "json"
    ]
    assert len(calls) > 10
    lax = [
        f"{name}:{line}"
        for name, line, call in calls
        if not any(word.arg == "allow_nan" and ast.unparse(word.value) == "False" for word in call.keywords)
    ]
    assert lax == []


def test_what_is_extended_is_a_regular_file_and_no_link(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with extended(tmp_path / "a") as file:
            file.write(text)
    assert read_bytes(tmp_path / "a") == b"one\ntwo\n"
    with extended(tmp_path / "a") as file:
        file.truncate(4)
    assert read_bytes(tmp_path / "a") == b"one\n"
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("b")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(OSError, match=r"it is (a link|no regular file)"), extended(tmp_path / name):
            pass
    assert read_bytes(tmp_path / "a") == b"one\n"
    assert not (tmp_path / "b").exists()


def test_lines_are_read_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one\n" + b"2" * (LINE - 1) + b"\nlast")
    with opened(tmp_path / "a") as file:
        assert [len(line) for line in lines(file)] == [4, LINE, 4]
    with (tmp_path / "sparse").open("wb") as hole:
        hole.truncate(10 * 2**30)
    with (
        opened(tmp_path / "sparse") as file,
        pytest.raises(OSError, match="a line has more than 1,048,576 bytes"),
    ):
        next(lines(file))


def test_nothing_below_a_folder_is_a_link(tmp_path: Path) -> None:
    (tmp_path / "run" / "figures").mkdir(parents=True)
    (tmp_path / "above").symlink_to("run")
    assert inside(tmp_path / "above", "figures", "a.png") == tmp_path / "above" / "figures" / "a.png"
    (tmp_path / "run" / "out").symlink_to(tmp_path)
    for names in (("out",), ("out", "a.png")):
        with pytest.raises(OSError, match="it is a link"):
            inside(tmp_path / "run", *names)
    for name in ("", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b", "x" * 201, "\u00e9" * 101):
        assert not is_name(name)
        with pytest.raises(OSError, match="is not the name of a file"):
            inside(tmp_path / "run", name)
    assert all(map(is_name, ("a", "...", ".lock", "x" * 200, "\u00e9" * 100, "a b", "=1")))
