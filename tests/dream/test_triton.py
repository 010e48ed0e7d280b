"""The Triton backend against the reference in float64: in Triton's interpreter (``TRITON_INTERPRET=1``, on
tensors of the CPU), or on a GPU.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

pytest.importorskip("triton")

from dream import DREAM, ConfigError, DREAMConfig, dream_scan
from dream.ops import triton, triton_gradients, triton_launch
from tests.dream.support import DIFFERENTIABLE, F32, F64, random_params, random_state, small, tensors
from tests.dream.test_golden import CASES, Case

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning"),  # of NumPy, in the interpreter
    *([] if INTERPRETED else [pytest.mark.gpu]),
]
LIVELY = dict(sleep_rate=0.05, min_surprise_for_sleep=0.0, surprise_smoothing=0.1, target_norm=0.5)
EXACT = 1e-4
TEN_BITS = 2e-2


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float32, unless a test asks for others."""
    monkeypatch.setattr(triton, "ten_bits", lambda _: False)


def outcome(
    backend: str,
    config: DREAMConfig,
    shape: tuple[int, int],
    *,
    spans: bool = False,
    lengths: list[int] | None = None,
    missing: bool = False,
    plasticity: bool = True,
    scale: float = 1.0,
    only_output: bool = False,
) -> dict[str, Tensor]:
    """Results of a scan, and the gradients of a random loss of them, divided by its `scale`."""
    dtype, device = (F64, "cpu") if backend == "reference" else (F32, DEVICE)
    n, t = shape
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(n, t, config.input_dim, generator=generator, dtype=F64)
    if missing:
        x[torch.rand(x.shape, generator=generator) < 0.3] = torch.nan
        x[0, 0] = torch.nan
    steps = torch.rand(n, t, generator=generator, dtype=F64) + 0.3 if spans else None

    def leaf(value: Tensor) -> Tensor:
        return value.to(device, dtype).requires_grad_()

    x, steps = leaf(x), None if steps is None else leaf(steps)
    params = random_params(config)
    params = params._replace(**{name: leaf(getattr(params, name)) for name in DIFFERENTIABLE})
    params = params._replace(error_var_prior=params.error_var_prior.to(device, dtype))
    state = random_state(config, n).to(device, dtype)
    state.h, state.U = leaf(state.h), leaf(state.U)
    ends = None if lengths is None else torch.tensor(lengths)
    result = dream_scan(
        x, state, params, config, steps, ends, backend, plasticity=plasticity, missing=missing
    )
    parts = tensors(result)
    loss = torch.zeros((), dtype=dtype, device=device)
    for name, part in parts.items():
        weight = torch.randn(part.shape, generator=generator, dtype=F64).to(device, dtype)
        if part.requires_grad and (name == "[0]" or not only_output):
            loss = loss + (part * weight).sum()
    (scale * loss).backward()
    leaves = {"x": x, "h": state.h, "U": state.U, **{name: getattr(params, name) for name in DIFFERENTIABLE}}
    if steps is not None:
        leaves["timespans"] = steps
    gradients = {f"d_{k}": v.grad.double().cpu() / scale for k, v in leaves.items() if v.grad is not None}
    return {name: part.detach().double().cpu() for name, part in parts.items()} | gradients


def compare(config: DREAMConfig, shape: tuple[int, int], tolerance: float = EXACT, **how: Any) -> None:
    """Every result and every gradient is that of the reference, relative to its largest number."""
    expected, got = (outcome(name, config, shape, **how) for name in ("reference", "triton"))
    assert got.keys() >= expected.keys()
    assert all((got[name] == 0).all() for name in got.keys() - expected.keys())  # what nothing depends on
    for name, value in expected.items():
        most = tolerance * (value.abs().max().item() + 1e-3)
        torch.testing.assert_close(
            got[name], value, atol=most, rtol=0.0, msg=lambda text, name=name: f"{name}: {text}"
        )


def config(inputs: int = 3, hidden: int = 16, rank: int = 2, **knobs: Any) -> DREAMConfig:
    return DREAMConfig(input_dim=inputs, hidden_dim=hidden, rank=rank, **(LIVELY | knobs))


