"""Optimiser groups: weight decay on matrices, never on eta, tau, s, tonic, keys, V_raw and biases."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dream import DREAM, DREAMStack, parameter_groups

FREE = {"log_eta", "logit_tonic", "log_tau", "log_surprise_scale", "b", "c", "K", "k", "V_raw"}
DECAYED = {"C", "W", "B", "A", "G_x", "G_h", "D"}


@pytest.mark.parametrize("module", [DREAM(3, 5, 2), DREAMStack(3, [5, 40], 2), DREAM(1, 1, 1)])
def test_who_decays(module: nn.Module) -> None:
    names = {id(parameter): name.split(".")[-1] for name, parameter in module.named_parameters()}
    decayed, free = parameter_groups(module, weight_decay=0.3)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert {names[id(p)] for p in decayed["params"]} == DECAYED
    learned = {"V_raw"} & set(names.values())  # a buffer V where the rank is that of the input
    assert {names[id(p)] for p in free["params"]} == FREE - {"V_raw"} | learned


def test_each_trainable_parameter_once() -> None:
    model = nn.ModuleDict(
        {"head": nn.Linear(5, 2), "norm": nn.LayerNorm(5), "core": DREAM(3, 5, 2, ltc_enabled=False)}
    )
    model["head"].weight.requires_grad_(False)
    groups = parameter_groups(model, weight_decay=0.1)
    given = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(given) == len(set(given))
    assert set(given) == {id(p) for p in model.parameters() if p.requires_grad}
    free = {id(p) for p in groups[1]["params"]}
    assert {id(model["head"].bias), id(model["norm"].weight), id(model["norm"].bias)} <= free


def test_groups_without_parameters_are_left_out() -> None:
    (only,) = parameter_groups(nn.LayerNorm(4), weight_decay=0.1)
    assert only["weight_decay"] == 0.0


def test_decay_alone_leaves_the_free_ones_where_they_are() -> None:
    torch.manual_seed(0)
    layer = DREAM(3, 5, 2)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    torch.optim.AdamW(parameter_groups(layer, weight_decay=0.5), lr=0.1).step()
    for name, parameter in layer.named_parameters():
        kind = name.split(".")[-1]
        expected = before[name] * (1.0 if kind in FREE else 0.95)
        torch.testing.assert_close(parameter.detach(), expected, msg=name)
    assert (layer.cell.params().tonic - 0.2).abs().max() < 1e-6
