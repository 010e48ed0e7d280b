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
    """At row t, in slot s = t mod S, with rate a:

    ``level' = level + a / S (x - level)``,  ``profile_s' = profile_s + a (x - level' - profile_s)``

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
        count = min(STEPS, horizon)
        spaced = [round(1 + k * (horizon - 1) / max(count - 1, 1)) for k in range(count)]
        self.outlook = [1, max(season // 4, 2)] if rate > 0 and season > 1 else []
        """Rows ahead that a core is shown: the next, and a quarter of a season on."""
        self.steps = list(dict.fromkeys([*self.outlook, *spaced])) if self.outlook else []
        """Rows ahead that a head is shown: those, and some evenly spaced up to the horizon."""

    def init_state(self, streams: int, columns: int, device: torch.device | None = None) -> SeasonalState:
        """The state of streams that have not begun."""
        slots = self.season if self.steps else 0
        sizes = ((streams, 1), (streams, columns), (streams, slots, columns))
        return SeasonalState(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def __call__(self, x: Tensor, state: SeasonalState) -> tuple[Tensor, SeasonalState]:
        """Expected changes (N, T, C, K) after each row of x (N, T, C), without missing values, and the state after."""
        if not self.steps:
            return x.new_zeros(*x.shape, 0), state
        level, profile, stream = state.level, state.profile.clone(), torch.arange(len(x), device=x.device)
        ahead, changes = torch.tensor([0, *self.steps], device=x.device), []
        for step, value in enumerate(x.unbind(1)):
            number = state.row + step  # (N, 1)
            slot, season = (number[:, 0] % self.season).long(), (number / self.season).floor()
            level = level + (1 / (number + 1)).clamp_min(self.rate / self.season) * (value - level)
            visited = profile[stream, slot]
            share = (1 / (season + 1)).clamp_min(self.rate)
            profile[stream, slot] = visited + share * (value - level - visited)
            changes.append(profile[stream.unsqueeze(1), (ahead + slot.unsqueeze(1)) % self.season])
        shown = torch.stack(changes, 1)  # (N, T, K + 1, C)
        new = SeasonalState(state.row + x.shape[1], level, profile)
        return (shown[:, :, 1:] - shown[:, :, :1]).transpose(2, 3), new

    def phase(self, steps: int, state: SeasonalState) -> Tensor:
        """Where in the season the next rows are: sine and cosine of one and two turns a season, (N, steps, 4)."""
        number = state.row + torch.arange(steps, device=state.row.device)
        angle = 2 * torch.pi / self.season * number.unsqueeze(-1) * torch.tensor([1.0, 2.0], device=number.device)
        return torch.cat([angle.sin(), angle.cos()], -1)
