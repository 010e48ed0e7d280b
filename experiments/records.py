"""JSON files of a run, a comparison and a sweep: a schema for each, and one way to read them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Required

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict

from dream.errors import CheckpointError, shown
from dream.files import is_name, read_json


def _of_one_length(layer: dict[str, Any]) -> dict[str, Any]:
    lengths = {name: len(layer.get(name, ())) for name in ("place", "surprise", "u_norm")}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the lists must be of one length, they are {lengths}")
    return layer


def _bordered(histogram: dict[str, Any]) -> dict[str, Any]:
    borders = histogram["borders"]
    if len(borders) != len(histogram["counts"]) + 1 or any(low > high for low, high in pairwise(borders)):
        raise ValueError("`borders` must be one more than `counts`, and not fall")
    return histogram


def _named(text: str) -> str:
    if not is_name(text):
        raise ValueError("it must be the name of a folder")
    return text


WORDS = ("nan", "inf", "-inf")
Count = Annotated[int, Field(ge=0, lt=2**63)]
Finite = Annotated[float, Field(allow_inf_nan=False, ge=-1e300, le=1e300)]
"""A number that can be drawn: an axis goes a little further."""
Number = Annotated[float, BeforeValidator(lambda value: float(value) if value in WORDS else value)]
"""A number, or the word of one that JSON does not have; earlier versions wrote NaN and Infinity."""
Seconds = Annotated[Finite, Field(ge=0)]
Epoch = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
Cell = Annotated[tuple[str, Count], Strict(False)]
"""Model and seed: a list in JSON."""
_schema = with_config(ConfigDict(extra="allow", strict=True))


@_schema
class Data(TypedDict):
    """Sums of the settings of a run's data and of their content."""

    settings: str
    fingerprint: dict[str, str]


@_schema
class Parent(TypedDict):
    """Checkpoint whose weights a run began with."""

    checkpoint: str
    sha256: str


@_schema
class Run(TypedDict, total=False):
    """`run.json`: the command of a run."""

    command: list[str]
    tracked: str
    started: str
    data: Data
    parent: Parent


@_schema
class Results(TypedDict, total=False):
    """`results.json`: the results of a run, and what gave them."""

    results: dict[str, dict[str, Number]]
    series: dict[str, dict[str, Number]]
    part: str
    experiment: str
    command: list[str]
    seed: Count | None
    epochs: Count | None
    seconds: Seconds
    parameters: Count | None
    higher_is_better: list[str]
    unranked: list[str]
    monitor: str | None
    commit: str | None
    versions: dict[str, str]
    device: str


def _ended(results: dict[str, Any]) -> dict[str, Any]:
    if not results.get("results") or not {"seconds", "parameters"} <= results.keys():
        raise ValueError("a run that has ended has results, seconds and parameters")
    return results


Ended = Annotated[Results, AfterValidator(_ended)]
"""`results.json` of a run that has a row in a table."""


@_schema
class Comparison(Results, total=False):
    """`comparison.json`."""

    cells: list[Cell]


@_schema
class Trial(TypedDict, total=False):
    """A trial of a sweep."""

    trial: Required[Count]
    state: str
    value: Finite | None
    params: dict[str, Any]
    epochs: dict[Epoch, Finite]
    seconds: Seconds | None
    folder: Annotated[str, AfterValidator(_named)]
    reason: str | None


@_schema
class Sweep(Results, total=False):
    """`sweep.json`."""

    mode: Literal["min", "max"]
    best: Count | None
    importance: dict[str, Finite]
    trials: list[Trial]


@_schema
class Plan(TypedDict, total=False):
    """`plan.json`: what the runs of a comparison or a sweep share."""

    experiment: list[str]
    flags: list[str]
    own: dict[str, str]
    space: str
    seed: Count
    pruner: str


@_schema
class Histogram(TypedDict):
    """How many units lie between two borders."""

    counts: list[Count]
    borders: list[Finite]


Bordered = Annotated[Histogram, AfterValidator(_bordered)]


@_schema
class Layer(TypedDict, total=False):
    """Record of a layer in a test."""

    surprise_counts: list[Count]
    place: list[Finite]
    surprise: list[Number]
    u_norm: list[Number]
    plasticity: Bordered
    tonic: Bordered
    target_norm: Finite


@_schema
class Layers(TypedDict, total=False):
    """`layers.json`."""

    places: Literal["steps", "rows"]
    layers: list[Annotated[Layer, AfterValidator(_of_one_length)]]


@_schema
class Remark(TypedDict):
    """A symptom that the advisor saw."""

    step: Count
    symptom: str
    adjustment: str


@_schema
class Remarks(TypedDict, total=False):
    """`remarks.json`."""

    window: Count
    remarks: list[Remark]


def read(path: Path, schema: Any) -> dict[str, Any]:
    """Return the content of a JSON file of ours, which is as the `schema`, a class of this file, says.

    Raises:
        FileNotFoundError: there is none.
        CheckpointError: it cannot be read, or is damaged.
    """
    content = read_json(path)
    try:
        found: dict[str, Any] = TypeAdapter(schema).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"{path} is damaged, at {shown(where)}: {first['msg']}; got {shown(first['input'])}."
        ) from None
    return found
