"""Classes that a configuration may name, and whose a run is.

A YAML file, a run or a checkpoint may come from anyone, and a class path in it is code that runs: already the
import of its module is. So a class path is imported only if it lies in `PACKAGES` and not in `CLOSED`, or is
named on the command line by ``--allow``, or is the user's own code (`own_code`). jsonargparse asks before
each import (`begin`); `check_settings` looks at what is given to each object that is made.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from argparse import Namespace as Values
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace, set_parsing_settings

from dream import sums
from dream.errors import CheckpointError, ConfigError
from dream.files import is_address, read_bytes
from experiments.folders import PLAN, RUN
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData

Trust = Literal["none", "run"]
PACKAGES = (
    "dream",
    "lightning_modules",
    "experiments",
    "lightning",
    "pytorch_lightning",
    "lightning_fabric",
    "torchmetrics",
    "torch.optim",
)
"""Packages whose classes any configuration may name; Lightning has several names."""
_LIGHTNING = (
    "_graveyard",
    "cli",
    "core.saving",
    "demos",
    "loggers.comet",
    "loggers.litlogger",
    "loggers.mlflow",
    "loggers.neptune",
    "loggers.wandb",
    "plugins.io.async_plugin",
    "serve",
    "strategies.deepspeed",
    "strategies.launchers",
)
CLOSED = (
    "experiments.benchmarks",
    "experiments.cli",
    "experiments.resolved",
    "experiments.run",
    "lightning.__setup__",
    "lightning.data",
    "lightning.fabric.cli",
    "lightning_fabric.cli",
    *(
        f"{package}.{module}"
        for package in ("lightning.pytorch", "pytorch_lightning")
        for module in _LIGHTNING
    ),
    "torchmetrics.audio",
    "torchmetrics.functional",
    "torchmetrics.image",
    "torchmetrics.multimodal",
    "torchmetrics.text",
    "torchmetrics.video",
)
"""Parts of them that start processes, build what a setting names, ask addresses or download models."""
ALLOW_HELP = (
    "A package, module or class that the configuration may name by class_path besides those of dream, "
    "Lightning, torchmetrics and torch.optim; may be repeated. A configuration cannot set it."
)
TRUST_HELP = (
    "`run`: run the Python that a run holds although it is not signed with your key. `none`: run no Python "
    "beside a configuration. If not given, Python beside your own runs and configurations is run. A "
    "configuration cannot set it."
)
_TEXTS = ("group", "project")
"""Settings that name no file."""

_verdicts: dict[str, bool] = {}
_named: set[str] = set()
"""Import paths that the user has named: own code, and what ``--allow`` opens."""
_ever: set[str] = set()


def begin(named: Iterable[str]) -> None:
    """Let configurations name the classes of `PACKAGES` and `named`, and none besides, from now on.

    Args:
        named: Packages, modules and classes of ``--allow``, which are imported.

    Raises:
        ConfigError: One of them does not exist.
    """
    _named.clear()
    _verdicts.clear()
    _verdicts.update(dict.fromkeys(PACKAGES, True) | dict.fromkeys(CLOSED, False))
    admit(*(path for name in named for path in _paths(name)))


def admit(*paths: str) -> None:
    """Let configurations name what lies at these import paths, too."""
    _named.update(paths)
    _ever.update(paths)
    _verdicts.update(dict.fromkeys(paths, True))
    set_parsing_settings(
        import_path_denylist=["*", *CLOSED, *(_ever - _named)], import_path_allowlist=[*PACKAGES, *_named]
    )


def _paths(name: str) -> list[str]:
    """Import path that the user allows, and that at which its class is defined."""
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", name) or name.partition(".")[0] == "jsonargparse":
        raise ConfigError(
            f"`--allow` must be a package, module or class such as my_package.Model; got {name!r}."
        )
    found = located(name)
    if found is None:
        raise ConfigError(
            f"`--allow` must name a package, module or class that can be imported; {name!r} cannot. Check "
            "it, and PYTHONPATH."
        )
    return [name] if inspect.ismodule(found) else [name, _home(found)]


def located(path: str) -> Any:
    """Return what lies at an import path, which is imported; None where there is nothing."""
    module, _, name = path.rpartition(".")
    try:
        return importlib.import_module(path)
    except ImportError:
        pass
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None


def find(path: str) -> type | None:
    """Return the class at an import path that a configuration names; None where it may not or there is none.

    Nothing is imported that it may not name.
    """
    module, _, name = path.rpartition(".")
    if not permits(path):
        return None
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) and permits(_home(found)) else None


def permits(path: str) -> bool:
    """Whether a configuration may name this import path: what is known of its longest part decides."""
    parts = path.split(".")
    known = (_verdicts.get(".".join(parts[:length])) for length in range(len(parts), 0, -1))
    return next((verdict for verdict in known if verdict is not None), False)


def _home(found: Any) -> str:
    """Import path at which a class or function is defined."""
    return f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"


def _by_user(found: Any) -> bool:
    """Whether a class or function is of the user's own code, or lies in what they allowed."""
    return any(f"{_home(found)}.".startswith(f"{path}.") for path in _named)


