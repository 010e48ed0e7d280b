"""The public names, what importing `dream` drags in, and who may import whom."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import torch

import dream
from dream import ConfigError, dream_scan
from dream.ops import registry
from dream.ops.registry import BACKENDS, Backend
from tests.dream.support import random_params, random_state, small

ROOT = Path(dream.__file__).resolve().parents[1]
PUBLIC = [
    *(
        "DREAM",
        "CheckpointError",
        "ConfigError",
        "DREAMCell",
        "DREAMConfig",
        "DREAMError",
        "DREAMOutput",
        "DREAMParams",
    ),
    *(
        "DREAMStack",
        "DREAMState",
        "DREAMTrace",
        "DREAMWarning",
        "DataError",
        "ShapeError",
        "StateError",
        "Tensor",
    ),
    *("__version__", "dream_scan", "dream_step", "parameter_groups"),
]
# what a package may not import
FORBIDDEN = {
    "dream": {
        "lightning_modules",
        "experiments",
        "lightning",
        "pytorch_lightning",
        "torchmetrics",
        "pandas",
        "wandb",
    },
    "lightning_modules": {"experiments"},
}


def test_public_names() -> None:
    assert sorted(dream.__all__) == sorted(PUBLIC)
    assert len(set(dream.__all__)) == len(dream.__all__)
    for name in dream.__all__:
        assert getattr(dream, name) is not None
    major, minor, patch = dream.__version__.split(".")[:3]
    assert major.isdigit()
    assert minor.isdigit()
    assert patch[0].isdigit()
    assert (Path(dream.__file__).parent / "py.typed").is_file()


def test_the_functions_live_in_dream_scan() -> None:
    from dream import scan

    for name in ("DREAMParams", "DREAMTrace", "dream_step", "dream_scan"):
        assert getattr(scan, name) is getattr(dream, name)


def test_importing_dream_is_light_and_silent() -> None:
    code = (
        "import sys, random\n"
        "before = random.getstate()\n"
        "import torch\n"
        "threads, seed, dtype = torch.get_num_threads(), torch.initial_seed(), torch.get_default_dtype()\n"
        "import dream\n"
        "assert (threads, seed, dtype) == (torch.get_num_threads(), torch.initial_seed(), "
        "torch.get_default_dtype())\n"
        "assert before == random.getstate()\n"
        "heavy = ['lightning', 'pytorch_lightning', 'torchmetrics', 'pandas', 'wandb', 'matplotlib', "
        "'jsonargparse',\n"
        "         'lightning_modules', 'experiments', 'rich', 'torch._dynamo', 'torch._inductor', 'sympy']\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module") and node.args:
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                yield node.lineno, name.value


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    broken = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for line, name in imports(path)
        if name.split(".")[0] in FORBIDDEN[package]
    ]
    assert broken == []


@pytest.mark.parametrize("package", ["dream", "lightning_modules", "experiments"])
def test_no_import_leads_back(package: str) -> None:
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / package).rglob("*.py")
    }

    def module(name: str) -> str:
        while name and name not in files:  # a name inside a module, or another package's
            name = name.rpartition(".")[0]
        return name

    graph = {name: {module(found) for _, found in imports(path)} - {""} for name, path in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize("package", ["dream"])
def test_the_core_knows_few_packages(package: str) -> None:
    known = {
        "torch",
        "numpy",
        "pydantic",
        "safetensors",
        "triton",
        "huggingface_hub",  # of the extra `hub`, where a name on it is given
        "dream",
        "__future__",
    } | sys.stdlib_module_names
    found = {name.split(".")[0] for path in (ROOT / package).rglob("*.py") for _, name in imports(path)}
    assert found - known == set()


def test_files_are_short() -> None:
    lengths = {
        path.name: len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "dream").rglob("*.py")
    }
    assert max(lengths.values()) <= 400
    assert sorted(lengths.values())[len(lengths) // 2] <= 160


def test_the_reference_serves_every_call() -> None:
    assert list(BACKENDS)[-1] == "reference"
    assert BACKENDS["reference"].refusal(torch.zeros(1, 1, 3), small()) is None
    assert all(callable(backend.scan) for backend in BACKENDS.values())


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A faster backend that cannot serve anything."""
    swift = Backend(BACKENDS["reference"].scan, lambda _x, _config: "no such hardware")
    monkeypatch.setattr(registry, "_reported", set())
    monkeypatch.setattr(registry, "BACKENDS", {"swift": swift, **BACKENDS})


@pytest.mark.usefixtures("refusing")
def test_auto_falls_back_and_says_why_once(caplog: pytest.LogCaptureFixture) -> None:
    config = small()
    arguments = (torch.randn(2, 4, 3).double(), random_state(config, 2), random_params(config), config)
    with caplog.at_level(logging.DEBUG, logger="dream"):
        first = dream_scan(*arguments)[0]
        second = dream_scan(*arguments)[0]
    assert torch.equal(first, second)
    assert torch.equal(first, dream_scan(*arguments, backend=next(iter(BACKENDS)))[0])
    assert [record.getMessage() for record in caplog.records if "swift" in record.getMessage()] == [
        "backend swift is not used: no such hardware"
    ]


@pytest.mark.usefixtures("refusing")
def test_an_explicit_backend_raises_with_its_reason() -> None:
    config = small()
    with pytest.raises(ConfigError, match=r"`backend`='swift'.*no such hardware.*backend='auto'"):
        dream_scan(
            torch.randn(2, 4, 3).double(),
            random_state(config, 2),
            random_params(config),
            config,
            backend="swift",
        )
