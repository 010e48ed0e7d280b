"""The steps of deploy/Dockerfile, run where no container engine is: `python -m tests.image`.

A folder stands for the root of each stage: absolute paths are put below it, and every step runs as it is
written. Three programs are stand-ins: ``apt-get`` and ``useradd``, since system and accounts are not ours to
change, and ``python``, whose new environments have the dependencies of the one that runs this. The result is
started by ENTRYPOINT and CMD as USER, asked by HEALTHCHECK and as deploy/prometheus.yml asks, with the token
of deploy/compose.yaml, ended by STOPSIGNAL, and started again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import site
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.soak.service import trained

CONTEXT = Path(__file__).parents[1]
DEPLOY = CONTEXT / "deploy"
PACKAGES = site.getsitepackages()[0]
STAND_INS = {
    "apt-get": "exit 0",
    "python": f'''{sys.executable} "$@" || exit
[ "$1 $2" != "-m venv" ] || echo {PACKAGES} > "$(echo "$3"/lib/python*/site-packages)/dependencies.pth"''',
    "useradd": 'while [ $# -gt 0 ]; do [ "$1" = --home-dir ] && mkdir -p "$2"; shift; done',
}
TOKEN = "a token of the trial"


def instructions(text: str) -> list[tuple[str, str]]:
    """Name and arguments of every instruction."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined) if name]


