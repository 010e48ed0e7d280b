"""Numbers of Lightning's Trainer and callbacks, which check few of them before they are used."""

from __future__ import annotations

import math
import os
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.accelerators import AcceleratorRegistry

from dream.errors import ConfigError, shown
from lightning_modules.checks import require

Rule = tuple[str, Callable[[Any], bool]]
"""A rule in words, and whether a value keeps it."""
_LIGHTNING = Path(L.__file__).parent
CORES = max(16, os.cpu_count() or 1)
LARGEST = 2**63 - 1


def _is_whole(value: Any, least: int, most: int = LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(value: Any, least: float = -math.inf) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and least <= value
        and abs(value) < math.inf
    )


def _whole(least: int) -> Rule:
    return f"a whole number of at least {least}", lambda value: _is_whole(value, least)


def _or_none(rule: Rule) -> Rule:
    words, holds = rule
    return f"{words}, or null", lambda value: value is None or holds(value)


def _is_share(value: Any) -> bool:
    # the parser makes a float of a whole number, which Lightning takes as one above 1.0
    return _is_number(value, 0) and (value <= 1 or value == int(value) <= LARGEST)


def _are_devices(value: Any) -> bool:
    if isinstance(value, str):
        if value == "auto":
            return True
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not all(part.removeprefix("-").isdecimal() and len(part) < 10 for part in parts):
            return False
        numbers = [int(part) for part in parts]
        return _are_devices(numbers if "," in value else numbers[0]) if numbers else False
    if isinstance(value, list):
        return bool(value) and len(set(value)) == len(value) and all(_is_whole(one, 0) for one in value)
    return value == -1 or _is_whole(value, 1, CORES)


def _is_time(value: Any) -> bool:
    if isinstance(value, str):
        return (
            re.fullmatch(r"\d{1,6}(:\d{2}){3}", value) is not None and re.search("[1-9]", value) is not None
        )
    if isinstance(value, dict):
        units = ("weeks", "days", "hours", "minutes", "seconds")
        known = value.keys() <= set(units) and all(_is_whole(number, 0, 10**6) for number in value.values())
        return known and any(value.values())
    return isinstance(value, timedelta) and value > timedelta()


def _is_there(value: Any) -> bool:
    if not isinstance(value, str) or value == "auto":
        return True
    names = {"gpu": ("cuda", "mps")}.get(value, (value,))
    known = AcceleratorRegistry.available_accelerators()
    return any(name in known and AcceleratorRegistry[name]["accelerator"].is_available() for name in names)


_FINITE: Rule = ("a finite number", _is_number)
_NOT_NEGATIVE: Rule = ("a finite number of at least 0", lambda value: _is_number(value, 0.0))
_BATCHES = _or_none(("a whole number of batches, or a share from 0.0 to 1.0", _is_share))
RULES: Mapping[str, Rule] = {
    "trainer.accelerator": ("auto, cpu, or the name of one that this machine has", _is_there),
    "trainer.devices": (
        f"auto, -1, a whole number from 1 to {CORES}, or the numbers of devices",
        _are_devices,
    ),
    "trainer.num_nodes": _whole(1),
    "trainer.precision": (
        "32, 64, 16-mixed, bf16-mixed or null, since layers compute in float32 or float64",
        lambda value: (
            str(value) in ("None", "64", "32", "16", "bf16", "16-mixed", "bf16-mixed", "32-true", "64-true")
        ),
    ),
    "trainer.max_epochs": _or_none(_whole(-1)),
    "trainer.min_epochs": _or_none(_whole(0)),
    "trainer.max_steps": _whole(-1),
    "trainer.min_steps": _or_none(_whole(0)),
    "trainer.max_time": _or_none(("a time above 0 such as 00:12:00:00, 12 hours", _is_time)),
    "trainer.fast_dev_run": (
        "true, false, or a whole number of at least 0",
        lambda value: isinstance(value, bool) or _is_whole(value, 0),
    ),
    "trainer.limit_train_batches": _BATCHES,
    "trainer.limit_val_batches": _BATCHES,
    "trainer.limit_test_batches": _BATCHES,
    "trainer.limit_predict_batches": _BATCHES,
    "trainer.val_check_interval": _or_none(
        (
            # a time, which Lightning allows, does not go with its EarlyStopping
            "a whole number of batches of at least 1, or a share above 0.0 up to 1.0",
            lambda value: _is_share(value) and value > 0,
        )
    ),
    "trainer.check_val_every_n_epoch": _or_none(_whole(1)),
    "trainer.num_sanity_val_steps": _or_none(_whole(-1)),
    "trainer.log_every_n_steps": _or_none(_whole(1)),
    "trainer.accumulate_grad_batches": _whole(1),
    "trainer.gradient_clip_val": _or_none(_NOT_NEGATIVE),
    "trainer.gradient_clip_algorithm": (
        "norm, value, or null",
        lambda value: value in (None, "norm", "value"),
    ),
    "trainer.reload_dataloaders_every_n_epochs": _whole(0),
    "early_stopping.min_delta": _NOT_NEGATIVE,
    "early_stopping.patience": _whole(0),
    "early_stopping.stopping_threshold": _or_none(_FINITE),
    "early_stopping.divergence_threshold": _or_none(_FINITE),
    "checkpoint.save_top_k": _whole(-1),
    "checkpoint.every_n_train_steps": _or_none(_whole(0)),
    "checkpoint.every_n_epochs": _or_none(_whole(0)),
}
"""Rules by the name of the setting."""


