"""Sources of the compiled kernel; without one a reason is logged once, and the reference serves."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
    """The compiler returns what this session has already compiled; the folders asked for."""
    found, real = native.kernel(), build.build
    assert isinstance(found, native.Kernel), found
    content = found.path.read_bytes()[: -build.SEAL]
    folders = []

    def build_into(level: str, folder: Path) -> Path:
        folders.append(folder)
        return real(level, folder)

    monkeypatch.setattr(build, "_compiled", lambda _: content)
    monkeypatch.setattr(build, "build", build_into)
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


def library_name() -> str:
    return build.name(torch.backends.cpu.get_cpu_capability())


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_altered(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


def damage_zeroed(path: Path) -> None:  # what a power failure leaves of a file that was not flushed
    path.write_bytes(bytes(path.stat().st_size))


def damage_unsealed(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: -build.SEAL])


def damage_renamed(path: Path) -> None:  # sealed under another name: of other sources
    content = path.read_bytes()[: -build.SEAL]
    path.write_bytes(content + build.seal("dream-avx2-0123456789abcdef.so", content))


def damage_writable(path: Path) -> None:
    path.chmod(0o666)


def damage_owner(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives a file away")
    os.chown(path, 12345, -1)


def damage_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def damage_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES = [damage_truncated, damage_altered, damage_zeroed, damage_unsealed, damage_renamed]
DAMAGES += [damage_writable, damage_owner, damage_link, damage_pipe]


@pytest.mark.parametrize("damage", DAMAGES)
def test_only_what_was_built_here_is_loaded(
    compiled: list[Path], fresh: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = native._find().path
    damage(path)
    caplog.clear()
    assert native._find().path == path
    assert len(compiled) == 2
    assert f"the CPU kernel {path} is not used: " in caplog.text
    found = path.lstat()
    assert stat.S_ISREG(found.st_mode)
    assert (found.st_uid, found.st_mode & 0o022) == (os.getuid(), 0)
    assert native._find().path == path
    assert len(compiled) == 2


def test_a_damaged_library_without_a_compiler_is_a_reason(
    compiled: list[Path], fresh: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage_truncated(native._find().path)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(fresh.parents[1]))
    monkeypatch.setattr(tempfile, "tempdir", str(fresh.parents[2] / "temporary"))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(OSError, match=r"no wheel brought it, and there is no C\+\+ compiler"):
        native._find()
    assert "is not used: it is damaged" in caplog.text


@pytest.mark.parametrize("case", ["writable", "link", "owner"])
def test_a_cache_that_others_can_write_is_not_trusted(
    compiled: list[Path], fresh: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert native._find().path.parent == fresh
    if case == "writable":
        fresh.chmod(0o777)
    elif case == "link":
        fresh.rename(fresh.with_name("theirs"))
        fresh.symlink_to("theirs")
    else:
        if os.geteuid():
            pytest.skip("only root gives a folder away")
        os.chown(fresh, 12345, -1)
    path = native._find().path
    assert path.parent == Path(tempfile.gettempdir(), f"dream-kernel-{os.getuid()}")
    assert len(compiled) == 2
    assert f"{fresh} is no place for the CPU kernel: " in caplog.text


def test_a_full_disk_leaves_nothing_and_the_next_folder_serves(
    compiled: list[Path], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush = os.fsync

    def full(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").readlink().is_relative_to(fresh):
            raise OSError(28, "No space left on device")
        flush(file)

    monkeypatch.setattr(os, "fsync", full)
    assert native._find().path.parent.name == f"dream-kernel-{os.getuid()}"
    assert len(compiled) == 2
    assert list(fresh.iterdir()) == []


def test_what_is_written_takes_the_place_of_a_link(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compiled", lambda _: b"a library")
    fresh.mkdir(parents=True)
    (fresh.parent / "precious").write_text("precious")
    (fresh / library_name()).symlink_to(fresh.parent / "precious")
    before = os.umask(0)
    try:
        path = build.build(torch.backends.cpu.get_cpu_capability(), fresh)
    finally:
        os.umask(before)
    assert (fresh.parent / "precious").read_text() == "precious"
    assert path.lstat().st_mode == stat.S_IFREG | 0o644
    assert build.sealed(path.name, path.read_bytes())


@pytest.mark.parametrize("memory", [True, False], ids=["from memory", "from a copy"])
def test_what_becomes_of_the_file_later_does_not_matter(
    compiled: list[Path], fresh: Path, monkeypatch: pytest.MonkeyPatch, memory: bool
) -> None:
    if not memory:
        monkeypatch.delattr(os, "memfd_create", raising=False)
    path = native._find().path
    code = f"""
import os, pathlib, torch
if not {memory}:
    vars(os).pop("memfd_create", None)
from dream import DREAM
from dream.ops import native
kernel = native.kernel()
assert str(kernel.path) == {str(path)!r}, kernel
layer, x = DREAM(3, 8, 2, backend="cpu").eval(), torch.ones(2, 5, 3)
os.truncate(kernel.path, 100)
served = layer(x)[0]
layer.cell.backend = "reference"
print(torch.allclose(served, layer(x)[0], atol=1e-6))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "True\n"), ended.stderr


def test_processes_that_build_at_once_all_get_a_kernel(
    compiled: list[Path], fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, turns = build._compiled(""), itertools.count()
    # no two compilers need write the same bytes: what follows a library is not read
    monkeypatch.setattr(build, "_compiled", lambda _: content + bytes([next(turns)]))
    over = threading.Event()

    def verified() -> set[str]:
        seen = set()
        while not over.is_set():
            try:
                native._verified(fresh / library_name(), cached=True)
                seen.add("whole")
            except OSError as error:
                seen.add(error.strerror)
        return seen

    with ThreadPoolExecutor(4) as pool:
        reader = pool.submit(verified)
        builds = [
            pool.submit(build.build, torch.backends.cpu.get_cpu_capability(), native._folders()[0])
            for _ in range(20)
        ]
        assert {build.result() for build in builds} == {fresh / library_name()}
        over.set()
        assert reader.result() <= {"whole", "No such file or directory"}
    assert [path.name for path in fresh.iterdir()] == [library_name()]


def test_a_library_that_lacks_a_function_does_not_load(tmp_path: Path) -> None:
    source = f'extern "C" const char* dream_schema() {{ return "{build.schema()}"; }}'
    with pytest.raises(OSError, match=r"library\.so lacks the function dream_forward_f32"):
        native.Kernel(library(tmp_path, source))


def test_a_sealed_library_of_other_arguments_is_compiled_again(compiled: list[Path], fresh: Path) -> None:
    path = native._find().path
    for source in ('extern "C" const char* dream_schema() { return "double x;"; }', "int nothing;"):
        content = library(fresh.parent, source).read_bytes()
        path.write_bytes(content + build.seal(path.name, content))
        compiled.clear()
        assert native._find().path == path
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