@pytest.fixture(params=[None, dict(samples=2, inputs=16, ranks=2)], ids=["whole", "in parts"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """U in registers and all inputs at once, or both in parts."""
    whole = triton_launch.tiles
    if request.param is not None:
        part = request.param
        monkeypatch.setattr(
            triton_launch, "tiles", lambda *given, **how: whole(*given, **how)._replace(**part)
        )
    return


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("hidden", [7, 16, 18, 37])
@pytest.mark.parametrize("missing", [False, True])
def test_it_computes_what_the_reference_does(hidden: int, missing: bool) -> None:
    """Padded samples, steps of any length, below, equal to and beyond a block of keys."""
    compare(config(20, hidden, 5), (4, 9), spans=True, lengths=[9, 1, 6, 4], missing=missing)


@pytest.mark.parametrize(
    "knobs",
    [
        dict(base_plasticity=0.0),
        dict(ltc_enabled=False),
        dict(ltc_surprise_scale=0.0),
        dict(sleep_rate=0.0),
        dict(kappa=0.0),
        dict(kappa=1.0),
        dict(base_plasticity=0.0, ltc_enabled=False),
    ],
    ids=str,
)
def test_switches(knobs: dict[str, Any]) -> None:
    compare(config(**knobs), (3, 8), spans=True, lengths=[8, 3, 5])


@pytest.mark.usefixtures("cut")
def test_plasticity_off() -> None:
    compare(config(5, 18, 5), (3, 8), plasticity=False, lengths=[8, 3, 5])


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("spans", [False, True])
def test_u_is_computed_again_where_it_was_not_kept(spans: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launch, "every", lambda *_: 3)
    compare(config(5, 18, 5), (3, 10), spans=spans, lengths=[10, 4, 6])


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 5, 7), (40, 33, 1), (2, 40, 33)], ids=str)
def test_sizes(sizes: tuple[int, int, int]) -> None:
    compare(config(*sizes), (2, 5))


