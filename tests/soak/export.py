"""An exported step forecasts as the layer does, over 10,000 rows in which its fast weights learn."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from dream import DREAM, export

ROWS = 10_000
SAMPLES = (1, 7)
CLOSE = 1e-5

Call = Callable[[Tensor, dict[str, Tensor]], tuple[dict[str, Tensor], dict[str, Tensor]]]


def lively() -> DREAM:
    """A layer in which every term of the equations is at work, as after training."""
    torch.manual_seed(0)
    layer = DREAM(4, 32, 3, base_threshold=0.5).eval()
    with torch.no_grad():
        for weight in (layer.cell.D, layer.cell.k, layer.cell.G_x, layer.cell.G_h):
            weight.normal_(0.0, 0.2)
        layer.cell.error_var_prior.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
    return layer


def waves(samples: int, rows: int) -> Tensor:
    """(N, T, 4), waves of another length for each sample and channel, under noise."""
    generator = torch.Generator().manual_seed(samples)
    pace = 0.05 + 0.4 * torch.rand(samples, 1, 4, generator=generator)
    noise = 0.1 * torch.randn(samples, rows, 4, generator=generator)
    return torch.sin(pace * torch.arange(rows).unsqueeze(-1)) + noise


def about_onnx(path: Path) -> tuple[dict[str, Any], Call]:
    """What an ONNX file says of itself, and a function that calls it."""
    session = onnxruntime.InferenceSession(path)
    about = json.loads(session.get_modelmeta().custom_metadata_map[export.METADATA])

    def call(x: Tensor, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        given = {"x": x.numpy(), **{name: part.numpy() for name, part in state.items()}}
        made = dict(zip(about["outputs"], map(torch.from_numpy, session.run(None, given)), strict=True))
        return made, {name: made[f"next_{name}"] for name in state}

    return about, call


def about_torch(path: Path) -> tuple[dict[str, Any], Call]:
    """What a torch program says of itself, and a function that calls it."""
    files = {export.METADATA: ""}
    call = torch.export.load(path, extra_files=files).module()
    return json.loads(files[export.METADATA]), call


def start(about: dict[str, Any], samples: int) -> dict[str, Tensor]:
    """A fresh state, from what a file says of itself."""
    return {
        name: torch.from_numpy(np.full((samples, *field["shape"]), field["start"], field["dtype"]))
        for name, field in about["state"].items()
    }


def differences(layer: DREAM, about: dict[str, Any], call: Call, samples: int, rows: int) -> dict[str, float]:
    """Largest difference of forecasts from the layer, and of U in the end; and how far U has moved."""
    x, state, forecasts = waves(samples, rows), start(about, samples), []
    with torch.no_grad():
        _, trace, final = layer.trace(x)
        for t in range(rows):
            results, state = call(x[:, t].contiguous(), state)
            forecasts.append(results["forecast"])
    assert torch.isfinite(final.U).all()
    return {
        "forecast": float((torch.stack(forecasts, 1) - trace.forecast).abs().max()),
        "U": float((state["U"] - final.U).abs().max()),
        "moved": float(trace.u_norm.diff(dim=1).abs().sum(1).min()),
    }


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Compare both kinds of file with the layer at each number of samples."""
    figures, layer = {}, lively()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        files = {"onnx": Path(folder, "step.onnx"), "torch": Path(folder, "step.pt2")}
        export.to_onnx(export.step(layer), files["onnx"])
        export.to_torch(export.step(layer), files["torch"])
        for kind, open_file in (("onnx", about_onnx), ("torch", about_torch)):
            about, call = open_file(files[kind])
            for samples in SAMPLES:
                found = differences(layer, about, call, samples, ROWS)
                print(f"{kind}, {samples} samples, {ROWS:,} rows: {found}")  # noqa: T201
                assert found["forecast"] < CLOSE, found
                assert found["moved"] > 1.0, found
                figures[f"{kind}, {samples} samples"] = found["forecast"]
    return figures
