"""The files of deploy/ run the command as it is, with flags that it takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from experiments.serve.command import parsed
from experiments.serve.web import make_app

DEPLOY = Path(__file__).parents[3] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")


def instruction(name: str) -> str:
    """The last instruction of this name in the Dockerfile."""
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, flags=re.MULTILINE)[-1]


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None)
    found.optionxform = str  # type: ignore[assignment, method-assign]
    found.read(DEPLOY / name)
    return found


def test_the_image_serves_for_a_user_without_rights() -> None:
    assert json.loads(instruction("ENTRYPOINT")) == ["dream", "serve"]
    arguments = parsed(json.loads(instruction("CMD")))
    assert (arguments.host, f"{arguments.http}") == ("0.0.0.0", instruction("EXPOSE"))
    assert instruction("USER").isdigit()
    last = DOCKERFILE.split("FROM ")[-1]
    assert "g++" not in last
    assert "apt" not in last


def test_prometheus_asks_where_the_service_answers() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    prometheus = yaml.safe_load(
        (DEPLOY / compose["configs"]["prometheus"]["file"]).read_text(encoding="utf-8")
    )
    (job,) = prometheus["scrape_configs"]
    ((host, port),) = [target.split(":") for part in job["static_configs"] for target in part["targets"]]
    assert host in compose["services"]
    assert port == instruction("EXPOSE")
    assert job["metrics_path"] in {route.path for route in make_app(None, None, None, None).routes}  # type: ignore[arg-type, attr-defined]
    assert job["authorization"]["credentials_file"] in {
        one["target"] for one in compose["services"]["prometheus"]["configs"]
    }


def test_the_units_of_systemd_start_what_there_is() -> None:
    words = shlex.split(unit("dream-serve.service")["Service"]["ExecStart"])
    assert words[1] == "serve"
    assert parsed(words[2:]).http == 8000
    daily = shlex.split(unit("dream-forecast.service")["Service"]["ExecStart"])
    assert daily[1] == "predict"
    assert {"--ckpt_path", "--output"} < set(daily)
    assert "OnCalendar" in unit("dream-forecast.timer")["Timer"]


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="no hadolint on this machine")
def test_the_dockerfile_is_linted() -> None:
    done = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
