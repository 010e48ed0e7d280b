"""Class paths of a foreign module in every setting: of each shipped configuration, and of each class of
Lightning's that a Trainer's setting may name. None is imported, none is built."""

from __future__ import annotations

import inspect
import sys
import tempfile
import warnings
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import lightning.pytorch as pl
import yaml
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, ClusterEnvironment, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from dream.errors import DREAMError
from experiments import wording
from experiments.invocation import configs, explain, trust
from experiments.invocation.arguments import Invocation
from experiments.invocation.configs import YamlFile
from experiments.run import CALLBACKS, DREAMCLI, DREAMTrainer

MODULE = "a_foreign_module"
SOURCE = """
from pathlib import Path

Path(__file__).with_name("imported").touch()

class Thing:
    def __init__(self, *_, **__):
        Path(__file__).with_name("built").touch()

def thing(*_, **__):
    Path(__file__).with_name("built").touch()
"""
SPEC = {"class_path": f"{MODULE}.Thing", "init_args": {"args": "true"}}
TAKEN_BY = {
    "strategy": Strategy,
    "accelerator": Accelerator,
    "logger": Logger,
    "callbacks": pl.Callback,
    "profiler": Profiler,
    "plugins": (Precision, ClusterEnvironment, CheckpointIO, LayerSync),
}
"""Classes that settings of the Trainer name."""
REFUSED = (
    DREAMError,
    ArgumentError,
    MisconfigurationException,
    TypeError,
    ValueError,
    RuntimeError,
    ImportError,
)


@contextmanager
def foreign_module() -> Iterator[Path]:
    """Folder in which a module can be imported that leaves a file when it is, and when its class is built."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / f"{MODULE}.py").write_text(SOURCE)
        sys.path.insert(0, place)
        try:
            yield folder
        finally:
            sys.path.remove(place)
            sys.modules.pop(MODULE, None)


def built(name: str) -> DREAMCLI:
    """Return what `dream check NAME` builds, or parses where its data are not here; close its `stack`."""
    own = ["--data.path=missing.csv"] if name.endswith(("_csv", "_file", "_folder")) else []
    cli = DREAMCLI(Invocation.parse(["check", name, *own]))
    with warnings.catch_warnings(), suppress(*REFUSED):
        wording.set_up()
        cli.build()
    return cli


def settings(cli: DREAMCLI) -> dict[str, Any]:
    """Every setting of a configuration with its type: of Trainer, callbacks, model and data."""
    values = cli.config["check"]
    found = {f"trainer.{name}": kind for name, kind in get_type_hints(DREAMTrainer.__init__).items()}
    for section, callback in CALLBACKS.items():
        parameters = inspect.signature(callback).parameters
        found |= {f"{section}.{name}": each.annotation for name, each in parameters.items()}
    for section in ("model", "data"):
        kind = trust.find(values[section].class_path)
        assert kind is not None
        found |= {f"{section}.init_args.{name}": each for name, each in explain.settings(kind).items()}
    found |= dict.fromkeys(("trainer", "model", "data", "run", "model.init_args.config"), "section")
    found |= {key: "another setting" for key in list(values.keys()) if key not in found}
    return {key: kind for key, kind in found.items() if key in values or key in values.as_dict()}


def is_refused(cli: DREAMCLI, key: str, value: Any) -> bool:
    """Whether the command refuses this value of a setting."""
    content: Any = value
    for name in reversed(key.split(".")):
        content = {name: content}
    try:
        with warnings.catch_warnings():
            wording.set_up()
            files = [*cli.invocation.files, YamlFile(Path("given.yaml"), yaml.safe_dump(content), content)]
            cli.parse_arguments(cli.parser, replace(cli.invocation, files=files).words())
            cli.instantiate_classes()
    except REFUSED:
        return True
    return False


def open_parameters() -> Iterator[tuple[str, str, str]]:
    """Setting of the Trainer, class and parameter, of those that take any value or a function."""
    for setting, kinds in TAKEN_BY.items():
        for base in kinds if isinstance(kinds, tuple) else (kinds,):
            for kind in explain._subclasses(base):
                path = f"{kind.__module__}.{kind.__qualname__}"
                if inspect.isabstract(kind) or not trust.permits(path) or not path.startswith("lightning."):
                    continue
                for name, parameter in inspect.signature(kind).parameters.items():
                    text = str(parameter.annotation)
                    if any(word in text for word in ("Any", "object", "Callable", "_empty")):
                        yield setting, path, name


def through_configurations(names: Iterable[str], values: Sequence[Any]) -> int:
    """Give these values to every setting of the shipped configurations `names`; return how many were tried.

    What several of them share is tried in the first one.

    Raises:
        AssertionError: The foreign module was imported, or a value was taken.
    """
    done: set[Any] = set()
    tried = 0
    with foreign_module() as folder:
        for name in names:
            cli = built(name)
            with cli.stack:
                for key in settings(cli):
                    section = cli.config["check"].get(key.partition(".")[0])
                    place = key, section.get("class_path") if "init_args" in key else ""
                    if place in done:
                        continue
                    done.add(place)
                    for value in values:
                        tried += 1
                        assert is_refused(cli, key, value), (name, key, value)
                        assert not list(folder.glob("[ib]*")), (name, key, value)
    return tried


def through_classes(values: Sequence[Any]) -> int:
    """Give these values to every open parameter of Lightning's classes; return how many were tried.

    Raises:
        AssertionError: The foreign module was imported, or a value was taken.
    """
    tried = 0
    cli = built("forecasting")
    with foreign_module() as folder, cli.stack:
        for setting, path, name in open_parameters():
            for value in values:
                tried += 1
                spec = {"class_path": path, "init_args": {name: value}}
                refused = is_refused(cli, f"trainer.{setting}", [spec] if setting == "callbacks" else spec)
                assert refused, (path, name, value)
                assert not list(folder.glob("[ib]*")), (path, name, value)
    return tried


def main(arguments: list[str] | None = None) -> dict[str, int]:
    """Try all, print how many were tried and return it."""
    values = [SPEC, [SPEC], {"any": SPEC}]
    figures = {
        "settings of configurations": through_configurations(configs.shipped(), values),
        "parameters of classes": through_classes(values),
    }
    print(figures)  # noqa: T201
    return figures


if __name__ == "__main__":
    main()
