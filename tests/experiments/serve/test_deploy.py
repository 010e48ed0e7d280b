"""The files of deploy/ run the command as it is, with flags that it takes."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from pathlib import Path
from urllib.error import HTTPError

import pytest
import yaml

from experiments.serve.command import TOKEN, parsed
from tests.image import Image, instructions, learn, scrape
from tests.soak.service import served, trained

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


def test_the_steps_name_what_there_is() -> None:
    """`make image` runs them; this is what can be told without."""
    found = instructions(DOCKERFILE)
    assert [words for name, words in found if name == "COPY"] == [". .", "--from=build /opt/dream /opt/dream"]
    rules = (DEPLOY.parent / ".dockerignore").read_text(encoding="utf-8").split()
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    assert all((DEPLOY.parent / name).exists() for name in sent)
    built = next(words for name, words in found if name == "RUN" and "pip install" in words)
    assert set(re.findall(r"--constraint (\S+)", built)) <= sent
    assert {"pyproject.toml", "hatch_build.py", "README.md", "LICENSE"} <= sent
    account = next(words for name, words in found if name == "RUN" and "useradd" in words)
    assert f"--uid {instruction('USER')} " in account
    assert f"--home-dir {instruction('WORKDIR')} " in account
    assert instruction("VOLUME") == instruction("WORKDIR")
    assert f":{instruction('EXPOSE')}/health" in instruction("HEALTHCHECK")


def test_an_instruction_that_the_trial_does_not_know_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ADD is not known here"):
        Image(tmp_path, DEPLOY.parent).do("ADD", "https://example.org/a /a")


def test_paths_of_a_step_stay_below_its_root(tmp_path: Path) -> None:
    image = Image(tmp_path, DEPLOY.parent)
    step = "A=/a:/b rm -rf /var/lib '/c' && get http://127.0.0.1:8000/health a/b"
    root = image.root
    assert image.inside(step) == (
        f"A={root}/a:{root}/b rm -rf {root}/var/lib '{root}/c' && get http://127.0.0.1:8000/health a/b"
    )


def test_the_compose_file_runs_what_there_is() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    service, prometheus = compose["services"]["dream"], compose["services"]["prometheus"]
    context = (DEPLOY / service["build"]["context"]).resolve()
    assert (context / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
    assert [port.split(":")[::2] for port in service["ports"]] == [["127.0.0.1", instruction("EXPOSE")]]
    assert [volume.split(":")[1] for volume in service["volumes"]] == [instruction("VOLUME")]
    assert set(service["environment"]) == {TOKEN}
    assert compose["configs"]["token"] == {"environment": TOKEN}
    assert set(prometheus["depends_on"]) < set(compose["services"])
    assert {one["source"] for one in prometheus["configs"]} == set(compose["configs"])
    assert prometheus["command"] == [f"--config.file={prometheus['configs'][0]['target']}"]


def test_prometheus_asks_where_the_service_answers(tmp_path: Path) -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load((DEPLOY / compose["configs"]["prometheus"]["file"]).read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    ((host, port),) = [target.split(":") for part in job["static_configs"] for target in part["targets"]]
    assert host in compose["services"]
    assert port == instruction("EXPOSE")
    targets = {one["target"]: one["source"] for one in compose["services"]["prometheus"]["configs"]}
    assert targets[job["authorization"]["credentials_file"]] == "token"
    trained().save(tmp_path / "model")
    with served(tmp_path, tmp_path / "model", "--token=that of the test") as (_, (_, number)):
        assert learn(number, "that of the test")["seq"] == 1
        text = scrape(number, "that of the test")
        with pytest.raises(HTTPError, match="401"):
            scrape(number, "another")
    assert 'dream_rows_total{operation="learn",result="done"} 1' in text.splitlines()


def test_the_units_of_systemd_start_what_there_is() -> None:
    words = shlex.split(unit("dream-serve.service")["Service"]["ExecStart"])
    assert words[1] == "serve"
    assert parsed(words[2:]).http == 8000
    daily = shlex.split(unit("dream-forecast.service")["Service"]["ExecStart"])
    assert daily[1] == "predict"
    assert {"--ckpt_path", "--output"} < set(daily)
    assert "OnCalendar" in unit("dream-forecast.timer")["Timer"]
