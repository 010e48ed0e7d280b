"""Every remedy that a message of the data names: what is refused without it is taken with it.

A remedy is the piece of the message that a pattern finds; its groups are what the settings are set to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from dream import DREAMConfig
from dream.errors import DREAMError
from lightning_modules import ForecastingModule
from lightning_modules.anomaly import AnomalyTable
from lightning_modules.forecasting import TableData
from lightning_modules.language import TextFile
from lightning_modules.online import TableStream


def frame(rows: int = 400, **columns: Any) -> pd.DataFrame:
    time = pd.date_range("2024-01-01", periods=rows, freq="h")
    return pd.DataFrame({"time": time, "a": np.sin(np.arange(rows) / 5), **columns})


def gaps(rows: int = 400) -> pd.DataFrame:
    table = frame(rows)
    table.loc[[40, 41, rows - 30], "a"] = np.nan
    return table


def windows(rows: int = 400, table: pd.DataFrame | None = None, **settings: Any) -> None:
    """All that a fit reads of a table."""
    options = dict(look_back=24, horizon=4, batch_size=8) | settings
    data = TableData.of(frame(rows) if table is None else table, **options)
    data.setup("fit")
    _ = data.schema, data.shape
    next(iter(data.train_dataloader()))


def fitted(patch: int | None = None, **settings: Any) -> None:
    data = TableData.of(frame(), **(dict(look_back=24, horizon=4) | settings))
    module = ForecastingModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2), patch=patch)
    module.prepare(data)


def stream(rows: int = 400, table: pd.DataFrame | None = None, **settings: Any) -> None:
    TableStream.of(frame(rows) if table is None else table, **settings).setup("fit")


def watched(rows: int = 400, table: pd.DataFrame | None = None, **settings: Any) -> None:
    AnomalyTable.of(frame(rows) if table is None else table, **settings).setup("fit")


def text(size: int = 400, **settings: Any) -> None:
    path = Path("letters.txt")
    path.write_text(("a red hat on a cat. " * (size // 20 + 1))[:size])
    TextFile(str(path), **settings).setup("fit")


class Remedy(NamedTuple):
    call: Callable[..., None]
    refused: dict[str, Any]
    pattern: str
    followed: Callable[..., dict[str, Any]]
    """Settings that are changed, from the groups of the pattern."""


MISSING = r"--data\.missing={}`"
REMEDIES = {
    "a table that is long enough": Remedy(
        windows, dict(rows=37), r"A table of (\d+) rows is long enough", lambda rows: dict(rows=int(rows))
    ),
    "a season": Remedy(
        windows,
        dict(rows=100, season=80, split=[0.7, 0.1, 0.2]),
        r"training part has only (\d+)\. Lower it",
        lambda rows: dict(season=int(rows) - 1),
    ),
    "streams": Remedy(
        windows,
        dict(streams=True, batch_size=64),
        r"Lower `batch_size`, `stride` or `look_back`",
        lambda: dict(batch_size=8),
    ),
    "a frequency": Remedy(
        windows, dict(frequency="D"), r"The stamps fit (\w+)\.", lambda name: dict(frequency=name)
    ),
    "a patch": Remedy(
        fitted, dict(look_back=104, patch=12), r"such as (\d+)", lambda patch: dict(patch=int(patch))
    ),
    "a patch of streams": Remedy(
        fitted,
        dict(rolling=True, stride=8),
        r"Set `model\.patch` to (\d+)",
        lambda patch: dict(patch=int(patch)),
    ),
    "a stride of streams": Remedy(
        fitted,
        dict(rolling=True, stride=8, patch=12),
        r"`data\.stride` to (\d+)",
        lambda stride: dict(stride=int(stride)),
    ),
    "lags of several columns": Remedy(
        windows,
        dict(table=frame(b=1.0 * np.arange(400)), lags=3),
        r"leave `lags` out",
        lambda: dict(lags=1),
    ),
    **{
        f"gaps in windows, {policy}": Remedy(
            windows, dict(table=gaps()), MISSING.format(policy), lambda policy=policy: dict(missing=policy)
        )
        for policy in ("ffill", "mask", "model")
    },
    **{
        f"gaps in {name}, {policy}": Remedy(
            call,
            dict(table=gaps(), **settings),
            MISSING.format(policy),
            lambda policy=policy: dict(missing=policy),
        )
        for name, call, settings in (
            ("a stream", stream, dict(crop=24, context=8)),
            ("sensors", watched, dict(training=150)),
        )
        for policy in ("ffill", "model")
    },
    "a crop": Remedy(stream, dict(rows=500), r"Lower `crop` to (\d+)", lambda crop: dict(crop=int(crop))),
    "a crop and its context": Remedy(
        stream,
        dict(rows=200),
        r"Lower `crop` to (\d+) and `context` to (\d+)",
        lambda crop, context: dict(crop=int(crop), context=int(context)),
    ),
    "no warm-up": Remedy(stream, dict(rows=12, horizon=3), r"or set it to 0", lambda: dict(warm_up=0)),
    "rows for the stream": Remedy(
        stream, dict(warm_up=0.9, validation=0.1), r"Lower them", lambda: dict(warm_up=0.6, validation=0.05)
    ),
    "a training part": Remedy(
        watched, dict(rows=300), r"Set `training` to (\d+)", lambda rows: dict(training=int(rows))
    ),
    "a label": Remedy(
        watched,
        dict(table=frame(label=np.arange(400) % 2), training=150),
        r"`--data\.label_column=(\w+)`",
        lambda name: dict(label_column=name),
    ),
    "sensors": Remedy(
        watched,
        dict(table=frame(label=np.arange(400) % 2), training=150),
        r"`--data\.columns=\[(\w+)\]`",
        lambda name: dict(columns=[name]),
    ),
    "a text to train on": Remedy(
        text,
        dict(size=200, batch_size=8, steps=100),
        r"Lower `batch_size` times `steps` to at most (\d+)",
        lambda most: dict(batch_size=4, steps=int(most) // 4),
    ),
    "a text to validate on": Remedy(
        text,
        dict(size=200, batch_size=16, steps=4),
        r"Lower `batch_size` to at most (\d+)",
        lambda most: dict(batch_size=int(most)),
    ),
    "a share to validate on": Remedy(
        text,
        dict(size=20, batch_size=1, steps=4),
        r"Set `validation` to ([\d.]+)",
        lambda share: dict(validation=float(share)),
    ),
    "a share to test on": Remedy(
        text,
        dict(size=300, test=0.003, batch_size=4, steps=4),
        r"Set `test` to ([\d.]+)",
        lambda share: dict(test=float(share)),
    ),
}


@pytest.mark.parametrize("remedy", REMEDIES.values(), ids=REMEDIES)
def test_what_a_message_advises_helps(
    remedy: Remedy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DREAMError) as error:
        remedy.call(**remedy.refused)
    found = re.search(remedy.pattern, str(error.value))
    assert found is not None, str(error.value)
    remedy.call(**remedy.refused | remedy.followed(*found.groups()))


@pytest.mark.parametrize(("look_back", "patch"), [(96, 12), (104, 8), (100, 10), (97, 1), (8, 8), (36, 12)])
def test_the_default_patch_fits_the_look_back(look_back: int, patch: int) -> None:
    data = TableData.of(frame(), look_back=look_back, horizon=4)
    module = ForecastingModule.for_data(data, config=DREAMConfig(hidden_dim=8, rank=2))
    assert module.patch == module.settings.patch == patch


def test_a_prompt_of_unknown_signs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from lightning_modules import LanguageModule
    from lightning_modules.language.vocabulary import Vocabulary

    module = LanguageModule(DREAMConfig(input_dim=8, hidden_dim=8, rank=2), shape={"symbols": 4})
    module.vocabulary = Vocabulary("chars", ["\ufffd", "x", "y", " "])
    list(module.generate("xQQz", length=2))
    assert "`prompt` holds chars that the training never saw: 'Q', 'z'. Each is read as" in caplog.text
