"""`SaveProgress`: save a run so that it can stop at any step and resume as if it never had stopped."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from torch.utils.data import DataLoader

from dream.errors import CheckpointError
from dream.sealed import checksum
from lightning_modules import ranks
from lightning_modules.base import TaskModule
from lightning_modules.checks import require, require_int, require_there
from lightning_modules.run import checkpoints
from lightning_modules.run.layers import LayerRecord, LayerTally
from lightning_modules.run.randomness import random_state, set_random_state
from lightning_modules.run.signals import StopSignals
from lightning_modules.run.tracking import JSONLLogger, versions

log = logging.getLogger(__name__)

TEST = "test.ckpt"
"""File with the progress of an interrupted test."""


@runtime_checkable
class ResumableTest(Protocol):
    """A task whose test learns while it reads, and so cannot simply start over."""

    def save_test(self) -> dict[str, Any]:
        """State of the test after this batch: tensors and plain values, in dictionaries and lists."""

    def resume_test(self, saved: dict[str, Any]) -> None:
        """Let the next test continue from what `save_test` returned."""


class SaveProgress(L.Callback):
    """Callback that saves the run after every epoch, every so many steps or minutes, and when it must stop.

    A save holds weights, optimiser, schedule, the position in the data, carried states, the states of all
    random generators and of the other callbacks, the length of `metrics.jsonl`, and the fingerprint of the
    data; a run that resumes from it takes the same steps as one that was never stopped. The last `keep` saves
    are kept, beside the best checkpoint. The test of a model that learns from a stream is saved, too.

    Args:
        keep: Number of saves to keep.
        every_n_steps: Also save every so many steps; only at the ends of epochs if not given.
        every_minutes: Also save when the last save is older than this.
    """

    def __init__(self, keep: int = 2, every_n_steps: int | None = None, every_minutes: float = 5.0) -> None:
        self.keep = require_int("keep", keep)
        self.every_n_steps = None if every_n_steps is None else require_int("every_n_steps", every_n_steps)
        require("every_minutes", every_minutes, every_minutes > 0, "a number above 0")
        self.every_minutes = every_minutes
        self.folder: Path | None = None
        """Folder of the saves; None if nothing is saved."""
        self.resumes = False
        """Whether the run resumes in its own folder."""
        self.from_save = False
        """Whether it resumes from a save of its own; otherwise a checkpoint starts a new run."""
        self.signals = StopSignals()
        self._loaded: dict[str, Any] | None = None
        self._saved = time.monotonic()
        self._batches = 0

    def save(self, trainer: L.Trainer) -> None:
        """Save the run now, and remove the oldest saves.

        Raises:
            CheckpointError: it cannot be written; the earlier saves are intact.
            DataError: the folder of the run is gone.
        """
        assert self.folder is not None
        require_there(self.folder.parent)
        own = self.folder / checkpoints.STEP.format(trainer.global_step)
        trainer.save_checkpoint(own)
        self._saved = time.monotonic()
        for logger in metrics_files(trainer):
            logger.seal()
        if trainer.is_global_zero:
            saves = checkpoints.steps(self.folder)
            if own not in saves:  # others delete here
                require_there(self.folder.parent)
                require_there(self.folder)
                return
            place = saves.index(own)
            # saves of later steps are damaged: the run resumed from before them
            for path in (*saves[:place], *saves[place + self.keep :]):
                checkpoints.remove(path)

    @property
    def _due(self) -> bool:
        return time.monotonic() - self._saved > 60 * self.every_minutes

    def on_step_done(self, trainer: L.Trainer) -> None:
        """Save if one is due, and stop if a signal came."""
        stop = self._agreed(trainer, self.signals.received is not None)
        due = self._agreed(trainer, self._due)
        if stop or due or (self.every_n_steps and trainer.global_step % self.every_n_steps == 0):
            self.save(trainer)
        if stop:
            self.signals.stop()

    def on_epoch_done(self, trainer: L.Trainer) -> None:
        """Save, and stop if a signal came."""
        self.save(trainer)
        if self._agreed(trainer, self.signals.received is not None):
            self.signals.stop()

    @staticmethod
    def _agreed(trainer: L.Trainer, flag: bool) -> bool:
        return ranks.anywhere(flag, trainer.strategy.root_device)

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # of several processes, others may have finished their part
        if self.signals.received is not None and ranks.world_size() == 1:
            if trainer.state.fn == TrainerFn.FITTING:
                self.save(trainer)  # the state before this validation, which will be repeated
            self.signals.stop()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, TaskModule)
        assert pl_module.data is not None
        checkpoint["dream"] = checkpoints.identity(type(pl_module).__name__)
        checkpoint["versions"] = versions()
        checkpoint["fingerprint"] = pl_module.data.fingerprint
        checkpoint["progress"] = {
            "random": ranks.gather(random_state()),
            "metrics": sum(logger.sync() for logger in metrics_files(trainer)),
            "should_stop": trainer.should_stop,
        }

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._loaded = checkpoint["progress"]
        best = trainer.checkpoint_callback
        if self.from_save and isinstance(best, ModelCheckpoint) and best.state_key in checkpoint["callbacks"]:
            checkpoint["callbacks"][best.state_key] = moved(
                checkpoint["callbacks"][best.state_key], str(best.dirpath)
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.resumes:
            own = self._loaded if self.from_save else None
            for logger in metrics_files(trainer):
                logger.cut(own["metrics"] if own else 0)
            trainer.should_stop = bool(own and own["should_stop"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._loaded is not None:
            states = self._loaded["random"]
            set_random_state(states[min(ranks.rank(), len(states) - 1)])
            seeded = ranks.rank() < len(states)
            self._loaded = None
        else:
            seeded = ranks.rank() == 0
        if not seeded:  # numbers of its own, so that dropout differs between processes
            torch.manual_seed(torch.initial_seed() + ranks.rank())
        self.wait()

    def wait(self) -> None:
        """Let signals wait for the end of the step from now on."""
        self.signals.wait = True
        self.signals.listen()
        self._saved = time.monotonic()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.wait = False

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TaskModule)
        self.wait()
        if self.folder is None or not self.resumes or not (path := self.folder / TEST).is_file():
            return
        try:
            saved = checkpoints.load(path)
        except CheckpointError as error:
            log.warning("%s The test starts over.", error)
            return
        loader = trainer.test_dataloaders
        if saved.get("dream") != checkpoints.identity(type(pl_module).__name__):
            log.warning("%s was written by another version of dream. The test starts over.", path)
            return
        if saved["weights"] == checksum({}, pl_module.state_dict()) and isinstance(loader, DataLoader):
            assert isinstance(pl_module, ResumableTest)
            pl_module.resume_test(saved["progress"])
            self._batches = saved["batches"]
            for tally, tensors in zip(layer_tallies(trainer), saved["layers"], strict=True):
                tally.load(tensors)
            loader.sampler.first = self._batches  # type: ignore[attr-defined] # of our order of batches

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, TaskModule)
        self._batches += 1
        stop = self.signals.received is not None
        if self.folder is not None and trainer.is_global_zero and (stop or self._due):
            require_there(self.folder.parent)
            if isinstance(pl_module, ResumableTest):
                assert pl_module.data is not None
                progress = pl_module.save_test()
                weights = checksum({}, pl_module.state_dict())
                layers = [tally.tensors() for tally in layer_tallies(trainer)]
                saved = {
                    "dream": checkpoints.identity(type(pl_module).__name__),
                    "fingerprint": pl_module.data.fingerprint,
                    "weights": weights,
                    "batches": self._batches,
                    "progress": progress,
                    "layers": layers,
                }
                checkpoints.write(saved, self.folder / TEST)
            self._saved = time.monotonic()
        if stop:
            self.signals.stop()

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.wait = False
        self._batches = 0
        if self.signals.received is not None:
            self.signals.stop()


def moved(state: dict[str, Any], folder: str) -> dict[str, Any]:
    """State of a ModelCheckpoint whose files have moved to `folder`."""

    def here(path: str) -> str:
        return str(Path(folder) / Path(path).name) if path else path

    names = ("best_model_path", "kth_best_model_path", "last_model_path")
    best = {here(path): score for path, score in state["best_k_models"].items()}
    return {**state, **{name: here(state[name]) for name in names}, "best_k_models": best, "dirpath": folder}


def layer_tallies(trainer: L.Trainer) -> list[LayerTally]:
    """Running record of each layer in the test; empty if no callback keeps one."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return [tally for record in callbacks if isinstance(record, LayerRecord) for tally in record.tallies]


def metrics_files(trainer: L.Trainer) -> list[JSONLLogger]:
    """Loggers that write `metrics.jsonl`."""
    return [logger for logger in trainer.loggers if isinstance(logger, JSONLLogger)]
