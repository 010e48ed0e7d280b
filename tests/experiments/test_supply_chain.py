"""What a run says to the world, and writes down: nothing over the network, no telemetry, no secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_modules.redaction import redacted
from tests.experiments.support import ENVIRONMENT, SMALL

# Loaded at the start of every Python process: notes, and refuses, whatever would leave this machine.
GUARD = """
import os
import sys

def guard(event, arguments):
    if event == "subprocess.Popen":
        note = f"started {arguments[1]}"
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        local = not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost")
        note = "" if local else f"went out to {address}"
    elif event == "socket.getaddrinfo":
        local = str(arguments[0]) in ("127.0.0.1", "::1", "localhost", "None", "")
        note = "" if local else f"went out to {arguments[0]}"
    else:
        return
    if note:
        with open(os.environ["GUARD"], "a") as file:
            file.write(note + "\\n")
    if note.startswith("went out"):
        raise OSError("the network is not for this test")

sys.addaudithook(guard)
"""
EVERYTHING = """
import importlib, pkgutil, sys
for name in ("dream", "lightning_modules", "experiments"):
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
sys.exit(sys.modules["experiments.cli"].main(sys.argv[1:]))
"""
SECRETS = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "AWS_SECRET_ACCESS_KEY": "an-aws-secret-access-key",
    "HF_TOKEN": "hf_a-token-of-a-hub",
    "HTTPS_PROXY": "http://joe:the-password-of-a-proxy@127.0.0.1:9",
}


@pytest.fixture
def guarded(tmp_path: Path) -> dict[str, str]:
    """The environment of a process that cannot go out, and that notes in the file GUARD if it tries."""
    home = tmp_path / "guard"
    home.mkdir()
    (home / "sitecustomize.py").write_text(GUARD)
    path = os.pathsep.join([str(home), ENVIRONMENT["PYTHONPATH"]])
    without = {name: text for name, text in ENVIRONMENT.items() if name != "WANDB_ERROR_REPORTING"}
    return {**without, "PYTHONPATH": path, "GUARD": str(tmp_path / "notes")}


def test_the_guard_guards(guarded: dict[str, str]) -> None:
    program = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", program], env=guarded, capture_output=True, text=True)
    assert "the network is not for this test" in done.stderr
    assert "went out to 192.0.2.1" in Path(guarded["GUARD"]).read_text()


def test_imports_and_a_fit_stay_on_this_machine_and_write_no_secret(
    guarded: dict[str, str], tmp_path: Path
) -> None:
    group = "--run.group=https://bob:the-password-of-bob@host/group"
    settings = [*SMALL, "--trainer.max_epochs=1", "--run.name=one", "--run.wandb=offline", group]
    fit = [sys.executable, "-c", EVERYTHING, "fit", "-c", "forecasting", *settings]
    done = subprocess.run(fit, env={**guarded, **SECRETS}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    notes = Path(guarded["GUARD"]).read_text()
    assert "went out" not in notes
    assert "wandb-core" in notes
    assert "--no-observability" in notes  # its own reports of errors and usage are off
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {"config.yaml", "results.json", "metrics.jsonl"} <= {path.name for path in files}
    assert any(path.suffix == ".wandb" for path in files)
    for path in files:
        content = path.read_bytes()
        for secret in (*list(SECRETS.values())[:3], "the-password-of-a-proxy", "the-password-of-bob"):
            assert secret.encode() not in content, path


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("https://bob:pass@host/a?b=c@d", "https://***@host/a?***"),
        ("--data.path=s3://key:pass@bucket/a.csv", "--data.path=s3://***@bucket/a.csv"),
        ("--logger.api_key=abc", "--logger.api_key=***"),
        (
            {"logger": {"token": "abc", "tokens": 3, "name": "a"}},
            {"logger": {"token": "***", "tokens": 3, "name": "a"}},
        ),
        (["a-value-of-the-environment!", 1, None], ["***!", 1, None]),
        ("runs/a@b.csv", "runs/a@b.csv"),
    ],
)
def test_secrets_are_hidden(given: object, kept: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "a-value-of-the-environment")
    assert redacted(given) == kept
