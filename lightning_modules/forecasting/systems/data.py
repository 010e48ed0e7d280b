"""Sequences of input and output of systems, each sequence another system.

Shapes: N sequences of a batch, T steps, L lags, H steps for which the input is known ahead, A distances that
are forecast, I = 2 L + H - 1 inputs of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dream.errors import ConfigError
from lightning_modules.checks import require, require_int
from lightning_modules.data.base import TaskData
from lightning_modules.data.fingerprint import Fingerprint, content_sum
from lightning_modules.data.order import EpochOrder, drawn, in_order, loader
from lightning_modules.data.schema import Schema
from lightning_modules.forecasting.systems.circuit import circuit
from lightning_modules.forecasting.systems.generator import sequence

Part = Literal["train", "val", "test"]
Tested = Literal["generated", "circuit"]
_SEEDS = 1 << 62  # of training sequences


class SystemBatch(NamedTuple):
    """Sequences of one length."""

    inputs: Tensor
    """(N, T, I) float32: y_t and back to y_(t-L+1), then u_(t+H) and back to u_(t-L+2)"""
    targets: Tensor
    """(N, T, A) float32: y_(t+a) for each distance a"""
    names: list[str]
    """(N,) of the sequences"""
    spare: bool = False
    """True if nothing in this batch counts: it keeps a process whose part of the batch is empty in step."""


@dataclass(frozen=True)
class SystemsShape:
    """Facts about the sequences that a module is built from. The data set them; flags cannot."""

    lags: int = 1
    """L"""
    ahead: tuple[int, ...] = (1, 10)
    """Distances, in steps."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ahead", tuple(self.ahead))  # a list in a checkpoint

    @property
    def known(self) -> int:
        """H"""
        return self.ahead[-1]

    @property
    def inputs(self) -> int:
        """I"""
        return 2 * self.lags + self.known - 1


class _Batches(Dataset[SystemBatch]):
    """Batches of any sequences of a part."""

    def __init__(self, data: SystemsData, part: Part) -> None:
        self.data = data
        self.part = part

    def __getitem__(self, keys: list[int]) -> SystemBatch:
        """Batch of these sequences; without any, a spare one."""
        return self.data.batch(self.part, keys or [0])._replace(spare=not keys)


