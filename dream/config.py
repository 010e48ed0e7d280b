"""`DREAMConfig`: the knobs of a DREAM cell, validated when made, and the guide's named configurations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from dream.errors import ConfigError, nearest, warn
from dream.tuning import Knob


def _plain(value: Any) -> Any:
    """A NumPy scalar as the Python number that it holds."""
    return value.item() if isinstance(value, np.generic) else value


_Scalar = BeforeValidator(_plain)
PositiveInt = Annotated[int, Field(gt=0), _Scalar]
PositiveFloat = Annotated[float, Field(gt=0), _Scalar]
NonNegativeFloat = Annotated[float, Field(ge=0), _Scalar]
Share = Annotated[float, Field(ge=0, le=1), _Scalar]
Smoothing = Annotated[float, Field(ge=0, lt=1), _Scalar]
Flag = Annotated[bool, _Scalar]


@dataclass(
    frozen=True,
    config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True),
)
class DREAMConfig:
    """Configuration of a DREAM cell.

    A frozen dataclass: change one with ``dataclasses.replace(config, rank=8)``, which validates again.
    Symbols are those of the equations in `dream.functional.advance`. Defaults are those of the guide; they
    are also its `asr` and `speech_recognition` configurations.

    Raises:
        ConfigError: a value of a wrong type, not finite or out of bounds, or an unknown name.

    Warns:
        DREAMWarning: once per field and process, a legal value outside the recommended range; `rank` above
            `input_dim`.

    Example:
        >>> config = DREAMConfig(input_dim=64, hidden_dim=256, rank=16, base_plasticity=0.15)
        >>> dataclasses.replace(config, rank=8).rank
        8
    """

    input_dim: PositiveInt = 39
    """I: number of input features; 39 is 13 MFCC with deltas and double deltas."""
    hidden_dim: PositiveInt = 256
    """H: size of the hidden state. Up: more capacity, slower; down: less capacity, faster. Recommended
    range: 64-512."""
    rank: PositiveInt = 16
    """R: rank of the fast weights. Up: more expressivity; down: more compression. Recommended range:
    4-32."""
    time_step: PositiveFloat = 0.1
    """dt: model time of one step. Up: faster dynamics; down: slower dynamics. Recommended range:
    0.01-0.2."""
    forgetting_rate: NonNegativeFloat = 0.01
    """lambda: decay of U towards U_target, per step; 0: none. Up: faster forgetting; down: slower
    forgetting. Recommended range: 0.001-0.05."""
    base_plasticity: NonNegativeFloat = 0.1
    """eta: learning rate that each unit starts with; 0: no fast weights. Up: faster learning; down:
    slower learning. Recommended range: 0.05-0.3."""
    base_threshold: PositiveFloat = 0.5
    """tau_0: surprise threshold of a fresh sample, in usual deviations. Up: less sensitive; down: more
    sensitive. Recommended range: 0.3-0.7."""
    entropy_influence: NonNegativeFloat = 0.2
    """alpha: how far a noisy stream raises the threshold; 0: not at all. Up: more uncertainty weighting;
    down: less uncertainty weighting. Recommended range: 0.1-0.5."""
    surprise_temperature: PositiveFloat = 0.1
    """gamma: softness of the gate. Up: smoother gating; down: sharper gating. Recommended range:
    0.05-0.2."""
    error_smoothing: Smoothing = 0.01
    """beta: EMA rate of the error statistics, per step; 0 freezes them. Up: error statistics follow
    faster: used to noise sooner; down: error statistics follow more slowly: sensitive to noise for
    longer. Recommended range: 0.01-0.1."""
    surprise_smoothing: Smoothing = 0.01
    """beta_s: EMA rate of threshold and mean surprise, per step; 0 freezes them. Up: threshold and mean
    surprise follow faster: used to novelty sooner; down: threshold and mean surprise follow more slowly:
    surprised for longer. Recommended range: 0.01-0.1."""
    target_norm: PositiveFloat = 2.0
    """target: Frobenius norm of U that homeostasis allows. Up: larger weights; down: smaller weights.
    Recommended range: 1-5."""
    kappa: Share = 0.5
    """kappa: strength of homeostasis; 0: none; 1: U never exceeds target. Up: stronger homeostasis; down:
    weaker homeostasis. Recommended range: 0.1-1."""
    sleep_rate: Share = 0.005
    """zeta: consolidation of U into U_target, per step; 0: none. Up: faster consolidation; down: slower
    consolidation. Recommended range: 0.001-0.01."""
    min_surprise_for_sleep: Share = 0.2
    """S_min: mean surprise above which a sample consolidates. Up: less frequent consolidation; down: more
    frequent consolidation. Recommended range: 0.1-0.5."""
    ltc_enabled: Flag = True
    """Whether each unit has a time constant of its own. True: liquid time constants; False: standard RNN
    behavior."""
    ltc_tau_sys: PositiveFloat = 10.0
    """tau_sys: the slowest unit's time constant, in model time. Up: slower integration; down: faster
    integration. Recommended range: 5-30."""
    ltc_surprise_scale: NonNegativeFloat = 10.0
    """s: how far surprise shortens the time constants; 0: not at all. Up: more dynamic tau; down: less
    dynamic tau. Recommended range: 5-30."""

    @model_validator(mode="wrap")
    @classmethod
    def _validated(cls, values: Any, validate: Callable[[Any], DREAMConfig]) -> DREAMConfig:
        try:
            config = validate(values)
        except ValidationError as error:
            raise _config_error(error) from None
        _advise(config)
        return config

    @classmethod
    def preset(cls, name: str, **overrides: Any) -> DREAMConfig:
        """A configuration of the guide by name, with some fields changed.

        Names: `asr`, `fast_adaptation`, `long_term_memory`, `stability` (quick presets);
        `speech_recognition`, `time_series_forecasting`, `anomaly_detection`, `language_modeling`,
        `online_learning` (by task). `asr` and `speech_recognition` are today's defaults.

        Raises:
            ConfigError: an unknown preset, or an override that is not allowed.

        Example:
            >>> DREAMConfig.preset("fast_adaptation", input_dim=8).base_plasticity
            0.2
        """
        if not isinstance(name, str) or name not in PRESETS:
            raise ConfigError(
                f"`name` must be a preset; got {name!r}. {nearest(str(name), PRESETS)}", key="name"
            )
        return cls(**{**PRESETS[name].values, **overrides})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a configuration: types, bounds, defaults and descriptions."""
        return TypeAdapter(cls).json_schema()

    def to_json(self) -> str:
        """One line of JSON, which `from_json` reads back."""
        return TypeAdapter(type(self)).dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> DREAMConfig:
        """The configuration that `to_json` wrote.

        Raises:
            ConfigError: the text is not JSON, or a value is not allowed.
        """
        try:
            values = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"`text` must be the JSON of a DREAMConfig; it does not parse: {error}."
            ) from None
        if not isinstance(values, dict):
            raise ConfigError(f"`text` must be a JSON object of fields; got {type(values).__name__}.")
        return cls(**values)


