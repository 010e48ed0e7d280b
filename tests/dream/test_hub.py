"""A folder holds a module whole; the hub is asked for names alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch
from torch import nn

from dream import DREAM, CheckpointError, ConfigError, DREAMStack
from dream.hub import CARD, WEIGHTS, Card
from lightning_modules import AnomalyModule, ForecastingModule
from lightning_modules.data.schema import Schema
from tests.dream.support import assert_same


def forecaster() -> ForecastingModule:
    module = ForecastingModule(quantiles=[0.1, 0.5, 0.9], loss="mae")
    module.schema = Schema(columns={"targets": ("load",), "covariates": ()}, scales={"load": (10.0, 2.0)})
    module.results = {"DREAM": {"mse": 0.25, "mae": 0.3}, "naive": {"mse": 1.0}}
    return module


def detector() -> AnomalyModule:
    module = AnomalyModule()
    module.thresholds, module.training_rows = {"pump": 0.4}, {"pump": 120}
    module.core.plasticity_enabled = False
    return module


def still() -> DREAMStack:
    """A stack of whose layers the second does not learn."""
    stack = DREAMStack(3, [5, 4], 2)
    stack.layers[1].plasticity_enabled = False
    return stack


MODULES: dict[str, Any] = {
    "layer": lambda: DREAM(3, 5, 2, missing=True, base_threshold=0.7).double(),
    "stack": lambda: DREAMStack(3, [5, 4], 2, dropout=0.2, check_inputs=False),
    "still": still,
    "forecaster": forecaster,
    "detector": detector,
}


@pytest.mark.parametrize("name", MODULES)
def test_a_folder_holds_all_of_it(name: str, tmp_path: Path) -> None:
    module: nn.Module = MODULES[name]()
    module.save_pretrained(tmp_path / "new" / "folder")
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == [CARD, WEIGHTS]
    before = torch.get_rng_state()
    again = type(module).from_pretrained(tmp_path / "new" / "folder")
    assert torch.equal(torch.get_rng_state(), before)
    assert again._settings() == module._settings()
    cells, others = again._cells_by_name(), module._cells_by_name()
    assert [one.plasticity_enabled for one in cells.values()] == [
        one.plasticity_enabled for one in others.values()
    ]
    assert_same([*again.state_dict().values()], [*module.state_dict().values()])
    assert not again.training
    assert [one.requires_grad for one in again.parameters()] == [p.requires_grad for p in module.parameters()]


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    forecaster().save_pretrained(tmp_path)
    text = (tmp_path / CARD).read_text()
    assert "| DREAM | 0.25 | 0.3 |\n| naive | 1 |  |" in text
    assert "Columns that it reads: targets: load" in text
    DREAM(3, 5, 2).save_pretrained(tmp_path, Card("Hours of a grid.", "cc-by-4.0"))
    text = (tmp_path / CARD).read_text()
    assert text.startswith(
        '---\nlibrary_name: dream-memory\ntags: [pytorch, dream]\nlicense: "cc-by-4.0"\n---'
    )
    assert "## Data\n\nHours of a grid.\n\n## Figures\n\nNone were given.\n\n## License\n\ncc-by-4.0" in text
    assert 'DREAM.from_pretrained("' in text


def test_what_is_no_such_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DREAM(3, 5, 2).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds a DREAM\. Call its from_pretrained"):
        DREAMStack.from_pretrained(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[-3] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged|was changed"):
        DREAM.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="does not exist"):
        DREAM.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="must be a folder or a name on the hub"):
        DREAM.from_pretrained(tmp_path / "none")
    with pytest.raises(CheckpointError, match="`folder` must be a folder that can be written"):
        DREAM(3, 5, 2).save_pretrained("/dev/null/here")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match="someone/model is no folder here, and the hub did not serve it"
    ):
        DREAM.from_pretrained("someone/model")
    with pytest.raises(CheckpointError, match="someone/model is no folder here"):
        DREAM(3, 5, 2).push_to_hub("someone/model")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (DREAM.from_pretrained, DREAM(3, 5, 2).push_to_hub):
        with pytest.raises(ConfigError, match=r"pip install 'dream-memory\[hub\]'"):
            call("someone/model")


def test_a_name_is_pushed_and_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that is a folder."""

    class Hub:
        def __init__(self, token: str | None) -> None:
            assert token == "key"

        def create_repo(self, name: str, **_: Any) -> str:
            (tmp_path / name).mkdir(parents=True)
            return f"https://hub/{name}"

        def upload_folder(self, repo_id: str, folder_path: str, allow_patterns: list[str]) -> None:
            for name in allow_patterns:
                (tmp_path / repo_id / name).write_bytes(Path(folder_path, name).read_bytes())

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(tmp_path / name))
    layer = DREAM(3, 5, 2)
    assert layer.push_to_hub("someone/model", token="key") == "https://hub/someone/model"
    again = DREAM.from_pretrained("someone/model")
    assert_same([*again.parameters()], [*layer.parameters()])
