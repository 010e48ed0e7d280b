"""Properties of every way of learning from a stream: causal, independent of chunks, resumable."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dream import ConfigError, DREAMConfig, DREAMStack
from lightning_modules.stream import Reading, Shape, StreamLearner, StreamNetwork, Updates
from lightning_modules.stream.trust import Trust

ROWS = 48
UPDATES = {
    "adam": (Updates("adam", every=3, replay=8, lr=0.01), "head"),
    "each row": (Updates("sgd", every=1, replay=1, lr=0.01), "head"),
    "least squares": (Updates("least_squares", every=4, forgetting=0.99), "head"),
    "least squares, each row": (Updates("least_squares", every=1, forgetting=0.99), "head"),
    "all weights": (Updates("adam", every=10, replay=15, lr=0.01), "all"),
}
TASKS = ["forecasting", "regression", "classification"]


def network(task: Any, core: Any = "dream", **reading: Any) -> StreamNetwork:
    torch.manual_seed(3)
    shape = Shape(task, 3, 2, 4 if task == "forecasting" else 1, season=6)
    settings = dict(normalization="running", rate=0.05, lags=[0, 2], means=[5], profile_rate=0.2) | reading
    return StreamNetwork(shape, Reading(**settings), DREAMConfig(hidden_dim=6, rank=2), core)


def learner(task: str, way: str, *, plasticity: bool = True, delay: int = 2, **reading: Any) -> StreamLearner:
    updates, moves = UPDATES[way]
    return StreamLearner(network(task, **reading), updates, moves, plasticity, delay)  # type: ignore[arg-type]


def stream(task: str, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(ROWS, 3, dtype=torch.float64, generator=generator)
    rows = rows.cumsum(0) * 0.3 + rows
    targets = {
        "forecasting": None,
        "regression": rows[:, :2] * 2 + 1,
        "classification": (rows[:, 0] > rows[:, 1]).long(),
    }
    return rows, targets[task]


def run(what: StreamLearner, rows: Tensor, targets: Tensor | None, chunks: list[int]) -> Tensor:
    said, start = [], 0
    for length in chunks:
        part = slice(start, start + length)
        said.append(what.process(rows[part], None if targets is None else targets[part]).predictions)
        start += length
    return torch.cat(said)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", UPDATES)
class TestEveryWay:
    @pytest.mark.parametrize("independent", [False, True])
    def test_past_predictions_do_not_know_the_future(self, task: str, way: str, independent: bool) -> None:
        if independent and task != "forecasting":
            pytest.skip("only forecasting has channels")
        rows, targets = stream(task)
        other, changed = stream(task, seed=1)
        border = 30
        shuffled = torch.cat([rows[:border], other[border:] * 7])
        known = (
            None if targets is None or changed is None else torch.cat([targets[:border], changed[border:]])
        )
        for chunks in ([ROWS], [7] * 6 + [6]):
            past = run(learner(task, way, channel_independent=independent), rows, targets, chunks)
            again = run(learner(task, way, channel_independent=independent), shuffled, known, chunks)
            assert torch.equal(past[:border], again[:border])
            assert not torch.equal(past[border:], again[border:])
        if targets is not None:  # not even the truth of the row itself, nor one that is late
            late = targets.clone()
            late[border - 2 :] = late[border - 2 :].flip(0)
            again = run(learner(task, way), rows, late, [ROWS])
            assert torch.equal(
                run(learner(task, way), rows, targets, [ROWS])[: border + 1], again[: border + 1]
            )

    def test_any_cut_gives_the_same(self, task: str, way: str) -> None:
        rows, targets = stream(task)
        whole = run(learner(task, way), rows, targets, [ROWS])
        for chunks in ([1] * ROWS, [13, 1, 20, 14]):
            torch.testing.assert_close(
                run(learner(task, way), rows, targets, chunks), whole, rtol=1e-4, atol=1e-4
            )

    def test_it_stops_and_goes_on_bit_for_bit(self, task: str, way: str) -> None:
        rows, targets = stream(task)
        never_stopped = learner(task, way)
        whole = run(never_stopped, rows, targets, [1] * ROWS)
        first = learner(task, way)
        run(first, rows, targets, [1] * 31)
        kept = {name: value.detach().clone() for name, value in first.tensors().items()}
        second = learner(task, way)
        second.load(kept)
        rest = run(second, rows[31:], None if targets is None else targets[31:], [1] * (ROWS - 31))
        assert torch.equal(rest, whole[31:])

    def test_it_learns_and_stops_when_told(self, task: str, way: str) -> None:
        rows, targets = stream(task)
        what = learner(task, way)
        run(what, rows, targets, [40])
        weights = {name: value.clone() for name, value in what.network.state_dict().items()}
        assert weights["head.weight"].any()
        fresh = network(task).state_dict()
        moved = {name for name, value in weights.items() if not torch.equal(value, fresh[name])}
        assert moved == {"head.weight", "head.bias"} if way != "all weights" else len(moved) > 6
        what.learning = False
        what.process(rows[40:], None if targets is None else targets[40:])
        assert all(torch.equal(value, weights[name]) for name, value in what.network.state_dict().items())

    def test_a_look_ahead_changes_nothing(self, task: str, way: str) -> None:
        rows, targets = stream(task)
        what, other = learner(task, way, delay=0), learner(task, way, delay=0)
        for row in range(20):
            target = None if targets is None else targets[row : row + 1]
            expected = what.peek(rows[row])
            said = what.process(rows[row : row + 1], target).predictions[0]
            if task != "forecasting":
                assert torch.equal(expected, said)
            torch.testing.assert_close(
                other.process(rows[row : row + 1], target).predictions[0], said, rtol=0, atol=0
            )


@pytest.mark.parametrize("core", ["lstm", "linear"])
def test_rivals_of_dream_learn_by_the_same_rules(core: str) -> None:
    rows, _ = stream("forecasting")
    for updates, moves in (UPDATES["least squares"], UPDATES["all weights"]):
        cut = [StreamLearner(network("forecasting", core), updates, moves) for _ in range(2)]  # type: ignore[arg-type]
        torch.testing.assert_close(
            run(cut[0], rows, None, [ROWS]), run(cut[1], rows, None, [21, 27]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("rank", [1, 2, 4])
@pytest.mark.parametrize("task", TASKS)
def test_an_untrained_filter_begins_with_the_known_target(task: Any, rank: int) -> None:
    """Unit vectors on the inputs that hold it, as many as the rank allows; the rest is random beside them."""
    torch.manual_seed(3)
    config = DREAMConfig(hidden_dim=6, rank=rank)
    made = StreamNetwork(Shape(task, 3, 2), Reading(means=[5]), config, hidden_dims=[6, 5])
    first, second = (layer.cell for layer in made.core.layers)
    V = first.params().V.detach()
    torch.testing.assert_close(V.T @ V, rank * torch.eye(rank))
    watched = min(rank, 2)
    units = torch.eye(len(V))[:, 3 : 3 + watched] * rank**0.5
    assert torch.allclose(V[:, :watched], units, atol=1e-6) == (task != "forecasting")
    torch.manual_seed(3)
    plain = DREAMStack.from_config(first.config, [6, 5])  # as many draws, so that all else starts as it did
    assert torch.equal(second.V_raw, plain.layers[1].cell.V_raw)
    assert torch.equal(first.A, plain.layers[0].cell.A)


def test_where_all_is_seen_the_filter_stays_random() -> None:
    torch.manual_seed(3)
    made = StreamNetwork(Shape("regression", 1, 1), Reading(), DREAMConfig(hidden_dim=6, rank=2))
    assert not hasattr(made.core.layers[0].cell, "V_raw")


def test_frozen_fast_weights_stay() -> None:
    rows, _ = stream("forecasting")
    what = learner("forecasting", "adam", plasticity=False)
    run(what, rows, None, [ROWS])
    assert not what.state.core[0].U.any()
    assert learner("forecasting", "adam").process(rows).u_norm[-1] > 0


def test_an_untrained_forecast_is_the_present_level() -> None:
    rows, _ = stream("forecasting")
    what = learner("forecasting", "adam", normalization="differences")
    what.learning = False
    torch.testing.assert_close(what.process(rows).predictions, rows[:, None, :2].expand(-1, 4, -1))


@pytest.mark.parametrize("forgetting", [1.0, 0.95])
def test_least_squares_is_the_weighted_ridge_of_all_known_rows(forgetting: float) -> None:
    rows, _ = stream("forecasting")
    updates = Updates("least_squares", every=1, forgetting=forgetting, ridge=0.01)
    what = StreamLearner(network("forecasting"), updates)
    what.process(rows)
    twin = network("forecasting").eval()
    with torch.no_grad():
        features, _ = twin.features(rows[None], twin.init_state())
    known = ROWS - 4
    z = torch.cat([features.values[0, :known, 0].double(), torch.ones(known, 1)], 1)
    level, scale = features.level[0, :known, None], features.scale[0, :known, None]
    future = rows[1:, :2].unfold(0, 4, 1).transpose(1, 2)[:known]
    y = ((future - level) / scale).flatten(1)
    weight = forgetting ** torch.arange(known - 1, -1, -1).double()
    z, y, weight = z[1:], y[1:], weight[1:]  # after the first row there is no scale yet
    gram, moment = z.mT @ (weight[:, None] * z), z.mT @ (weight[:, None] * y)
    pull = 1 + 0.01 * gram.diagonal().mean()
    solved = torch.linalg.solve(gram + pull * torch.eye(len(gram)), moment).mT.float()
    torch.testing.assert_close(what.network.head.weight[0], solved[:, :-1], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(what.network.head.bias[0], solved[:, -1], rtol=1e-3, atol=1e-4)


def test_features_are_what_the_equations_say() -> None:
    net, (rows, _) = (
        network("forecasting", output=False, forecast=False, profile_rate=0.0),
        stream("forecasting"),
    )
    features, _ = net.features(rows[None], net.init_state())
    level, scale = net.normalizer(rows[None], net.normalizer.init_state(1, 3))[0][1:]
    row = 20
    expected = [
        (value - level[0, row]) / scale[0, row]
        for value in (rows[row], rows[row - 2], rows[row - 4 : row + 1].mean(0))
    ]
    torch.testing.assert_close(features.values[0, row, 0], torch.cat(expected).float())
    assert not features.values[0, 1, 0, 3:6].any()  # two rows before the second there is none


def test_least_squares_cannot_move_all_weights() -> None:
    with pytest.raises(
        ConfigError, match=r"`updates\.rule` must be adam or sgd where all weights move; got 'least_squares'"
    ):
        StreamLearner(network("forecasting"), Updates("least_squares"), "all")


class TestTrust:
    def test_good_forecasts_are_believed_and_bad_ones_are_not(self) -> None:
        came = torch.randn(2000, 1, 3, dtype=torch.float64)
        said = torch.stack([came[..., 0], -came[..., 1], torch.randn(2000, 1, dtype=torch.float64)], -1)
        trust = Trust(1, 3, 0.999)
        trust.add(said.numpy(), came.numpy())
        good, bad, noise = trust.factor()[0].tolist()
        assert good > 0.9
        assert bad == 0.0
        assert noise < 0.05

    def test_pieces_are_the_whole(self) -> None:
        said, came = torch.randn(2, 50, 4, 2, dtype=torch.float64)
        once, often = Trust(4, 2, 0.97), Trust(4, 2, 0.97)
        once.add(said.numpy(), came.numpy())
        for part in (slice(0, 1), slice(1, 30), slice(30, 50)):
            often.add(said[part].numpy(), came[part].numpy())
        for name, value in once.tensors().items():
            torch.testing.assert_close(often.tensors()[name], value)

    def test_nothing_is_believed_before_the_first_record(self) -> None:
        assert not Trust(2, 2, 0.99).factor().any()

    def test_the_record_is_of_known_rows_only_and_goes_on_from_a_file(self) -> None:
        generator = torch.Generator().manual_seed(0)
        rows = torch.sin(torch.arange(120) / 3).double().unsqueeze(1) + 0.1 * torch.randn(
            120, 1, generator=generator
        )
        reading = Reading("differences", 0.05, lags=2, output=False, forecast=False)
        updates = Updates("least_squares", every=2, trust=0.95)

        def fresh() -> StreamLearner:
            return StreamLearner(
                StreamNetwork(Shape("forecasting", 1, 1, 3), reading, DREAMConfig(hidden_dim=4, rank=1)),
                updates,
            )

        whole = fresh()
        said = run(whole, rows, None, [1] * 120)
        assert whole.trust is not None
        assert whole.trust.factor().max() > 0.3
        changed = torch.cat([rows[:80], rows[:40]])
        assert torch.equal(run(fresh(), changed, None, [1] * 120)[:80], said[:80])
        torch.testing.assert_close(run(fresh(), rows, None, [50, 70]), said, rtol=1e-4, atol=1e-4)
        first, second = fresh(), fresh()
        run(first, rows, None, [1] * 70)
        second.load({name: value.detach().clone() for name, value in first.tensors().items()})
        assert torch.equal(run(second, rows[70:], None, [1] * 50), said[70:])
