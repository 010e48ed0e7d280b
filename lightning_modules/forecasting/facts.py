"""Facts about forecasting data that are shown before training."""

from __future__ import annotations

import numpy as np

from lightning_modules.data.frequency import described, zoned
from lightning_modules.data.panel import listed
from lightning_modules.forecasting.member import PARTS
from lightning_modules.forecasting.scaled import ScaledData


def facts(data: ScaledData, uses: list[str]) -> list[tuple[str, str]]:
    """Facts as pairs of name and text, of one series or of all together; `uses` says what becomes of the
    rows of each part."""
    counts = zip(data.whole.columns, data.prepared.missing, strict=True)
    known = data.columns[len(data.columns) - data.known_count :]
    over = "the training rows" + (" of the checkpoint" if data.recorded is not None else "")
    if data.many:
        over += " of each series" if data.scaling == "series" else " of all series together"
    return [
        ("source", data.whole.source),
        *(_rows_of_many(data) if data.many else [("rows", str(len(data.series)))]),
        ("targets", ", ".join(data.target_columns)),
        ("covariates", ", ".join(data.covariates or []) or "none"),
        ("known covariates", ", ".join(known) or "none"),
        ("time", _period(data) if data.many else described(data.series.time, data.clock)),
        ("season", ", ".join(map(str, data.seasons)) + " rows"),
        *zip(PARTS, _parts(data, uses), strict=True),
        ("missing", ", ".join(f"{name} {count}" for name, count in counts if count) or "none"),
        ("scaling", f"mean 0 and deviation 1 over {over}"),
    ]


def _rows_of_many(data: ScaledData) -> list[tuple[str, str]]:
    rows = [len(member.series) for member in data.members]
    each = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
    names = [str(member.name) for member in data.members]
    return [("series", f"{len(names)}: {listed(names)}"), ("rows", f"{sum(rows)}, {each} each")]


def _period(data: ScaledData) -> str:
    """First and last time of all series, and the frequency of most of them."""
    times = [member.series.time for member in data.members if member.series.time is not None]
    if not times:
        return "row numbers"
    ends = np.array(
        [min(time[0] for time in times if len(time)), max(time[-1] for time in times if len(time))]
    )
    period = " to ".join(stamp.isoformat(timespec="seconds") for stamp in zoned(ends, data.clock.zone))
    return f"{period}, {data.clock.frequency or 'no frequency'}"


def _parts(data: ScaledData, uses: list[str]) -> list[str]:
    """Rows of each part, and what becomes of them."""
    if not data.many:
        return [
            f"rows {part.start} to {part.stop - 1}, {use}" for part, use in zip(data.parts, uses, strict=True)
        ]
    texts = []
    for place, use in enumerate(uses):
        parts = [member.parts[place] for member in data.members]
        some = sum(len(member.origins(part)) > 0 for member, part in zip(data.members, parts, strict=True))
        rows = sum(part.stop - part.start for part in parts)
        texts.append(f"{rows} rows, {use}, of {some} series")
    return texts
