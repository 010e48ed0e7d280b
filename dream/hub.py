"""Modules as folders that can be shared: weights as safetensors, and a card for people.

The folder form needs no network. Names on the Hugging Face Hub need the extra `hub`.
"""

from __future__ import annotations

import json
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from dream.cell import DREAMCell
from dream.errors import CheckpointError, ConfigError, DREAMError
from dream.files import write_atomic
from dream.sealed import read_sealed, write_sealed

WEIGHTS, CARD = "model.safetensors", "README.md"
"""Files of a folder."""
_KIND = {"format": "dream-pretrained", "version": "1"}
_OFF = "plasticity_off"  # setting: names of the cells whose fast weights stay
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")  # on the hub: OWNER/MODEL


@dataclass(frozen=True)
class Card:
    """Facts about a model for people."""

    data: str = ""
    """Data that it was trained on."""
    license: str = ""
    """License of the weights, by its identifier, such as mit or cc-by-4.0."""
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Test results: model, then metric, then value."""

    def text(self, model: nn.Module, settings: Mapping[str, Any]) -> str:
        """The card of `model`, Markdown under a head of YAML as the hub reads it."""
        kind, home = type(model).__name__, type(model).__module__.partition(".")[0]
        names = list(dict.fromkeys(name for row in self.figures.values() for name in row))
        rows = [["", *names], ["---"] * (len(names) + 1)]
        rows += [[title, *(_number(row.get(name)) for name in names)] for title, row in self.figures.items()]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows) if self.figures else "None were given."
        head = [f"license: {json.dumps(self.license, allow_nan=False)}"] if self.license else []
        count = sum(parameter.numel() for parameter in model.parameters())
        return f"""---
{chr(10).join(["library_name: dream-memory", "tags: [pytorch, dream]", *head])}
---

# {kind}

`{kind}` of dream-memory, with {count:,} parameters.

```python
from {home} import {kind}

model = {kind}.from_pretrained("FOLDER, OR THE NAME OF THIS MODEL")
```

## Data

{self.data or "Not stated."}

## Figures

{table}

## License

{self.license or "Not stated."}

## Settings

```json
{json.dumps(settings, indent=2, allow_nan=False)}
```
"""


class Pretrained(nn.Module, ABC):
    """A module that a folder can hold, and the Hugging Face Hub as well."""

    @abstractmethod
    def _settings(self) -> dict[str, Any]:
        """Plain values by which `_from_settings` builds the module."""

    @classmethod
    @abstractmethod
    def _from_settings(cls, settings: dict[str, Any]) -> Self:
        """A module with these settings and any weights."""

    def _cells_by_name(self) -> dict[str, DREAMCell]:
        return {name: part for name, part in self.named_modules() if isinstance(part, DREAMCell)}

    def _card(self) -> Card:
        """Facts that the module knows of itself."""
        return Card()

    def save_pretrained(self, folder: str | Path, card: Card | None = None) -> None:
        """Write the weights and settings to a folder, `WEIGHTS`, and a card, `CARD`; files of these names are
        replaced, each whole or not at all.

        Args:
            folder: Made where it is not there.
            card: What the card says; if None, what the module knows of itself.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        settings = self._settings()
        if off := [name for name, cell in self._cells_by_name().items() if not cell.plasticity_enabled]:
            settings[_OFF] = off
        text = (card or self._card()).text(self, settings)
        header = _KIND | {"class": type(self).__name__, "settings": json.dumps(settings, allow_nan=False)}
        tensors = {name: value.detach().cpu() for name, value in self.state_dict().items()}
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            write_atomic(Path(folder, CARD), text)
        except OSError as error:
            raise CheckpointError(
                f"`folder` must be a folder that can be written; {folder}: {error.strerror}. Use another."
            ) from None
        write_sealed(Path(folder, WEIGHTS), header, tensors)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Return the module that `save_pretrained` or `push_to_hub` wrote, on the CPU, in inference.

        Args:
            source: A folder; where there is none, a name on the hub, such as OWNER/MODEL.
            revision: Of a name: branch, tag or commit; the newest if None.
            token: Of a name: the key of an account that may read it.

        Raises:
            CheckpointError: there is neither, it is damaged, or holds another class.
            ConfigError: a name is given, and the package that asks the hub is not installed.
        """
        folder = Path(source) if Path(source).is_dir() else _fetched(str(source), revision, token)
        path = folder / WEIGHTS
        header, tensors = read_sealed(path, f"`{cls.__name__}.save_pretrained`", _KIND)
        if header.get("class") != cls.__name__:
            raise CheckpointError(f"{path} holds a {header.get('class')}. Call its from_pretrained.")
        try:
            settings = json.loads(header["settings"])
            off = settings.pop(_OFF, [])
            with torch.random.fork_rng(devices=[]):  # of the first weights, which are replaced
                new = cls._from_settings(settings)
            for name in off:
                new._cells_by_name()[name].plasticity_enabled = False
            new.load_state_dict(tensors, assign=True)  # in the dtype that they have
        except (DREAMError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(f"{path} is inconsistent: {error}") from None
        return new.eval()

    def push_to_hub(
        self, name: str, card: Card | None = None, *, private: bool = False, token: str | None = None
    ) -> str:
        """Upload what `save_pretrained` writes, under a name on the hub, and return its address.

        Args:
            name: OWNER/MODEL; made where it is not there.
            card: See `save_pretrained`.
            private: Whether a new one is hidden from others.
            token: Key of an account that may write it; the one that is logged in, if None.

        Raises:
            ConfigError: the package that asks the hub is not installed.
            CheckpointError: the hub cannot be reached, or refuses.
        """
        hub = _hub()
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, card)
            try:
                api = hub.HfApi(token=token)
                address = api.create_repo(name, private=private, exist_ok=True)
                api.upload_folder(repo_id=name, folder_path=folder, allow_patterns=[WEIGHTS, CARD])
            except Exception as error:  # of the network, of the hub, of the name
                raise _refused(name, error) from error
        return str(address)


def _fetched(name: str, revision: str | None, token: str | None) -> Path:
    """Folder with the files of a model on the hub.

    Raises:
        CheckpointError: it is no such name, or the hub cannot be reached, or refuses.
        ConfigError: the package that asks the hub is not installed.
    """
    if not _NAME.fullmatch(name):
        raise CheckpointError(f"`source` must be a folder or a name on the hub; {name} is neither.")
    try:
        found = _hub().snapshot_download(name, revision=revision, token=token, allow_patterns=[WEIGHTS, CARD])
    except DREAMError:
        raise
    except Exception as error:  # of the network, of the hub, of its cache
        raise _refused(name, error) from error
    return Path(found)


def _refused(name: str, error: Exception) -> CheckpointError:
    reason = (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
    return CheckpointError(
        f"{name} is no folder here, and the hub did not serve it: {reason}. Check name, network and rights, "
        "or use a folder."
    )


def _hub() -> Any:
    """The package of the hub.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import huggingface_hub  # takes time, and is an extra
    except ImportError:
        raise ConfigError(
            "names on the hub need the package huggingface_hub, which cannot be imported. Install it with "
            "pip install 'dream-memory[hub]', or use a folder."
        ) from None
    return huggingface_hub


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