def test_one_sample_of_one_step() -> None:
    compare(config(), (1, 1))


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.usefixtures("cut")
def test_ten_bits(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands of half precision, with incoming gradients of any scale."""
    monkeypatch.setattr(triton, "ten_bits", lambda _: True)
    compare(config(20, 37, 5), (4, 9), TEN_BITS, lengths=[9, 1, 6, 4], missing=True, scale=scale)
    compare(config(ltc_enabled=False), (3, 6), TEN_BITS, scale=scale, only_output=True)


@pytest.mark.parametrize("knobs", [{}, dict(ltc_enabled=False), dict(base_plasticity=0.0)])
def test_products_of_many_rows(knobs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_gradients, "APART", 1)
    compare(config(5, 7, 2, **knobs), (3, 5), lengths=[5, 1, 3], missing=True)
    compare(config(5, 7, 2, **knobs), (3, 4), only_output=True)


def test_weights_beyond_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton, "ten_bits", lambda _: True)
    torch.manual_seed(0)
    exact = DREAM(3, 16, 2, backend="reference").eval()
    with torch.no_grad():
        exact.cell.W.mul_(1e7)
        exact.cell.A.mul_(1e-7)
    layer = copy.deepcopy(exact).to(DEVICE)
    layer.cell.backend = "triton"
    x = torch.randn(2, 6, 3)
    assert (layer(x.to(DEVICE))[0].cpu() - exact(x)[0]).abs().max() < TEN_BITS


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    case = Case(name, F32)
    steps = min(case.x.shape[1], 40) if INTERPRETED and case.lengths is None else case.x.shape[1]

    def moved(value: Tensor | None) -> Tensor | None:
        return None if value is None else value[:, :steps].to(DEVICE)

    params = type(case.params)(*(value.to(DEVICE) for value in case.params))
    lengths = None if case.lengths is None else case.lengths.to(DEVICE)
    output, trace, _ = dream_scan(
        *(moved(case.x), case.fresh.to(DEVICE), params, case.config, moved(case.timespans), lengths),
        backend="triton",
        missing=case.missing,
    )
    torch.testing.assert_close(output.cpu(), case.y[:, :steps], atol=EXACT, rtol=EXACT)
    for field, expected in (case.trace | {"error": case.error()}).items():
        got = getattr(trace, field).cpu()
        torch.testing.assert_close(got, expected[:, :steps], atol=EXACT, rtol=EXACT, msg=field)


def layer(**settings: Any) -> DREAM:
    """A layer far from its start, in evaluation mode."""
    torch.manual_seed(0)
    made = DREAM(3, 18, 2, backend="triton", **(LIVELY | settings)).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made.to(DEVICE)


def same(got: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for a, b in zip(tensors(got).values(), tensors(expected).values(), strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("missing", [False, True])
def test_chunks_and_single_steps_are_the_whole(missing: bool) -> None:
    module, x = layer(missing=missing), torch.randn(1, 12, 3, device=DEVICE)
    if missing:
        x[:, 3:5] = torch.nan
        x[:, 7, 1] = torch.nan
    spans = torch.rand(1, 12, device=DEVICE) + 0.3
    output, final = module(x, timespans=spans)
    for sizes in ([1, 5, 6], [1] * 12):
        outputs, state = [], None
        for piece, span in zip(x.split(sizes, 1), spans.split(sizes, 1), strict=True):
            part, state = module(piece, state, timespans=span)
            outputs.append(part)
        same([torch.cat(outputs, 1), state], [output, final])
    state = module.init_state(1)
    with torch.no_grad():
        for t in range(12):
            h, state = module.cell(x[:, t], state, spans[:, t])
            torch.testing.assert_close(h, output[:, t], atol=1e-5, rtol=1e-5)
    same(state, final)


@pytest.mark.parametrize(
    "knobs", [dict(base_plasticity=0.0), dict(ltc_enabled=False), dict(ltc_surprise_scale=0.0)], ids=str
)
def test_single_steps_with_switches(knobs: dict[str, Any]) -> None:
    module, x = layer(**knobs), torch.randn(1, 6, 3, device=DEVICE)
    _, final = module(x)
    state = module.init_state(1)
    with torch.no_grad():
        for row in x.unbind(1):
            _, state = module.cell(row, state)
    same(state, final)
    with torch.no_grad(), module.plasticity(False):
        same(module.cell(x[:, 0], final)[1], module(x[:, :1], final)[1])


def test_nothing_given_is_changed() -> None:
    module, x = layer().train(), torch.randn(3, 6, 3, device=DEVICE)
    state = module(x)[1].detach()
    spans, lengths = torch.rand(3, 6, device=DEVICE) + 0.5, torch.tensor([6, 2, 5], device=DEVICE)
    given = [x, spans, lengths, *tensors(state).values()]
    before = [(tensor.clone(), tensor._version) for tensor in given]
    module.trace(x, state, timespans=spans, lengths=lengths)
    for tensor, (value, version) in zip(given, before, strict=True):
        assert torch.equal(tensor, value)
        assert tensor._version == version


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    module, x = layer(), torch.randn(3, 6, 3, device=DEVICE)
    expected = module.trace(x)
    with mode():
        got = module.trace(x)
    assert not any(tensor.requires_grad for tensor in tensors(got).values())
    for a, b in zip(tensors(got).values(), tensors(expected).values(), strict=True):
        assert torch.equal(a.clone(), b.detach())


def test_half_precision_inputs_under_autocast() -> None:
    module, x = layer(), torch.randn(3, 8, 3, device=DEVICE)
    expected = module(x)[0]
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        result = module.trace(x.bfloat16())
    assert all(tensor.dtype == F32 for tensor in tensors(result).values())
    torch.testing.assert_close(result[0], expected, atol=0.08, rtol=0.0)
    result[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)


def test_copies_compute_the_same() -> None:
    module, x = layer(), torch.randn(2, 5, 3, device=DEVICE)
    for got, expected in zip(
        tensors(copy.deepcopy(module).trace(x)).values(), tensors(module.trace(x)).values(), strict=True
    ):
        assert torch.equal(got, expected)


def test_other_memory_layouts() -> None:
    module, x = layer(), torch.randn(5, 3, 3, device=DEVICE)
    same(module.trace(x.transpose(0, 1)), module.trace(x.transpose(0, 1).contiguous()), 1e-6)


class Output(nn.Module):
    """A module whose result is one that torch.compile and DDP take."""

    def __init__(self, inner: DREAM) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


@pytest.mark.filterwarnings("default")
def test_compile() -> None:
    module, x = layer(check_inputs=False), torch.randn(2, 3, 3, device=DEVICE)
    expected = module(x)[0]
    torch._dynamo.reset()
    got = torch.compile(Output(module), backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(got, expected)
    got.sum().backward()


def test_distributed_data_parallel(process_group: None) -> None:
    for knobs in ({}, dict(base_plasticity=0.0)):
        module = layer(**knobs)
        parallel = DistributedDataParallel(Output(module))
        for _ in range(2):  # the second is refused if a parameter was left without a gradient
            parallel(torch.randn(2, 4, 3, device=DEVICE)).square().sum().backward()
        assert all((p.grad is not None) == p.requires_grad for p in module.parameters())


def test_large_numbers_stay_finite() -> None:
    """Inputs up to a finite square."""
    module = layer(kappa=1.0)
    x = torch.randn(3, 6, 3, device=DEVICE)
    x[0] *= 1e18
    x[1, 3] *= 1e15
    x[2] *= 1e-20
    x.requires_grad_()
    result = module.trace(x)
    result[0].sum().backward()
    assert all(tensor.isfinite().all() for tensor in tensors(result).values())
    assert all(p.grad.isfinite().all() for p in [x, *module.parameters()] if p.requires_grad)


def test_what_it_refuses() -> None:
    x = torch.zeros(1, 1, 3, device=DEVICE)
    assert triton.refusal(x, small()) is None
    assert "float32; this is torch.float64" in str(triton.refusal(x.double(), small()))
    assert "up to 1024" in str(triton.refusal(x, small(hidden_dim=1025)))
    assert "up to 64" in str(triton.refusal(x, small(rank=65)))
    assert "on meta" in str(triton.refusal(x.to("meta"), small()))
    with pytest.raises(ConfigError, match=r"`backend`='triton' cannot serve this call"):
        DREAM(3, 5, 2, backend="triton").double().to(DEVICE)(x.double())
    weight = torch.randn(2, 4, 3, device=DEVICE, requires_grad=True)
    gradient = torch.autograd.grad(layer()(weight)[0].sum(), weight, create_graph=True)[0]
    with pytest.raises(ConfigError, match="no second derivatives"):
        gradient.sum().backward()


@pytest.mark.parametrize("knobs", [{}, dict(base_plasticity=0.0)], ids=str)
def test_a_layer_trains_as_the_reference_does(knobs: dict[str, Any]) -> None:
    """Fresh samples, learned parameters, gradients of all, and the prior's move."""
    exact = layer(**knobs).cpu().train()
    exact.cell.backend = "reference"
    module, x = layer(**knobs).train(), torch.randn(3, 5, 3)
    for plastic in (True, False):
        for made, given in ((exact, x), (module, x.to(DEVICE))):
            made.plasticity_enabled = plastic
            made.zero_grad()
            made.trace(given)[0].square().sum().backward()
        with torch.no_grad():
            same(tensors(module.trace(x.to(DEVICE)))["[0]"].cpu(), exact(x)[0])
        for (name, got), (_, expected) in zip(
            module.named_parameters(), exact.named_parameters(), strict=True
        ):
            if expected.grad is not None:
                assert got.grad is not None, name
                torch.testing.assert_close(got.grad.cpu(), expected.grad, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(module.cell.error_var_prior.cpu(), exact.cell.error_var_prior)
        assert module.cell.prior_updates.item() == exact.cell.prior_updates.item()
