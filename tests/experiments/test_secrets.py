"""Secrets among the settings of an experiment: in no file of ours, in no message, and asked for again."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import wandb
import yaml

from dream.errors import ConfigError
from experiments.cli import main
from experiments.invocation.arguments import Invocation
from lightning_modules import redaction

CODE = '''
from lightning_modules.forecasting import DriftingLoad

class Mine(DriftingLoad):
    """Loads behind a login.

    Args:
        api_token: Of a service.
        pin_secret: A number.
        auth: User and password.
        url: Where it is.
        fail: Whether the service is down.
    """

    seen = []

    def __init__(
        self, api_token: str = "", pin_secret: int = 0, auth: dict | None = None, url: str = "",
        fail: bool = False, **options
    ):
        super().__init__(**options)
        self.save_hyperparameters()
        if fail:
            raise ValueError(f"no login with {api_token} and {auth}")
        self.seen.append((api_token, pin_secret))
'''
EXPERIMENT = """\
# api_token: old-secret-0
model: {class_path: ForecastingModule, init_args: {config: {hidden_dim: 8, rank: 2}}}
data:
  class_path: mine.Mine
  init_args:
    {rows: 400, feeders: 2, look_back: 24, horizon: 8, batch_size: 32, api_token: token-secret-1,
     pin_secret: 20202020, auth: {user: "user-secret-2"},
     url: "https://bob:pass-secret-3@h/?x=query-secret-4"}
trainer: {max_epochs: 1, limit_train_batches: 2, limit_val_batches: 1, limit_test_batches: 1,
          log_every_n_steps: 2, accelerator: cpu}
"""
SECRETS = ["old-secret-0", "token-secret-1", "20202020", "user-secret-2", "pass-secret-3", "query-secret-4"]
SECRETS += ["flag-secret-5", "inline-secret-6", "env-secret-7"]


@pytest.fixture(scope="module", autouse=True)
def _own_writer() -> None:
    """End the process that writes the runs of tests before, which an interrupted one may have left unfit."""
    wandb.teardown()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr("sys.argv", ["dream"])
    monkeypatch.setenv("A_PASSWORD", "env-secret-7")
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(CODE)
    Path("c.yaml").write_text(EXPERIMENT)
    Path("space.yaml").write_text("model.lr: {low: 1.0e-3, high: 1.0e-2, log: true}\n")


def found() -> list[tuple[str, str]]:
    """Secrets in files that are not the user's own, or a copy of these."""
    files = [path for folder in ("runs", "csv") for path in Path(folder).rglob("*") if path.is_file()]
    return [
        (secret, str(path))
        for path in files
        for secret in SECRETS
        if path.name != "mine.py" and secret.encode() in path.read_bytes()
    ]


