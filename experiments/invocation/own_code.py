"""Python files beside a configuration: it takes classes from them, and a run keeps copies of those it used.

A class path ``FILE.CLASS`` in a YAML file means the class CLASS of FILE.py in the folder of that YAML file,
where there is such a file. Files are loaded by their place, below the package `PACKAGE`, so that none stands
in the way of an installed module, whatever it is called. They import one another by
``from .FILE import NAME``.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib.abc import MetaPathFinder
from importlib.machinery import FileFinder, ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from dream import sums
from dream.errors import ConfigError, nearest
from dream.files import inside, read_bytes
from experiments.invocation import trust
from experiments.invocation.explain import chain
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData

PACKAGE = "beside_config"
KINDS: dict[str, type] = {"model": TaskModule, "data": TaskData}
"""Base of the classes of a section."""
_sources: dict[str, bytes] = {}
_sealed: dict[Path, sums.Sums] = {}
"""Lists of sums of the user's own runs among the folders."""


class _Source(SourceFileLoader):
    """Loads a module from its source alone: compiled files beside it might hold something else."""

    def path_stats(self, path: str) -> Any:
        raise OSError  # without its time no compiled file is read or written

    def get_data(self, path: str) -> bytes:
        content = super().get_data(path)
        for folder, found in _sealed.items():
            file = Path(path)
            if file.is_relative_to(folder) and not found.allows(file.relative_to(folder).as_posix(), content):
                raise ImportError(f"the run in {folder}, which is your own, was not written with this file")
        if path == self.path:
            _sources[_inside(self.name, self.is_package(self.name))] = content
        return content


class _Finder(MetaPathFinder):
    """Finds the modules below `PACKAGE`, which are Python files and nothing else."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] != PACKAGE:
            return None
        for folder in path or ():
            spec = FileFinder(folder, (_Source, [".py"])).find_spec(name)
            if spec is not None and spec.loader is not None:
                return spec
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Finder())


def begin(folders: Sequence[Path], sealed: bool = True) -> None:
    """Take classes from the Python files in `folders` from now on, and forget those loaded before.

    Of files of one name that in the first folder counts.

    Args:
        folders: They are trusted.
        sealed: Whether those that are runs are so because they are signed.
    """
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    _sources.clear()
    _sealed.clear()
    for folder in folders if sealed else ():
        if (found := sums.read(folder)) is not None:
            _sealed[folder.resolve()] = found
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
    if (classes := _without(name, file)) is not None:
        raise _undefined(name, file, classes)
    try:
        with redirect_stdout(sys.stderr):  # stdout holds a command's results
            module = importlib.import_module(f"{PACKAGE}.{stem}")
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{_place(error, file)}: {_reason(error, file)}") from error
    if (other := Path(str(module.__file__))) != file.parent.resolve() / file.name:
        raise ConfigError(
            f"`{stem}` must be one file, since a run keeps it; there are {file} and {other}. Rename one."
        )
    found = getattr(module, name, None)
    if not isinstance(found, type):
        own = [
            key for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
        ]
        raise _undefined(name, file, [key for key in own if isinstance(getattr(module, key), type)])
    kind = KINDS.get(section, object)
    if not issubclass(found, kind):
        raise ConfigError(
            f"`{section}.class_path` must be a {kind.__name__}; `{name}` in {file} is none. Derive it from a "
            "class of lightning_modules."
        )
    trust.admit(f"{PACKAGE}.{stem}", f"{found.__module__}.{found.__qualname__}")
    return f"{PACKAGE}.{class_path}"


def _without(name: str, file: Path) -> list[str] | None:
    """Classes of `file` if nothing in it can define `name`: then it is not run, since it is no part of this.

    Returns:
        None if it is to be loaded.
    """
    try:
        nodes = list(ast.walk(ast.parse(read_bytes(file, links=True))))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None  # which loading it says better
    classes = [node.name for node in nodes if isinstance(node, ast.ClassDef)]
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    aliases = (node for node in nodes if isinstance(node, ast.alias))
    names |= {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
    return None if {name, "*"} & {*names, *classes} else classes


def _undefined(name: str, file: Path, classes: list[str]) -> ConfigError:
    hint = nearest(name, classes) if classes else "It defines no class."
    return ConfigError(f"{file} must define the class `{name}`; it does not. {hint}")


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
            sums.write_atomic(folder, name, content)


def explained(error: BaseException) -> ConfigError | None:
    """Return an error with file and line if `error` was raised in a loaded file or what it called."""
    files = [
        Path(file)
        for name, module in list(sys.modules.items())
        if name.startswith(f"{PACKAGE}.") and (file := getattr(module, "__file__", None))
    ]
    for cause in chain(error):
        for frame in reversed(traceback.extract_tb(cause.__traceback__)):
            if Path(frame.filename) in files:
                return ConfigError(
                    f"{frame.filename}, line {frame.lineno}: {_reason(cause, Path(frame.filename))}"
                )
    return None


def _inside(name: str, package: bool) -> str:
    """Path of a loaded module below the folder of its configuration."""
    parts = name.split(".")[1:]
    return Path(*parts, "__init__.py").as_posix() if package else Path(*parts).with_suffix(".py").as_posix()


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
