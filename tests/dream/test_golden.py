"""The numbers of the NumPy oracle: values, trace and final state, whole sequences and single steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dream import DREAMConfig, DREAMParams, DREAMState, dream_scan
from dream.types import key_shape
from tests.dream import oracle
from tests.dream.support import CPU_BACKENDS, F32, F64, assert_same, cell_with, loop

CASES = sorted(oracle.CASES)
TRACE = ("prediction", "forecast", "surprise", "deviation", "u_norm")
DTYPES = [pytest.param(F64, 1e-10, id="float64"), pytest.param(F32, 1e-4, id="float32")]


class Case:
    """A file of the oracle in torch."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        with np.load(oracle.FOLDER / f"{name}.npz") as stored:
            arrays = {key: stored[key] for key in stored.files}

        def tensor(key: str) -> torch.Tensor:
            return torch.from_numpy(np.array(arrays[key])).to(dtype)

        self.x, self.y = tensor("x"), tensor("y")
        input_dim, rank = arrays["p_V"].shape
        knobs = {key[2:]: value.item() for key, value in arrays.items() if key.startswith("k_")}
        self.config = DREAMConfig(input_dim=input_dim, hidden_dim=len(arrays["p_tau"]), rank=rank, **knobs)
        names = {"surprise_scale": "s"}
        shape, hidden = key_shape(self.config.hidden_dim), self.config.hidden_dim
        start = {
            "K": torch.eye(shape[1], dtype=dtype).expand(shape),
            "k": torch.zeros(hidden, dtype=dtype),
            "D": torch.zeros(rank, hidden, dtype=dtype),
        }
        given = {name: f"p_{names.get(name, name)}" for name in DREAMParams._fields}
        self.params = DREAMParams(
            **{name: tensor(key) if key in arrays else start[name] for name, key in given.items()}
        )
        self.missing = bool(self.x.isnan().any())
        self.trace = {name: tensor(name) for name in TRACE}
        self.final = {name: tensor(f"s_{name}") for name in DREAMState.__dataclass_fields__}
        self.timespans = tensor("timespans") if "timespans" in arrays else None
        self.lengths = torch.from_numpy(arrays["lengths"]) if "lengths" in arrays else None
        self.fresh = DREAMState.fresh(self.config, len(self.x), self.params.error_var_prior)

    def error(self) -> torch.Tensor:
        """x - prediction, 0 at padded steps and where x was not observed."""
        error = (self.x - self.trace["prediction"]).nan_to_num()
        if self.lengths is not None:
            error[torch.arange(self.x.shape[1]) >= self.lengths[:, None]] = 0.0
        return error


def test_every_file_is_tested() -> None:
    assert sorted(path.stem for path in oracle.FOLDER.glob("*.npz")) == CASES


def test_the_files_are_those_of_the_oracle() -> None:
    assert oracle.differing() == []


def test_the_command_that_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that it writes are those that it finds."""
    monkeypatch.setattr(oracle, "FOLDER", tmp_path)
    assert oracle.main(["--write"]) == 0
    assert sorted(path.stem for path in tmp_path.glob("*.npz")) == CASES
    assert oracle.main([]) == 0
    with np.load(tmp_path / "sleep.npz") as stored:
        changed = dict(stored)
    changed["y"][0, 3, 1] += 1e-6
    np.savez_compressed(tmp_path / "sleep.npz", **changed)
    assert oracle.main([]) == "sleep"


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("backend", ["auto", *CPU_BACKENDS])
@pytest.mark.parametrize("name", CASES)
def test_scan(name: str, backend: str, dtype: torch.dtype, tolerance: float) -> None:
    case = Case(name, dtype)
    output, trace, final = dream_scan(
        *(case.x, case.fresh, case.params, case.config, case.timespans, case.lengths),
        backend=backend,
        missing=case.missing,
    )
    torch.testing.assert_close(output, case.y, atol=tolerance, rtol=tolerance)
    assert trace._asdict().keys() == {*TRACE, "error"}
    for field, expected in (case.trace | {"error": case.error()}).items():
        torch.testing.assert_close(getattr(trace, field), expected, atol=tolerance, rtol=tolerance, msg=field)
    for field, expected in case.final.items():
        torch.testing.assert_close(getattr(final, field), expected, atol=tolerance, rtol=tolerance, msg=field)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_steps(name: str, dtype: torch.dtype, tolerance: float) -> None:
    """Each row alone, for as long as it is, one `dream_step` at a time."""
    case = Case(name, dtype)
    rows, steps = case.x.shape[:2]
    lengths = [steps] * rows if case.lengths is None else case.lengths.tolist()
    for length in sorted(set(lengths)):
        row = [b for b in range(rows) if lengths[b] == length]
        spans = None if case.timespans is None else case.timespans[row, :length]
        output, trace, final = loop(
            case.x[row, :length], case.fresh[row], case.params, case.config, spans, case.missing
        )
        torch.testing.assert_close(output, case.y[row, :length], atol=tolerance, rtol=tolerance)
        for field, expected in (case.trace | {"error": case.error()}).items():
            torch.testing.assert_close(
                getattr(trace, field), expected[row, :length], atol=tolerance, rtol=tolerance, msg=field
            )
        for field, expected in case.final.items():
            torch.testing.assert_close(
                getattr(final, field), expected[row], atol=tolerance, rtol=tolerance, msg=field
            )


@pytest.mark.parametrize("name", CASES)
def test_cell(name: str) -> None:
    """The module with these effective parameters: whole sequence, single steps, forecast after the last."""
    case = Case(name, F64)
    cell = cell_with(case.config, case.params, missing=case.missing)
    output, trace, final = cell.scan(case.x, None, case.timespans, case.lengths)
    torch.testing.assert_close(output, case.y, atol=1e-10, rtol=1e-10)
    assert_same(
        [trace.prediction, trace.forecast],
        [case.trace["prediction"], case.trace["forecast"]],
        atol=1e-10,
        rtol=1e-10,
    )
    assert_same(final, DREAMState(**case.final), atol=1e-10, rtol=1e-10)
    last = torch.full((len(case.x),), case.x.shape[1]) if case.lengths is None else case.lengths
    expected = case.trace["forecast"][torch.arange(len(case.x)), last - 1]
    torch.testing.assert_close(cell.predict_next(final), expected, atol=1e-10, rtol=1e-10)
    if case.lengths is None:
        state = cell.init_state(len(case.x))
        for t in range(min(20, case.x.shape[1])):
            step, state = cell(case.x[:, t], state, None if case.timespans is None else case.timespans[:, t])
            torch.testing.assert_close(step, case.y[:, t], atol=1e-10, rtol=1e-10)
