"""Search space: the settings that a sweep varies, and the values that it tries."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from itertools import cycle, islice
from typing import Any

import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from dream.errors import ConfigError
from experiments.invocation import configs
from experiments.invocation.configs import YamlFile
from experiments.invocation.resume import FREE
from lightning_modules.redaction import is_secret

RANGE = ("low", "high", "log", "step")
"""Keys of a range."""
TAKEN = ("seed", "ckpt_path", "config", "allow", "trust", *FREE)
"""Settings, or beginnings of them, that decide where and how a run is run: a sweep does not vary them."""
LARGEST = 1e15
"""Largest number of a range: up to it every whole number is a float, and optuna computes with floats."""

Space = dict[str, BaseDistribution]
"""Values that each setting may take, by its dotted name."""


class _Loader(configs.Loader):
    """YAML in which no key may stand twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for (key, _), place in zip(node.value, range(len(names)), strict=True):
            if key.value in names[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"`{key.value}` stands there twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


def load(name_or_path: str) -> YamlFile:
    """Read the file that ``--space NAME_OR_PATH`` means.

    Raises:
        ConfigError: There is none, or it is not YAML.
    """
    return configs.load(configs.resolve(name_or_path, "spaces"), _Loader)


def read(file: YamlFile) -> Space:
    """Return the space in a file: a mapping from settings to a list of values, or to ``low`` and ``high``.

    Raises:
        ConfigError: A setting is not given as it must be.
    """
    content = file.content
    if not isinstance(content, dict) or not content:
        raise ConfigError(
            f"{file.path} must map settings to what to try, such as `model.lr: [0.001, 0.01]`; "
            f"got {content!r}."
        )
    return {str(name): _distribution(str(name), entry) for name, entry in content.items()}


def _distribution(name: str, entry: Any) -> BaseDistribution:
    _require(
        not name.startswith(TAKEN),
        name,
        "a setting of the experiment; this one is set for the sweep as a whole",
        name,
    )
    _require(not is_secret(name), name, "no secret, since what a sweep tries is written down", name)
    _require(".init_args." not in name, name, f"written as `{name.replace('.init_args.', '.')}`", name)
    if isinstance(entry, list):
        _require(bool(entry), name, "a list of at least one value", entry)
        choices = [configs.flag_text(value) for value in entry]
        _require(len(set(choices)) == len(choices), name, "a list of values that differ", entry)
        plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in entry)
        return CategoricalDistribution(entry if plain else choices)
    _require(isinstance(entry, dict), name, "a list of values, or low and high", entry)
    for key in entry:
        rule = f"given by a list or by {', '.join(RANGE)}, and sections as `{name}.{key}: [...]`"
        _require(key in RANGE, name, rule, {key: entry[key]})
    for key in ("low", "high"):
        _require(key in entry, name, "given by low and high, or by a list", entry)
    numbers = {key: entry[key] for key in ("low", "high", "step") if entry.get(key) is not None}
    for key, number in numbers.items():
        number_like = (
            isinstance(number, (int, float)) and not isinstance(number, bool) and abs(number) <= LARGEST
        )
        _require(number_like, name, f"given by numbers between -1e15 and 1e15; `{key}` is not", number)
    low, high, step, log = entry["low"], entry["high"], entry.get("step"), entry.get("log", False)
    _require(isinstance(log, bool), name, "given with `log` true or false", log)
    _require(low <= high, name, "given with low of at most high", entry)
    _require(not log or low > 0, name, "given with low above 0 where log is true", entry)
    _require(step is None or step > 0, name, "given with a step above 0", entry)
    _require(step is None or not log, name, "given with either log or step, not both", entry)
    _require(
        step is None or _divides(step, high - low),
        name,
        "given with high a whole number of steps above low",
        entry,
    )
    if all(isinstance(number, int) for number in numbers.values()):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)


def _divides(step: float, width: float) -> bool:
    return math.isclose(width / step, round(width / step), abs_tol=1e-9)


def _require(holds: bool, name: str, rule: str, got: object) -> None:
    if not holds:
        raise ConfigError(
            f"`{name}` in the space must be {rule}; got {got!r}. docs/sweeps.md shows how.", key=name
        )


def flags(values: Mapping[str, Any]) -> list[str]:
    """`values` of settings as flags."""
    return [f"--{name}={configs.flag_text(value)}" for name, value in values.items()]


def corners(space: Space) -> list[dict[str, Any]]:
    """Fewest combinations that hold every choice of every list and both ends of every range."""
    tried = {name: _ends(distribution) for name, distribution in space.items()}
    most = max(len(values) for values in tried.values())
    return [
        dict(zip(tried, values, strict=True))
        for values in zip(*(islice(cycle(values), most) for values in tried.values()), strict=True)
    ]


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (IntDistribution, FloatDistribution))
    return [distribution.low, distribution.high]
