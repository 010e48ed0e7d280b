"""Language by the command: a run, what it writes afterwards, and a run that is killed."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import pytest

from experiments.cli import main
from tests.soak import processes

TEXT = "The quick brown fox jumps over the lazy dog.\nPack my box with five dozen liquor jugs!\n" * 30
SMALL = [
    *("-c", "language_file", "--data.path=text.txt", "--data.batch_size=4", "--data.steps=24"),
    *(
        "--model.config.input_dim=8",
        "--model.config.hidden_dim=12",
        "--model.config.rank=4",
        "--trainer.accelerator=cpu",
    ),
    *("--trainer.log_every_n_steps=1", "--trainer.max_epochs=2", "--run.wandb=disabled"),
    *("--model.dropout=0.2", "--save.every_n_steps=2"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of characters, and one of bytes."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "text.txt").write_text(TEXT)
    for unit in ("chars", "bytes"):
        assert processes.run(folder, ["fit", *SMALL, f"--data.unit={unit}", f"--run.name={unit}"]) == 0
    return folder


@pytest.fixture(autouse=True)
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", ["dream"])


def predicted(unit: str, name: str, *flags: str) -> bytes:
    command = ["predict", f"--ckpt_path=runs/{unit}", f"--run.name={name}", "--run.wandb=disabled", *flags]
    assert main([*command, "--trainer.accelerator=cpu"]) == 0
    return Path("runs", name, "text.txt").read_bytes()


@pytest.mark.parametrize("unit", ["chars", "bytes"])
def test_it_writes_on(unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model.sampling.prompt=The \N{EURO SIGN} fox", "--model.sampling.length=40", "--seed=3"]
    one = predicted(unit, f"{unit}-one", *flags, "--model.sampling.temperature=0.8")
    shown = capsys.readouterr()
    assert one.decode(errors="replace").startswith("The \N{EURO SIGN} fox")
    assert len(one.decode() if unit == "chars" else one[2:]) == 49
    if unit == "chars":
        assert shown.out.startswith(one.decode() + "\n")
    assert f"runs/{unit}-one/text.txt" in shown.out
    assert shown.err == ""
    assert predicted(unit, f"{unit}-two", *flags, "--model.sampling.temperature=0.8") == one
    assert predicted(unit, f"{unit}-four", *flags[:2], "--model.sampling.temperature=0.8", "--seed=4") != one


@pytest.mark.parametrize("prompt", ["null", "a: b", "# dog", " \t\n", "\x1b[31m\N{FOX FACE}", "I need help"])
def test_a_prompt_is_taken_as_it_stands(prompt: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"prompt-{prompt.encode().hex()}"
    assert (
        predicted("bytes", name, "--model.sampling.length=1", "--model.sampling.prompt", prompt)[:-1]
        == prompt.encode()
    )
    assert "\x1b" not in capsys.readouterr().out


def test_a_prompt_that_is_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--ckpt_path=runs/bytes", "--model.sampling.prompt=fox\udcff"]) == 2
    assert "`model.sampling.prompt` must be text in UTF-8; got 'fox\\udcff'" in capsys.readouterr().err


def test_an_empty_prompt_is_a_line_of_its_own() -> None:
    text = predicted("chars", "empty", "--model.sampling.length=30", "--model.sampling.top_k=1").decode()
    assert len(text) == 30
    assert set(text) <= set(TEXT)


def test_a_text_with_other_characters_is_refused_before_anything_is_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("other.txt").write_text(TEXT.replace("q", "Q"))
    before = sorted(Path("runs").iterdir())
    for command, flags, said in (
        ("test", ["--data.path=other.txt"], "are not the 33 chars of the training text here. Name the text"),
        ("predict", ["--data.unit=words"], "`unit` must be 'chars', as in the training of the checkpoint"),
    ):
        assert main([command, "--ckpt_path=runs/chars", *flags]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
    assert sorted(Path("runs").iterdir()) == before


@pytest.mark.parametrize("unit", ["chars", "bytes"])
def test_it_writes_without_the_text(unit: str) -> None:
    assert predicted(unit, f"{unit}-gone", "--data.path=gone.txt", "--model.sampling.length=5")


def test_a_test_is_repeated_exactly() -> None:
    fitted = json.loads(Path("runs/chars/results.json").read_text())["results"]
    assert list(fitted) == ["DREAM", "DREAM, plasticity off", "DREAM, no carried state", "unigram", "bigram"]
    assert list(fitted["DREAM"]) == ["nats", "bits_per_character", "perplexity"]
    assert fitted["DREAM"]["nats"] < fitted["unigram"]["nats"]
    assert (
        main(
            ["test", "--ckpt_path=runs/chars", "--run.name=again", "--run.wandb=disabled", "--data.chunk=48"]
        )
        == 0
    )
    again = json.loads(Path("runs/again/results.json").read_text())["results"]
    for name, row in fitted.items():
        assert again[name] == pytest.approx(row, rel=1e-5)


def test_the_text_appears_as_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        shown: ClassVar[list[str]] = []

        def flush(self) -> None:
            self.shown.append(self.getvalue())

    monkeypatch.setattr("sys.stdout", Terminal())
    text = predicted("chars", "shown", "--model.sampling.length=9", "--model.sampling.prompt=fox").decode()
    assert [f"{text[: 3 + written]}" for written in range(10)] == list(dict.fromkeys(Terminal.shown))[:10]


def test_nobody_reads_on(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        monkeypatch.setattr("sys.stdout", closed)
        assert (
            predicted("chars", "closed", "--model.sampling.length=1000", "--model.sampling.prompt=fox")
            == b"fox"
        )
    assert capfd.readouterr().err == ""


def test_ctrl_c_ends_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        pressed = False

        def write(self, text: str) -> int:
            if len(self.getvalue()) == 6 and not self.pressed:
                self.pressed = True
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    monkeypatch.setattr("sys.stdout", Terminal())
    text = predicted(
        "chars", "stopped", "--model.sampling.length=5000", "--model.sampling.prompt=fox"
    ).decode()
    assert text.startswith("fox")
    assert len(text) == 7


def test_no_bar_is_drawn_into_the_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    text = predicted("chars", "terminal", "--model.sampling.length=20").decode()
    first, last = capsys.readouterr().out.split(text + "\n")
    assert first == ""
    assert last.split() == ["predictions", "runs/terminal/text.txt"]


def test_killed_in_a_save_and_a_validation(folder: Path) -> None:
    command = ["fit", *SMALL, "--data.unit=chars", "--run.name=killed", "--resume"]
    for place, at in (("save", 7), ("validation", 2)):
        assert processes.run(folder, command, place, at) == -signal.SIGKILL, place
    assert processes.run(folder, command) == 0
    whole, killed = (processes.left(folder / "runs" / name) for name in ("chars", "killed"))
    assert processes.differences(whole, killed) == []
