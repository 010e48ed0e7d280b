"""Writes `tuning.md`, the tuning guide, from `dream.tuning` and `dream.config`:
``python docs/tuning_page.py``."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from dream import DREAMConfig
from dream.config import KNOBS, PRESETS
from dream.tuning import GOALS, SYMPTOMS, Remedy

PAGE = Path(__file__).with_name("tuning.md")
GROUPS = {
    "Size": ("input_dim", "hidden_dim", "rank"),
    "Time": ("time_step", "ltc_enabled", "ltc_tau_sys", "ltc_surprise_scale"),
    "Fast weights": ("base_plasticity", "forgetting_rate", "target_norm", "kappa"),
    "Surprise": (
        "base_threshold",
        "entropy_influence",
        "surprise_temperature",
        "error_smoothing",
        "surprise_smoothing",
    ),
    "Sleep": ("sleep_rate", "min_surprise_for_sleep"),
}
HEAD = """\
# Tuning

<!-- Written by docs/tuning_page.py from dream/tuning.py: change it there. -->

Four steps: start with the defaults, watch three figures, adjust what the symptom calls for, then tune for your goal. The
warnings of `DREAMConfig` and the remarks of the advisor during a run come from the same tables.

## 1. Start with the defaults

Or with the preset nearest to your task (below).

```python
from dream import DREAM, DREAMConfig

config = DREAMConfig(input_dim=8)
model = DREAM.from_config(config)
closer = DREAMConfig.preset("fast_adaptation", input_dim=8)
```

## 2. Watch loss, surprise and the norm of U

```python
import torch

x = torch.randn(16, 50, 8)
output, trace, state = model.trace(x)
loss = trace.error.square().mean()
print(f"Loss: {loss.item():.4f}")
print(f"Surprise: {state.avg_surprise.mean().item():.4f}")
print(f"U norm: {trace.u_norm[:, -1].mean().item():.4f}")
```

A run of `dream fit` logs them for every layer (`dream/layer_0/surprise`, `dream/layer_0/u_norm` and more) in `metrics.jsonl`
and in the progress bar, and `dream report` draws them.

## 3. Adjust what the symptom calls for

"""
ADVISOR = """
`TuningAdvisor` watches every run of `dream fit` for these symptoms and says each at most once, with its step. It goes by
rules of thumb over the last 50 logging steps (`--advisor.window`), which its docstring states; it can be wrong, so look at
the curves before you follow it.

"""
PRESET_USE = """
A preset sets the fields below; sizes are a start, `input_dim` is always the data's own, and what you set beside it wins.

```bash
dream check forecasting --preset stability
```

"""


def settings(remedy: Remedy) -> str:
    """What to do, in words and as the settings of a run."""
    return ", ".join(f"{direction} `model.config.{field}`" for direction, field in remedy.steps)


def table(*rows: tuple[str, ...]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def knobs(names: tuple[str, ...]) -> str:
    """What some knobs do."""
    defaults = dataclasses.asdict(DREAMConfig())
    rows = [("setting", "symbol", "default", "recommended", "increase", "decrease", "guidelines")]
    for name in names:
        knob = KNOBS[name]
        off = f"; off: {' or '.join(f'{value:g}' for value in knob.off)}" if knob.off and knob.range else ""
        rows.append(
            (
                f"`{name}`",
                knob.symbol,
                str(defaults[name]),
                f"{knob.range or ''}{off}",
                knob.increase,
                knob.decrease,
                "; ".join(f"{situation}: {values}" for situation, values in knob.guidelines),
            )
        )
    return table(*rows)


def preset(name: str) -> tuple[str, str, str]:
    """Name, purpose and values of a preset."""
    values = {field: value for field, value in PRESETS[name].values.items() if field != "input_dim"}
    return (
        f"`{name}`",
        PRESETS[name].purpose,
        ", ".join(f"`{field}={value}`" for field, value in values.items()),
    )


def page() -> str:
    """The whole page."""
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(KNOBS)
    parts = [
        HEAD,
        table(("symptom", "adjust"), *((name, settings(remedy)) for name, remedy in SYMPTOMS.items())),
        ADVISOR,
    ]
    parts += ["## 4. Tune for your goal\n\n"]
    parts += [table(("goal", "adjust"), *((name, settings(remedy)) for name, remedy in GOALS.items()))]
    parts += ["\n`dream sweep` tries ranges of such settings for you ([sweeps](sweeps.md)).\n"]
    parts += ["\n## Every knob\n\nSymbols are those of [the equations](dynamics.md).\n"]
    parts += [f"\n### {group}\n\n{knobs(names)}" for group, names in GROUPS.items()]
    parts += ["\n## Presets\n", PRESET_USE]
    parts += [table(("preset", "for", "sets"), *map(preset, PRESETS))]
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
