"""Sources of the compiled kernel; without one a reason is logged once, and the reference serves."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from dream import DREAM, ConfigError, DREAMError
from dream.ops import build, native, registry


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that has never had the kernel; its cache."""
    cache, temporary = tmp_path / "cache", tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(native, "_found", None)
    monkeypatch.setattr(registry, "_reported", set())
    return cache / "dream" / "kernel"


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Compilation is a copy of what this session has already compiled; the folders asked for."""
    found = native.kernel()
    assert isinstance(found, native.Kernel), found
    folders = []

    def copy(level: str, folder: Path) -> Path:
        folders.append(folder)
        return Path(shutil.copy(found.path, folder / build.name(level)))

    monkeypatch.setattr(build, "build", copy)
    return folders


def test_it_is_compiled_once_and_kept(
    compiled: list[Path], fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = native._find()
    assert compiled == [fresh]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "compiling the CPU kernel" in caplog.text
    assert native._find().path == first.path == fresh / build.name(torch.backends.cpu.get_cpu_capability())
    assert len(compiled) == 1


def test_a_damaged_library_is_compiled_again(compiled: list[Path], fresh: Path) -> None:
    fresh.mkdir(parents=True)
    (fresh / build.name(torch.backends.cpu.get_cpu_capability())).write_bytes(b"half of it")
    assert native._find().path.parent == fresh
    assert compiled == [fresh]


def test_a_home_that_cannot_be_written(compiled: list[Path], fresh: Path) -> None:
    fresh.parents[1].write_text("a file where the cache should be")
    path = native._find().path
    assert path.parent == Path(tempfile.gettempdir(), f"dream-kernel-{os.getuid()}")
    assert path.parent.stat().st_mode & 0o077 == 0
    assert native._find().path == path
    assert len(compiled) == 1


def test_a_temporary_folder_that_others_could_write_is_not_trusted(compiled: list[Path], fresh: Path) -> None:
    fresh.parents[1].write_text("a file where the cache should be")
    planted = Path(tempfile.gettempdir(), f"dream-kernel-{os.getuid()}")
    planted.mkdir()
    planted.chmod(0o777)
    assert native._find().path.parent != planted


def test_what_a_wheel_brought_comes_first(
    compiled: list[Path], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = fresh.parents[2] / "package"
    shutil.copytree(build.SOURCES, package, ignore=shutil.ignore_patterns("*.so"))
    monkeypatch.setattr(build, "SOURCES", package)
    library = build.build(torch.backends.cpu.get_cpu_capability(), package)
    compiled.clear()
    assert native._find().path == library
    assert compiled == []


def test_without_a_compiler(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", str(fresh))
    monkeypatch.delenv("CXX", raising=False)
    model, x = DREAM(3, 8, 2, backend="auto"), torch.randn(2, 5, 3)
    with caplog.at_level(logging.WARNING, logger="dream.ops.registry"):
        model(x)
        model(x)
    said = [record.getMessage() for record in caplog.records if record.name == "dream.ops.registry"]
    assert len(said) == 1
    assert said[0].startswith(
        "backend cpu is not used: the CPU kernel is not there: no wheel brought it, and there is no C++"
    )
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler .*backend='auto'"):
        DREAM(3, 8, 2, backend="cpu")(x)
    with pytest.raises(DREAMError), torch.no_grad():
        DREAM(3, 8, 2, backend="cpu").cell(x[:1, 0])
    assert list(fresh.iterdir()) == []


def test_a_compiler_that_fails(fresh: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'kernel.cpp:1: error: no such language' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    with pytest.raises(OSError, match=r"broken-c\+\+ failed: kernel.cpp:1: error: no such language"):
        native._find()
    assert list(fresh.iterdir()) == []


def test_another_processor(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(OSError, match="needs an x86-64 processor with AVX2; this is aarch64"):
        native._find()


def test_a_changed_source_has_another_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = build.name("AVX2")
    shutil.copytree(build.SOURCES, tmp_path / "kernel")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "kernel")
    assert build.name("AVX2") == before
    assert build.name("AVX512") != before
    with (tmp_path / "kernel" / "vector.h").open("a") as file:
        file.write("// changed\n")
    assert build.name("AVX2") != before


def library(folder: Path, source: str) -> Path:
    """A shared library of one C++ source, whatever it holds."""
    path, compiler = folder / "library.so", build.compiler()
    assert compiler is not None
    command = [*compiler, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)]
    subprocess.run(command, input=source, text=True, check=True)
    return path


def test_the_schema_of_the_kernel_is_that_of_its_sources() -> None:
    found = native.kernel()
    assert isinstance(found, native.Kernel), found
    fields = [field.rpartition(" ")[::2] for field in build.schema().split(";")[:-1]]
    assert fields[:2] == [("int64_t", "samples"), ("int64_t", "steps")]
    assert ("const int64_t*", "lengths") in fields
    assert [name for name, *_ in found.arguments._fields_] == [name for _, name in fields]
    sources = (build.SOURCES / "fields.h").read_text()
    assert len(fields) == len({name for _, name in fields}) == sources.count("\nFIELD(")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("double kappa;double target_norm;", "double target_norm;double kappa;"),
        ("double kappa;", "int64_t kappa;"),
        ("double kappa;", "double kapa;"),
        ("double kappa;", ""),
        ("T* d_U0;", "T* d_U0;T* more;"),
    ],
    ids=["swapped", "another type", "another name", "one less", "one more"],
)
def test_a_kernel_of_another_schema_does_not_load(tmp_path: Path, old: str, new: str) -> None:
    schema = build.schema().replace(old, new)
    assert schema != build.schema()
    other = library(tmp_path, f'extern "C" const char* dream_schema() {{ return "{schema}"; }}')
    with pytest.raises(OSError, match=r"library\.so is of another version"):
        native.Kernel(other)


def test_a_library_without_a_schema_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"library\.so is of another version"):
        native.Kernel(library(tmp_path, 'extern "C" int dream_size() { return 1; }'))


def test_an_argument_that_the_kernel_lacks_is_refused() -> None:
    found = native.kernel()
    assert isinstance(found, native.Kernel), found
    with pytest.raises(AttributeError):
        found.arguments(kapa=0.5)
    with pytest.raises(AttributeError):
        found.arguments().kapa = 0.5


def test_it_says_where_it_is() -> None:
    found = native.kernel()
    assert isinstance(found, native.Kernel), found
    command = [sys.executable, "-m", "dream.ops"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == [f"cpu: {found.path}", "reference: serves everywhere"]
