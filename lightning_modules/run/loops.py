"""Training loops that resume exactly where they stopped.

A run is saved only between two steps, when all counters of the Trainer's loops agree: after an optimiser
step, at the end of an epoch or, if it is stopped inside a validation, in the state before that validation,
which is then repeated. Lightning can also save at other places, and repairs the counters after loading; that
repair would be wrong here.

Otherwise the loops are Lightning's own. They are among its internals, which the version bound in
`pyproject.toml` pins."""

from __future__ import annotations

from typing import Any, Protocol

import lightning as L
from lightning.pytorch.loops.fetchers import _DataFetcher
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop

from lightning_modules.data.order import EpochOrder


class Pauses(Protocol):
    """Listener for the points at which a run can be saved or stopped."""

    def on_step_done(self, trainer: L.Trainer) -> None:
        """Hook between two steps of an epoch, with nothing pending."""

    def on_epoch_done(self, trainer: L.Trainer) -> None:
        """Hook between two epochs."""


class EpochLoop(_TrainingEpochLoop):
    """Loop over the steps of an epoch."""

    pauses: Pauses
    _validate_first = False

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validating": bool(self.trainer.validating)}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._validate_first = state_dict["validating"]

    def reset(self) -> None:
        if self.restarting:
            self.restarting = False  # the counters agree: there is nothing to repair
        else:
            super().reset()

    @property
    def done(self) -> bool:
        return not self._validate_first and super().done

    def advance(self, data_fetcher: _DataFetcher) -> None:
        if not self._validate_first:
            super().advance(data_fetcher)

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        self._validate_first = False
        super().on_advance_end(data_fetcher)
        if not self._num_ready_batches_reached() and not self._should_accumulate():
            self.pauses.on_step_done(self.trainer)


class FitLoop(_FitLoop):
    """Loop over the epochs of a fit."""

    epoch_loop: EpochLoop

    @property
    def _within_epoch(self) -> bool:
        """Whether the loaded run stopped within an epoch."""
        return self._loaded_from_state_dict and self.epoch_progress.current.ready != self._ended

    @property
    def _ended(self) -> int:
        """Number of completed epochs."""
        return int(self.epoch_progress.current.processed)  # type: ignore[attr-defined] # the tracker's kind is not declared

    def reset(self) -> None:
        super().reset()
        _Loop.restarting.fset(self, self._within_epoch)  # type: ignore[attr-defined] # a property's setter
        if self._loaded_from_state_dict:
            assert self._combined_loader is not None
            assert self._data_fetcher is not None
            for loader in self._combined_loader.flattened:
                if isinstance(loader.sampler, EpochOrder):
                    loader.sampler.set_epoch(self._ended)
                    batches = self.epoch_loop.batch_progress.current.ready
                    loader.sampler.first = batches if self._within_epoch else 0
            # the present iterator was made for the first epoch, before anything was loaded
            iter(self._data_fetcher)

    def on_advance_end(self) -> None:
        self._restarting = False  # a resumed epoch ends like any other
        super().on_advance_end()
        self.epoch_loop.pauses.on_epoch_done(self.trainer)


def make_resumable(trainer: L.Trainer, pauses: Pauses) -> None:
    """Give `trainer` these loops; `pauses` is called wherever they can be saved or stopped."""
    old = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, old.min_epochs, old.max_epochs)
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, old.epoch_loop.min_steps, old.epoch_loop.max_steps)
    trainer.fit_loop.epoch_loop.pauses = pauses
