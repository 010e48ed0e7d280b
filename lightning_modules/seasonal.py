"""A seasonal profile that follows a stream: what each hour of the day, or slot of any season, adds to the level.

Shapes: N streams, T rows, C columns, S slots of a season, K steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_modules.base import require

STEPS = 12  # steps ahead that a head is shown, at most


@dataclass(eq=False)
class SeasonalState:
    """What a profile carries from row to row."""

    row: Tensor
    """(N, 1) rows read."""
    level: Tensor
    """(N, C) running level, over about one season per 1 / rate"""
    profile: Tensor
    """(N, S, C) what each slot adds to the level, in the data's unit"""

    def items(self) -> list[tuple[str, Tensor]]:
        """Pairs of field name and tensor."""
        return [(field.name, getattr(self, field.name)) for field in fields(self)]


class SeasonalProfile:
    """At row t, in slot s = t mod S: ``level' = level + a / S (x - level)``, ``profile_s' = profile_s + a (x - level' - profile_s)``.

    The first visits of a slot, and the first rows of the level, are averaged evenly. What it expects of the column h rows
    later, relative to now, is ``profile_((t + h) mod S) - profile_s``.

    Args:
        season: S, rows in a season.
        rate: a, share of a new season in the profile; 0 for no profile.
        horizon: Rows ahead that are of interest.
    """

    def __init__(self, season: int, rate: float, horizon: int) -> None:
        require("profile_rate", rate, 0 <= rate < 1, "a number from 0 to below 1")
        self.season, self.rate = season, rate
        count = min(STEPS, horizon) if rate > 0 and season > 1 else 0
        self.steps = sorted({round(1 + k * (horizon - 1) / max(count - 1, 1)) for k in range(count)})
        """Rows ahead that a head is shown, evenly spaced up to the horizon."""

    def init_state(self, streams: int, columns: int, device: torch.device | None = None) -> SeasonalState:
        """The state of streams that have not begun."""
        slots = self.season if self.steps else 0
        sizes = ((streams, 1), (streams, columns), (streams, slots, columns))
        return SeasonalState(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def __call__(self, x: Tensor, state: SeasonalState) -> tuple[Tensor, SeasonalState]:
        """Expected changes (N, T, C, K) after each row of x (N, T, C), without missing values, and the state after."""
        if not self.steps:
            return x.new_zeros(*x.shape, 0), state
        first, level, profile = int(state.row[0, 0]), state.level, state.profile.clone()
        ahead, changes = torch.tensor([0, *self.steps], device=x.device), []
        for number, value in enumerate(x.unbind(1), first):
            slot, season = number % self.season, number // self.season
            level = level + max(self.rate / self.season, 1 / (number + 1)) * (value - level)
            profile[:, slot] += max(self.rate, 1 / (season + 1)) * (value - level - profile[:, slot])
            changes.append(profile[:, (ahead + slot) % self.season])
        shown = torch.stack(changes, 1)  # (N, T, K + 1, C)
        new = SeasonalState(state.row + x.shape[1], level, profile)
        return (shown[:, :, 1:] - shown[:, :, :1]).transpose(2, 3), new
