"""Presets by name: ``--preset NAME``, or `preset` in a YAML file, sets fields of `model.config`."""

from __future__ import annotations

from typing import Any

from dream.config import PRESETS
from dream.errors import ConfigError, nearest

HELP = (
    f"Values for `model.config` by name: {', '.join(PRESETS)}; `dream config show NAME` shows them. They "
    "beat those of the YAML file, typed settings beat them, and the width of the input stays the data's. A "
    "core that is not DREAM has no fast weights: there they set the size to match and how surprise is "
    "measured."
)


def values(name: object) -> dict[str, Any]:
    """Return the fields that the preset `name` sets, without the width of the input, which data or task set.

    Raises:
        ConfigError: there is no such preset.
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(
            f"`preset` must be the name of one; got {name!r}. {nearest(str(name), PRESETS)}", key="preset"
        )
    return {field: value for field, value in PRESETS[name].values.items() if field != "input_dim"}


def section(name: object) -> dict[str, Any]:
    """Return the preset `name` as the content of a YAML file.

    Raises:
        ConfigError: there is no such preset.
    """
    return {"model": {"init_args": {"config": values(name)}}}


def spelled_out(content: dict[str, Any]) -> dict[str, Any]:
    """Replace the `preset` in the content of a YAML file by its values, which the file's own beat.

    Raises:
        ConfigError: there is no such preset.
    """
    content = dict(content)
    name = content.pop("preset")
    model = content.get("model", {})
    if name is None or not isinstance(model, str | dict):
        return content
    model = {"class_path": model} if isinstance(model, str) else model
    settings = model.get("init_args") or {}
    config = settings.get("config") or {}
    if isinstance(config, dict):
        settings = {**settings, "config": {**values(name), **config}}
    return {**content, "model": {**model, "init_args": settings}}
