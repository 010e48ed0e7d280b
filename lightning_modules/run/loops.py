"""Training loops that go on exactly where they stopped.

A run is saved between two steps, when every counter of the Trainer's loops is whole: after an optimiser step,
at the end of an epoch, or, if it is stopped inside a validation, as it was before that validation, which then
starts over. Lightning can save at more places and mends the counters after loading; what is mended there
would be wrong here.

The loops are Lightning's own otherwise. They belong to its internals, which the version bound in
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
    """Who is told where a run can be saved or stopped."""

    def on_step_done(self, trainer: L.Trainer) -> None:
        """Between two steps of an epoch, nothing pending."""

    def on_epoch_done(self, trainer: L.Trainer) -> None:
        """Between two epochs."""


class EpochLoop(_TrainingEpochLoop):
    """The steps of an epoch."""

    pauses: Pauses
    _validate_first = False

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {**super().on_save_checkpoint(), "validating": bool(self.trainer.validating)}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        super().on_load_checkpoint(state_dict)
        self._validate_first = state_dict["validating"]

    def reset(self) -> None:
        if self.restarting:
            self.restarting = False  # the counters are whole
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
    """The epochs of a fit."""

    epoch_loop: EpochLoop

    @property
    def _goes_on(self) -> bool:
        """Whether an epoch was loaded that had begun and not ended."""
        return self._loaded_from_state_dict and self.epoch_progress.current.ready != self._ended

    @property
    def _ended(self) -> int:
        """Epochs that were gone through."""
        return int(self.epoch_progress.current.processed)  # type: ignore[attr-defined] # the tracker's kind is not declared

    def reset(self) -> None:
        super().reset()
        _Loop.restarting.fset(self, self._goes_on)  # type: ignore[attr-defined] # a property's setter
        if self._loaded_from_state_dict:
            assert self._combined_loader is not None
            assert self._data_fetcher is not None
            for loader in self._combined_loader.flattened:
                if isinstance(loader.sampler, EpochOrder):
                    loader.sampler.set_epoch(self._ended)
                    loader.sampler.first = (
                        self.epoch_loop.batch_progress.current.ready if self._goes_on else 0
                    )
            iter(
                self._data_fetcher
            )  # the one before was made for the first epoch, when nothing had been loaded

    def on_advance_end(self) -> None:
        self._restarting = False  # an epoch that went on ends like any other
        super().on_advance_end()
        self.epoch_loop.pauses.on_epoch_done(self.trainer)


def make_resumable(trainer: L.Trainer, pauses: Pauses) -> None:
    """Give `trainer` these loops, and tell `pauses` where they can be saved or stopped."""
    old = trainer.fit_loop
    trainer.fit_loop = FitLoop(trainer, old.min_epochs, old.max_epochs)
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, old.epoch_loop.min_steps, old.epoch_loop.max_steps)
    trainer.fit_loop.epoch_loop.pauses = pauses
