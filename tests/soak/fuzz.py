"""Random files and settings: `python -m tests.soak.fuzz --examples 2000`.

Hypothesis generates CSV and Parquet files, YAML and flags. The readers and the command must return a result
or raise a DREAMError, whatever they get. The same number of examples yields the same examples."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import logging
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dream import DREAMConfig, DREAMError
from dream.errors import ConfigError
from experiments.cli import main as command
from experiments.invocation import configs
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.data.base import TaskData
from lightning_modules.forecasting import TableData
from lightning_modules.language import TextFile
from lightning_modules.online import TableStream

try:
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
except ImportError as error:
    raise ConfigError(
        "the fuzz needs hypothesis, which is not installed. Run: pip install hypothesis"
    ) from error

ROWS = 160
ODD_CELLS = [
    "", " ", "nan", "NULL", "inf", "-inf", "1e400", "-1e400", "1e20", "1.8e19", "5e-324", "-0", "1,5",
    "1.234,5", "1_000", "0x1F", "True", "no", "9" * 400, '"', '""', "'", "a\nb", "\0", "\x1b[2J", "\u00e9",
    "\ufeff", "\uff11", "2024-01-01", "2024-13-45", "0001-01-01", "9999-12-31T23:59:59Z",
    "2024-01-01T00:00+25:00", "12:30", "now", "NaT",
]  # fmt: skip
ODD_NAMES = [
    "", "time", "date", "a", "b", "b.1", "0", "1.5", "nan", "2024-01-01", "Unnamed: 0", "a,b", "a\nb",
    "__class__",
]  # fmt: skip
ODD_VALUES = [
    "", " ", "null", "~", "true", "nan", ".nan", ".inf", "-.inf", "1e400", "0x10", "1_0", "[]", "[[]]",
    "[1,2]", "{}", "{a: 1}", "[", "{", '"', "'", "@file", "../../x", "-", "*", "&a *a", "\u00e9", "\u202e",
    "a b", "!!python/none", "[0.7,0.1,0.2]", "[1,1,1]", "2020-01-01", "os.system", "ETTData", "cosine",
    "lightning_modules.OnlineModule",
]  # fmt: skip
SETTINGS = {
    "data": "look_back horizon batch_size season split stride streams rolling missing calendar timespans "
    "feeders drifts temperature seed num_workers",
    "model": "patch channel_independent encoder normalization head loss quantiles lr hidden_dims dropout "
    "prediction_weight weight_decay schedule warmup core config",
    "model.config": "rank hidden_dim kappa time_step target_norm base_plasticity",
    "trainer": "max_epochs precision callbacks gradient_clip_val log_every_n_steps",
    "nan_guard": "max_skipped on_bad_batch",
    "checkpoint": "save_top_k",
    "early_stopping": "patience",
    "save": "keep",
}
KEYS = ["model", "data", "seed", "trainer", "run"]
KEYS += [f"{section}.{key}" for section, known in SETTINGS.items() for key in known.split()]

cells = st.sampled_from(ODD_CELLS) | st.floats().map(str) | st.integers().map(str) | st.text(max_size=6)
names = st.sampled_from(ODD_NAMES) | st.text(max_size=5)
values = (
    st.sampled_from(ODD_VALUES)
    | st.integers(-3, 40).map(str)
    | st.floats(-2, 2).map(str)
    | st.text(max_size=5)
)


@st.composite
def wild(draw: st.DrawFn) -> str:
    """A small table of arbitrary cells."""
    sign = draw(st.sampled_from([",", ";", "\t", " "]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    header = draw(st.lists(names, min_size=1, max_size=4))
    rows = draw(st.lists(st.lists(cells, max_size=5), max_size=8))
    return end.join(sign.join(row) for row in [header, *rows])


@st.composite
def damaged(draw: st.DrawFn) -> str:
    """A good table with a few defects."""
    lines = ["date,a,b,label,kind"]
    lines += [
        f"2024-01-{1 + k // 24:02d} {k % 24:02d}:00,{k % 7},{k % 5 - 2.5},{int(k % 50 == 49)},{'xyz'[k % 3]}"
        for k in range(ROWS)
    ]
    for _ in range(draw(st.integers(0, 2))):
        line = draw(st.integers(0, len(lines) - 1))
        kind = draw(st.sampled_from(["cell", "cell", "cell", "column", "drop", "twice", "swap", "cut"]))
        if kind == "cell":
            parts = lines[line].split(",")
            parts[draw(st.integers(0, len(parts) - 1))] = draw(cells)
            lines[line] = ",".join(parts)
        elif kind == "drop" and len(lines) > 1:
            del lines[line]
        elif kind == "twice":
            lines.insert(line, lines[line])
        elif kind == "swap":
            lines[line], lines[-1] = lines[-1], lines[line]
        elif kind == "cut":
            lines = lines[: line + 1]
        else:
            place, cell = draw(st.integers(0, 4)), draw(cells)
            rows = [row.split(",") for row in lines[1:]]
            lines[1:] = [",".join([*row[:place], cell, *row[place + 1 :]]) for row in rows]
    return "\n".join(lines)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Name and content of a file, mostly a table with few defects."""
    text = draw(st.sampled_from([wild(), damaged(), damaged(), damaged()]).flatmap(lambda kind: kind))
    encoding = draw(st.sampled_from(["utf-8"] * 8 + ["utf-8-sig", "latin-1", "utf-16"]))
    content = text.encode(encoding, errors="replace")
    if draw(st.integers(0, 15)) == 0:
        content = draw(st.binary(max_size=200))
    name = draw(st.sampled_from(["t.csv"] * 8 + ["t.txt", "t.csv.gz", "t.parquet", "t"]))
    content = gzip.compress(content) if name.endswith(".gz") else content
    if draw(st.integers(0, 15)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return name, content


def readers(path: str) -> dict[str, Callable[[], TaskData]]:
    """All readers of a user's table, which is also a text."""
    small: dict[str, Any] = dict(crop=16, context=4, batch_size=4, crops=4)
    window: dict[str, Any] = dict(look_back=8, horizon=2, season=2, batch_size=4)
    text: dict[str, Any] = dict(batch_size=2, steps=4)
    return {
        "forecasting": lambda: TableData(path, missing="ffill", **window),
        "forecasting, masked": lambda: TableData(
            path, missing="mask", calendar=["hour"], timespans=True, **window
        ),
        "forecasting, mapped": lambda: TableData(path, missing="mask", mapped=True, **window),
        "forecasting, chosen": lambda: TableData(path, targets=["a"], known_covariates=["b"], **window),
        "anomaly": lambda: AnomalyTable(path, columns=["a", "b"], missing="ffill", training=100),
        "anomaly, labelled": lambda: AnomalyTable(
            path, columns=["a"], label_column="label", training=100, separator=","
        ),
        "online": lambda: TableStream(path, missing="ffill", **small),
        "regression": lambda: TableStream(path, targets=["b"], task="regression", **small),
        "classification": lambda: TableStream(
            path, targets=["kind"], missing="ffill", warm_up=0, validation=0, **small
        ),
        "bytes": lambda: TextFile(path, unit="bytes", **text),
        "characters": lambda: TextFile(path, unit="chars", **text),
        "words": lambda: TextFile(path, unit="words", **text),
    }


def read(make: Callable[[], TaskData]) -> str:
    """Read a table up to its first batches: `read` or `refused`."""
    try:
        data = make()
        data.setup("fit")
        data.describe()
        for loader in (data.train_dataloader(), data.test_dataloader()):
            next(iter(loader), None)
    except DREAMError as error:
        return refusal(error)
    return "read"


def refusal(error: DREAMError) -> str:
    """Check that a message has a fitting length."""
    assert 10 < len(str(error)) < 5000, str(error)[:200]
    return "refused"


def configure(knobs: dict[str, Any]) -> str:
    """Build a DREAMConfig: `made` or `refused`."""
    try:
        DREAMConfig(**knobs)
    except DREAMError as error:
        return refusal(error)
    return "made"


def resolve(content: bytes) -> str:
    """Resolve a YAML file as an experiment: `taken` or `refused`."""
    Path("mine.yaml").write_bytes(content)
    try:
        configs.read(configs.resolve("mine.yaml"))
    except DREAMError as error:
        return refusal(error)
    return "taken"


def check(flags: dict[str, str]) -> str:
    """Run `dream check` of a small experiment with some flags: `checked` or `refused`."""
    small = (
        "--data.rows=200 --data.feeders=2 --data.look_back=12 --data.horizon=2 --data.season=2 "
        "--model.patch=4 --model.config.hidden_dim=8 --model.config.rank=2 --trainer.accelerator=cpu"
    )
    given_flags = [f"--{key}={value}" for key, value in flags.items()]
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        code = command(["check", "-c", "forecasting", *small.split(), *given_flags])
    assert code in (0, 2), printed.getvalue()
    assert "Traceback" not in printed.getvalue()
    return "checked" if code == 0 else "refused"


def main(arguments: list[str] | None = None) -> dict[str, dict[str, int]]:
    """Run all parts in a temporary folder, print and return the number of outcomes of each.

    Whole commands get a fiftieth of the examples. Errors other than a DREAMError are raised."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=500)
    examples: int = parser.parse_args(arguments).examples
    counts: dict[str, Counter[str]] = {}
    bounded = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    def count(part: str, outcome: str) -> None:
        counts.setdefault(part, Counter())[outcome] += 1

    @bounded
    @given(files())
    def fuzz_files(file: tuple[str, bytes]) -> None:
        Path(file[0]).write_bytes(file[1])
        for part, make in readers(file[0]).items():
            count(part, read(make))

    plain = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5)
    anything = st.recursive(plain, st.lists, max_leaves=4)
    knobs = st.dictionaries(
        st.sampled_from(list(DREAMConfig.__dataclass_fields__)) | names, anything, max_size=4
    )

    @bounded
    @given(knobs)
    def fuzz_config(given_knobs: dict[str, Any]) -> None:
        count("DREAMConfig", configure(given_knobs))

    yaml = st.binary(max_size=40) | st.lists(values).map("\n".join).map(str.encode)
    yaml |= st.dictionaries(names, anything, max_size=3).map(lambda content: json.dumps(content).encode())

    @bounded
    @given(yaml)
    def fuzz_yaml(content: bytes) -> None:
        count("YAML", resolve(content))

    @settings(bounded, max_examples=max(examples // 50, 5))
    @given(st.dictionaries(st.sampled_from(KEYS), values, min_size=1, max_size=2))
    def fuzz_flags(flags: dict[str, str]) -> None:
        count("dream check", check(flags))

    home = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        os.chdir(folder)
        cache = os.environ.get("DREAM_CACHE")
        os.environ["DREAM_CACHE"] = str(Path(folder) / "cache")
        try:
            for part in (fuzz_files, fuzz_config, fuzz_yaml, fuzz_flags):
                start = time.monotonic()
                part()
                print(f"{part.__name__}: {time.monotonic() - start:.1f} s", flush=True)  # noqa: T201
        finally:
            os.chdir(home)
            os.environ.pop("DREAM_CACHE")
            os.environ |= {} if cache is None else {"DREAM_CACHE": cache}
            logging.disable(logging.NOTSET)
    figures = {part: dict(outcomes) for part, outcomes in counts.items()}
    for name, outcomes in figures.items():
        print(name, outcomes)  # noqa: T201
    return figures


if __name__ == "__main__":
    main()