KNOBS: dict[str, Knob] = {
    name: Knob.read(name, field.get("description", ""))
    for name, field in DREAMConfig.json_schema()["properties"].items()
}
"""Effects and recommended range of each field, read from the fields' docstrings."""


def changed(config: DREAMConfig, **values: Any) -> DREAMConfig:
    """Return `config` with these values; itself if it has them already, so that it is not validated again."""
    if all(getattr(config, name) == value for name, value in values.items()):
        return config
    return dataclasses.replace(config, **values)


class Preset(NamedTuple):
    """A named configuration of the guide: its purpose and its values."""

    purpose: str
    values: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "asr": Preset(
        "speech features, balanced sensitivity (the defaults)",
        dict(input_dim=39, hidden_dim=256, rank=16, ltc_tau_sys=10.0, base_threshold=0.5),
    ),
    "fast_adaptation": Preset(
        "learn quickly, forget slowly, liquid time constants that move",
        dict(
            input_dim=64,
            hidden_dim=128,
            rank=8,
            base_plasticity=0.2,
            forgetting_rate=0.005,
            ltc_surprise_scale=20.0,
        ),
    ),
    "long_term_memory": Preset(
        "large, slow and lasting",
        dict(input_dim=64, hidden_dim=512, rank=32, ltc_tau_sys=20.0, forgetting_rate=0.001, target_norm=3.0),
    ),
    "stability": Preset(
        "small steps, small weights, less sensitive to noise",
        dict(
            input_dim=64,
            hidden_dim=256,
            rank=16,
            time_step=0.05,
            ltc_tau_sys=15.0,
            target_norm=1.5,
            error_smoothing=0.05,
        ),
    ),
    "speech_recognition": Preset(
        "MFCC with deltas (the defaults)",
        dict(
            input_dim=39,
            hidden_dim=256,
            rank=16,
            ltc_enabled=True,
            ltc_tau_sys=10.0,
            base_plasticity=0.1,
            forgetting_rate=0.01,
        ),
    ),
    "time_series_forecasting": Preset(
        "slower integration, slow forgetting",
        dict(
            input_dim=10,
            hidden_dim=128,
            rank=8,
            ltc_enabled=True,
            ltc_tau_sys=15.0,
            base_plasticity=0.15,
            forgetting_rate=0.005,
        ),
    ),
    "anomaly_detection": Preset(
        "more sensitive, fast adaptation",
        dict(
            input_dim=20,
            hidden_dim=128,
            rank=16,
            ltc_enabled=True,
            base_threshold=0.3,
            surprise_temperature=0.15,
            base_plasticity=0.2,
        ),
    ),
    "language_modeling": Preset(
        "long-term dependencies, very slow forgetting",
        dict(
            input_dim=300,
            hidden_dim=512,
            rank=32,
            ltc_enabled=True,
            ltc_tau_sys=20.0,
            forgetting_rate=0.001,
            target_norm=3.0,
        ),
    ),
    "online_learning": Preset(
        "high adaptivity, faster forgetting",
        dict(
            input_dim=64,
            hidden_dim=256,
            rank=16,
            ltc_enabled=True,
            ltc_surprise_scale=20.0,
            base_plasticity=0.2,
            forgetting_rate=0.02,
            base_threshold=0.4,
        ),
    ),
}