class Image:
    """Runs instructions in a folder.

    Args:
        folder: An empty folder.
        context: Folder that is sent to the build.
    """

    def __init__(self, folder: Path, context: Path) -> None:
        self.root = folder / "root"
        self.context = context
        self.stages: dict[str, Path] = {}
        self.stage = ""
        self.found: dict[str, str] = {}
        """Arguments of the instructions that a container follows, of the last stage."""
        self.variables: dict[str, str] = {}
        self.folder = self.root
        self.programs = folder / "programs"
        self.programs.mkdir()
        for name, lines in STAND_INS.items():
            program = self.programs / name
            program.write_text(f"#!/bin/sh\n{lines}\n")
            program.chmod(0o755)

    def inside(self, text: str) -> str:
        """`text` with absolute paths below the root."""
        return re.sub(r"""(?<![^\s='":])/(?!/)""", f"{self.root}/", text)

    def do(self, name: str, words: str) -> None:
        """Follow an instruction.

        Raises:
            ValueError: it is none that this knows.
            subprocess.CalledProcessError: a step failed.
        """
        if name == "FROM":
            self._begin(words.partition(" AS ")[2])
        elif name == "RUN":
            environment = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
            environment["PATH"] = f"{self.programs}:{os.environ['PATH']}"
            subprocess.run(
                ["/bin/sh", "-ec", self.inside(words)], cwd=self.folder, env=environment, check=True
            )
        elif name == "COPY":
            self._copy(*words.split())
        elif name == "WORKDIR":
            self.folder = Path(self.inside(words))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif name == "ENV":
            for part in self.inside(words).split():
                key, _, value = part.partition("=")
                self.variables[key] = value.replace("$PATH", f"{self.programs}:{os.defpath}")
        elif name in ("USER", "EXPOSE", "VOLUME", "HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"):
            self.found[name] = words
        elif name != "ARG":
            raise ValueError(f"{name} is not known here: {words}")

    def _begin(self, stage: str) -> None:
        if self.stage:
            self.stages[self.stage] = self.root.rename(self.root.with_name(self.stage))
        self.root.mkdir()
        self.stage, self.folder, self.variables, self.found = stage, self.root, {}, {}

    def _copy(self, first: str, *rest: str) -> None:
        if first.startswith("--from="):
            source, target = rest
            shutil.copytree(
                self.stages[first.removeprefix("--from=")] / source[1:], self.inside(target), symlinks=True
            )
            return
        rules = (self.context / ".dockerignore").read_text().split()
        kept = [rule[1:] for rule in rules if rule.startswith("!")]
        if ["*", *(f"!{name}" for name in kept), "**/__pycache__"] != rules or (first, *rest) != (".", "."):
            raise ValueError(f"this cannot copy {(first, *rest)} by these rules: {rules}")
        for name in kept:
            copy: Any = shutil.copytree if (self.context / name).is_dir() else shutil.copy
            ignored = {"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}
            copy(self.context / name, self.folder / name, **ignored)

    @contextmanager
    def running(self, port: int, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
        """A container of the image that its HEALTHCHECK calls healthy, at this port in place of EXPOSE's."""
        environment = {"HOME": str(self.folder), **self.variables, **variables}
        options: dict[str, Any] = {"env": environment, "cwd": self.folder, "user": self.user()}
        process = subprocess.Popen(self._command(port, "ENTRYPOINT", "CMD"), **options)
        try:
            check = self._command(port, "HEALTHCHECK")
            for _ in range(120):
                if process.poll() is not None:
                    raise RuntimeError(f"the service ended with {process.returncode}")
                if subprocess.run(check, stderr=subprocess.DEVNULL, check=False, **options).returncode == 0:
                    break
                time.sleep(0.5)
            else:
                raise TimeoutError("the service is not healthy")
            yield process
            process.send_signal(getattr(signal, self.found["STOPSIGNAL"]))
            process.wait(30)
        finally:
            process.kill()
            process.wait()

    def _command(self, port: int, *names: str) -> list[str]:
        texts = [self.found[name].partition("CMD ")[2] or self.found[name] for name in names]
        words = [word for text in texts for word in json.loads(text)]
        moved = [re.sub(rf"\b{self.found['EXPOSE']}\b", f"{port}", word) for word in words]
        moved = [self.inside(word) for word in moved]
        program = shutil.which(moved[0], path=self.variables["PATH"])
        if program is None:
            raise FileNotFoundError(f"{names[0]} starts {moved[0]}, which is not in {self.variables['PATH']}")
        return [program, *moved[1:]]

    def user(self) -> int | None:
        """USER, if this process may become that, and it may read what this Python is made of."""
        number = int(self.found["USER"])
        try:
            subprocess.run([sys.executable, "-c", "import torch"], user=number, env={}, check=True)
        except (PermissionError, subprocess.CalledProcessError):
            return None
        return number


def scrape(port: int, token: str) -> str:
    """What Prometheus gets by deploy/prometheus.yml from the service at this port."""
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    kind = job["authorization"].get("type", "Bearer")
    request = urllib.request.Request(
        f"{job.get('scheme', 'http')}://127.0.0.1:{port}{job['metrics_path']}",
        headers={"Authorization": f"{kind} {token}"},
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        if not response.headers["Content-Type"].startswith("text/plain; version=0.0.4"):
            raise ValueError(f"Prometheus does not read {response.headers['Content-Type']}")
        return str(response.read().decode())


def learn(port: int, token: str) -> dict[str, Any]:
    """Answer to one row."""
    body = json.dumps({"key": "pump", "x": {"u": 0.5, "v": 1.0}}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/learn", body, {"Authorization": f"Bearer {token}"}
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        found: dict[str, Any] = json.load(response)
        return found


def main() -> int:
    """Build, start, ask, end, start again.

    Raises:
        Exception: a step fails, or an answer is not as it must be.
    """
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        image = Image(Path(folder), CONTEXT)
        for name, words in instructions((DEPLOY / "Dockerfile").read_text(encoding="utf-8")):
            print(f"{name} {words}", flush=True)  # noqa: T201
            image.do(name, words)
        trained().save(image.folder / "model")
        if (user := image.user()) is not None:
            for path in (image.folder, *image.folder.rglob("*")):
                os.chown(path, user, user)
        with socket.create_server(("", 0)) as taken:
            port = taken.getsockname()[1]
        for number in (1, 2):
            with image.running(port, DREAM_TOKEN=TOKEN) as process:
                answer = learn(port, TOKEN)
                figures = scrape(port, TOKEN)
            assert process.returncode == 0, process.returncode
            assert answer["seq"] == number, answer
            assert 'dream_rows_total{operation="learn",result="done"} 1\n' in figures, figures
    who = "its user" if user is not None else "this user, since its own may not read this Python"
    print(f"image: built, served as {who}, scraped, ended and started again")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
