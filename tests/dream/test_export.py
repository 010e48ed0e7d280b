"""An exported step computes what its layer does, without torch or without this package.

Short form of `tests.soak.export`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dream import DREAM, CheckpointError, ConfigError, DREAMStack, export
from tests.dream.support import F64, assert_same
from tests.soak import export as soak

ROWS = 200
COLUMNS = ["a", "b", "c", "d"]
PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"
ALONE = """
import sys
sys.modules["dream"] = None
{more}
exec(compile({code!r}, "page", "exec"))
assert not {{"dream", {hidden}}} & {{name for name, module in sys.modules.items() if module}}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A step in both kinds of file, and rows for the page."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "runs" / "served").mkdir(parents=True)
    export.to_onnx(described(), folder / "runs" / "served" / "model.onnx")
    export.to_torch(described(), folder / "step.pt2")
    rows = [f"2024-01-02 {hour:02},1,2,3,4" for hour in range(24)]
    (folder / "newest.csv").write_text("\n".join([",".join(["time", *COLUMNS]), *rows]))
    return folder


def described() -> export.Step:
    """A step of a layer that names its columns, as that of a run does."""
    step = export.step(soak.lively())
    step.facts |= {"columns": COLUMNS, "after": "2024-01-01T23:00:00"}
    return step


def test_a_file_forecasts_and_learns_as_its_layer(folder: Path) -> None:
    onnx = soak.about_onnx(folder / "runs" / "served" / "model.onnx")
    for about, call in (onnx, soak.about_torch(folder / "step.pt2")):
        assert about == described().about()
        for samples in soak.SAMPLES:
            found = soak.differences(soak.lively(), about, call, samples, ROWS)
            assert found["forecast"] < soak.CLOSE
            assert found["U"] < soak.CLOSE
            assert found["moved"] > 0.5


def test_the_page_runs_files_where_nothing_else_is_installed(folder: Path) -> None:
    """Its two blocks that open a file: without torch, and where this package cannot be imported."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    onnx, program = (next(body for body in blocks if call in body) for call in ("onnxruntime", "export.load"))
    assert len(onnx.splitlines()) <= 15
    for code, more, hidden in ((onnx, 'sys.modules["torch"] = None', '"torch"'), (program, "", "")):
        words = [sys.executable, "-c", ALONE.format(code=code, more=more, hidden=hidden)]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("widths", [[5], [5, 4]])
def test_a_step_is_that_of_its_layer(widths: list[int], missing: bool) -> None:
    layer: Any = (
        DREAMStack(3, widths, 2, missing=missing) if len(widths) > 1 else DREAM(3, 5, 2, missing=missing)
    )
    layer = layer.double().eval()
    layer.plasticity_enabled = missing
    x, spans = torch.randn(2, 6, 3, dtype=F64), torch.rand(2, 6, dtype=F64) + 0.5
    x[0, 2, 1] = torch.nan if missing else 0.0
    with torch.no_grad():
        output, final = layer(x, timespans=spans)
        forecast = layer.predict_next(final)
    one = export.step(layer, timespans=True)
    layer.reset_parameters()  # the step is a copy
    state = one.init_state(2)
    for t in range(6):
        results, state = one(x[:, t], state, spans[:, t])
        assert_same(results["output"], output[:, t])
    assert_same(results["forecast"], forecast)
    states = final if isinstance(final, list) else [final]
    assert_same(list(state.values()), [part for one in states for part in one])
    names = list(state)
    assert one.inputs == ("x", *names, "timespans")
    assert one.outputs == ("output", "forecast", *(f"next_{name}" for name in names))
    assert one.about()["dtype"] == "float64"


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="must be a DREAM or a DREAMStack; got GRU"):
        export.step(torch.nn.GRU(3, 5))  # type: ignore[arg-type]
    one = export.step(DREAM(3, 5, 2))
    monkeypatch.setattr(export, "program", lambda _: pytest.fail("nothing is traced in vain"))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript cannot be imported.*dream-memory\[export\]"):
        export.to_onnx(one, tmp_path / "step.onnx")
    with pytest.raises(CheckpointError, match="`path` must be a file that can be written"):
        export.to_torch(one, tmp_path / "none" / "step.pt2")
    assert [*tmp_path.iterdir()] == []
