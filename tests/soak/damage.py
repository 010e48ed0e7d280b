"""Damaged texts of a run, a comparison and a sweep: `python -m tests.soak.damage --trials 1000`.

A value in a JSON or YAML file is dropped or becomes another one, or bytes are lost or changed. Every command
that reads the file must end with exit code 0 or 2 and no traceback. The same seed yields the same damage."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from experiments.cli import main as command

SMALL = [
    *(
        "--data.rows=300",
        "--data.feeders=1",
        "--data.look_back=16",
        "--data.horizon=4",
        "--data.batch_size=64",
    ),
    *("--model.config.hidden_dim=4", "--model.config.rank=2", "--model.patch=4", "--trainer.accelerator=cpu"),
    *("--trainer.max_epochs=1", "--trainer.log_every_n_steps=1"),
]
RUN = ["fit", "-c", "forecasting", *SMALL, "--run.name=a"]
COMPARE = ["compare", "-c", "forecasting", *SMALL, "--models", "linear", "--seeds", "1", "--folder=cmp"]
SWEEP = ["sweep", "-c", "forecasting", *SMALL, "--space", "space.yaml", "--trials", "1", "--folder=sw"]
SPACE = "model.lr: {low: 1.0e-3, high: 1.0e-2, log: true}\n"
TEST = ["--ckpt_path=runs/a", "--run.name=t"]
REPORT = {"runs": "runs/a", "cmp": "cmp", "sw": "sw"}
READERS: dict[str, list[list[str]]] = {
    "runs/a/config.yaml": [
        ["test", *TEST],
        ["predict", *TEST],
        ["validate", *TEST],
        ["check", "runs/a/config.yaml"],
        [*RUN, "--resume"],
    ],
    "runs/a/run.json": [[*RUN, "--resume"], [*RUN[:-1], "--resume"]],
    "runs/a/results.json": [[*RUN, "--resume"], [*RUN[:-1], "--resume"]],
    "cmp/plan.json": [COMPARE],
    "cmp/linear-seed0/config.yaml": [COMPARE],
    "cmp/linear-seed0/results.json": [COMPARE],
    "cmp/linear-seed0/run.json": [COMPARE],
    "cmp/comparison.json": [COMPARE],
    "sw/plan.json": [SWEEP],
    "sw/sweep.json": [SWEEP],
    "sw/trial-0000/config.yaml": [SWEEP],
    "sw/trial-0000/results.json": [SWEEP],
    "sw/best.yaml": [["check", "sw/best.yaml"]],
    "space.yaml": [SWEEP],
}
"""Commands that read a file, beside `dream report`."""
ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 0.5, -0.5, 1e308, -1e308, 5e-324, 2**63, 10**400),
    *(float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "x",
        "0",
        "null",
        "\0",
        "\ud800",
        "../../x",
        "/",
        "x" * 5000,
        "<script>",
        "-",
        "2026-13-45",
        "\x1b[2J",
    ),
    *([], [[]], [None], [1, "a"], {}, {"": 0}, {"class_path": "os.system"}, {"a": {"b": [{}]}}),
]
TEXTS = [
    b"", b"\xff", b"\0", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 50_000, b"- " * 5000, b"1" * 5000,
    b'"', b"\xef\xbb\xbf", b"a: &a [*a]", b"a: *b", b"--- 1\n--- 2\n", b"!!python/object/apply:os.getcwd []",
    b"a: &a [x,x,x,x,x,x,x,x]\n" + b"".join(
        b"%c: &%c [%s]\n" % (98 + k, 98 + k, b",".join([b"*%c" % (97 + k)] * 9)) for k in range(12)
    ),
]  # fmt: skip


def places(content: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values in nested dictionaries and lists."""
    yield at
    parts = content.items() if isinstance(content, dict) else ()
    parts = enumerate(content) if isinstance(content, list) else parts
    for key, value in parts:
        yield from places(value, (*at, key))


def changed(content: Any, chance: random.Random) -> Any:
    """`content` with one value that is dropped, doubled, renamed or another one."""
    *path, last = chance.choice(list(places(content))) or (None,)
    if last is None:
        return chance.choice(ODD)
    part = content
    for key in path:
        part = part[key]
    how = chance.randrange(6)
    if how == 0:
        del part[last]
    elif how == 1 and isinstance(part, dict):
        part[f"{last}_"] = part.pop(last)
    elif how == 1:
        part.insert(last, part[last])
    else:
        part[last] = chance.choice(ODD)
    return content


