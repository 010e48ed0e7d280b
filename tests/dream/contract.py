"""Promises of every module of `dream` on every backend: inherit `Contract` and define how to make one."""

from __future__ import annotations

import copy
import pickle
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from dream import DREAM, ConfigError, DataError, DREAMCell
from tests.dream.support import CPU_BACKENDS, F32, F64, assert_same, rows_of, tensors

WIDTH = 3  # features of every input
LIVELY = dict(sleep_rate=0.05, min_surprise_for_sleep=0.0, surprise_smoothing=0.1, target_norm=0.5)
SIZES = pytest.mark.parametrize("hidden_dim", [7, 16, 18, 37])  # below, equal to and beyond a block of keys
GAPS = pytest.mark.parametrize("missing", [False, True])
OFF = [dict(base_plasticity=0.0), dict(ltc_enabled=False), dict(ltc_surprise_scale=0.0)]


def inputs(rows: int, steps: int, missing: bool) -> Tensor:
    """Input (N, T, `WIDTH`) of which, if `missing`, a third was not observed, and nothing at some steps."""
    x = torch.randn(rows, steps, WIDTH, dtype=F64)
    if missing:
        x[torch.rand_like(x) < 1 / 3] = torch.nan
        x[0, 0] = x[1, steps // 2] = x[2, -1] = torch.nan
    return x


class Caller(nn.Module):
    """A module whose forward is the sequence call of the one under test, for functional_call and DDP."""

    def __init__(self, contract: Contract, module: nn.Module) -> None:
        super().__init__()
        self.contract, self.inner = contract, module

    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return self.contract.sequence(self.inner, x, state)


def stepped(layer: DREAM, x: Tensor) -> list[np.ndarray]:
    """Arrays of a `Stepper` after each step of a fresh state."""
    steps = layer.stepper(len(x))
    assert steps is not None
    arrays = [steps.start(layer.init_state(len(x)))]
    for row in x.unbind(1):
        steps.x[...] = row.numpy()
        arrays.append(steps(arrays[-1]))
    return arrays[1:]


@pytest.mark.parametrize("backend", CPU_BACKENDS)
class Contract(ABC):
    """The checks. Modules take (N, T, 3); a state is one DREAMState or a list of them."""

    @abstractmethod
    def make(self, **knobs: Any) -> nn.Module:
        """A module for inputs of `WIDTH` features, in training mode and float32.

        It is 7 units wide unless `hidden_dim` is given.
        """

    @abstractmethod
    def sequence(self, module: nn.Module, x: Tensor, state: Any = None, **kwargs: Any) -> tuple[Tensor, Any]:
        """Output of all steps and final state."""

    @abstractmethod
    def traced(self, module: nn.Module, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Any, Any]:
        """Output, trace and final state."""

    def still(self, backend: str, dtype: torch.dtype = F64, **knobs: Any) -> nn.Module:
        return self.make(backend=backend, **(LIVELY | knobs)).to(dtype).eval()

    def trained(self, backend: str, **knobs: Any) -> nn.Module:
        """A module whose parameters are far from their start, so that keys and recall are at work."""
        module = self.still(backend, **knobs)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        return module

    @SIZES
    @GAPS
    def test_chunks_are_the_whole(self, backend: str, hidden_dim: int, missing: bool) -> None:
        module = self.trained(backend, hidden_dim=hidden_dim, missing=missing)
        x, spans = inputs(3, 63, missing), torch.rand(3, 63, dtype=F64) + 0.3
        output, final = self.sequence(module, x, timespans=spans)
        for sizes in ([1, 30, 2, 30], [1] * 63):
            outputs, state = [], None
            for piece, span in zip(x.split(sizes, 1), spans.split(sizes, 1), strict=True):
                part, state = self.sequence(module, piece, state, timespans=span)
                outputs.append(part)
            assert_same([torch.cat(outputs, 1), state], [output, final])

    @SIZES
    @GAPS
    def test_a_padded_row_is_the_row_alone(self, backend: str, hidden_dim: int, missing: bool) -> None:
        """Values and gradients, with NaN in the padding, which is not what was not observed."""
        module, lengths = self.trained(backend, hidden_dim=hidden_dim, missing=missing), [21, 0, 1, 12]
        x = inputs(4, 21, missing)
        for row, length in enumerate(lengths):
            x[row, length:] = torch.nan
        x.requires_grad_()
        output, trace, state = self.traced(module, x, torch.tensor(lengths))
        output.square().sum().backward()
        padded = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
        assert all(
            (part[row, length:] == 0).all()
            for row, length in enumerate(lengths)
            for part in tensors([output, trace]).values()
        )
        module.zero_grad()
        for row, length in enumerate(lengths):
            own = x.detach()[row : row + 1, :length].requires_grad_()
            alone, seen, last = self.traced(module, own)
            alone.square().sum().backward()
            assert_same(own.grad[0], x.grad[row, :length])
            whole = [part[row, :length] for part in tensors([output, trace]).values()]
            assert_same(whole, [part[0] for part in tensors([alone, seen]).values()])
            assert_same(rows_of(state, [row]), list(tensors(last).values()))
        assert x.grad.isfinite().all()
        for name, parameter in module.named_parameters():
            assert_same(parameter.grad, padded[name], atol=1e-11)

    @SIZES
    @GAPS
    def test_it_computes_what_the_reference_does(self, backend: str, hidden_dim: int, missing: bool) -> None:
        """Values and gradients, of rows that are padded and of steps of any length."""
        results = []
        for name in (backend, "reference"):
            torch.manual_seed(3)
            module = self.trained(name, hidden_dim=hidden_dim, missing=missing)
            x = inputs(5, 33, missing).requires_grad_()
            result = self.traced(module, x, torch.tensor([33, 1, 0, 20, 7]))
            parts = tensors(result).values()
            sum((part * torch.randn(part.shape, dtype=F64)).sum() for part in parts).backward()
            results.append([*tensors(result).values(), x.grad, *(p.grad for p in module.parameters())])
        assert_same(*results, atol=1e-9, rtol=1e-9)

    def test_with_nothing_missing_it_is_the_module_that_refuses_gaps(self, backend: str) -> None:
        module, x = self.trained(backend), inputs(3, 20, missing=False)
        expected = self.traced(module, x)
        module.missing = True
        assert_same(self.traced(module, x), expected)

    def test_what_was_not_observed_has_no_gradient(self, backend: str) -> None:
        module, x = self.trained(backend, missing=True), inputs(3, 20, missing=True).requires_grad_()
        output, trace, state = self.traced(module, x)
        sum((part**2).sum() for part in tensors([output, trace, state]).values()).backward()
        assert all(part.isfinite().all() for part in tensors([output, trace, state]).values())
        assert (x.grad[x.isnan()] == 0).all()
        assert (x.grad[~x.isnan()] != 0).all()
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())

    def test_gaps_are_refused_unless_they_are_allowed_for(self, backend: str) -> None:
        x = inputs(3, 20, missing=True)
        with pytest.raises(DataError, match=r"`x` must be finite; .* steps are not, the first at row 0"):
            self.sequence(self.still(backend), x)
        module = self.still(backend, missing=True)
        x[1, 2, 0] = torch.inf
        with pytest.raises(DataError, match=r"`x` must be finite; 1 of 60 steps .* row 1, step 2"):
            self.sequence(module, x)
        spans = torch.ones(3, 20, dtype=F64)
        spans[2, 5] = torch.nan
        with pytest.raises(DataError, match=r"`timespans` must be finite and positive; .* row 2, step 5"):
            self.sequence(module, x.nan_to_num(posinf=0.0), timespans=spans)

    def test_rows_are_independent(self, backend: str) -> None:
        module, x = self.still(backend), torch.randn(4, 21, WIDTH, dtype=F64)
        wild = x.clone()
        wild[1:] *= 1e3
        whole = self.traced(module, x)
        for rows in ([2], [3, 0]):
            alone = self.traced(module, x[rows])
            for got, expected in zip(tensors(alone).values(), rows_of(whole, rows), strict=True):
                torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)
        for got, expected in zip(rows_of(self.traced(module, wild), [0]), rows_of(whole, [0]), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)

    @SIZES
    @pytest.mark.parametrize("dtype", [F32, F64])
    def test_steps_have_the_same_bits_at_any_n_and_place(
        self, backend: str, hidden_dim: int, dtype: torch.dtype
    ) -> None:
        """Those of `Stepper`; a scan takes many samples at once, and has the same to rounding only."""
        module = self.trained(backend, hidden_dim=hidden_dim, missing=True).to(dtype)
        layers = [layer for layer in module.modules() if isinstance(layer, DREAM)]
        if not layers or layers[0].stepper(1) is None:
            pytest.skip("it has no stepper")
        for layer in layers:
            x = torch.randn(11, 20, layer.cell.config.input_dim)
            x[torch.rand_like(x) < 0.2] = torch.nan
            whole = stepped(layer, x)
            for rows in ([0], [10], [7, 2], [4] * 9, list(range(10, -1, -1))):
                for got, expected in zip(stepped(layer, x[rows]), whole, strict=True):
                    assert got.tobytes() == expected[rows].tobytes()

    def test_timespans(self, backend: str) -> None:
        module, x = self.still(backend), torch.randn(3, 9, WIDTH, dtype=F64)
        ones = torch.ones(3, 9, dtype=F64)
        plain = self.sequence(module, x)
        assert_same(self.sequence(module, x, timespans=ones), plain)
        assert (self.sequence(module, x, timespans=3 * ones)[0] - plain[0]).abs().max() > 1e-3

    @pytest.mark.parametrize("copier", ["pickle", "deepcopy", "state_dict"])
    def test_copies_compute_the_same(self, backend: str, copier: str) -> None:
        module = self.make(backend=backend, **LIVELY).double().train()
        x = torch.randn(2, 15, WIDTH, dtype=F64)
        self.sequence(module, x)  # moves the prior, so that buffers matter
        module.eval()
        if copier == "pickle":
            twin = pickle.loads(pickle.dumps(module))
        elif copier == "deepcopy":
            twin = copy.deepcopy(module)
        else:
            twin = self.make(backend=backend, **LIVELY).double().eval()
            assert (self.sequence(twin, x)[0] - self.sequence(module, x)[0]).abs().max() > 1e-3
            assert twin.load_state_dict(module.state_dict(), strict=True) == ([], [])
        assert_same(self.traced(twin, x), self.traced(module, x), atol=0.0, rtol=0.0)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.add_(1.0)
        assert (self.sequence(twin, x)[0] - self.sequence(module, x)[0]).abs().max() > 1e-3

    def test_checkpoints_do_not_know_the_backend(self, backend: str) -> None:
        assert self.make(backend=backend).state_dict().keys() == self.make().state_dict().keys()
        assert not any("U" in name.split(".") for name in self.make().state_dict())  # DDP would broadcast it

    @pytest.mark.parametrize("dtype", [F64, F32])
    def test_dtypes(self, backend: str, dtype: torch.dtype) -> None:
        module, x = self.still(backend), torch.randn(3, 20, WIDTH, dtype=F64)
        expected = self.traced(module, x)
        got = self.traced(module.to(dtype), x.to(dtype))
        for name, tensor in tensors(got).items():
            assert tensor.dtype == dtype, name
        tolerance = 1e-12 if dtype == F64 else 1e-4
        for a, b in zip(tensors(got).values(), tensors(expected).values(), strict=True):
            torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize("input_dtype", [F32, torch.bfloat16])
    def test_bfloat16_autocast(self, backend: str, input_dtype: torch.dtype) -> None:
        """Large products may run in bfloat16; state, statistics and output stay float32, gradients too."""
        module = self.still(backend, F32).train()
        x = torch.randn(3, 20, WIDTH, dtype=F32).to(input_dtype)
        expected = self.sequence(copy.deepcopy(module), x.float())[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = self.traced(module, x)
        for name, tensor in tensors(result).items():
            assert tensor.dtype == F32, name
        torch.testing.assert_close(result[0], expected, atol=0.08, rtol=0.0)
        result[0].sum().backward()
        grads = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        assert grads
        assert all(grad.dtype == F32 and grad.isfinite().all() for grad in grads)

    def test_nothing_given_is_changed(self, backend: str) -> None:
        module, x = self.still(backend).train(), torch.randn(3, 9, WIDTH, dtype=F64)
        state = self.sequence(module, x)[1]
        spans, lengths = torch.rand(3, 9, dtype=F64) + 0.5, torch.tensor([9, 2, 5])
        given = [x, spans, lengths, *tensors(state).values()]
        before = [(tensor.detach().clone(), tensor._version) for tensor in given]
        self.sequence(module, x, state, timespans=spans)
        self.traced(module, x, lengths)
        for tensor, (value, version) in zip(given, before, strict=True):
            assert torch.equal(tensor, value)
            assert tensor._version == version

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    @pytest.mark.parametrize("training", [False, True])
    def test_without_gradients(self, backend: str, mode: Any, training: bool) -> None:
        module, x = self.still(backend).train(training), torch.randn(3, 9, WIDTH, dtype=F64)
        expected = self.traced(copy.deepcopy(module), x)
        with mode():
            got = self.traced(module, x)
        for name, tensor in tensors(got).items():
            assert not tensor.requires_grad, name
        for a, b in zip(tensors(got).values(), tensors(expected).values(), strict=True):
            torch.testing.assert_close(a.clone(), b.detach(), atol=1e-14, rtol=1e-14)
        assert self.sequence(module, x)[0].requires_grad  # and afterwards it learns again

    def test_functional_call(self, backend: str) -> None:
        module, x = self.still(backend), torch.randn(3, 9, WIDTH, dtype=F64)
        caller, before = Caller(self, module), self.sequence(module, x)
        other = {name: parameter.detach() + 0.1 for name, parameter in caller.named_parameters()}
        got = functional_call(caller, other, (x,))
        assert (got[0] - before[0]).abs().max() > 1e-3
        assert_same(self.sequence(module, x), before)
        module.load_state_dict(
            {name.removeprefix("inner."): value for name, value in other.items()}, strict=False
        )
        assert_same(self.sequence(module, x), got)

    def test_to_returns_itself_and_moves_all(self, backend: str) -> None:
        module = self.make(backend=backend)
        assert module.to(F64) is module
        assert {tensor.dtype for tensor in module.state_dict().values()} == {F64, torch.long}
        assert {tensor.device.type for tensor in module.to("meta").state_dict().values()} == {"meta"}

    @pytest.mark.parametrize(
        "knobs", [{}, *OFF, OFF[0] | OFF[1]], ids=lambda knobs: "+".join(knobs) or "defaults"
    )
    def test_gradients_reach_every_trainable_parameter(self, backend: str, knobs: dict[str, Any]) -> None:
        module = self.make(backend=backend, **(LIVELY | knobs)).double()
        x = torch.randn(3, 12, WIDTH, dtype=F64)
        self.sequence(module, x)[0].square().sum().backward()
        unused = {name.split(".")[-1] for name, p in module.named_parameters() if not p.requires_grad}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                assert parameter.grad is not None, name
                assert parameter.grad.abs().sum() > 0, name
        expected = set()
        if knobs.get("base_plasticity") == 0:
            expected |= {"log_eta", "logit_tonic", "K", "k", "D", "V_raw"}
        if knobs.get("ltc_enabled") is False:
            expected |= {"G_x", "G_h", "log_tau", "log_surprise_scale"}
        if knobs.get("ltc_surprise_scale") == 0:
            expected |= {"log_surprise_scale"}
        assert unused == expected

    def test_the_random_generator_is_left_alone(self, backend: str) -> None:
        module, x = self.still(backend).train(), torch.randn(2, 6, WIDTH, dtype=F64)
        before = torch.get_rng_state()
        self.traced(module, x)
        assert torch.equal(torch.get_rng_state(), before)

    def test_construction_draws_from_the_global_generator_and_seeds_nothing(self, backend: str) -> None:
        torch.manual_seed(5)
        first = self.make(backend=backend).state_dict()
        second = self.make(backend=backend).state_dict()
        torch.manual_seed(5)
        again = self.make(backend=backend).state_dict()
        assert all(torch.equal(first[name], again[name]) for name in first)
        assert not all(torch.equal(first[name], second[name]) for name in first)

    def test_other_memory_layouts(self, backend: str) -> None:
        module, x = self.still(backend), torch.randn(9, 3, WIDTH, dtype=F64)
        assert_same(
            self.traced(module, x.transpose(0, 1)), self.traced(module, x.transpose(0, 1).contiguous())
        )

    def test_forecast_after_a_sequence_is_the_traces_last(self, backend: str) -> None:
        module, x = self.still(backend, F32), torch.randn(3, 9, WIDTH)
        for enabled in (False, True):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                _, trace, state = self.traced(module, x)
                first = trace[0] if isinstance(trace, list) else trace
                torch.testing.assert_close(
                    module.predict_next(state), first.forecast[:, -1], atol=1e-5, rtol=1e-5
                )

    def test_reset_parameters_starts_afresh(self, backend: str) -> None:
        module = self.make(backend=backend)
        torch.manual_seed(9)
        module.reset_parameters()
        torch.manual_seed(9)
        twin = self.make(backend=backend)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.fill_(0.5)
        torch.manual_seed(9)
        twin.reset_parameters()
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, twin.state_dict()[name]), name

    @pytest.mark.filterwarnings("default")
    def test_compile(self, backend: str) -> None:
        module, x = self.still(backend), torch.randn(2, 3, WIDTH, dtype=F64)
        expected = self.sequence(module, x)
        torch._dynamo.reset()
        compiled = torch.compile(Caller(self, module), backend="eager")
        output, state = compiled(x)
        assert_same([output, state], list(expected))
        output.sum().backward()

    def test_distributed_data_parallel(self, backend: str, process_group: None) -> None:
        """(output, state) come back as they are, and every trainable parameter takes part."""
        for knobs in ({}, *OFF):
            module = self.make(backend=backend, **(LIVELY | knobs)).double()
            twin = copy.deepcopy(module)
            x = torch.randn(2, 6, WIDTH, dtype=F64)
            parallel = DistributedDataParallel(Caller(self, module))
            output, state = parallel(x)
            assert_same([output, state], list(self.sequence(twin, x)))
            output.square().sum().backward()
            state = [one.detach() for one in state] if isinstance(state, list) else state.detach()
            output, state = parallel(x, state)  # refused if a parameter was left without a gradient
            output.square().sum().backward()
            assert all((p.grad is not None) == p.requires_grad for p in module.parameters())
            assert all(tensor.isfinite().all() for tensor in tensors(state).values())

    @pytest.mark.gpu
    def test_cuda(self, backend: str) -> None:
        module, x = self.still(backend, F32), torch.randn(3, 63, WIDTH)
        lengths = torch.tensor([63, 1, 40])
        expected = self.traced(module, x, lengths)
        if backend == "cpu":
            with pytest.raises(ConfigError, match="these are on cuda"):
                self.traced(module.cuda(), x.cuda(), lengths)
            return
        got = self.traced(module.cuda(), x.cuda(), lengths)
        for name, tensor in tensors(got).items():
            assert tensor.device.type == "cuda", name
        for a, b in zip(tensors(got).values(), tensors(expected).values(), strict=True):
            torch.testing.assert_close(a.cpu(), b, atol=1e-4, rtol=1e-4)
        state = module.init_state(2, device="cuda")
        assert all(tensor.device.type == "cuda" for tensor in tensors(state).values())

    def test_config_is_what_it_was_made_from(self, backend: str) -> None:
        module = self.make(backend=backend, base_threshold=0.4)
        cells = [part for part in module.modules() if isinstance(part, DREAMCell)]
        configs = module.get_config()
        assert [cell.config for cell in cells] == (configs if isinstance(configs, list) else [configs])
        assert all(cell.config.base_threshold == 0.4 for cell in cells)
