"""A run that finds too little memory: one sentence that names the settings which take it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch

from dream import DREAMConfig, memory
from dream.errors import ConfigError

_ASKED = re.compile(r"(?:tried to|Tried to|Unable to) allocate ([\d.]+ [A-Za-z]+)")
_SETTINGS = 3  # that a message names
_USUAL = 64  # where a setting has no default


def in_memory(work: Callable[[], None], chosen: Callable[[], Mapping[str, Any]]) -> None:
    """Run `work`; `chosen` returns the sections `model` and `data` as they are set.

    Raises:
        ConfigError: there is too little memory.
    """
    # a GPU's driver reserves more addresses than there is memory
    within = nullcontext() if torch.cuda.is_available() else memory.within_machine()
    try:
        with within:
            work()
    except Exception as error:
        if not memory.exhausted(error):
            raise
        asked = _ASKED.search(str(error))
        at_once = f"; it asked for {asked[1]} at once" if asked else ""
        sizes = [f"`{name}`={value}" for name, value in _largest(chosen())]
        takes = f" Lower what takes most: {', '.join(sizes)}." if sizes else ""
        raise ConfigError(
            f"the run needs more memory than there is: {memory.there_is()}{at_once}.{takes}"
        ) from error


def _largest(sections: Mapping[str, Any]) -> list[tuple[str, int]]:
    """The whole numbers that lie highest above their defaults."""
    ratios = {}
    for section, values in sections.items():
        usual = dict(_numbers(_defaults(values["class"]), f"{section}."))
        for name, value in _numbers(values["settings"], f"{section}."):
            ratios[name, value] = value / max(usual.get(name, _USUAL), 1)
    found = sorted(ratios, key=lambda size: ratios[size], reverse=True)[:_SETTINGS]
    return [size for size in found if ratios[size] > 1] or found


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, int]]:
    """Path and value of every whole number above 1."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1 and name != "seed":
            yield prefix + name, value


def _defaults(cls: Any) -> dict[str, Any]:
    """The defaults of a class of data or of a task's module."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        for name, parameter in inspect.signature(base).parameters.items():
            default = parameter.default
            found[name] = asdict(default) if isinstance(default, DREAMConfig) else default
    if hasattr(cls, "settings_class"):
        found |= asdict(cls.settings_class()()) | {"config": asdict(cls.default_config())}
    return found
