"""One sentence in place of the pages that jsonargparse raises: key, value, rule, nearest known key."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from typing import Any

from dream.errors import ConfigError, DREAMError
from experiments.invocation import trust
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData
from lightning_modules.redaction import HIDDEN, is_secret

_CLASS = re.compile(r"class_path[= ]'([\w.]+)'")
_PROBLEM = re.compile(r"^( *)- Problem with given class_path '([\w.]+)':\n(?:\1 .*(?:\n|$))*", re.MULTILINE)
_PARSER_KEY = re.compile(r'Parser key "([\w.]+)":')
_UNKNOWN = (
    (re.compile(r"Group '([\w.]+)' does not accept option '([\w.]+)'"), "{0}.{1}"),
    (re.compile(r"Option '([\w.]+)' is not accepted"), "{0}"),
    (re.compile(r"Subcommand '\w+' does not accept option '([\w.]+)'"), "{0}"),
    (re.compile(r"unrecognized arguments: --([\w.+]+)"), "{0}"),
)
_REQUIRED = re.compile(r"the following arguments are required: ([\w.]+)")
_SUBTYPES = re.compile(r"Subtypes: \[(.*)\]")
_EXPECTED = re.compile(r"Expected an? (.*?)(?:\. Got value: |$)", re.MULTILINE)
_GOT = re.compile(r"(?:Got value|Given value): (.*)")
_NO_CLASS = re.compile(
    r"(?:module|type object) '[\w.]+' has no attribute '(\w+)'"
    r"|dot import path string: ([\w.]+)|No module named '([\w.]+)'"
    r"|path but ([\w.]+) either not accessible"
)
_ADDRESS = re.compile(r"(?<=['\"])[\w+.-]+://[^'\"]*")
_DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
_NO_SECTION = re.compile(r"'(\w+)' object has no attribute 'keys'")
_TYPE = re.compile(
    r"Literal\[(?P<choices>[^\]]*)\]|list\[(?P<item>\w+)\]|<class '(?P<name>[\w.]+)'>|(?P<word>\w+)"
)
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
}
_QUOTED = re.compile(r"`(\w+)(?:=[^`]*)?`")


def explain(error: BaseException, parser_keys: Collection[str], parsed: str = "") -> DREAMError:
    """Return a DREAMError that explains `error`, which was raised while an experiment was parsed or built.

    Args:
        error: what came out of the parser or of a constructor.
        parser_keys: the keys that the parser itself knows, such as ``trainer.max_epochs``.
        parsed: the configuration as text, if parsing got that far; it names the classes in use.
    """
    text = _without_bases(str(error))
    every = [key for key in (*parser_keys, *_class_keys(text + parsed)) if not key.endswith(".help")]
    known = [key for key in every if key != "model.shape" and not key.startswith("model.shape.")]
    for cause in chain(error):
        if isinstance(cause, DREAMError):
            return _with_path(cause, known)
    keys = _PARSER_KEY.findall(text)
    section = f"{keys[0]}." if keys and _CLASS.search(text) else ""
    for _, path in _PROBLEM.findall(text):
        if cls := trust.find(path):
            known += [f"{_path(section)}{name}" for name in settings(cls)]
    if not_allowed := _DENIED.search(text):
        return trust.denied(not_allowed[1], _path(".".join(dict.fromkeys(keys))))
    if found := _NO_SECTION.search(text):
        key = f"{section or '.'.join([*keys[:1], ''])}init_args"
        value = found[1].replace("NoneType", "null")
        return ConfigError(
            f"`{key}` must be a section with settings; got {value}. Leave it out for the defaults.", key=key
        )
    if missing := _NO_CLASS.search(text):
        name = next(group for group in missing.groups() if group)
        offered = [cls.__name__ for base in (TaskModule, TaskData) for cls in _subclasses(base)]
        key = f"{section}class_path" if section else keys[0] if keys else "class_path"
        hint = _hint(name.rpartition(".")[2], offered)
        return ConfigError(
            f"`{key}` names a class that is not there, or not of the right kind: {name}.{hint}", key=key
        )
    for pattern, form in _UNKNOWN:
        if found := pattern.search(text):
            key = _path(section + form.format(*found.groups()))
            parent, _, name = key.rpartition(".")
            if f"{parent}.shape.{name}" in every:
                given = re.search(rf"'{name}'(?:, val=|: )'?([^',)}}]+)", text)
                value = f"; got {given[1]}" if given else ""
                remedy = f"Set `data.{name}` or leave it out" if f"data.{name}" in every else "Leave it out"
                return ConfigError(f"`{key}` is set by the data{value}. {remedy}.", key=key)
            return ConfigError(f"`{key}` is not a setting.{_hint(key, known)}", key=key)
    if required := _REQUIRED.search(text):
        key = _path(section + required[1])
        return ConfigError(f"`{key}` is required; got nothing. Add --{key}=VALUE.", key=key)
    if keys:
        key, innermost = _path(".".join(dict.fromkeys(keys))), text[text.rindex(f'"{keys[-1]}"') :]
        got = _GOT.search(innermost)
        said, inside = got[1] if got else "NestedArg(", _ADDRESS.search(innermost)
        if said.startswith("NestedArg(") and inside:  # of a section
            said = inside[0]
        trust.refuse_address(said.strip("'\""), f"`{key}`")
        value = HIDDEN if is_secret(key) else got[1] if got else "something else"
        own = " A file of your own: `--data.path=FILE`, without `name`." if key == "data.name" else ""
        return ConfigError(f"`{key}` must be {_rule(innermost)}; got {value}.{own}", key=key)
    lines = "\n".join(line.strip() for line in text.splitlines()[:4])
    quoted = _QUOTED.search(lines)
    return _with_path(ConfigError(lines, key=quoted[1] if quoted else None), known)


def _without_bases(text: str) -> str:
    """`text` without what it says of a class that a given one derives from: the parser tries that, too."""
    problems = [(found[0], trust.find(found[2])) for found in _PROBLEM.finditer(text)]
    for problem, cls in problems:
        if any(cls and other and other is not cls and issubclass(other, cls) for _, other in problems):
            text = text.replace(problem, "")
    return text


def _rule(text: str) -> str:
    """Rule that jsonargparse names, in words."""
    subtypes = _SUBTYPES.search(text)
    expected = _EXPECTED.search(text)
    words = []
    for found in _TYPE.finditer(subtypes[1] if subtypes else expected[1] if expected else ""):
        if found["choices"]:
            words += [choice.strip(" '") for choice in found["choices"].split(",")]
        elif found["item"]:
            words.append(f"a list such as [{'1, 2' if found['item'] == 'int' else 'a, b'}]")
        elif found["name"] and found["name"] != "NoneType":
            short = found["name"].rpartition(".")[2]
            words.append(_WORDS.get(short, f"a {short}, given by class_path and init_args"))
    return " or ".join(dict.fromkeys(words)) or "a section with settings of its own"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _path(key: str) -> str:
    """`key` as a user writes it: without the subcommand and the levels that only jsonargparse needs."""
    head, _, tail = key.partition(".")
    return (tail if head in ("fit", "validate", "test", "predict", "check") else key).replace(
        ".init_args", ""
    )


def _hint(key: str, known: Collection[str]) -> str:
    """The setting nearest to `key`: the same section first, then a section with a similar name."""
    section, _, name = key.rpartition(".")
    names = [path.rpartition(".")[2] for path in known if path.rpartition(".")[0] == section]
    if close := get_close_matches(name, names, n=1, cutoff=0.6):
        return f" Did you mean `{section}.{close[0]}`?" if section else f" Did you mean `{close[0]}`?"
    head, _, tail = key.partition(".")
    sections = {path.partition(".")[0] for path in known if "." in path} | {"model", "data", "seed"}
    if head not in sections and (close := get_close_matches(head, sections, n=1, cutoff=0.6)):
        return f" Did you mean `{close[0]}{'.' if tail else ''}{tail}`?"
    return " `--print_config` shows all settings."


def _with_path(error: DREAMError, known: Collection[str]) -> DREAMError:
    """Replace the bare `key` of `error` by the full path, where exactly one setting has that name.

    Settings of `run` are refused by their path already.
    """
    key = getattr(error, "key", None)
    paths = {path for path in known if key and path.rpartition(".")[2] == key and not path.startswith("run.")}
    if len(paths) != 1:
        return error
    return ConfigError(str(error).replace(f"`{key}", f"`{paths.pop()}", 1), key=key)


def _class_keys(text: str) -> list[str]:
    """Settings of every model and data class that `text` names."""
    keys: list[str] = []
    for path in dict.fromkeys(_CLASS.findall(text)):
        if cls := trust.find(path):
            section = "data" if issubclass(cls, TaskData) else "model"
            keys += [f"{section}.{key}" for key in settings(cls)]
            if issubclass(cls, TaskModule):
                keys += [f"data.{key}" for key in settings(cls.accepts)]
    return keys


def is_text(class_path: str | None, base: type, setting: str) -> bool:
    """Whether a setting of a class is a text; the class is named by its path, or is a known one of `base`."""
    named = {cls.__name__: cls for cls in _subclasses(base)}
    cls = named.get(class_path or "") or trust.find(class_path or "")
    return cls is not None and issubclass(cls, base) and settings(cls).get(setting) in (str, "str")


def settings(cls: type) -> dict[str, Any]:
    """Name and type of every argument of a constructor, and of those it passes ``**options`` on to.

    Fields of dataclasses come with their path.
    """
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        parameters = inspect.signature(base).parameters.values()
        for parameter in parameters:
            found.setdefault(parameter.name, parameter.annotation)
            found |= _fields(parameter.default, f"{parameter.name}.")
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found | (_fields(cls.settings_class()()) if issubclass(cls, TaskModule) else {})


def sections(cls: Any) -> dict[str, str]:
    """Return the sections among the `settings` of a class, each with the name of a setting in it.

    The data set the `shape`, and the width of a layer's input.
    """
    nested = (name.split(".") for name in reversed(settings(cls)) if "." in name)
    return {section: within for section, within, *_ in nested if section != "shape" and within != "input_dim"}


def _fields(instance: Any, prefix: str = "") -> dict[str, Any]:
    """Name and type of every field of a dataclass and of those it holds; none of anything else."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ():
        found[f"{prefix}{field.name}"] = field.type
        found |= _fields(getattr(instance, field.name), f"{prefix}{field.name}.")
    return found


def _subclasses(base: type) -> Iterator[type]:
    cls: type
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)
