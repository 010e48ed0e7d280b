"""All settings of a run, after flags, YAML files and data: the content of its `config.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

from dream import sums
from experiments.folders import CONFIG
from experiments.invocation import own_code
from lightning_modules.redaction import redacted

COMMAND_LINE = ("preset", "allow", "trust", "from", "learn", "output")
"""Settings that are spelled out, or for the command line alone."""


def resolve_config(
    parser: LightningArgumentParser, config: Namespace, model: L.LightningModule
) -> dict[str, Any]:
    """Return all settings of a run as plain values, without secrets.

    Those of the layer are as built: the data may have set the width of its input.
    """
    text = own_code.plain(parser.dump(config, skip_unset=False))
    resolved: dict[str, Any] = redacted(yaml.safe_load(text))
    resolved["run"]["name"] = None  # a name serves once
    resolved["resume"] = False
    for name in COMMAND_LINE:
        del resolved[name]
    resolved["model"]["init_args"]["config"] = model.hparams["config"]
    return resolved


class WriteConfig(SaveConfigCallback):
    """Writes all settings to `config.yaml` in the run's folder and to the tracked run.

    The Python files that classes were taken from lie beside it.
    """

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        resolved = resolve_config(self.parser, self.config, pl_module)
        folder = Path(trainer.default_root_dir)
        own_code.keep(folder)
        sums.write_atomic(folder, CONFIG, yaml.safe_dump(resolved, sort_keys=False))
        resolved["model"]["init_args"].update(pl_module.hparams)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(redacted(resolved), allow_val_change=True)
