"""`OutputCache`: a second prediction of the next token, from what followed similar places of the same text.

Shapes: N streams, T tokens of a chunk, C tokens held, I features, K temperatures, G gates.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_modules.language.data import IGNORED

SIMILARITIES = 1 << 20
"""Number of similarities within the reach of the positions that are read at once: 4 MiB in float32."""

TEMPERATURES = (0.03, 0.04, 0.06, 0.08, 0.1, 0.14, 0.2, 0.3, 0.5, 1.0)
"""Temperatures to choose from."""

GATES = tuple(round(0.02 * number, 2) for number in range(46))
"""Gates to choose from: 0 to 0.9."""


class OutputCache:
    """Cache of the last C tokens of each stream, each under the features that predicted it.

        k_t            = y_t / |y_t|
        s_ti           = k_t . k_i / temperature,                   i = t - C ... t - 1
        P_cache(token) = sum of softmax_i(s_ti) over the i whose next token it is
        P(token)       = (1 - gate) P_model(token) + gate P_cache(token)

    y_t are the features that the softmax over the vocabulary reads. The token after position t is held from
    position t + 1 on, so that a prediction never sees its target. Where a stream holds nothing yet, P_cache
    is P_model. Nothing here is trained, and no gradient flows.

    Source: Grave, Joulin and Usunier, Improving Neural Language Models with a Continuous Cache, ICLR 2017;
    there features are compared by their plain product, here by the cosine between them, so that a temperature
    means the same for every core.

    Args:
        capacity: C, tokens held of each stream; the oldest leave first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._keys = torch.zeros(0, capacity, 1)
        """(N, C, I) of the last positions, in order."""
        self._tokens = torch.zeros(0, capacity, dtype=torch.long)
        """(N, C) token after each of them; `IGNORED` where nothing is held."""

    @torch.no_grad()
    def read(
        self, features: Tensor, targets: Tensor, nats: Tensor, reset: Tensor, temperatures: Tensor
    ) -> Tensor:
        """Read a chunk of every stream; return ``ln P_cache`` (K, N, T) of its targets, and hold them.

        Args:
            features: y, (N, T, I).
            targets: (N, T) token after each position, `IGNORED` where none counts.
            nats: (N, T) ``-ln P_model`` of the targets.
            reset: (N,) True where a stream begins; it holds nothing then.
            temperatures: (K,).
        """
        streams, steps, width = features.shape
        new = normalize(features.float(), dim=-1)
        if self._keys.shape != (streams, self.capacity, width):
            self._keys = new.new_zeros(streams, self.capacity, width)
            self._tokens = targets.new_full((streams, self.capacity), IGNORED)
        keys = torch.cat([self._keys, new], 1)
        tokens = torch.cat([self._tokens.masked_fill(reset.unsqueeze(1), IGNORED), targets], 1)
        # position t of the chunk reads the C places from t on; a part of the chunk, the union of these
        part = max(SIMILARITIES // (streams * self.capacity), 1)
        found = [
            self._part(keys, tokens, start, min(part, steps - start), temperatures)
            for start in range(0, steps, part)
        ]
        self._keys, self._tokens = keys[:, steps:].clone(), tokens[:, steps:].clone()
        logs = torch.cat(found, 2)
        return torch.where(logs.isnan(), -nats, logs)

    def _part(self, keys: Tensor, tokens: Tensor, start: int, count: int, temperatures: Tensor) -> Tensor:
        """Return ``ln P_cache`` (K, N, count) from position `start` on, NaN where nothing is held."""
        capacity = self.capacity
        places = slice(start, start + count + capacity - 1)
        own = slice(capacity + start, capacity + start + count)
        band = torch.ones(count, count + capacity - 1, dtype=torch.bool, device=keys.device)
        band = band.triu().tril(capacity - 1)
        held, targets = tokens[:, places].unsqueeze(1), tokens[:, own].unsqueeze(2)
        with torch.autocast(keys.device.type, enabled=False):  # low temperatures magnify its rounding
            similar = keys[:, own] @ keys[:, places].transpose(1, 2)
        similar = similar.masked_fill(~(band & (held != IGNORED)), -torch.inf)
        matching = similar.masked_fill(held != targets, -torch.inf)
        return torch.stack(
            [(matching / t).logsumexp(2) - (similar / t).logsumexp(2) for t in temperatures.unbind()]
        )


def mixed(nats: Tensor, logs: Tensor, targets: Tensor, gate: Tensor) -> Tensor:
    """``-ln P`` of `targets` (N, T), which is 0 where they do not count.

    Args:
        nats: (N, T) ``-ln P_model``.
        logs: (..., N, T) ``ln P_cache``.
        targets: (N, T), `IGNORED` where none counts.
        gate: () share of P_cache, from 0 to below 1.
    """
    return -torch.logaddexp((-gate).log1p() - nats, gate.log() + logs).where(targets != IGNORED, 0.0)


class Choice(NamedTuple):
    """Gate and temperature of a cache."""

    gate: Tensor
    """()"""
    temperature: Tensor
    """()"""


class ChoiceByLoss:
    """Choice of gate and temperature by the least loss over a text, summed chunk by chunk."""

    def __init__(self, device: torch.device | str) -> None:
        self.temperatures = torch.tensor(TEMPERATURES, dtype=torch.float64, device=device)
        self.gates = torch.tensor(GATES, dtype=torch.float64, device=device)
        self.total = torch.zeros(len(GATES), len(TEMPERATURES), dtype=torch.float64, device=device)
        """(G, K) nats so far."""

    def add(self, nats: Tensor, logs: Tensor, targets: Tensor) -> None:
        """Add a chunk: ``-ln P_model`` (N, T), ``ln P_cache`` (K, N, T) at `temperatures`, targets (N, T)."""
        for total, gate in zip(self.total, self.gates, strict=True):
            total += mixed(nats, logs, targets, gate).double().sum((1, 2))

    def best(self, total: Tensor) -> Choice:
        """Choice with the least of `total` (G, K), that of all ranks together."""
        gate, temperature = divmod(int(total.argmin()), len(self.temperatures))
        return Choice(self.gates[gate], self.temperatures[temperature])
