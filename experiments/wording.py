"""Messages during a run: notes in one line, no banners, no advice about other products."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from jsonargparse import set_parsing_settings

from dream.errors import DREAMWarning
from experiments import launch
from experiments.ending import say
from experiments.invocation import configs, own_code
from lightning_modules.redaction import redacted


def set_up(with_help: bool = False) -> None:
    """Show only those messages of libraries that a person needs.

    Args:
        with_help: Take the help of a field from its docstring. The source of its class is read for that,
            which takes half of the time until a command runs.
    """
    set_parsing_settings(
        docstring_parse_attribute_docstrings=with_help,
        # a configuration builds and fetches nothing of its own accord: see `invocation.trust`
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
        config_read_mode_fsspec_enabled=False,
    )
    configs.bound_parser()
    handler = logging.StreamHandler()
    handler.setFormatter(_Message())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    warnings.showwarning = _note
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    launch.set_up_words()
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        "The dirpath has changed.*",  # a run's folder that is given by its relative path
        ".*litlogger.*",
        "LightningCLI's args parameter.*",  # ours come from `Invocation.words`
        rf"(?s).*Hit failing import.*{own_code.PACKAGE}",  # classes of an earlier run of this process
        ".*LeafSpec.*",
        "`rank`=.* is above `input_dim`=.*",  # of a width that the data set later: see `DREAMCLI.note_rank`
    ):
        warnings.filterwarnings("ignore", message)


class _Message(logging.Formatter):
    """The message alone, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        text: str = redacted(super().format(record))
        return text


def _note(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    kind = "note" if issubclass(category, DREAMWarning) else category.__name__
    say(f"{kind}: {str(message).strip()}")