def damaged(name: str, content: bytes, chance: random.Random) -> bytes:
    """`content` of the file `name`, damaged by chance."""
    how = chance.randrange(5)
    if how == 0:
        return chance.choice(TEXTS)
    if how == 1:
        place = chance.randrange(len(content))
        return content[:place] + chance.choice([b"", b"\xff", b"\0", b"{", b"9" * 500, content[place + 1 :]])
    if name.endswith(".yaml"):
        return yaml.safe_dump(changed(yaml.safe_load(content), chance), sort_keys=False).encode()
    lines = content.decode().splitlines() if name.endswith(".jsonl") else [content.decode()]
    number = chance.randrange(len(lines))
    lines[number] = json.dumps(changed(json.loads(lines[number]), chance))
    return "\n".join(lines).encode()


def dream(words: list[str]) -> tuple[int | str, str]:
    """Exit code of a command, or the traceback that it ended with, and what it said."""
    said = io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(said),
        mock.patch.object(sys, "argv", ["dream"]),
    ):
        try:
            return command(words), said.getvalue()
        except SystemExit as stop:
            return int(stop.code or 0), said.getvalue()
        except Exception:
            return traceback.format_exc(), said.getvalue()


def main(arguments: list[str] | None = None) -> dict[str, dict[str, int]]:
    """Damage files in a temporary folder; print and return how often each command ended with which code.

    Raises:
        SystemExit: a command ended with a traceback, or another exit code than 0 and 2.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=1000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    asked = parser.parse_args(arguments)
    chance, counts, begun = random.Random(asked.seed), dict[str, Counter[str]](), time.monotonic()
    before, wrong = Path.cwd(), list[str]()
    environment = {"WANDB_MODE": "disabled", "COLUMNS": "150"}
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, environment):
        os.chdir(folder)
        try:
            Path("space.yaml").write_text(SPACE)
            for words in (RUN, COMPARE, SWEEP):
                code, said = dream(words)
                assert code == 0, said
            Path(folder, "whole").mkdir()
            whole = [path.name for path in Path.cwd().iterdir() if path.name != "whole"]
            for name in whole:
                (shutil.copytree if Path(name).is_dir() else shutil.copy)(name, f"whole/{name}")
            for trial in range(asked.trials):
                name, code, said = _try(chance)
                verb = name.split()[0]
                counts.setdefault(verb, Counter())[str(code)[:9]] += 1
                if code not in (0, 2) or "Traceback" in said:
                    wrong.append(f"{trial}: {name}\n{code}\n{said[-1000:]}")
        finally:
            os.chdir(before)
    for verb, codes in sorted(counts.items()):
        print(f"{verb}: {dict(codes)}", flush=True)  # noqa: T201
    print(f"{asked.trials} damaged files in {time.monotonic() - begun:.0f} s")  # noqa: T201
    if wrong:
        sys.exit("\n".join(wrong))
    return {verb: dict(codes) for verb, codes in counts.items()}


def _try(chance: random.Random) -> tuple[str, int | str, str]:
    """Damage a file, run a command that reads it, and mend all; return both names, the end and the words."""
    names = [
        *READERS,
        *(
            f"{run}/{text}"
            for run in ("runs/a", "cmp/linear-seed0", "sw/trial-0000")
            for text in ("layers.json", "remarks.json", "metrics.jsonl", "results.json", "run.json")
        ),
    ]
    name = chance.choice([known for known in names if Path(known).exists()])
    top = name.partition("/")[0]
    every = list(READERS.get(name, ()))
    if top in REPORT:
        every.append(["report", REPORT[top]])
    words = chance.choice(every)
    Path(name).write_bytes(damaged(name, Path(name).read_bytes(), chance))
    if "--resume" in words and chance.random() < 0.5 and name != "runs/a/results.json":
        Path("runs/a/results.json").unlink()
    code, said = dream(words)
    for known in ("runs", "cmp", "sw"):
        shutil.rmtree(known)
        shutil.copytree(f"whole/{known}", known)
    shutil.copy("whole/space.yaml", "space.yaml")
    return f"{words[0]} with {name}", code, said


if __name__ == "__main__":
    main()
