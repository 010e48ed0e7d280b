"""`DREAMConfig`: defaults, bounds, types, messages, copies and JSON."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import numpy as np
import pytest

from dream import ConfigError, DREAMConfig, DREAMError

DEFAULTS: dict[str, Any] = dict(
    input_dim=39,
    hidden_dim=256,
    rank=16,
    time_step=0.1,
    forgetting_rate=0.01,
    base_plasticity=0.1,
    base_threshold=0.5,
    entropy_influence=0.2,
    surprise_temperature=0.1,
    error_smoothing=0.01,
    surprise_smoothing=0.01,
    target_norm=2.0,
    kappa=0.5,
    sleep_rate=0.005,
    min_surprise_for_sleep=0.2,
    ltc_enabled=True,
    ltc_tau_sys=10.0,
    ltc_surprise_scale=10.0,
)
INTEGERS = ("input_dim", "hidden_dim", "rank")
POSITIVE = ("time_step", "base_threshold", "surprise_temperature", "target_norm", "ltc_tau_sys")
NOT_NEGATIVE = ("forgetting_rate", "base_plasticity", "entropy_influence", "ltc_surprise_scale")
SHARES = ("kappa", "sleep_rate", "min_surprise_for_sleep")
SMOOTHINGS = ("error_smoothing", "surprise_smoothing")
NUMBERS = (*POSITIVE, *NOT_NEGATIVE, *SHARES, *SMOOTHINGS)
ABOVE_ZERO, BELOW_ZERO, BEYOND_ONE = 5e-324, -5e-324, math.nextafter(1.0, 2.0)

REFUSED = [
    *(
        (name, value)
        for name in INTEGERS
        for value in (0, -1, 8.0, 2.5, "8", True, False, None, math.nan, math.inf, [8])
    ),
    *(
        (name, value)
        for name in NUMBERS
        for value in ("0.1", True, False, None, math.nan, math.inf, -math.inf, 1j, [0.1])
    ),
    *((name, value) for name in POSITIVE for value in (0.0, 0, -0.0, BELOW_ZERO, -1.0)),
    *((name, value) for name in NOT_NEGATIVE for value in (BELOW_ZERO, -1.0)),
    *((name, value) for name in SHARES for value in (BELOW_ZERO, -0.1, BEYOND_ONE, 2)),
    *((name, value) for name in SMOOTHINGS for value in (BELOW_ZERO, -0.1, 1.0, 1, 1.5)),
    *(("ltc_enabled", value) for value in (0, 1, 1.0, "true", None, math.nan)),
    *((name, np.float64("nan")) for name in NUMBERS),
    *((name, np.bool_(True)) for name in (*INTEGERS, *NUMBERS)),
    ("rank", np.float64(8.0)),
    ("rank", np.int64(0)),
    ("kappa", np.float32(1.5)),
    ("kappa", np.str_("0.5")),
    ("kappa", 10**400),
    ("rank", np.datetime64("2020-01-01")),
]
ALLOWED = [
    *((name, value) for name in INTEGERS for value in (1, 2, 10_000)),
    *((name, value) for name in POSITIVE for value in (ABOVE_ZERO, 1, 1e300)),
    *((name, value) for name in NOT_NEGATIVE for value in (0.0, 0, 1e300)),
    *((name, value) for name in SHARES for value in (0.0, 1.0, 0, 1)),
    *((name, value) for name in SMOOTHINGS for value in (0.0, math.nextafter(1.0, 0.0))),
    *(("ltc_enabled", value) for value in (True, False)),
]


def test_the_fields_and_defaults_of_the_guide() -> None:
    assert dataclasses.is_dataclass(DREAMConfig)
    assert dataclasses.asdict(DREAMConfig()) == DEFAULTS
    assert [field.name for field in dataclasses.fields(DREAMConfig)] == list(DEFAULTS)
    for field in dataclasses.fields(DREAMConfig):
        assert type(getattr(DREAMConfig(), field.name)) is type(DEFAULTS[field.name])
        # the arguments of the layers read it there
        assert getattr(DREAMConfig, field.name) == DEFAULTS[field.name]


@pytest.mark.parametrize(("name", "value"), REFUSED, ids=str)
def test_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{name}` must be") as caught:
        DREAMConfig(**{name: value})
    assert isinstance(caught.value, DREAMError)
    assert caught.value.key == name
    assert "got" in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("name", "value"), ALLOWED, ids=str)
def test_allowed(name: str, value: Any) -> None:
    config = DREAMConfig(**{name: value})
    assert getattr(config, name) == value
    others = {key: kept for key, kept in dataclasses.asdict(config).items() if key != name}
    assert others == {key: kept for key, kept in DEFAULTS.items() if key != name}


@pytest.mark.parametrize(
    "kind",
    [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64, np.intp, np.longlong],
)
def test_numpy_integers(kind: Any) -> None:
    config = DREAMConfig(rank=kind(8), hidden_dim=kind(100), ltc_tau_sys=kind(9))
    assert (config.rank, config.hidden_dim, config.ltc_tau_sys) == (8, 100, 9.0)
    assert type(config.rank) is int
    assert type(config.ltc_tau_sys) is float


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.longdouble])
def test_numpy_floats(kind: Any) -> None:
    config = DREAMConfig(kappa=kind(0.25), time_step=kind(0.125))
    assert (config.kappa, config.time_step) == (0.25, 0.125)
    assert type(config.kappa) is float
    assert DREAMConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("value", [True, False])
def test_numpy_booleans(value: bool) -> None:
    assert DREAMConfig(ltc_enabled=np.bool_(value)).ltc_enabled is value


MESSAGES = [
    (dict(rank=0), r"`rank` must be above 0; got 0\..*4-32"),
    (dict(kappa=1.5), r"`kappa` must be at most 1; got 1\.5\..*0\.1-1"),
    (dict(error_smoothing=1.0), r"`error_smoothing` must be below 1; got 1\.0\..*0\.01-0\.1"),
    (dict(forgetting_rate=-1), r"`forgetting_rate` must be at least 0; got -1\..*0\.001-0\.05"),
    (dict(time_step=math.nan), r"`time_step` must be a finite number; got nan\..*0\.01-0\.2"),
    (dict(hidden_dim=8.0), r"`hidden_dim` must be an integer; got 8\.0\..*64-512"),
    (dict(base_threshold="0.5"), r"`base_threshold` must be a number; got '0\.5'\..*0\.3-0\.7"),
    (dict(ltc_enabled=1), r"`ltc_enabled` must be True or False; got 1\."),
    (dict(input_dim=-1), r"`input_dim` must be above 0; got -1\."),
]


@pytest.mark.parametrize(("values", "message"), MESSAGES)
def test_the_message_says_name_rule_value_and_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DREAMConfig(**values)


def test_every_fault_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        DREAMConfig(rank=0, kappa=2.0)
    assert "`rank`" in str(caught.value)
    assert "`kappa`" in str(caught.value)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("rnak", "rank"),
        ("hiden_dim", "hidden_dim"),
        ("base_plasticty", "base_plasticity"),
        ("ltc_tau", "ltc_tau_sys"),
    ],
)
def test_unknown_names_get_the_nearest_known_one(typo: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"`{typo}`.*`{meant}`") as caught:
        DREAMConfig(**{typo: 8})
    assert caught.value.key == typo


def test_a_name_like_no_other_gets_the_list() -> None:
    with pytest.raises(ConfigError, match=r"`zzz`.*input_dim.*ltc_surprise_scale"):
        DREAMConfig(zzz=1)


def test_too_many_positional_arguments() -> None:
    with pytest.raises(ConfigError):
        DREAMConfig(*DEFAULTS.values(), 1)
    assert DREAMConfig(8, 64, 4) == DREAMConfig(input_dim=8, hidden_dim=64, rank=4)


def test_frozen() -> None:
    config = DREAMConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.rank = 8  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del config.rank
    assert config.rank == 16


def test_replace_validates() -> None:
    config = DREAMConfig(rank=8)
    assert dataclasses.replace(config, kappa=1.0) == DREAMConfig(rank=8, kappa=1.0)
    assert config.kappa == 0.5
    with pytest.raises(ConfigError, match="`rank` must be above 0"):
        dataclasses.replace(config, rank=0)
    with pytest.raises(ConfigError, match="rank"):
        dataclasses.replace(config, rnak=8)


def test_equality_hash_and_copies() -> None:
    config = DREAMConfig(rank=8, ltc_enabled=False)
    assert config == DREAMConfig(ltc_enabled=False, rank=8)
    assert config != DREAMConfig(rank=8)
    assert len({config, DREAMConfig(rank=8, ltc_enabled=False), DREAMConfig()}) == 2
    for twin in (
        pickle.loads(pickle.dumps(config)),
        copy.deepcopy(config),
        copy.copy(config),
        DREAMConfig(**dataclasses.asdict(config)),
    ):
        assert twin == config
        assert hash(twin) == hash(config)


def test_json_round_trip() -> None:
    config = DREAMConfig(rank=8, kappa=1.0, time_step=1 / 30, ltc_enabled=False)
    assert json.loads(config.to_json()) == dataclasses.asdict(config)
    assert DREAMConfig.from_json(config.to_json()) == config
    assert DREAMConfig.from_json(b'{"rank": 8, "kappa": 1}') == DREAMConfig(rank=8, kappa=1.0)


@pytest.mark.parametrize(
    "text", ["{", "[]", '"rank"', '{"rank": 0}', '{"rnak": 8}', '{"kappa": NaN}', '{"rank": 8.0}', b"\xff"]
)
def test_bad_json(text: str | bytes) -> None:
    with pytest.raises(ConfigError):
        DREAMConfig.from_json(text)


def test_json_schema() -> None:
    schema = DREAMConfig.json_schema()
    properties = schema["properties"]
    assert list(properties) == list(DEFAULTS)
    assert schema.get("additionalProperties") is False
    json.dumps(schema)
    for name, value in DEFAULTS.items():
        kind = {int: "integer", float: "number", bool: "boolean"}[type(value)]
        assert (properties[name]["type"], properties[name]["default"]) == (kind, value)
        assert properties[name]["description"].strip()
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    for names, expected in (
        ((*INTEGERS, *POSITIVE), {"exclusiveMinimum": 0}),
        (NOT_NEGATIVE, {"minimum": 0}),
        (SHARES, {"minimum": 0, "maximum": 1}),
        (SMOOTHINGS, {"minimum": 0, "exclusiveMaximum": 1}),
    ):
        for name in names:
            assert {key: value for key, value in properties[name].items() if key in bounds} == expected