class SystemsData(TaskData):
    """Wiener-Hammerstein systems drawn at random, a new one for each sequence.

    At each step the output is known, and the input of it and of the next steps, as of a plant that follows a
    plan; the output of each of `ahead` steps later is asked. Input and output have variance 1. Training draws
    its systems anew in each epoch; validation and test have systems of their own, the same each time.

    Args:
        steps: Length of a sequence.
        ahead: Distances that are forecast, in steps; the input is known for the longest.
        lags: Newest outputs, and inputs, that are read at each step.
        noise: Deviation of the white noise that is added to each output.
        systems: Training sequences in an epoch.
        validation_systems: Sequences of the validation.
        test_systems: Sequences of the test.
        tested: Sequences of the test: systems drawn as in training (`generated`), or pieces of a recording of
            a real circuit (`circuit`), of which there are no more than fit.
        skip: First steps of a sequence that validation and test do not count, since nothing is known of a
            system yet.
        batch_size: Sequences in a batch, of all processes together.
        seed: Seed of the systems, their inputs and the noise.
        num_workers: Processes that prepare batches; 0 prepares them in the main process.
    """

    for_own_files = "SystemsData"

    def __init__(
        self,
        steps: int = 400,
        ahead: list[int] = [1, 10],  # noqa: B006 - shown by --print_config, never changed
        lags: int = 1,
        noise: float = 0.01,
        systems: int = 1600,
        validation_systems: int = 128,
        test_systems: int = 256,
        tested: Literal["generated", "circuit"] = "generated",
        skip: int = 100,
        batch_size: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.steps = require_int("steps", steps)
        rising = bool(ahead) and list(ahead) == sorted(set(ahead)) and ahead[0] >= 1
        require("ahead", ahead, rising, "increasing distances of at least 1, such as [1, 10]")
        self.ahead = tuple(ahead)
        self.lags = require_int("lags", lags)
        require("noise", noise, 0 <= noise <= 10, "from 0 to 10 deviations")
        self.noise = noise
        counts = {"systems": systems, "validation_systems": validation_systems, "test_systems": test_systems}
        self.counts: dict[Part, int] = {
            part: require_int(name, count)
            for part, (name, count) in zip(get_args(Part), counts.items(), strict=True)
        }
        if tested not in get_args(Tested):
            raise ConfigError(f"`tested` must be generated or circuit; got {tested!r}.", key="tested")
        self.tested = tested
        self.skip = require_int("skip", skip, least=0)
        require("skip", skip, skip < steps, f"below `steps`, {steps}")
        self.batch_size = require_int("batch_size", batch_size)
        self.seed = require_int("seed", seed, least=0)
        self.num_workers = require_int("num_workers", num_workers, least=0)

    @property
    def shape(self) -> SystemsShape:
        return SystemsShape(self.lags, self.ahead)

    @property
    def length(self) -> int:
        """L - 1 + T + H, rows of a sequence."""
        return self.lags - 1 + self.steps + self.ahead[-1]

    @cached_property
    def schema(self) -> Schema:
        return self.recorded or Schema(settings={"lags": self.lags, "ahead": list(self.ahead)})

    @cached_property
    def fingerprint(self) -> Fingerprint:
        first = {part: self.batch(part, [0]) for part in get_args(Part)}
        facts = [self.steps, self.noise, self.counts, self.tested, self.seed]
        return {part: content_sum([batch.inputs, facts]) for part, batch in first.items()}

    @cached_property
    def pieces(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Input and output of each piece of the circuit's recording, `test_systems` at most."""
        length = self.length
        u, y = circuit()
        count = min(len(u) // length, self.counts["test"])
        if not count:
            raise ConfigError(
                f"`steps`, `lags` and the longest of `ahead` must be at most {len(u)} together, the rows of "
                f"the circuit; got {length}.",
                key="steps",
            )
        starts = np.linspace(0, len(u) - length, count).astype(int)
        return [(u[start : start + length], y[start : start + length]) for start in starts]

    def sequence(self, part: Part, key: int) -> tuple[np.ndarray, np.ndarray]:
        """Input and output (`length`,) of the sequence that `key` names: the same ones each time."""
        if part == "test" and self.tested == "circuit":
            return self.pieces[key]
        random = np.random.default_rng([self.seed, get_args(Part).index(part), key])
        return sequence(random, self.length, self.noise)

    def count(self, part: Part) -> int:
        """Number of sequences of a part."""
        return len(self.pieces) if part == "test" and self.tested == "circuit" else self.counts[part]

    def batch(self, part: Part, keys: list[int]) -> SystemBatch:
        """Batch of the sequences of a part that `keys` name."""
        shape, steps = self.shape, self.steps
        found = np.stack([self.sequence(part, key) for key in keys])  # (N, 2, length)
        u, y = torch.from_numpy(found).float().unbind(1)
        past = y.unfold(1, shape.lags, 1)[:, :steps]
        plan = u[:, 1:].unfold(1, shape.lags + shape.known - 1, 1)[:, :steps]
        ends = [shape.lags - 1 + distance for distance in self.ahead]
        targets = torch.stack([y[:, end : end + steps] for end in ends], -1)
        kind = self.tested if part == "test" else "generated"
        return SystemBatch(
            torch.cat([past.flip(-1), plan.flip(-1)], -1),
            targets,
            [f"{kind} {part} system {key}" for key in keys],
        )

    def order(self, part: Part) -> EpochOrder:
        """Order of the sequences of a part in an epoch: lists of keys of `sequence`."""
        if part == "train":
            return drawn(_SEEDS, self.counts[part], self.batch_size)
        return in_order(self.count(part), self.batch_size)

    def setup(self, stage: str | None = None) -> None:
        """Read the circuit, where it is tested on; calling it again changes nothing."""
        super().setup(stage)
        _ = self.count("test")

    def _loader(self, part: Part, shared: bool = True) -> DataLoader[SystemBatch]:
        order = self.order(part)
        if shared:
            order = order.shared(*self.share)
        return loader(_Batches(self, part), order, self.num_workers)

    def train_dataloader(self) -> DataLoader[SystemBatch]:
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[SystemBatch]:
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[SystemBatch]:
        return self._loader("test", shared=False)

    def predict_dataloader(self) -> DataLoader[SystemBatch]:
        """The test part."""
        return self._loader("test", shared=False)

    def rows_of(self, batch: SystemBatch) -> Tensor:
        return torch.tensor([[0, self.steps - 1]], device=batch.inputs.device).expand(len(batch.inputs), 2)

    def source_of(self, sample: int) -> str:
        return f"Wiener-Hammerstein systems, seed {self.seed}"

    def sources(self, batch: SystemBatch) -> Callable[[int], str]:
        return batch.names.__getitem__

    def describe(self) -> list[tuple[str, str]]:
        return [
            ("source", self.source_of(0)),
            ("a sequence", f"{self.steps} steps of a new system, of which {self.skip} are not scored"),
            ("forecast", f"the output {', '.join(map(str, self.ahead))} steps ahead, by a known input"),
            ("train", f"{self.counts['train']} systems, drawn anew each epoch"),
            ("val", f"{self.counts['val']} systems"),
            ("test", f"{self.count('test')} sequences, {self.tested}"),
        ]