def run(*words: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main([*words])
    said = capsys.readouterr()
    assert [secret for secret in SECRETS if secret in said.out + said.err] == []
    return code, said.err


def test_a_run_writes_down_none_and_asks_for_them_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = ["fit", "-c", "c.yaml", "--run.name=one", "--data.api_token", "flag-secret-5"]
    inline = ["--data.init_args={api_token: inline-secret-6}", "--run.wandb=offline"]
    inline += ["--run.group=env-secret-7", "--run.project=of-env-secret-7"]
    log = ["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=csv"]
    assert run(*fit, capsys=capsys)[0] == 0
    assert run("fit", "-c", "c.yaml", "--run.name=two", *inline, capsys=capsys)[0] == 0
    assert run("fit", "-c", "c.yaml", "--run.name=three", *log, capsys=capsys)[0] == 0
    assert list(Path("csv").rglob("hparams.yaml"))
    end = time.monotonic() + 20
    while not list(Path("runs/two").rglob("*.wandb")):  # another process writes it, when it comes to it
        assert time.monotonic() < end
        time.sleep(0.05)
    assert run("report", "runs/one", capsys=capsys)[0] == 0
    assert found() == []
    command = json.loads(Path("runs/one/run.json").read_text())["command"]
    assert command[-2:] == ["--data.api_token", "***"]
    data = yaml.safe_load(Path("runs/one/config.yaml").read_text())["data"]["init_args"]
    assert [data[name] for name in ("api_token", "pin_secret", "rows")] == ["***", "***", 400]
    assert (data["auth"], data["url"]) == ({"user": "***"}, "https://***@h/?***")

    code, said = run("test", "--ckpt_path", "runs/one", capsys=capsys)
    assert (code, "`data.api_token` must be given again" in said, "Traceback" in said) == (2, True, False)
    Path("kept").mkdir()
    Path("kept/secrets.yaml").write_text(
        "data: {init_args: {pin_secret: 20202020, url: '', auth: {user: bob}}}\n"
    )
    again = ["-c", "runs/one/config.yaml", "-c", "kept/secrets.yaml", "--data.api_token=flag-secret-5"]
    code, said = run("test", *again, "--ckpt_path", "runs/one", capsys=capsys)
    assert code == 0, said
    assert found() == []
    assert sys.modules["beside_config.mine"].Mine.seen == [("flag-secret-5", 20202020)]


def test_a_comparison_and_a_sweep_write_down_none_and_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    compare = ["compare", "-c", "c.yaml", "--models", "linear", "--data.api_token", "flag-secret-5"]
    sweep = ["sweep", "-c", "c.yaml", "--space=space.yaml", "--data.api_token=flag-secret-5"]
    for seeds in ("1", "2"):
        assert run(*compare, "--seeds", seeds, capsys=capsys)[0] == 0
        assert run(*sweep, "--trials", seeds, capsys=capsys)[0] == 0
    assert len(list(Path("runs").glob("*/*/results.json"))) == 4
    assert found() == []
    plan = json.loads(Path("runs/compare-c/plan.json").read_text())
    assert plan["flags"] == ["--data.api_token", "***"]
    assert yaml.safe_load(plan["experiment"][0])["data"]["init_args"]["api_token"] == "***"
    code, said = run("fit", "-c", "runs/sweep-c/best.yaml", "--run.name=best", capsys=capsys)
    assert (code, "`data.api_token` must be given again" in said) == (2, True)
    assert not Path("runs/best").exists()


def test_a_message_holds_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run("check", "-c", "c.yaml", "--data.fail=true", capsys=capsys)
    assert (code, "no login with *** and {'user': '***'}" in said) == (2, True)
    code, said = run("check", "-c", "c.yaml", "--data.pin_secret=no", capsys=capsys)
    assert (code, "`data.pin_secret` must be a whole number; got ***" in said) == (2, True)


def test_a_sweep_tries_no_secrets(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("data.api_token: [token-secret-1, b]\n")
    code, said = run("sweep", "-c", "c.yaml", "--space=space.yaml", capsys=capsys)
    assert (code, "`data.api_token` in the space must be no secret" in said) == (2, True)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "flag", ["--data.api_token=***", "--data={api_token: '***'}", "--data.url=https://***@h/"]
)
def test_a_hidden_value_in_a_flag_is_refused(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run("check", "-c", "c.yaml", flag, capsys=capsys)
    assert (code, "must be given again" in said) == (2, True)


def test_only_what_is_given_again_is_dropped_from_a_configuration() -> None:
    content = yaml.safe_load(EXPERIMENT)
    content["data"]["init_args"] |= {"api_token": "***", "pin_secret": "***", "auth": {"user": "***"}}
    Path("c.yaml").write_text(yaml.safe_dump(content))
    words = ["check", "-c", "c.yaml", "--data.api_token=a", "--data.init_args={pin_secret: 3}"]
    with pytest.raises(ConfigError, match=r"`data\.auth\.user` must be given again"):
        Invocation.parse(words).words()
    given = yaml.safe_load(Invocation.parse([*words, "--data.auth={user: b}"]).words()[1].partition("=")[2])
    assert set(given["data"]["init_args"]) == {*content["data"]["init_args"]} - {"api_token", "pin_secret"}
    assert given["data"]["init_args"]["auth"] == {}