_RULES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "finite_number": "a finite number",
    "int_type": "an integer",
    "float_type": "a number",
    "bool_type": "True or False",
}


def _config_error(error: ValidationError) -> ConfigError:
    """The findings of pydantic in our words; the first one names the key."""
    findings = error.errors(include_url=False)
    names = [field.name for field in dataclasses.fields(DREAMConfig)]
    sentences = []
    for finding in findings:
        name, got = str(finding["loc"][0]) if finding["loc"] else "", finding.get("input")
        if finding["type"] == "unexpected_keyword_argument":
            sentences.append(f"`{name}` is not a field of DREAMConfig. {nearest(name, names)}")
        elif name not in names:
            sentences.append(
                f"DREAMConfig takes at most {len(names)} positional arguments; name them instead."
            )
        else:
            rule = _RULES.get(finding["type"], "valid ({type})").format(
                type=finding["type"], **finding.get("ctx", {})
            )
            hint = f" Recommended: {KNOBS[name].range}." if KNOBS[name].range else ""
            sentences.append(f"`{name}` must be {rule}; got {got!r}.{hint}")
    return ConfigError(" ".join(sentences), key=str(findings[0]["loc"][0]) if findings[0]["loc"] else None)


_warned: set[str] = set()


def _warn_once(field: str, message: str) -> None:
    if field not in _warned:
        _warned.add(field)
        warn(message, "dream", "pydantic")


def _advise(config: DREAMConfig) -> None:
    for name, knob in KNOBS.items():
        value = getattr(config, name)
        full = name == "rank" and value == config.input_dim  # there is nothing to compress
        if not knob.recommends(value) and not full:
            effect = knob.increase if knob.high is not None and value > knob.high else knob.decrease
            _warn_once(name, f"`{name}`={value:g} lies outside the recommended range {knob.range}: {effect}.")
    if config.rank > config.input_dim:
        _warn_once(
            "rank > input_dim",
            f"`rank`={config.rank} is above `input_dim`={config.input_dim}: it costs without adding "
            f"anything. Use rank={config.input_dim} or lower.",
        )
