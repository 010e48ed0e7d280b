"""The benchmark of a change: its streams, its figures, and what a short run of it shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.benchmarks import adaptation


def test_streams_keep_their_variance_and_whoever_knows_the_rule_errs_by_the_noise() -> None:
    random = torch.Generator().manual_seed(1)
    rules = [adaptation.rotation(random), adaptation.rotation(random)]
    x = adaptation.streams(rules, (300, 600), 64, random)
    assert x.shape == (64, 600, adaptation.COLUMNS)
    torch.testing.assert_close(x.var((0, 1)), torch.ones(adaptation.COLUMNS), rtol=0.05, atol=0)
    for rule, rows in zip(rules, (slice(1, 300), slice(301, 600)), strict=True):
        before = x[:, rows.start - 1 : rows.stop - 1]
        error = (x[:, rows] - adaptation.MEMORY * before @ rule.mT).square().mean()
        assert float(error) == pytest.approx(adaptation.NOISE, rel=0.02)


def test_stretches_are_means_of_their_rows() -> None:
    rows = np.arange(float(adaptation.CHANGES[-1]))
    found = adaptation.stretches(rows)
    assert list(found.values()) == [224.5, 409.5, 899.5, 1209.5, 1499.5]


def test_a_short_run_writes_every_figure_and_already_adapts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "adaptation.json"
    assert adaptation.main(["--seeds=1", "--steps=40", f"--out={out}"]) == 0
    found = json.loads(out.read_text())
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert found["results"].keys() == {"DREAM", "LSTM, frozen", "DREAM, plasticity off"}
    assert found["results"]["DREAM"] == found["every_seed"]["DREAM"][0]
    own, rival = (found["parameters"][name] for name in ("DREAM", "LSTM, frozen"))
    assert abs(own - rival) < 0.05 * own
    late = {name: row["+200 to +800"] for name, row in found["results"].items()}
    assert late["DREAM"] < 0.8 * min(late["LSTM, frozen"], late["DREAM, plasticity off"])
    assert f"{late['DREAM']:.3f}" in capsys.readouterr().out
