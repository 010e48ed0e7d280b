"""The fused CPU backend against the reference: values, every gradient, whatever the sizes, layouts, threads
and processes.

Its own tests run with new memory poisoned by NaN, so that an element which nobody writes is seen.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from dream import DREAM, ConfigError, DataError, DREAMConfig, DREAMParams, DREAMState, DREAMTrace, dream_scan
from dream.ops import cpu, native, reference, registry
from tests.dream.support import F32, F64, assert_same, leaves, random_params, random_state, tensors

# of a value or gradient, relative to the largest of its tensor, or to 0.01 where that is smaller
TOLERANCES = {
    (F64, "value"): 1e-12,
    (F64, "gradient"): 1e-11,
    (F32, "value"): 2e-5,
    (F32, "gradient"): 2e-4,
}
LIVELY = dict(
    sleep_rate=0.05,
    min_surprise_for_sleep=0.0,
    surprise_smoothing=0.1,
    target_norm=0.5,
    surprise_temperature=0.5,
)
KNOBS: dict[str, dict[str, Any]] = {
    "lively": {},
    "no_liquid_time": dict(ltc_enabled=False),
    "no_plasticity": dict(base_plasticity=0.0),
    "no_sleep": dict(sleep_rate=0.0),
    "no_homeostasis": dict(kappa=0.0, target_norm=5.0),
    "full_homeostasis": dict(kappa=1.0),
    "no_hastening": dict(ltc_surprise_scale=0.0),
}
LEARNED = tuple(name for name in DREAMParams._fields if name != "error_var_prior")
# (N, T, I, H, R): one and odd; blocks of rows that don't divide; segments and vectors that don't fill; R
# above I
SIZES = [
    (1, 1, 1, 1, 1),
    (3, 2, 7, 13, 5),
    (33, 63, 7, 13, 9),
    (1, 257, 1, 13, 5),
    (3, 63, 7, 256, 5),
    (9, 17, 20, 40, 16),
    (5, 21, 4, 16, 2),  # one block of keys, one with a tail of 2, two with a tail of 5
    (4, 21, 4, 18, 3),
    (3, 33, 5, 37, 4),
]


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Fill fresh tensors with NaN, and put the number of threads back."""
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