def refuse(config: Namespace) -> None:
    """Refuse a parsed configuration that names something else than a class, or a class that it may not name.

    jsonargparse lets the latter stand where any value may.

    Raises:
        ConfigError: Naming it.
    """
    for key, path in _class_paths(config):
        key = key.replace(".init_args", "")
        if not permits(path):
            raise denied(path, key)
        found = located(path)
        if not isinstance(found, type) and not _by_user(found):
            raise ConfigError(
                f"`{key}.class_path` must be a class; {path} is a {type(found).__name__}.", key=key
            )


def denied(path: str, key: str) -> ConfigError:
    """Error of a class path that a configuration may not name."""
    if path.endswith((".yaml", ".yml", ".json")):
        return ConfigError(
            f"`{key or 'class_path'}` must be given in its place, not by a file; got {path}. Copy what it "
            "holds, or give a whole configuration by -c.",
            key=key or None,
        )
    return ConfigError(
        f"`{key or 'class_path'}` must be a class that a configuration may name, of dream, Lightning, "
        "torchmetrics or torch.optim, and none that starts processes or asks addresses; got "
        f"{path}, which was not imported. If you trust it, add --allow {path}",
        key=key or None,
    )


def check_settings(kind: type, settings: Mapping[str, Any]) -> None:
    """Refuse what a configuration must not give to an object that is made of the class `kind`.

    Raises:
        ConfigError: A setting that takes any value is given a class, or a function which is not the user's,
            or a class of Lightning an address.
    """
    defaults = inspect.signature(kind).parameters
    for name, value in settings.items():
        key = f"`{name}` of {kind.__name__}"
        if (path := next((path for _, path in _class_paths(value)), None)) is not None:
            raise ConfigError(
                f"{key} takes any value, and so no class: got class_path {path}. Leave it out, or set it in "
                "Python of your own."
            )
        given = name not in defaults or value is not defaults[name].default
        for part in _parts(value):
            if given and inspect.isroutine(part) and not _by_user(part):
                raise ConfigError(
                    f"{key} must be a function of your own; got {_home(part)}. If you trust it, add --allow "
                    f"{_home(part)}"
                )
            free = name in _TEXTS or issubclass(kind, (TaskModule, TaskData)) or _by_user(kind)
            if isinstance(part, str) and not free:
                refuse_address(part, key)


def refuse_address(value: str, key: str) -> None:
    """Refuse an address where a text or a path belongs: nothing is fetched because a setting says so.

    Raises:
        ConfigError: It is one.
    """
    if is_address(value):
        raise ConfigError(
            f"{key} must be on this machine, not an address; got {value}. Copy it yourself, and check where "
            "it comes from."
        )


def _parts(value: Any) -> Iterator[Any]:
    """A value, and all that the dictionaries and lists in it hold."""
    left, seen = [value], set()
    while left:
        part = left.pop()
        yield part
        if isinstance(part, Mapping | Values | list | tuple) and id(part) not in seen:
            seen.add(id(part))
            values = vars(part) if isinstance(part, Values) else part
            left += values.values() if isinstance(values, Mapping) else values


def _class_paths(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Key and path of every class path in a value."""
    values = vars(value) if isinstance(value, Values) else value
    if isinstance(values, Mapping):
        if isinstance(path := values.get("class_path"), str):
            yield key, path
        for name, inner in values.items():
            yield from _class_paths(inner, f"{key}.{name}".removeprefix("."))
    elif isinstance(values, list | tuple):
        for inner in values:
            yield from _class_paths(inner, key)


def trusts(folder: Path, trust: Trust | None, *, of_run: bool = False) -> bool:
    """Whether a command does what the Python and the settings in `folder` say.

    So it does for what the user made or named, and for a run only if this user signed it.

    Args:
        folder: That with the Python and the settings.
        trust: Value of ``--trust``.
        of_run: Whether it was named as a run; it is one then, whatever it lacks.
    """
    if trust is not None:
        return trust == "run"
    return sums.signed(folder) if of_run or _is_run(folder) else True


def recorded(folder: Path, trust: Trust | None) -> list[str]:
    """The command of the run in `folder`, if it is this user's own or trusted; else no words."""
    try:
        content = read_bytes(folder / RUN)
        command = json.loads(content)["command"]
        found = sums.read(folder)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, CheckpointError):
        return []
    own = found is not None and found.own and found.allows(RUN, content)
    if not (trust == "run" or (trust is None and own)) or not isinstance(command, list):
        return []
    return [word for word in command if isinstance(word, str)]


def _is_run(folder: Path) -> bool:
    """Whether `folder` is that of a run, a comparison or a sweep."""
    return any((folder / name).exists() for name in (RUN, PLAN, sums.SUMS))
