"""From what jsonargparse raises, pages of it, to one sentence: key path, value, rule, nearest known key."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator

from dream.errors import ConfigError, DREAMError, nearest

_CLASS = re.compile(r"class_path[= ]'([\w.]+)'")
_PARSER_KEY = re.compile(r'Parser key "([\w.]+)":')
_UNKNOWN = (
    (re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'"), "{0}.{1}"),
    (re.compile(r"Option '([\w.]+)' is not accepted"), "{0}"),
    (re.compile(r"Subcommand '\w+' does not accept option '([\w.]+)'"), "{0}"),
    (re.compile(r"unrecognized arguments: --([\w.+]+)"), "{0}"),
)
_EXPECTED = re.compile(r"Expected an? (?:<class '([\w.]+)'>|([^.\n]+))")
_GOT = re.compile(r"(?:Got value|Given value): (.*)")
_NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'|Import path (\S+)|No module named '([\w.]+)'")


def explain(error: BaseException, parser_keys: Iterable[str]) -> DREAMError:
    """A DREAMError that says what `error`, raised while parsing or building an experiment, is about.

    Args:
        error: what came out of the parser or of a constructor.
        parser_keys: the keys that the parser itself knows, such as ``trainer.max_epochs``.
    """
    text = str(error)
    known = [*parser_keys, *_class_keys(text)]
    for cause in _chain(error):
        if isinstance(cause, DREAMError):
            return _with_path(cause, known)
    prefix = _PARSER_KEY.search(text)
    top = f"{prefix[1]}." if prefix and _CLASS.search(text) else ""
    if missing := _NO_CLASS.search(text):
        name = next(group for group in reversed(missing.groups()) if group)
        offered = _subclasses(missing[1]) if missing[1] else []
        return ConfigError(
            f"`{top}class_path` names {name!r}, which is not there. {nearest(name, offered) if offered else ''}"
        )
    for pattern, form in _UNKNOWN:
        if found := pattern.search(text):
            key = (top + form.format(*found.groups())).replace(".init_args", "")
            return ConfigError(f"`{key}` is not a setting. {nearest(key, known)}", key=key)
    keys = _PARSER_KEY.findall(text)
    if keys and (expected := [name or phrase for name, phrase in _EXPECTED.findall(text)]):
        path = ".".join(keys).replace(".init_args", "")
        rules = [rule for rule in dict.fromkeys(expected) if rule != "NoneType"] or expected
        got = _GOT.search(text)
        return ConfigError(f"`{path}` must be {' or '.join(rules)}; got {got[1] if got else 'something else'!s}.", key=path)
    return ConfigError("\n".join(line.strip() for line in text.splitlines()[:4]))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _with_path(error: DREAMError, known: Iterable[str]) -> DREAMError:
    """`error` with its bare `key` replaced by the full path, where exactly one setting has that name."""
    key = getattr(error, "key", None)
    paths = {path for path in known if key and path.rpartition(".")[2] == key}
    if len(paths) != 1:
        return error
    return ConfigError(str(error).replace(f"`{key}`", f"`{paths.pop()}`", 1), key=key)


def _class_keys(text: str) -> list[str]:
    """The settings of every model and data class that `text` names."""
    keys: list[str] = []
    for path in dict.fromkeys(_CLASS.findall(text)):
        module, _, name = path.rpartition(".")
        try:
            cls = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError):
            continue
        section = "data" if any(base.__name__ == "LightningDataModule" for base in cls.__mro__) else "model"
        keys += [f"{section}.{key}" for key in settings(cls)]
    return keys


def settings(cls: type) -> list[str]:
    """The arguments of a constructor, the fields of dataclass arguments with their path."""
    keys = []
    for name, parameter in inspect.signature(cls).parameters.items():
        keys.append(name)
        if dataclasses.is_dataclass(parameter.default):
            keys += [f"{name}.{field.name}" for field in dataclasses.fields(parameter.default)]
    return keys


def _subclasses(module: str) -> list[str]:
    try:
        members = vars(importlib.import_module(module))
    except ImportError:
        return []
    return [name for name, member in members.items() if inspect.isclass(member)]