class Problem:
    """A scan of random rows in the middle of a stream, and what its gradients are asked of."""

    def __init__(
        self,
        sizes: Sequence[int],
        dtype: torch.dtype = F64,
        padded: bool = False,
        spans: bool = False,
        missing: bool = False,
        **knobs: Any,
    ) -> None:
        n, t, i, h, r = sizes
        self.missing = missing
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.config = DREAMConfig(input_dim=i, hidden_dim=h, rank=r, **(LIVELY | knobs))
        self.params = random_params(self.config, dtype=dtype)
        self.state = random_state(self.config, n, dtype=dtype)
        self.state = replace(
            self.state, U=self.state.U * (0.5 / (h * r) ** 0.5), U_target=self.state.U_target * 0.1
        )
        self.x = torch.randn(n, t, i, dtype=dtype)
        if missing:
            self.x[torch.rand(n, t, i) < 0.4] = float("nan")
            self.x[:, t // 3] = self.x[-1] = float("nan")
        self.spans = torch.rand(n, t, dtype=dtype) * 2 + 0.3 if spans else None
        self.lengths = torch.randint(1, t + 1, (n,)) if padded else None
        if padded:
            self.lengths[: n // 2] = max(1, t // 4)  # a whole block ends early
            self.x[torch.arange(t) >= self.lengths.unsqueeze(1)] = float("nan")

    def inputs(self) -> dict[str, Tensor]:
        named = {name: getattr(self.params, name) for name in LEARNED} | {
            "x": self.x,
            "h": self.state.h,
            "U": self.state.U,
        }
        if self.spans is not None:
            named["spans"] = self.spans
        return dict(zip(named, leaves(*named.values()), strict=True))

    def scan(
        self, inputs: dict[str, Tensor], backend: str, plasticity: bool = True
    ) -> tuple[Tensor, DREAMTrace, DREAMState]:
        state = replace(self.state, h=inputs["h"], U=inputs["U"])
        params = self.params._replace(**{name: inputs[name] for name in LEARNED})
        spans = inputs.get("spans", self.spans)
        return dream_scan(
            inputs["x"],
            state,
            params,
            self.config,
            spans,
            self.lengths,
            backend=backend,
            plasticity=plasticity,
            missing=self.missing,
        )


def close(got: Tensor, expected: Tensor, kind: str, name: str) -> None:
    tolerance = TOLERANCES[expected.dtype, kind] * max(1e-2, float(expected.detach().abs().max()))
    torch.testing.assert_close(
        got, expected, atol=tolerance, rtol=0.0, msg=lambda message: f"{kind} of {name}: {message}"
    )


def outlets(result: tuple[Tensor, DREAMTrace, DREAMState]) -> dict[str, Tensor]:
    """The results that gradients flow back from."""
    output, trace, final = result
    return {
        "output": output,
        "prediction": trace.prediction,
        "forecast": trace.forecast,
        "error": trace.error,
        "h": final.h,
        "U": final.U,
    }


def compare(problem: Problem, through: Sequence[str] | None = None, plasticity: bool = True) -> None:
    """Values and gradients of both backends; gradients through some of the results, all by default."""
    results, gradients = {}, {}
    generator = torch.Generator().manual_seed(7)
    weights: dict[str, Tensor] = {}
    for backend in ("reference", "cpu"):
        inputs = problem.inputs()
        results[backend] = problem.scan(inputs, backend, plasticity)
        parts = {
            name: part for name, part in outlets(results[backend]).items() if not through or name in through
        }
        for name, part in parts.items():
            weights.setdefault(name, torch.randn(part.shape, generator=generator, dtype=part.dtype))
        sum((part * weights[name]).sum() for name, part in parts.items()).backward()
        gradients[backend] = {name: leaf.grad for name, leaf in inputs.items()}
    expected, got = tensors(results["reference"]), tensors(results["cpu"])
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        close(got[name], value, "value", name)
        assert got[name].requires_grad <= value.requires_grad, name  # statistics carry none
    for name, gradient in gradients["reference"].items():
        other = gradients["cpu"][name]
        if gradient is None or other is None:
            assert not any(one.any() for one in (gradient, other) if one is not None), name
        else:
            close(other, gradient, "gradient", name)


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients_at_odd_sizes(sizes: tuple[int, ...], dtype: torch.dtype, padded: bool) -> None:
    compare(Problem(sizes, dtype, padded, spans=padded))


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_values_and_gradients_where_some_was_not_observed(sizes: tuple[int, ...], dtype: torch.dtype) -> None:
    """Some inputs of a step, all of one step, and a row of which nothing ever was."""
    for padded in (False, True):
        compare(Problem(sizes, dtype, padded, spans=padded, missing=True))


def test_with_nothing_missing_the_results_are_the_same_to_the_last_bit() -> None:
    problem = Problem((9, 50, 3, 18, 2), spans=True)
    results = []
    for problem.missing in (False, True):
        inputs = problem.inputs()
        result = problem.scan(inputs, "cpu")
        result[0].square().sum().backward()
        results.append([*tensors(result).values(), *(leaf.grad for leaf in inputs.values())])
    assert_same(*results, atol=0.0, rtol=0.0)


def test_rows_that_end_on_the_border_of_a_segment() -> None:
    problem = Problem((9, 50, 3, 9, 2), padded=True)
    problem.x.nan_to_num_(1.0)
    every = cpu.SEGMENT // 8
    problem.lengths = torch.tensor([every, every + 1, every - 1, 2 * every, 50, 1, 50, 2 * every + 1, every])
    compare(problem)


@pytest.mark.parametrize("plasticity", [True, False], ids=["plastic", "held"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("knobs", KNOBS)
def test_values_and_gradients_of_every_variant(knobs: str, padded: bool, plasticity: bool) -> None:
    for dtype in (F64, F32):
        for sizes, missing in (((5, 35, 3, 9, 4), False), ((3, 21, 4, 18, 2), True)):
            problem = Problem(sizes, dtype, padded, spans=padded, missing=missing, **KNOBS[knobs])
            compare(problem, plasticity=plasticity)


@pytest.mark.parametrize("through", ["output", "prediction", "forecast", "error", "h", "U"])
@pytest.mark.parametrize("plasticity", [True, False], ids=["plastic", "held"])
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_gradients_through_one_result_alone(through: str, padded: bool, plasticity: bool) -> None:
    compare(Problem((9, 40, 3, 9, 2), padded=padded), [through], plasticity)


SUBSETS = [
    *([name] for name in (*LEARNED, "x", "h", "U", "spans")),
    ["h", "U"],
    ["x", "eta"],
    ["C", "spans", "V"],
]


@pytest.mark.parametrize("wanted", SUBSETS, ids="+".join)
def test_some_inputs_may_want_gradients_and_others_not(wanted: list[str]) -> None:
    problem = Problem((2, 5, 3, 9, 2), spans=True)
    gradients = []
    for backend in ("reference", "cpu"):
        inputs = {
            name: leaf.detach().requires_grad_(name in wanted) for name, leaf in problem.inputs().items()
        }
        output, trace, _ = problem.scan(inputs, backend)
        (output.sum() + trace.forecast.square().sum()).backward()
        assert all((leaf.grad is None) == (name not in wanted) for name, leaf in inputs.items())
        gradients.append(inputs)
    for name in wanted:
        close(gradients[1][name].grad, gradients[0][name].grad, "gradient", name)


def test_other_memory_layouts_and_integer_types() -> None:
    problem = Problem((4, 6, 3, 9, 2), padded=True, spans=True)
    expected = problem.scan(problem.inputs(), "cpu")

    def shuffled(tensor: Tensor) -> Tensor:
        spread = torch.empty(*tensor.shape, 2, dtype=tensor.dtype)[..., 0].copy_(tensor)
        return spread if tensor.dim() < 2 else spread.transpose(0, 1).contiguous().transpose(0, 1)

    strange = copy.copy(problem)
    strange.state = problem.state.map(shuffled)
    strange.lengths = problem.lengths.int()
    inputs = {name: shuffled(leaf).detach().requires_grad_() for name, leaf in problem.inputs().items()}
    assert any(not leaf.is_contiguous() for leaf in inputs.values())
    assert_same(strange.scan(inputs, "cpu"), expected, atol=0.0, rtol=0.0)
    compare(strange)


def test_a_second_backward_pass_gives_the_same() -> None:
    problem = Problem((3, 20, 3, 9, 2))
    inputs = problem.inputs()
    loss = problem.scan(inputs, "cpu")[0].square().sum()
    first = torch.autograd.grad(loss, inputs["A"], retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, inputs["A"])[0], first)


def test_second_derivatives_are_refused() -> None:
    problem = Problem((2, 3, 3, 5, 2))
    inputs = problem.inputs()
    loss = problem.scan(inputs, "cpu")[0].square().sum()
    slope = torch.autograd.grad(loss, inputs["A"], create_graph=True)[0]
    with pytest.raises(ConfigError, match=r"no second derivatives\. Use backend='reference'"):
        slope.sum().backward()


def test_results_share_no_memory() -> None:
    """A result changed in place, such as a forecast put back into the unit of the data, changes nothing
    else."""
    problem = Problem((2, 5, 3, 5, 2))
    with torch.no_grad():
        result = problem.scan(problem.inputs(), "cpu")
    for name, tensor in tensors(result).items():
        others = {other: value.clone() for other, value in tensors(result).items() if other != name}
        tensor.fill_(123.0)
        for other, value in others.items():
            assert torch.equal(tensors(result)[other], value), (name, other)


def gradients_of(problem: Problem, segment: int, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """With U kept so often: at every `segment`-th step of one row, an eighth of that for eight."""
    monkeypatch.setattr(cpu, "SEGMENT", segment)
    inputs = problem.inputs()
    output, trace, final = problem.scan(inputs, "cpu")
    (output.sum() + trace.forecast.square().sum() + final.U.sum()).backward()
    return [leaf.grad for leaf in inputs.values()]


@pytest.mark.parametrize("rows", [1, 9])
def test_steps_that_are_taken_back(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Between kept states the updates of U are inverted. Over 128 steps and longer that loses no more than
    rounding."""
    mild = dict(sleep_rate=0.005, target_norm=2.0, forgetting_rate=0.01)
    for dtype in (F64, F32):
        problem = Problem((rows, 300, 3, 9, 4), dtype, **mild)
        each = gradients_of(problem, 1, monkeypatch)
        seldom = gradients_of(problem, 128, monkeypatch)
        # they were not recomputed
        assert not all(torch.equal(a, b) for a, b in zip(each, seldom, strict=True))
        for a, b in zip(seldom, each, strict=True):
            close(a, b, "gradient", "all")
        compare(problem)


@pytest.mark.parametrize("segment", [8, 24, 512])
def test_steps_that_cannot_be_taken_back(monkeypatch: pytest.MonkeyPatch, segment: int) -> None:
    """U is recomputed where homeostasis, forgetting and sleep lose nearly all of it: how often it is kept is
    no matter."""
    harsh = dict(kappa=1.0, target_norm=0.01, forgetting_rate=3.0, sleep_rate=1.0, base_plasticity=50.0)
    problem = Problem((3, 65, 3, 9, 2), **harsh)
    first = gradients_of(problem, 128, monkeypatch)
    assert_same(gradients_of(problem, segment, monkeypatch), first, atol=1e-13, rtol=1e-11)
    compare(problem)


HOSTILE: dict[str, dict[str, Any]] = {
    "spikes_without_homeostasis": dict(kappa=0.0),
    "spikes_and_full_homeostasis": dict(kappa=1.0, target_norm=2.0),
    "sleeps_at_once": dict(sleep_rate=1.0, surprise_smoothing=0.99),
    "hardly_plastic": dict(base_plasticity=1e-6),
    "very_plastic": dict(base_plasticity=1e6),
    "statistics_held": dict(error_smoothing=0.0, surprise_smoothing=0.0),
}


@pytest.mark.parametrize("knobs", HOSTILE)
def test_hostile_input_and_knobs(knobs: str) -> None:
    """Spikes inside segments, long and short spans, U of norm 0: gradients agree, each row's on its own
    scale."""
    problem = Problem((3, 40, 3, 9, 4), spans=True, **HOSTILE[knobs])
    problem.x[0, 20] *= 1e6
    problem.spans[1, 10:30] = torch.tensor([1e6, 1e-6], dtype=F64).repeat(10)
    problem.state.U[2] = 0.0
    for spans in (problem.spans, None):
        problem.spans = spans
        gradients = []
        for backend in ("reference", "cpu"):
            inputs = problem.inputs()
            output, trace, final = problem.scan(inputs, backend)
            (output.sum() + trace.forecast.tanh().sum() + final.U.tanh().sum()).backward()
            gradients.append({name: inputs[name].grad for name in ("x", "h", "U")})
        for name, expected in gradients[0].items():
            scale = expected.abs().flatten(1).amax(1).clamp_min(1e-3)
            difference = (gradients[1][name] - expected).abs().flatten(1).amax(1)
            assert (difference <= 1e-9 * scale).all(), (name, difference / scale)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_a_row_that_is_lost_takes_no_other_with_it(bad: float) -> None:
    """Blocks of rows share working memory, whose padding must not carry a NaN from one to the next."""
    problem = Problem((26, 20, 7, 13, 5), F32)
    expected = problem.scan(problem.inputs(), "cpu")
    problem.x[[0, 9]] = bad
    inputs = problem.inputs()
    got = problem.scan(inputs, "cpu")
    others = [row for row in range(26) if row not in (0, 9)]
    for (name, a), b in zip(tensors(got).items(), tensors(expected).values(), strict=True):
        torch.testing.assert_close(
            a[others], b[others], atol=1e-6, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    sum(part[others].sum() for part in outlets(got).values()).backward()
    assert all(inputs[name].grad[others].isfinite().all() for name in ("x", "h", "U"))


def test_the_operators_keep_torchs_contract() -> None:
    """Schema, fake kernel and autograd registration, as torch itself checks them."""
    problem = Problem((2, 5, 3, 9, 2), padded=True, spans=True)
    x = torch.where(problem.x.isnan(), 0.0, problem.x).requires_grad_()
    parts = (x, problem.spans, problem.lengths, *problem.params, *problem.state)
    # plastic, learns, liquid, missing: every two in every way, but those that learn without being plastic
    for flags in ("1111", "1100", "1010", "1001", "0011", "0000"):
        torch.library.opcheck(
            torch.ops.dream.scan.default,
            (*parts, cpu._knobs(problem.config), [*(flag == "1" for flag in flags), True]),
        )


def test_compiled_as_one_graph() -> None:
    model = DREAM(3, 9, 2, backend="cpu", check_inputs=False).double().eval()
    x = torch.randn(2, 20, 3, dtype=F64)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    expected = model(x)
    torch._dynamo.reset()
    got = torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    assert_same(got, expected)
    for result in (expected, got):
        result[0].square().sum().backward()
    gradients = [parameter.grad for parameter in parameters]
    assert_same(
        [gradient / 2 for gradient in gradients], torch.autograd.grad(model(x)[0].square().sum(), parameters)
    )


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")  # torch.func.jvp's own
def test_transforms_and_forward_derivatives_take_the_reference(caplog: pytest.LogCaptureFixture) -> None:
    """A custom operator would give them zeros in silence."""
    problem = Problem((2, 4, 3, 5, 2))

    def loss(x: Tensor, backend: str) -> Tensor:
        return dream_scan(x, problem.state, problem.params, problem.config, backend=backend)[0].square().sum()

    x = problem.x.clone().requires_grad_()
    expected = torch.autograd.grad(loss(x, "reference"), x)[0]
    assert_same(torch.func.grad(lambda x: loss(x, "auto"))(problem.x), expected)
    _, slope = torch.func.jvp(lambda x: loss(x, "auto"), (problem.x,), (torch.ones_like(x),))
    assert slope.item() == pytest.approx(expected.sum().item())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(problem.x, torch.ones_like(problem.x))
        slope = torch.autograd.forward_ad.unpack_dual(loss(dual, "auto")).tangent
        assert slope.item() == pytest.approx(expected.sum().item())
        with pytest.raises(ConfigError, match="no forward-mode derivative"):
            loss(dual, "cpu")
    with pytest.raises(ConfigError, match=r"torch\.func cannot see into it"):
        torch.func.grad(lambda x: loss(x, "cpu"))(problem.x)


def test_mapped_over_samples_and_weights() -> None:
    """vmap, alone and around gradients, with inputs that are checked outside of it."""
    layer, x = DREAM(3, 5, 2, missing=True).double().eval(), torch.randn(4, 6, 3, dtype=F64)
    x[1, 2, 0] = torch.nan
    expected = layer(x)[0]
    assert_same(torch.func.vmap(lambda row: layer(row[None])[0][0])(x), expected)
    weights = {name: weight.detach() for name, weight in layer.named_parameters() if weight.requires_grad}

    def loss(weights: dict[str, Tensor], row: Tensor) -> Tensor:
        return torch.func.functional_call(layer, weights, (row[None],))[0].square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    expected.square().sum().backward()
    for name, gradient in mapped.items():
        assert_same(gradient.sum(0), layer.get_parameter(name).grad)
    layer.missing = False
    with pytest.raises(DataError, match="row 0, step 2"):
        torch.func.grad(loss)(weights, x[1])


@pytest.mark.parametrize("dtype", [F32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("function", ["tanh", "sigmoid", "log", "exp"])
def test_elementary_functions(function: str, dtype: torch.dtype) -> None:
    """Over the whole range, against float64 (float32) or the library's own (float64)."""
    kernel = native.kernel()
    assert isinstance(kernel, native.Kernel), kernel
    if function == "log":
        x = torch.cat(
            [torch.logspace(-37, 38, 200_001, dtype=F64), torch.linspace(0.5, 2.0, 100_001, dtype=F64)]
        ).to(dtype)
    else:
        near = torch.linspace(-30, 30, 600_001, dtype=F64)
        edges = torch.tensor(
            [0.0, -0.0, 87.0, -88.0, 709.0, -746.0, 1e30, -1e30, float("inf"), -float("inf")], dtype=F64
        )
        tiny = torch.logspace(-30, -1, 10_001, dtype=F64)
        x = torch.cat([near, edges, tiny, -tiny]).to(dtype)
    if function == "exp":  # held to where it is normal
        x = x[x.abs() < 87]
    got, expected = kernel.apply(function, x).to(F64), getattr(torch, function)(x.to(F64))
    scale = torch.ones_like(expected) if function in ("tanh", "sigmoid") else expected.abs()
    if function == "log":
        scale = scale.clamp_min(1.0)
    limit = 2e-7 if dtype == F32 else 1e-15
    assert ((got - expected).abs() / scale).max() < limit
    if function == "tanh":
        assert got.abs().max() <= 1.0
        relative = (got / expected - 1.0)[expected.abs() > 1e-29]
        assert relative.abs().max() < 3 * limit  # small numbers keep their digits
    if function != "log":  # of a variance, whose error is NaN too
        assert kernel.apply(function, torch.tensor([float("nan")], dtype=dtype)).isnan().all()


@pytest.mark.parametrize("sizes", [(1, 40, 7, 13, 5), (7, 30, 7, 13, 5), (33, 20, 7, 40, 5)], ids=str)
def test_threads(sizes: tuple[int, ...]) -> None:
    """Bit for bit the same from run to run, and to rounding whatever their number."""
    problem = Problem(sizes, F32)

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        inputs = problem.inputs()
        output, trace, final = problem.scan(inputs, "cpu")
        (output.square().sum() + trace.forecast.sum()).backward()
        return [*tensors([output, trace, final]).values(), *(leaf.grad for leaf in inputs.values())]

    one = run(1)
    for threads in (2, 3):
        several = run(threads)
        assert_same(run(threads), several, atol=0.0, rtol=0.0)
        for a, b in zip(several, one, strict=True):
            torch.testing.assert_close(a, b, atol=5e-6 * max(1.0, float(b.detach().abs().max())), rtol=0.0)


def run_a_little(threads: int | None, backward: bool) -> float:
    """Built on one thread, run on `threads`, or on as many as this process starts with."""
    start = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = DREAM(3, 64, 4, backend="cpu").double().eval()
    x = torch.randn(16, 100, 3, dtype=F64)
    torch.set_num_threads(threads or start)
    if not backward:
        with torch.no_grad():
            return float(model(x)[0][:, -1].sum())
    model(x)[0].square().mean().backward()
    return float(model.cell.A.grad.abs().sum())


def _answer(answers: Any, threads: int | None, backward: bool) -> None:
    torch.use_deterministic_algorithms(False)  # filling large tensors with NaN takes torch's threads
    answers.put((torch.get_num_threads(), run_a_little(threads, backward)))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("method", "threads", "backward"),
    [
        ("fork", None, True),
        ("fork", 2, False),
        ("spawn", 2, True),
    ],  # torch's own products hang on two threads after a fork
)
def test_in_other_processes(method: str, threads: int | None, backward: bool) -> None:
    """Also in a child forked after torch's and the kernel's threads have run: no deadlock."""
    expected = run_a_little(2, backward)
    context = multiprocessing.get_context(method)
    answers = context.SimpleQueue()
    child = context.Process(target=_answer, args=(answers, threads, backward))
    child.start()
    child.join(60)
    alive = child.is_alive()
    child.kill()
    assert not alive, "the child hangs"
    at_start, answer = answers.get()
    assert answer == pytest.approx(expected, rel=1e-9)
    assert at_start == 1 or method == "spawn"


def test_workers_of_a_data_loader() -> None:
    torch.set_num_threads(2)
    model = DREAM(3, 16, 4, backend="cpu").eval()
    x = torch.randn(6, 10, 3)
    with torch.no_grad():
        expected = model(x)[0]

    def collate(rows: list[Tensor]) -> Tensor:
        with torch.no_grad():
            return model(torch.stack(rows))[0]

    batches = list(
        torch.utils.data.DataLoader(list(x), batch_size=3, num_workers=1, collate_fn=collate, timeout=60)
    )
    torch.testing.assert_close(torch.cat(batches), expected, atol=1e-6, rtol=0.0)


def test_training_with_either_backend_ends_alike_and_checkpoints_move() -> None:
    losses, models = {}, {}
    for backend in ("reference", "cpu"):
        torch.manual_seed(0)
        model = torch.nn.ModuleList([DREAM(2, 12, 3, backend=backend), torch.nn.Linear(12, 2)])
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        generator = torch.Generator().manual_seed(1)
        for _ in range(150):
            phase = torch.rand(8, 1, 1, generator=generator) * 6.28
            wave = torch.sin(torch.arange(21).view(1, -1, 1) * torch.tensor([0.5, 0.8]) + phase)
            noisy = wave + 0.1 * torch.randn(wave.shape, generator=generator)
            loss = (model[1](model[0](noisy[:, :-1])[0]) - wave[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[backend], models[backend] = loss.item(), model
    assert losses["cpu"] == pytest.approx(losses["reference"], rel=0.01)
    assert losses["cpu"] < 0.1
    there, here = models["cpu"], copy.deepcopy(models["reference"])
    here.load_state_dict(there.state_dict(), strict=True)
    assert_same(here[0].eval()(noisy), there[0].eval()(noisy), atol=1e-5, rtol=1e-5)


def test_long_and_hostile() -> None:
    """100,000 steps in chunks: huge inputs, constants, zeros, spikes. Finite, and |h| <= 1."""
    model = DREAM(4, 16, 4, backend="cpu", check_inputs=False).eval()
    state = model.init_state(5)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for chunk in range(100):
            x = torch.randn(5, 1000, 4, generator=generator)
            x[0] *= 1e6
            x[1] = 3.0
            x[2] = 0.0
            x[3, chunk % 1000] = 1e6
            x[4] *= (-1.0) ** torch.arange(1000).view(-1, 1) * 10.0 ** (chunk % 7)
            output, trace, state = model.trace(x, state)
            assert output.abs().max() <= 1.0
            assert all(tensor.isfinite().all() for tensor in tensors([trace, state]).values())


@pytest.mark.parametrize("dtype", [F64, F32], ids=["float64", "float32"])
@pytest.mark.parametrize("knobs", KNOBS)
def test_streaming_one_row(monkeypatch: pytest.MonkeyPatch, knobs: str, dtype: torch.dtype) -> None:
    """One row, one step, no gradients: the kernel alone. The same as the reference, whatever the layout."""
    calls: list[int] = []
    counted = registry.BACKENDS["cpu"]._replace(step=lambda *given: calls.append(1) or cpu.step(*given))
    monkeypatch.setitem(registry.BACKENDS, "cpu", counted)
    for sizes, missing in (((1, 30, 7, 13, 9), False), ((1, 30, 7, 37, 4), True), ((1, 30, 1, 18, 1), True)):
        stream(dtype, sizes, missing=missing, **KNOBS[knobs])
    assert len(calls) == 90


def stream(dtype: torch.dtype, sizes: Sequence[int] = (1, 30, 7, 13, 9), **knobs: Any) -> None:
    problem = Problem(sizes, dtype, spans=True, **knobs)
    fast, slow = (
        DREAM.from_config(problem.config, backend=backend, missing=problem.missing).to(dtype).cell
        for backend in ("cpu", "reference")
    )
    with torch.no_grad():
        for parameter in fast.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        fast.A = torch.nn.Parameter(fast.A.mT.contiguous().mT)  # not contiguous
        slow.load_state_dict(fast.state_dict())
        ours = theirs = problem.state
        for t in range(30):
            fast.plasticity_enabled = slow.plasticity_enabled = t % 7 != 3
            spans = problem.spans[:, t] if t % 2 else None
            before = ours.clone()
            h, new = fast(problem.x[:, t], ours, spans)
            assert torch.equal(h, new.h)
            assert_same(ours, before, atol=0.0, rtol=0.0)
            ours, theirs = new, slow(problem.x[:, t], theirs, spans)[1]
    for (name, a), (_, b) in zip(ours.items(), theirs.items(), strict=True):
        close(a, b, "value", name)
    assert fast(problem.x[:, 0])[0].requires_grad  # with gradients it is the reference step


@pytest.mark.parametrize("rank", [4, 7])
def test_a_stream_prepares_its_arguments_once(monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    """And again where weights come to lie elsewhere, or otherwise in the same place."""
    calls: list[int] = []
    prepare = cpu.single_steps
    monkeypatch.setattr(cpu, "single_steps", lambda *given: calls.append(1) or prepare(*given))
    cell, x = DREAM(7, 16, rank, backend="cpu").cell, torch.randn(1, 7)
    state = cell.init_state(1)
    with torch.no_grad():
        for _ in range(3):
            before, state = cell(x, state)
        cell.A.mul_(2.0)  # in place: the same arguments
        assert not torch.equal(cell(x, state)[0], before)
        assert len(calls) == 1
        cell.A.data = cell.A.data.mT
        found = cell(x, state)[0]
        assert len(calls) == 2
        cell.backend = "reference"
        torch.testing.assert_close(found, cell(x, state)[0])


@pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() != "AVX512", reason="this processor has no more than AVX2"
)
def test_with_avx2_only() -> None:
    """The other build of the kernel, in a process whose torch is held to AVX2 as well."""
    code = (
        "from tests.dream import test_cpu as t; import torch; from dream.ops import native;"
        "assert 'avx2' in native.kernel().path.name;"
        "torch.use_deterministic_algorithms(True);"
        "[t.compare(t.Problem(sizes, dtype, padded, padded))"
        " for sizes in t.SIZES for dtype, padded in ((t.F32, False), (t.F64, True))];"
        "[t.stream(dtype) for dtype in (t.F32, t.F64)];"
        "print('agrees')"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": "avx2"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert found.stdout.strip() == "agrees", found.stderr


def gradient_of_four_threads() -> str:
    """Sum of a gradient, to the last bit, after a comparison with the reference."""
    torch.set_num_threads(4)
    torch.manual_seed(0)
    problem = Problem((34, 40, 3, 9, 4), kappa=1.0, target_norm=0.01)
    compare(problem)
    inputs = problem.inputs()
    problem.scan(inputs, "cpu")[0].square().sum().backward()
    return float(inputs["A"].grad.sum()).hex()


def test_fewer_threads_than_were_asked_for() -> None:
    """OpenMP may give one thread for four; every share of the rows is computed all the same, in the same
    order of sums."""
    code = "from tests.dream import test_cpu as t; print(t.gradient_of_four_threads())"
    environment = os.environ | {"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "4"}
    command = [sys.executable, "-W", "ignore", "-c", code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert found.stdout.strip() == gradient_of_four_threads(), found.stderr


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_first_used_in_a_forked_child() -> None:
    code = (
        "import os, torch; from tests.dream import test_cpu as t; torch.set_num_threads(2);"
        "big = torch.randn(2000, 2000); (big @ big).exp_();"  # torch's threads have run
        "child = os.fork();\n"
        "if not child: torch.set_num_threads(2); t.run_a_little(2, False); os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True, timeout=100).stdout.strip() == "7"


def test_auto_takes_it_and_says_why_not(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Problem((1, 1, 3, 5, 2)).config
    assert registry.choose("auto", torch.zeros(1, 1, 3), config).scan is cpu.scan
    monkeypatch.setattr(registry, "_reported", set())
    meta = torch.zeros(1, 1, 3, device="meta")
    assert registry.choose("auto", meta, config).scan is reference.scan
    assert registry.choose("auto", meta, config).scan is reference.scan
    said = [record.getMessage() for record in caplog.records if "backend cpu" in record.getMessage()]
    assert said == ["backend cpu is not used: it serves tensors on the CPU; these are on meta"]
    with pytest.raises(ConfigError, match=r"float32 and float64; this is torch\.float16"):
        registry.choose("cpu", torch.zeros(1, 1, 3, dtype=torch.float16), config)
