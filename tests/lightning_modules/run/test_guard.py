"""Real NaN in data, gradients and fast weights: no weight moves, later steps are unaffected, and reports."""

from __future__ import annotations

import logging
import math
import subprocess
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dream import ConfigError, DREAMConfig, DREAMError
from dream.cell import DREAMCell
from lightning_modules import AnomalyModule, OnlineModule
from lightning_modules.anomaly import AnomalyShape, PlantedAnomalies
from lightning_modules.anomaly.scores import RunningScale
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData
from lightning_modules.online import DriftingStream
from lightning_modules.run.guard import BestCheckpoint, NaNGuard
from tests.lightning_modules.support import small_data, small_module, small_trainer
from tests.soak.ranks import TORCHRUN

STEADY: dict[str, Any] = dict(dropout=0.0, schedule="constant", warmup=0.0)


class Spoil(L.Callback):
    """Callback that changes the batch of some steps, and records weights and optimiser around each step."""

    def __init__(self, *steps: int, rows: Any = 3, value: float = math.nan, part: str = "past") -> None:
        self.steps = steps
        self.rows = rows
        self.value = value
        self.part = part
        self.before: list[dict[str, Tensor]] = []
        self.after: list[dict[str, Tensor]] = []

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx in self.steps:
            getattr(batch, self.part)[self.rows] = self.value
        self.before.append(everything(trainer, module))

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.after.append(everything(trainer, module))


