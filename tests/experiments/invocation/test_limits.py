"""Numbers of the Trainer are refused by name, with nothing written; YAML is read in bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from dream.errors import ConfigError
from experiments.cli import main
from experiments.invocation import configs
from experiments.invocation.limits import CORES, RULES
from lightning_modules.run.guard import BestCheckpoint
from tests.experiments.support import SMALL

WRONG = {
    "trainer.accelerator": ["tpu", "xyz"],
    "trainer.devices": [0, -2, CORES + 1, "0x", "1,1", [], [0, 0], [-1], "1" * 400],
    "trainer.num_nodes": [0, -1],
    "trainer.precision": ["16-true", "transformer-engine"],
    "trainer.max_epochs": [-2, 2**63],
    "trainer.min_epochs": [-1],
    "trainer.max_steps": [-2],
    "trainer.min_steps": [-1],
    "trainer.max_time": ["1", "00:00:00:00", {"days": -1}, {"days": 0}, {"ages": 1}, {}],
    "trainer.fast_dev_run": [-1],
    "trainer.limit_train_batches": [-1, -0.5, 1.5, float("nan"), float("inf")],
    "trainer.limit_val_batches": [-1, 1.5],
    "trainer.limit_test_batches": [-1, 1.5],
    "trainer.limit_predict_batches": [-1, 1.5],
    "trainer.val_check_interval": [0, 0.0, -1, 1.5, float("nan"), True, "00:00:01:00"],
    "trainer.check_val_every_n_epoch": [0, -1],
    "trainer.num_sanity_val_steps": [-2],
    "trainer.log_every_n_steps": [0, -1],
    "trainer.accumulate_grad_batches": [0, -1],
    "trainer.gradient_clip_val": [-1, float("nan"), float("inf"), True],
    "trainer.gradient_clip_algorithm": ["max"],
    "trainer.reload_dataloaders_every_n_epochs": [-1],
    "early_stopping.min_delta": [-0.1, float("nan"), float("inf")],
    "early_stopping.patience": [-1],
    "early_stopping.stopping_threshold": [float("nan")],
    "early_stopping.divergence_threshold": [float("-inf")],
    "checkpoint.save_top_k": [-2],
    "checkpoint.every_n_train_steps": [-1],
    "checkpoint.every_n_epochs": [-1],
}
RIGHT = {
    "trainer.devices": ["auto", -1, 1, "2", "0,1", [0, 1], "-1"],
    "trainer.accelerator": ["auto", "cpu"],
    "trainer.precision": [None, "32", 16, "bf16-mixed", "64-true"],
    "trainer.limit_train_batches": [None, 0, 3, 0.0, 0.5, 1.0, 3.0],
    "trainer.val_check_interval": [None, 1, 0.25, 1.0, 4.0],
    "trainer.gradient_clip_val": [None, 0, 0.5],
    "trainer.max_epochs": [None, -1, 0, 3],
    "trainer.max_time": [None, "00:00:00:01", "1:00:00:00", {"hours": 12}],
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.setenv("WANDB_MODE", "disabled")
    return tmp_path


def test_every_rule_refuses_what_makes_no_sense() -> None:
    assert WRONG.keys() == RULES.keys()
    for key, values in WRONG.items():
        assert [value for value in values if RULES[key][1](value)] == [], key
    for key, values in RIGHT.items():
        assert [value for value in values if not RULES[key][1](value)] == [], key


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--trainer.accumulate_grad_batches=0", "must be a whole number of at least 1; got 0."),
        ("--trainer.val_check_interval=1000", "must be at most "),
        ("--trainer.strategy=xla", "must be one that Lightning can use here; got 'xla'"),
        ("--trainer.max_epochs=-1", "must be given, or `trainer.max_steps`"),
        ("--run.name=../x", "must be the name of a folder"),
        ('--run.name="a\\0b"', "must be the name of a folder"),
        ("--figures.dpi=0", "must be a whole number from 10 to 1000"),
        ("--save.every_minutes=.nan", "must be a number above 0"),
    ],
)
def test_a_setting_is_refused_before_anything_is_written(
    flag: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", "forecasting", *SMALL, flag]) == 2
    text = capsys.readouterr().err
    assert f"dream: `{flag[2:].partition('=')[0]}` {said}" in text
    assert not list(tmp_path.iterdir())


def test_names_of_checkpoints_stay_in_their_folder(tmp_path: Path) -> None:
    for name, made in {
        "best": "best.ckpt",
        "{val/mse:.2f}": "val-mse=0.25.ckpt",
        "../../x": "..-..-x.ckpt",
        "/etc/x-{epoch}": "-etc-x-epoch=3.ckpt",
    }.items():
        saved = BestCheckpoint(tmp_path, name, monitor="val/mse")
        values = {"val/mse": torch.tensor(0.25), "epoch": torch.tensor(3)}
        assert saved.format_checkpoint_name(values) == str(tmp_path / made)
    for name in ("..", ".", "a\0b", "x" * 201):
        with pytest.raises(ConfigError, match=r"`checkpoint\.filename` must be the name of a file"):
            BestCheckpoint(tmp_path, name).format_checkpoint_name({})


def test_nul_is_no_part_of_a_word(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["new", "forecasting", "a\0b"],
        ["report", "\0"],
        ["sweep", "-c", "forecasting", "--folder=\0"],
    ):
        assert main(words) == 2
        assert "must be text without NUL" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{','.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 20_000, "line 1, column 101: it has more than 100 levels"),
        ("- " * 5000, "more than 100 levels"),
        (LAUGHS, "it has more than 20,000 values"),
        ("a: &a {b: 1}\n" + "".join(f"b{k}: {{<<: *a}}\n" for k in range(5000)), "more than 20,000 values"),
        ("a: &a [1, *a]", "line 1, column 11: `a` holds itself"),
        ("a: *b", "undefined alias"),
        ("a: b\0", "special characters are not allowed"),
        ("#" * 2**20 + "\n", "it has more than 1,048,576 bytes"),
        ("a: 2026-13-45", "month must be in 1..12"),
    ],
)  # fmt: skip
def test_yaml_is_read_in_bounds(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "it.yaml").write_text(text)
    with pytest.raises(ConfigError, match="must be YAML in UTF-8") as refused:
        configs.load(tmp_path / "it.yaml")
    assert said in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    assert main(["check", "it.yaml"]) == 2
    assert "must be YAML in UTF-8" in capsys.readouterr().err


def test_aliases_within_the_bounds_are_what_they_stand_for() -> None:
    text = "a: &a {x: [1, 2]}\nb: *a\nc: [*a, *a]\nd: &s 1e-3\ne: *s\nf: {<<: *a, y: 3}\n"
    assert configs.parse(text) == yaml.load(text, configs.Loader)
    assert configs.parse(text)["f"] == {"x": [1, 2], "y": 3}
