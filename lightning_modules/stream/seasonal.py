"""A seasonal profile that follows a stream: the offset of each slot of a season, such as an hour of the day.

Shapes: N streams, T rows, C columns, S slots of a season, K steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_modules.checks import require
from lightning_modules.stream.normalizers import CarriedState, running_mean, running_weight

AHEAD = 12  # rows ahead whose expected change a head reads, at most


@dataclass(eq=False)
class SeasonalState(CarriedState):
    """State of a seasonal profile."""

    row: Tensor
    """(N, 1) rows read."""
    level: Tensor
    """(N, C) running level, over about 1 / rate seasons."""
    profile: Tensor
    """(N, S, C) offset of each slot from the level, in the data's unit."""
    rows: Tensor
    """(N, C) rows in which the column had a value."""
    visits: Tensor
    """(N, S, C) those of each slot."""


class SeasonalProfile:
    """Running offsets of the slots of a season from a running level.

    At row t, in slot s = t mod S, with rate a:

    ``level' = level + a / S (x - level)``,  ``profile_s' = profile_s + a (x - level' - profile_s)``

    The first visits of a slot, and the first rows of the level, count evenly; a missing value moves neither.
    The change that is expected h
    rows ahead is ``profile_((t + h) mod S) - profile_s``.

    Args:
        season: S, rows in a season.
        rate: a, weight of a new season in the profile; 0 for no profile.
        horizon: Rows ahead that are forecast.
    """

    def __init__(self, season: int, rate: float, horizon: int) -> None:
        require("profile_rate", rate, 0 <= rate < 1, "a number from 0 to below 1")
        self.season = season
        self.rate = rate
        count = min(AHEAD, horizon)
        spaced = [round(1 + k * (horizon - 1) / max(count - 1, 1)) for k in range(count)]
        self.outlook = [1, max(season // 4, 2)] if rate > 0 and season > 1 else []
        """Rows ahead whose expected change a core reads: the next, and a quarter of a season ahead."""
        self.steps = list(dict.fromkeys([*self.outlook, *spaced])) if self.outlook else []
        """Rows ahead whose expected change a head reads: those, and some evenly spaced up to the horizon."""

    def init_state(self, streams: int, columns: int, device: torch.device | None = None) -> SeasonalState:
        """State of streams that have not begun."""
        slots = self.season if self.steps else 0
        level, profile = (streams, columns), (streams, slots, columns)
        sizes = ((streams, 1), level, profile, level, profile)
        return SeasonalState(*(torch.zeros(size, dtype=torch.float64, device=device) for size in sizes))

    def __call__(self, x: Tensor, state: SeasonalState) -> tuple[Tensor, SeasonalState]:
        """Expected changes (N, T, C, K) after each row of x (N, T, C), and the state after x.

        A value of x is NaN where it is missing.
        """
        if not self.steps:
            return x.new_zeros(*x.shape, 0), state
        changes = []
        for block in x.split(self.season, 1):
            expected, state = self._block(block, state)
            changes.append(expected)
        return torch.cat(changes, 1), state

    def _block(self, x: Tensor, state: SeasonalState) -> tuple[Tensor, SeasonalState]:
        """As `__call__`, for at most one season of rows, so that no slot is visited twice."""
        rows = torch.arange(x.shape[1], device=x.device)
        number = state.row + rows  # (N, T)
        slot, seen = (number % self.season).long(), ~x.isnan()
        x = torch.where(seen, x, 0.0)
        count = state.rows.unsqueeze(1) + seen.cumsum(1)
        weight = torch.where(seen, running_weight(count, self.rate / self.season), 0.0)
        levels = running_mean(x, weight, state.level, self.rate / self.season)
        before, visit = _slots_of(state.profile, slot), _slots_of(state.visits, slot) + seen
        weight = torch.where(seen, running_weight(visit, self.rate), 0.0)
        after = before + weight * (x - levels - before)
        place = slot.unsqueeze(-1).expand_as(after)
        profile, visits = state.profile.scatter(1, place, after), state.visits.scatter(1, place, visit)
        ahead = torch.tensor(self.steps, device=x.device)
        wanted = ((slot.unsqueeze(-1) + ahead) % self.season).flatten(1)  # (N, T K)
        # (T, K)
        visited = (rows.unsqueeze(-1) + ahead % self.season >= self.season) | (ahead % self.season == 0)
        new, old = (
            _slots_of(table, wanted).unflatten(1, visited.shape) for table in (profile, state.profile)
        )
        changes = torch.where(visited.unsqueeze(-1), new, old) - after.unsqueeze(2)  # (N, T, K, C)
        new_state = SeasonalState(state.row + x.shape[1], levels[:, -1], profile, count[:, -1], visits)
        return changes.transpose(2, 3), new_state

    def phase(self, steps: int, state: SeasonalState) -> Tensor:
        """Sine and cosine of one and two turns a season at the next `steps` rows, (N, steps, 4)."""
        # within a season, so that the angle is as exact after a million rows
        number = (state.row + torch.arange(steps, device=state.row.device)) % self.season
        angle = (
            2 * torch.pi / self.season * number.unsqueeze(-1) * torch.tensor([1.0, 2.0], device=number.device)
        )
        return torch.cat([angle.sin(), angle.cos()], -1)


def _slots_of(table: Tensor, index: Tensor) -> Tensor:
    """(N, M, C) slots `index` (N, M) of each stream's `table` (N, S, C)."""
    return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
