"""Python files beside a configuration: it takes classes from them, and a run keeps copies of those it used.

A class path ``FILE.CLASS`` in a YAML file means the class CLASS of FILE.py in the folder of that YAML file,
where there is such a file. Files are loaded by their place, below the package `PACKAGE`, so that none stands
in the way of an installed module, whatever it is called. They import one another by
``from .FILE import NAME``.
"""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

from dream.errors import ConfigError, nearest
from dream.files import inside, read_bytes, write_atomic
from experiments.invocation.explain import chain
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData

PACKAGE = "beside_config"
KINDS: dict[str, type] = {"model": TaskModule, "data": TaskData}
"""Base of the classes of a section."""
_sources: dict[str, bytes] = {}


def begin(folders: Sequence[Path]) -> None:
    """Take classes from the Python files in `folders` from now on, and forget those loaded before.

    Of files of one name that in the first folder counts.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    _sources.clear()
    package = ModuleType(PACKAGE)
    package.__path__ = [str(folder.resolve()) for folder in dict.fromkeys(folders)]
    sys.modules[PACKAGE] = package
    importlib.invalidate_caches()


def file_of(class_path: object, folders: Sequence[Path]) -> Path | None:
    """Return the file that a class path names; None where it names an installed class."""
    found = re.fullmatch(r"(\w+)\.\w+", class_path) if isinstance(class_path, str) else None
    files = [folder / f"{found[1]}.py" for folder in folders] if found else []
    return next((file for file in files if file.is_file()), None)


def full_name(class_path: str | None, folders: Sequence[Path]) -> str | None:
    """Name under which the class of a class path is imported; that of a file only after `load`."""
    return f"{PACKAGE}.{class_path}" if file_of(class_path, folders) else class_path


def class_paths(content: Any) -> Iterator[tuple[str, str, dict[str, Any], str]]:
    """Every class path in the content of a YAML file: path, section, dictionary and key that hold it.

    The section is `model` or `data` where it names their class, "" for others.
    """
    if not isinstance(content, dict):
        return
    for section in KINDS:
        if isinstance(content.get(section), str):
            yield content[section], section, content, section
    own = {id(content.get(section)): section for section in KINDS}
    left: list[Any] = [content]
    seen = {id(content)}  # a damaged file may refer to itself
    while left:
        part = left.pop()
        if isinstance(part, dict) and isinstance(part.get("class_path"), str):
            yield part["class_path"], own.get(id(part), ""), part, "class_path"
        inner = part.values() if isinstance(part, dict) else part
        for value in inner:
            if isinstance(value, dict | list) and id(value) not in seen:
                seen.add(id(value))
                left.append(value)


def load(class_path: str, file: Path, section: str) -> str:
    """Load the class that `class_path` names in `file`; return its full name.

    Raises:
        ConfigError: the file cannot be loaded, has no such class, or one that is not of the kind of its
            section; or beside another configuration is a file of the same name, too.
    """
    stem, name = class_path.split(".")
    try:
        with _no_bytecode(), redirect_stdout(sys.stderr):  # stdout holds a command's results
            module = importlib.import_module(f"{PACKAGE}.{stem}")
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{_place(error, file)}: {_reason(error, file)}") from error
    if (other := Path(str(module.__file__))) != file.parent.resolve() / file.name:
        raise ConfigError(
            f"`{stem}` must be one file, since a run keeps it; there are {file} and {other}. Rename one."
        )
    for loaded, path in _files():
        _sources.setdefault(loaded, path.read_bytes())
    found = getattr(module, name, None)
    if not isinstance(found, type):
        own = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and value.__module__ == module.__name__
        ]
        hint = nearest(name, own) if own else "It defines no class."
        raise ConfigError(f"{file} must define the class `{name}`; it does not. {hint}")
    kind = KINDS.get(section, object)
    if not issubclass(found, kind):
        raise ConfigError(
            f"`{section}.class_path` must be a {kind.__name__}; `{name}` in {file} is none. Derive it from a "
            "class of lightning_modules."
        )
    return f"{PACKAGE}.{class_path}"


def plain(text: str) -> str:
    """`text` with class names as a YAML file has them."""
    return text.replace(f"{PACKAGE}.", "")


def sources() -> dict[str, bytes]:
    """Contents of the loaded files as they were then, by their path below the folder of the configuration."""
    return dict(_sources)


def keep(folder: Path) -> None:
    """Write the loaded files into `folder`, beside its configuration.

    Raises:
        OSError: it is not writable.
    """
    for name, content in _sources.items():
        target = inside(folder, *Path(name).parts)
        if not target.is_file() or read_bytes(target) != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(target, content)


def explained(error: BaseException) -> ConfigError | None:
    """Return an error with file and line if `error` was raised in a loaded file or what it called."""
    files = [path for _, path in _files()]
    for cause in chain(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if Path(frame.filename) in files:
                return ConfigError(
                    f"{frame.filename}, line {frame.lineno}: {_reason(cause, Path(frame.filename))}"
                )
    return None


def _files() -> list[tuple[str, Path]]:
    """Name below the configuration's folder, and path, of every loaded file."""
    found = []
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{PACKAGE}.") and (file := getattr(module, "__file__", None)):
            parts = name.split(".")[1:]
            inside = (
                Path(*parts, "__init__.py")
                if hasattr(module, "__path__")
                else Path(*parts).with_suffix(".py")
            )
            found.append((inside.as_posix(), Path(file)))
    return found


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Write no file beside the user's while a module is loaded."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _place(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file.resolve())]
    return f"{file}, line {lines[-1]}" if lines else str(file)


def _reason(error: BaseException, file: Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.msg}."
    reason = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}."
    if isinstance(error, ModuleNotFoundError) and error.name and (file.parent / f"{error.name}.py").is_file():
        return f"{reason} A file beside it is imported as `from .{error.name} import NAME`."
    return reason