def refuse(values: Namespace) -> None:
    """Refuse settings that break a rule.

    Raises:
        ConfigError: naming the first.
    """
    for key, (rule, holds) in RULES.items():
        if key in values:
            require(key, values[key], holds(values[key]), rule)
    trainer = values.trainer
    epochs = -1 if trainer.max_epochs is None and trainer.max_time is not None else trainer.max_epochs
    endless = epochs == -1 and trainer.max_steps == -1
    rule = "given, or `trainer.max_steps`: the learning rate falls until the last step"
    require("trainer.max_epochs", trainer.max_epochs, not endless, rule)


def refuse_late_validation(trainer: Namespace, batches: int) -> None:
    """Refuse a validation after more batches than an epoch has.

    Args:
        trainer: Settings of the Trainer.
        batches: Number of batches of an epoch, without limits.

    Raises:
        ConfigError: naming both.
    """
    interval, batches = trainer.val_check_interval, _limited(trainer, batches)
    if interval is not None and _counts(interval) and trainer.check_val_every_n_epoch is not None:
        rule = (
            f"at most {batches}, the batches of an epoch; `trainer.check_val_every_n_epoch` null lifts that"
        )
        require("trainer.val_check_interval", interval, interval <= batches, rule)


def refuse_no_step(trainer: Namespace, batches: int) -> None:
    """Refuse a fit that would train no step.

    Args:
        trainer: Settings of the Trainer.
        batches: Number of batches of an epoch, without limits.

    Raises:
        ConfigError: naming the setting that leaves none.
    """
    for key in ("max_epochs", "max_steps"):
        rule = "above 0, or -1 for no limit, so that a fit trains a step; `dream test` tests without training"
        require(f"trainer.{key}", trainer[key], trainer[key] != 0, rule)
    limit = trainer.limit_train_batches
    rule = f"so large that a fit trains a step, with {batches} batches in an epoch"
    if batches:
        require("trainer.limit_train_batches", limit, _limited(trainer, batches) > 0, rule)
    else:
        raise ConfigError(
            "the data hold no batch to train on, so that a fit would train no step. Name others."
        )


def _limited(trainer: Namespace, batches: int) -> int:
    """Number of batches of an epoch, of `batches` without limits."""
    limit = trainer.limit_train_batches
    if limit is None:
        return batches
    return min(int(limit), batches) if _counts(limit) else int(batches * limit)


def _counts(value: float) -> bool:
    """Whether `value` is a number of batches, and no share of them."""
    return isinstance(value, int) or value > 1


def is_refusal(error: BaseException) -> bool:
    """Whether Lightning raised `error` itself, to refuse a value that it met while it ran."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, ValueError) and Path(frames[-1].filename).is_relative_to(_LIGHTNING)


def refused(error: Exception, trainer: Namespace) -> ConfigError:
    """Return an error that names the settings by which Lightning refused to build a Trainer."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    given = {name: value for name, value in trainer.items() if name not in ("callbacks", "logger", "plugins")}
    named = [name for name in given if re.search(rf"\b{name}\b", text)]
    # a package that is missing is named by what needs it
    named = named or [
        name
        for name in ("strategy", "precision", "profiler", "accelerator", "devices")
        if _tells(given[name], text)
    ]
    key = f"trainer.{named[0]}" if named else "trainer"
    got = f"; got {shown(given[named[0]])}" if named else ""
    return ConfigError(f"`{key}` must be one that Lightning can use here{got}: {text}", key=key)


def _tells(value: Any, text: str) -> bool:
    words = re.findall(r"[a-z]{2,}", str(value).lower()) if isinstance(value, str) and value != "auto" else []
    return any(word in text.lower() for word in words)
