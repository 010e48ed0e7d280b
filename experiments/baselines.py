"""Models that `dream compare` knows: each a few flags on the same experiment."""

from __future__ import annotations

from dream.errors import ConfigError, nearest

MODELS: dict[str, tuple[str, ...]] = {
    "dream": (),
    "no_plasticity": ("--model.config.base_plasticity=0",),
    "lstm": ("--model.core=lstm",),
    "gru": ("--model.core=gru",),
    "rnn": ("--model.core=rnn",),
    "linear": ("--model.core=linear",),
}
"""Name and flags. The recurrent rivals have as many parameters as DREAM (`lightning_modules.cores`); what
needs no training, such as repeat-last, is a row of every run."""


def flags(name: str) -> list[str]:
    """Return the flags that make an experiment one of model `name`.

    Raises:
        ConfigError: there is no such model.
    """
    if name not in MODELS:
        raise ConfigError(
            f"`--models` must name models among {', '.join(MODELS)}; got {name!r}. {nearest(name, MODELS)} "
            "Naive forecasts and the like need no name: they are rows of every run.",
            key="models",
        )
    return list(MODELS[name])
