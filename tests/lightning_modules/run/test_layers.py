"""Record of the layers in a test: counts and lines equal those of the traces, however the test is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dream import DREAMConfig
from lightning_modules import AnomalyModule, LanguageModule, OnlineModule, SpeechModule
from lightning_modules.anomaly import PlantedAnomalies
from lightning_modules.base import Observation, TaskModule
from lightning_modules.language import TextFile
from lightning_modules.language.generation import Sampling
from lightning_modules.online import DriftingStream
from lightning_modules.run.layers import BINS, POINTS, LayerRecord, LayerTally
from lightning_modules.speech import ToneWords
from tests.lightning_modules.support import small_data, small_module, small_trainer

LENGTHS = torch.tensor([700, 1300, 0])


def series(streams: bool) -> Observation:
    surprise, u_norm = torch.rand(2, 3, 1300, generator=torch.Generator().manual_seed(2))
    return Observation(surprise, 5 * u_norm, torch.zeros(3), LENGTHS, streams)


def expected(valid: np.ndarray, values: np.ndarray, axis: int, width: int) -> list[float]:
    """Means of `values` (N, T) where `valid`, over `width` places along the other axis than `axis`."""
    sums, counts = (values * valid).sum(axis), valid.sum(axis)
    groups = [slice(start, start + width) for start in range(0, len(sums), width)]
    return [sums[group].sum() / counts[group].sum() for group in groups if counts[group].sum()]


@pytest.mark.parametrize("cuts", [[0, 1300], [0, 1, 500, 501, 1300]])
def test_a_tally_of_streams_is_that_of_all_their_steps(cuts: list[int]) -> None:
    whole, tally = series(True), LayerTally()
    for start, stop in pairwise(cuts):
        part = whole._replace(
            surprise=whole.surprise[:, start:stop],
            u_norm=whole.u_norm[:, start:stop],
            lengths=(LENGTHS - start).clamp(0, stop - start),
        )
        tally.add(part)
        again = LayerTally()  # as in a test that is stopped and resumed after each batch
        again.load(tally.tensors())
        tally = again
    assert tally.streams
    found = tally.plain()
    valid = (torch.arange(1300) < LENGTHS[:, None]).numpy()
    surprise, u_norm = whole.surprise.double().numpy(), whole.u_norm.double().numpy()
    assert found["surprise_counts"] == np.histogram(surprise[valid], BINS, (0, 1))[0].tolist()
    width = 4  # the first power of two that makes at most 2 POINTS points of 1300 steps
    assert found["place"] == list(range(0, 1300, width))
    assert POINTS < len(found["place"]) <= 2 * POINTS
    assert found["surprise"] == pytest.approx(expected(valid, surprise, 0, width))
    assert found["u_norm"] == pytest.approx(expected(valid, u_norm, 0, width))


def test_a_tally_of_rows_has_a_place_for_each() -> None:
    whole, tally = series(False), LayerTally()
    for row in range(3):
        tally.add(whole._replace(surprise=whole.surprise[row : row + 1], u_norm=whole.u_norm[row : row + 1],
                                 lengths=LENGTHS[row : row + 1]))  # fmt: skip
    assert tally.plain()["place"] == [0, 1]
    assert tally.plain()["surprise"] == pytest.approx(
        [float(whole.surprise[0, :700].mean()), float(whole.surprise[1].mean())]
    )


def test_the_means_of_a_batch_leave_out_its_padding() -> None:
    surprise, u_norm = (
        torch.tensor([[0.5, 0.25, 0.0], [1.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 2.0, 0.0], [4.0, 0.0, 0.0]]),
    )
    seen = Observation(surprise, u_norm, torch.zeros(2), torch.tensor([2, 1]))
    assert float(seen.mean(seen.surprise)) == pytest.approx(1.75 / 3)
    assert seen.last_u_norm.tolist() == [2.0, 4.0]
    assert seen.valid.tolist() == [[True, True, False], [True, False, False]]
    whole = seen._replace(lengths=None)
    assert float(whole.mean(surprise)) == pytest.approx(1.75 / 6)
    assert whole.last_u_norm.tolist() == [0.0, 0.0]


def test_what_is_not_finite_counts_nowhere() -> None:
    surprise, tally = torch.tensor([[0.0, 1.0, torch.nan, 0.5]]), LayerTally()
    tally.add(Observation(surprise, torch.tensor([[1.0, 2.0, 3.0, torch.inf]]), torch.zeros(1), streams=True))
    counts = tally.plain()["surprise_counts"]
    assert (counts[0], counts[-1], sum(counts)) == (1, 1, 2)
    assert tally.plain()["u_norm"] == [1.0, 2.0]


def recorded(folder: Path, module: TaskModule, data: Any) -> dict[str, Any]:
    small_trainer(folder, callbacks=[LayerRecord()]).test(module, datamodule=data, verbose=False)
    return json.loads((folder / "layers.json").read_text())  # type: ignore[no-any-return]


def test_a_test_of_windows_leaves_what_its_layers_showed(tmp_path: Path) -> None:
    module = small_module(small_data(), hidden_dims=[8, 6]).eval()
    found = recorded(tmp_path / "a", module, small_data())
    data = small_data(batch_size=7)
    for one, other in zip(found["layers"], recorded(tmp_path / "b", module, data)["layers"], strict=True):
        assert one["surprise_counts"] == other["surprise_counts"]
        assert one["place"] == other["place"]
        assert one["u_norm"] == pytest.approx(other["u_norm"])
    assert found["places"] == "rows"
    with torch.no_grad():
        traces = list(zip(*(module.on(batch).traces for batch in data.test_dataloader()), strict=True))
    for layer, trace, cell in zip(found["layers"], traces, module.core.layers, strict=True):
        surprise = torch.cat([one.surprise for one in trace]).double()
        assert layer["surprise_counts"] == np.histogram(surprise.numpy(), BINS, (0, 1))[0].tolist()
        assert len(layer["place"]) == len(surprise)
        assert layer["surprise"] == pytest.approx(surprise.mean(1).tolist())
        eta = cell.cell.params().eta.detach().double().numpy()
        counts, borders = np.histogram(eta, BINS // 2)
        assert layer["plasticity"] == {"counts": counts.tolist(), "borders": borders.tolist()}
        assert sum(layer["tonic"]["counts"]) == len(eta)
        assert layer["target_norm"] == 2.0


def test_streams_of_every_task_leave_the_same_however_they_are_cut(tmp_path: Path) -> None:
    """Each test step of each stream is counted once, padding never."""
    config = DREAMConfig(hidden_dim=8, rank=2)
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog.\n" * 40)

    def anomaly(chunk: int) -> tuple[TaskModule, Any, int]:
        data = PlantedAnomalies(rows=1200, anomalies=2, chunk=chunk)
        return AnomalyModule.for_data(data, config=config, hidden_dims=[8, 8]), data, 1200

    def online(chunk: int) -> tuple[TaskModule, Any, int]:
        data = DriftingStream(
            kind="forecasting", length=260, columns=3, crop=32, context=8, crops=16, chunk=chunk, horizon=2
        )
        module = OnlineModule.for_data(data, config=config)
        data.setup()
        return module, data, (data.borders[2] - data.scored.start) * module.network.lanes

    def language(steps: int) -> tuple[TaskModule, Any, int]:
        data = TextFile(path=str(tmp_path / "text.txt"), batch_size=2, steps=steps, unit="chars")
        wide = DREAMConfig(input_dim=8, hidden_dim=8, rank=2)
        module = LanguageModule.for_data(data, config=wide, sampling=Sampling(length=5))
        return module, data, len(data.parts.tokens["test"]) - 1

    def speech(size: int) -> tuple[TaskModule, Any, int]:
        data = ToneWords(words=3, voices=4, takes=4, batch_size=size)
        module = SpeechModule.for_data(data, config=config)
        module.prepare(data)
        return module, data, sum(int(batch.lengths.sum()) for batch in data.test_dataloader())

    for make, sizes in ((anomaly, (1200, 170)), (online, (64, 37)), (language, (500, 33)), (speech, (8, 3))):
        found = []
        for size in sizes:
            torch.manual_seed(0)
            module, data, steps = make(size)
            found.append(recorded(tmp_path / f"{make.__name__}{size}", module, data))
            assert [sum(layer["surprise_counts"]) for layer in found[-1]["layers"]] == [steps] * len(
                module.core.layers
            )
        assert found[0]["places"] == ("rows" if make is speech else "steps")
        for one, other in zip(found[0]["layers"], found[1]["layers"], strict=True):
            moved = np.abs(np.subtract(one["surprise_counts"], other["surprise_counts"])).sum()
            assert moved <= 0.02 * steps, make.__name__  # rounding moves a step over a border
            if make is not speech:  # utterances of a batch are read by length
                assert one["place"] == other["place"]
                assert one["surprise"] == pytest.approx(other["surprise"], abs=1e-3)
                assert one["u_norm"] == pytest.approx(other["u_norm"], abs=1e-3)


def test_a_layer_without_fast_weights_and_a_rival(tmp_path: Path) -> None:
    data = small_data()
    layer = recorded(
        tmp_path, small_module(data, config=DREAMConfig(hidden_dim=8, rank=2, base_plasticity=0)), data
    )["layers"][0]
    assert sum(layer["surprise_counts"]) > 0
    assert set(layer["u_norm"]) == {0.0}
    assert "plasticity" not in layer
    rival = tmp_path / "rival"
    small_trainer(rival, callbacks=[LayerRecord()]).test(
        small_module(data, core="lstm"), datamodule=data, verbose=False
    )
    assert not (rival / "layers.json").exists()