def everything(trainer: L.Trainer, module: L.LightningModule) -> dict[str, Tensor]:
    """Weights, priors and the state of the optimiser."""
    kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
    for k, state in enumerate(trainer.optimizers[0].state.values()):
        kept |= {f"optimizer.{k}.{name}": value.clone() for name, value in state.items()}
    return kept


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fit(
    folder: Path,
    *callbacks: L.Callback,
    module: TaskModule | None = None,
    data: TaskData | None = None,
    **options: Any,
) -> TaskModule:
    torch.manual_seed(0)
    data = data or small_data()
    module = module or small_module(data, **STEADY)
    trainer = small_trainer(
        folder, callbacks=list(callbacks), **{"limit_val_batches": 0, "gradient_clip_val": 1.0} | options
    )
    trainer.fit(module, datamodule=data)
    return module


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_batch_moves_nothing(
    clip: float | None, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    spoil, guard = Spoil(5, rows=(3, slice(14, None))), NaNGuard()
    fit(tmp_path, spoil, guard, gradient_clip_val=clip)
    assert same(spoil.before[5], spoil.after[5])
    moved = [not same(before, after) for before, after in zip(spoil.before, spoil.after, strict=True)]
    assert moved == [k != 5 for k in range(len(moved))]
    assert all(value.isfinite().all() for value in spoil.after[-1].values())
    assert guard.skipped == 1
    (message,) = [record.getMessage() for record in said.records if "not finite" in record.getMessage()]
    assert message.startswith("step 6: not finite: the loss, the gradient of `core.")
    assert "surprise and norm of U of layer 0. In the batch: drifting load" in message
    assert "Skipped; 1 so far." in message


def test_the_exact_row_is_named(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    data, origins = small_data(), []

    class Look(Spoil):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            origins.append(batch.origin[3].item())

    # instance normalisation spreads one NaN over its window; without, what follows it is lost
    module = small_module(data, normalization="none", **STEADY)
    fit(tmp_path, Look(2, rows=(3, slice(14, None))), NaNGuard(), module=module, data=data)
    first = origins[2] - 24 + 12  # the patch of 4 rows that row 14 of the window belongs to
    assert f"In the batch: {data.series.source}, from rows {first} to {first + 3} on. Skipped" in said.text


def test_later_steps_are_as_if_it_had_not_been_there(tmp_path: Path) -> None:
    spoiled = fit(tmp_path, Spoil(2, 6), NaNGuard(max_skipped=1), gradient_clip_val=1.0)

    class Without(L.Callback):
        """Do nothing in those steps."""

        def on_before_optimizer_step(
            self, trainer: Any, module: Any, optimizer: torch.optim.Optimizer
        ) -> None:
            resting = trainer.global_step in (2, 6)
            for group in optimizer.param_groups:
                for weight in group["params"]:
                    weight.grad = None if resting else weight.grad

        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            module.train(trainer.global_step not in (2, 6))  # the prior rests too

    plain = fit(tmp_path, Without(), gradient_clip_val=1.0)
    for name, value in plain.state_dict().items():
        assert torch.equal(spoiled.state_dict()[name], value), name


def test_a_guard_changes_nothing_where_all_is_well(tmp_path: Path) -> None:
    guarded, plain = fit(tmp_path, NaNGuard()), fit(tmp_path)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(guarded.state_dict()[name], value, rtol=1e-6, atol=1e-7)


def test_a_gradient_alone(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    data = small_data()
    module, spoil = small_module(data, **STEADY), Spoil()
    calls: list[int] = []

    def spoil_fourth(gradient: Tensor) -> Tensor:
        calls.append(1)
        return gradient * math.inf if len(calls) == 4 else gradient

    module.head.bias.register_hook(spoil_fourth)
    fit(tmp_path, spoil, NaNGuard(), module=module, data=data)
    assert same(spoil.before[3], spoil.after[3])
    assert "step 4: not finite: the gradient of `head.bias`. In the batch: drifting load" in said.text
    assert "12 more. Skipped" in said.text  # a batch of 16, all of which the gradient may come from


def test_fast_weights_alone(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    """A lost state that neither loss nor gradient shows."""
    data = small_data()

    class Hidden(type(small_module(data))):  # type: ignore[misc]
        def observe(self, *shown: Any, **how: Any) -> None:
            super().observe(*shown, **how)
            if self.trainer.global_step == 1:
                self.observed[0].u_norm[5, -1] = math.inf

    module, spoil = small_module(data, **STEADY), Spoil()
    module.__class__ = Hidden
    fit(tmp_path, spoil, NaNGuard(), module=module, data=data)
    assert same(spoil.before[1], spoil.after[1])
    assert "step 2: not finite: surprise and norm of U of layer 0. In the batch: drifting load" in said.text


def test_stop(tmp_path: Path) -> None:
    spoil = Spoil(3)
    with pytest.raises(
        DREAMError, match=r"^step 4: not finite: the loss.*rows \d+ to \d+.*The step moved no weight"
    ):
        fit(tmp_path, spoil, NaNGuard("stop"), log_every_n_steps=5)
    assert len(spoil.before) == 5  # until the next logging step
    assert same(spoil.before[3], spoil.after[3])


class SaveAll(L.Callback):
    """Callback that saves after every step, as `SaveProgress` does, and keeps the last save."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        folder = Path(trainer.default_root_dir)
        trainer.save_checkpoint(folder / f"{trainer.global_step}.ckpt")
        for old in folder.glob("*.ckpt"):
            if old.stem != str(trainer.global_step):
                old.unlink()


def last_save(folder: Path) -> tuple[str, bool]:
    """The name of the only save, and whether its weights are finite."""
    (path,) = folder.glob("*.ckpt")
    weights = torch.load(path, weights_only=True)["state_dict"]
    return path.stem, all(bool(value.isfinite().all()) for value in weights.values())


def test_stop_is_not_lost_by_a_save(tmp_path: Path) -> None:
    """A save that counts the bad step, without stopping, would let a resumed run pass it."""
    with pytest.raises(DREAMError, match=r"^step 4: not finite: the loss.*lower `lr`"):
        fit(tmp_path, Spoil(3), NaNGuard("stop"), SaveAll(), log_every_n_steps=50)
    assert last_save(tmp_path) == ("3", True)


@pytest.mark.parametrize("lr", [1e39, 1e300])
@pytest.mark.parametrize("every", [1, 50])
def test_weights_that_are_not_finite_are_never_saved(lr: float, every: int, tmp_path: Path) -> None:
    """Loss and gradients of the step that breaks the weights are finite."""
    module = small_module(**STEADY)

    class Leap(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
            if trainer.global_step == 2:
                trainer.optimizers[0].param_groups[0]["lr"] = lr

    message = r"^after step 3 these values are not finite: those of `.*lower `model.lr`"
    with pytest.raises(DREAMError, match=message):
        fit(tmp_path, Leap(), NaNGuard(), SaveAll(), module=module, log_every_n_steps=every)
    assert last_save(tmp_path) == ("2", True)


def test_a_run_that_is_lost_stops(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    guard = NaNGuard(max_skipped=3)
    with pytest.raises(
        DREAMError, match=r"step 7: .*It is bad step 4 in a row, more than `nan_guard.max_skipped`"
    ):
        fit(tmp_path, Spoil(1, *range(3, 20)), guard)
    assert guard.skipped == 5


def test_the_end_of_an_epoch_is_a_look_too(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    guard = NaNGuard()
    fit(tmp_path, Spoil(2), guard, limit_train_batches=3, log_every_n_steps=50)
    assert guard.skipped == 1
    assert "step 3: not finite" in said.text


def test_it_is_logged_and_kept(tmp_path: Path) -> None:
    from lightning_modules.run.tracking import JSONLLogger

    logger, guard = JSONLLogger(tmp_path), NaNGuard()
    fit(tmp_path, Spoil(1, 3), guard, logger=logger)
    shown = [row for row in logger.path.read_text().splitlines() if "guard/skipped" in row]
    assert '"guard/skipped": 2.0' in shown[-1]
    again = NaNGuard()
    again.load_state_dict(guard.state_dict())
    assert again.skipped == 2


def test_accumulated_batches_are_one_step(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    spoil, guard = Spoil(4), NaNGuard()
    fit(tmp_path, spoil, guard, accumulate_grad_batches=3)
    assert guard.skipped == 1
    assert same(spoil.before[3], spoil.after[5])
    assert "step 2: not finite" in said.text


def test_the_checks_of_the_layer_rest_while_training_only(tmp_path: Path) -> None:
    seen: dict[str, list[bool]] = {"train": [], "val": []}
    module = small_module(**STEADY)
    cells = [cell for cell in module.modules() if isinstance(cell, DREAMCell)]

    class Watch(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            seen["train"].append(cells[0].check_inputs)

        def on_validation_batch_end(self, *_: Any) -> None:
            seen["val"].append(cells[0].check_inputs)

    fit(
        tmp_path,
        Watch(),
        NaNGuard(),
        module=module,
        limit_val_batches=2,
        num_sanity_val_steps=1,
        max_epochs=2,
    )
    assert seen["train"]
    assert not any(seen["train"])
    assert len(seen["val"]) > 2
    assert all(seen["val"])
    assert cells[0].check_inputs


class Validation(L.Callback):
    """Callback that sets the monitored metric of some epochs to NaN."""

    def __init__(self, *epochs: int) -> None:
        self.epochs = epochs

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch in self.epochs:
            module._validation[0].compute = lambda: {"mse": torch.tensor(math.nan)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("epochs", [(0,), (1,), (0, 1, 2)])
def test_a_validation_that_is_not_finite_is_never_the_best(
    epochs: tuple[int, ...], tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    best = BestCheckpoint(tmp_path / "checkpoints", monitor="val/mse", filename="{epoch}", save_top_k=1)
    options = dict(limit_train_batches=3, limit_val_batches=None, max_epochs=3, enable_checkpointing=True)
    fit(tmp_path, Validation(*epochs), NaNGuard(), best, **options)
    assert said.text.count("of the validation after step") == len(epochs)
    assert all(math.isfinite(score) for score in best.best_k_models.values())
    kept = [path.stem for path in (tmp_path / "checkpoints").glob("*")] if best.best_model_path else []
    assert len(kept) == (0 if len(epochs) == 3 else 1)
    assert not {f"epoch={epoch}" for epoch in epochs} & set(kept)


def test_a_validation_that_is_not_finite_stops(tmp_path: Path) -> None:
    with pytest.raises(DREAMError, match=r"`val/mse` of the validation after step 3 is nan"):
        fit(tmp_path, Validation(0), NaNGuard("stop"), limit_train_batches=3, limit_val_batches=None)


def test_streams_of_anomalies_go_on_from_the_state_before(
    tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    data = PlantedAnomalies(sensors=2, rows=900, anomalies=2, training=600, train_chunk=60)
    module = AnomalyModule(DREAMConfig(hidden_dim=8, rank=2), AnomalyShape(2))
    spoil = Spoil(3, rows=(0, slice(20, 23)), part="values")
    fit(tmp_path, spoil, NaNGuard(), module=module, data=data)
    assert f"In the batch: {data.streams[0].name}, from row 200 on. Skipped; 1 so far." in said.text
    assert said.text.count("Skipped") == 1  # the chunk after it is as good as ever
    assert same(spoil.before[3], spoil.after[3])
    assert module._states is None or all(part.isfinite().all() for state in module._states for part in state)


def test_crops_of_a_stream(tmp_path: Path, said: pytest.LogCaptureFixture) -> None:
    data = DriftingStream(
        kind="forecasting", length=260, columns=3, crop=32, context=8, crops=16, batch_size=4
    )
    module = OnlineModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2))
    starts: list[list[int]] = []

    class Look(Spoil):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            starts.append(batch.start.tolist())

    fit(tmp_path, Look(1, rows=(2, 7), part="rows", value=math.inf), NaNGuard(), module=module, data=data)
    assert f"from row {starts[1][2] + 7} on. Skipped; 1 so far" in said.text


def test_every_kind_of_batch_says_its_rows() -> None:
    windows = small_data()
    batch = next(iter(windows.val_dataloader()))
    rows = windows.rows_of(batch)
    first = windows.parts.val.start - 24
    assert rows[0].tolist() == [first, first + 23]
    assert torch.equal(windows.prepared.tables.values[rows[5, 0] : rows[5, 1] + 1], batch.past[5])
    streams = small_data(streams=True, stride=8, batch_size=4)
    batch = next(iter(streams.train_dataloader()))
    rows = streams.rows_of(batch)
    assert torch.equal(streams.prepared.tables.values[rows[2, 0] : rows[2, 1] + 1], batch.past[2, 24:])
    anomalies = PlantedAnomalies(sensors=2, rows=900, anomalies=2, training=600, train_chunk=64)
    batch = list(anomalies.train_dataloader())[-1]
    ((first, last),) = anomalies.rows_of(batch).tolist()
    np.testing.assert_array_equal(anomalies.streams[0].values[first : last + 1], batch.values[0])
    online = DriftingStream(
        kind="forecasting", length=260, columns=3, crop=32, context=8, crops=16, batch_size=4
    )
    batch = next(iter(online.train_dataloader()))
    for (first, last), crop in zip(online.rows_of(batch).tolist(), batch.rows, strict=True):
        assert torch.equal(online.values[0][first : last + 1], crop)
    assert "drifting" in online.source_of(0)


def test_a_running_scale_does_not_learn_what_is_no_number() -> None:
    values = np.random.default_rng(0).standard_normal((60, 2, 1))
    spoiled = values.copy()
    spoiled[30, 1] = np.nan
    on = np.ones(2, dtype=bool)
    scales = [RunningScale(2, 1, 20) for _ in range(2)]
    clean = np.stack([scales[0].step(row, on) for row in values])
    seen = np.stack([scales[1].step(row, on) for row in spoiled])
    np.testing.assert_array_equal(seen[:, 0], clean[:, 0])
    unknown = np.zeros((60, 2), dtype=bool)
    unknown[30] = True
    unknown[31, 1] = True  # the difference from what is no number
    np.testing.assert_array_equal(np.isnan(seen[:, 1]), unknown)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(on_bad_batch="ignore"), "`on_bad_batch` must be skip or stop; got 'ignore'"),
        (dict(max_skipped=0), "`max_skipped` must be at least 1; got 0"),
    ],
)
def test_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NaNGuard(**settings)


def test_an_optimiser_that_cannot_rest_is_refused(tmp_path: Path) -> None:
    module = small_module(**STEADY)
    module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters())  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match=r"the optimiser must be able to rest .*got AdamW without `fused`"):
        fit(tmp_path, NaNGuard(), module=module)


def test_the_device_is_not_waited_for_in_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device is waited for when a tensor becomes a number or a list: once at each report only."""
    hooks = ("on_train_batch_start", "on_before_backward", "on_before_optimizer_step", "_count")
    waits, within, tolist = dict.fromkeys(hooks, 0), [""], torch.Tensor.tolist

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            waits[within[0]] += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def listed(tensor: Tensor) -> Any:
        if within[0]:
            waits[within[0]] += 1
        return tolist(tensor)

    def counted(name: str, call: Any) -> Any:
        def hook(*args: Any) -> None:
            within[0] = name
            with Counting():
                call(*args)
            within[0] = ""

        return hook

    for name in hooks:
        monkeypatch.setattr(NaNGuard, name, counted(name, getattr(NaNGuard, name)))
    monkeypatch.setattr(torch.Tensor, "tolist", listed)
    fit(tmp_path, NaNGuard(), log_every_n_steps=4, limit_train_batches=10)
    assert waits == dict(zip(hooks, (0, 0, 0, 3), strict=True))  # steps 4 and 8, and the end of the epoch


def test_a_batch_that_is_bad_in_one_process_is_skipped_by_all(tmp_path: Path) -> None:
    command = [
        *TORCHRUN,
        "--nproc-per-node=2",
        "-m",
        "tests.lightning_modules.run.two_guards",
        str(tmp_path / "out"),
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    one, two = (torch.load(tmp_path / f"out.{rank}", weights_only=True) for rank in (0, 1))
    assert torch.equal(one["weights"], two["weights"])
    assert one["skipped"] == two["skipped"] == 1
    steps = one["weights"]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[1], steps[2])
    assert "step 2: not finite: surprise and norm of U of layer 0. In the batch: drifting load" in done.stderr
    assert "step 2: something on another process is not finite" in done.stderr
