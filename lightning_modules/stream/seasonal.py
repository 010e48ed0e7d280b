"""A seasonal profile that follows a stream: what each hour of the day, or slot of any season, adds to the
level.

Shapes: N streams, T rows, C columns, S slots of a season, K steps ahead.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from lightning_modules.checks import require
from lightning_modules.stream.normalizers import running_mean

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

    The first visits of a slot, and the first rows of the level, are averaged evenly. What it expects of the
    column h rows later, relative to now, is ``profile_((t + h) mod S) - profile_s``.

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
        """Expected changes (N, T, C, K) after each row of x (N, T, C), without missing values, and the state
        after."""
        if not self.steps:
            return x.new_zeros(*x.shape, 0), state
        changes = []
        for block in x.split(self.season, 1):
            shown, state = self._block(block, state)
            changes.append(shown)
        return torch.cat(changes, 1), state

    def _block(self, x: Tensor, state: SeasonalState) -> tuple[Tensor, SeasonalState]:
        """At most one season of rows, so that no slot is visited twice."""
        rows = torch.arange(x.shape[1], device=x.device)
        number = state.row + rows  # (N, T)
        slot, season = (number % self.season).long(), (number / self.season).floor()
        levels = running_mean(
            x, (1 / (number + 1)).clamp_min(self.rate / self.season).unsqueeze(-1), state.level
        )
        before = _rows_of(state.profile, slot)
        share = (1 / (season + 1)).clamp_min(self.rate).unsqueeze(-1)
        after = before + share * (x - levels - before)
        profile = state.profile.scatter(1, slot.unsqueeze(-1).expand_as(after), after)
        ahead = torch.tensor(self.steps, device=x.device)
        wanted = ((slot.unsqueeze(-1) + ahead) % self.season).flatten(1)  # (N, T K)
        visited = (rows.unsqueeze(-1) + ahead % self.season >= self.season) | (
            ahead % self.season == 0
        )  # (T, K)
        new, old = (_rows_of(table, wanted).unflatten(1, visited.shape) for table in (profile, state.profile))
        changes = torch.where(visited.unsqueeze(-1), new, old) - after.unsqueeze(2)  # (N, T, K, C)
        return changes.transpose(2, 3), SeasonalState(state.row + x.shape[1], levels[:, -1], profile)

    def phase(self, steps: int, state: SeasonalState) -> Tensor:
        """Where in the season the next rows are: sine and cosine of one and two turns a season, (N, steps,
        4)."""
        number = state.row + torch.arange(steps, device=state.row.device)
        angle = (
            2 * torch.pi / self.season * number.unsqueeze(-1) * torch.tensor([1.0, 2.0], device=number.device)
        )
        return torch.cat([angle.sin(), angle.cos()], -1)


def _rows_of(table: Tensor, index: Tensor) -> Tensor:
    """The rows `index` (N, M) of each stream's `table` (N, S, C), (N, M, C)."""
    return table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
