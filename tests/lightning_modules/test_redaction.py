"""Secrets by the names of settings, in commands, addresses and texts; what is none stays as it is."""

from __future__ import annotations

import dataclasses
import inspect
import time
from typing import Any

import lightning as L
import pytest

from dream.config import DREAMConfig
from dream.errors import ConfigError
from experiments.folders import RunSettings
from experiments.invocation import configs, explain
from experiments.run import CALLBACKS
from lightning_modules import redaction
from lightning_modules.base import TaskModule
from lightning_modules.data import TaskData
from lightning_modules.redaction import is_secret, redacted, remember, require_given

SECRET = "hunter22-and-more"


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


@pytest.mark.parametrize(
    "name",
    [
        *("key", "api_key", "apikey", "API-KEY", "apiKey", "data.api_key", "token", "hf_token", "authToken"),
        *("secret", "client_secret", "clientsecret", "password", "sasl_password", "dbpassword", "passwd"),
        *(
            "pwd",
            "ssh_passphrase",
            "credential",
            "credentials.user",
            "auth",
            "AWS_SECRET_ACCESS_KEY",
            "api_key_2",
        ),
        *("Authorization", "X-Api-Key", "cookie", "passwords", "api_keys", "X-Amz-Signature"),
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("keys", "key_dim", "monkey", "tokens", "vocabulary", "tokenizer", "author", "authors", "turkey"),
        *(
            "keyboard",
            "password_file",
            "api_key_path",
            "band_pass",
            "passes",
            "bypass",
            "secretary",
            "",
            "7",
            "_",
        ),
    ],
)
def test_names_of_other_things(name: str) -> None:
    assert not is_secret(name)


def leaf_names(content: Any) -> set[str]:
    if not isinstance(content, dict):
        return set()
    return set(map(str, content)).union(*map(leaf_names, content.values()))


def test_no_setting_of_ours_is_taken_for_a_secret() -> None:
    """Otherwise the `config.yaml` of a run could not be used again."""
    names: set[str] = {field.name for field in dataclasses.fields(DREAMConfig)}
    for base in (TaskModule, TaskData):
        for cls in explain._subclasses(base):
            names |= set(explain.settings(cls)) if cls.__module__.startswith("lightning_modules") else set()
    for cls in (*CALLBACKS.values(), RunSettings, L.Trainer):
        names |= set(inspect.signature(cls).parameters)
    for path in configs.shipped().values():
        names |= leaf_names(configs.read(path).content)
    assert {"tokens", "hidden_dim", "vocabulary", "max_epochs"} <= names
    assert [name for name in names if is_secret(name)] == []


GIVEN: list[tuple[Any, Any]] = [
    ({"api_key": SECRET, "keys": [1], "rate": 2}, {"api_key": "***", "keys": [1], "rate": 2}),
    (
        {"password": 12345678, "auth": True, "token": None, "key": ""},
        {"password": "***", "auth": True, "token": None, "key": ""},
    ),
    (
        {"credentials": {"user": "bob", "ids": [7, "x"]}},
        {"credentials": {"user": "***", "ids": ["***", "***"]}},
    ),
    (
        {"auth": {"class_path": "a.B", "init_args": {"x": 1}}},
        {"auth": {"class_path": "a.B", "init_args": {"x": "***"}}},
    ),
    (["fit", "--data.api_key", SECRET, "-c", "a"], ["fit", "--data.api_key", "***", "-c", "a"]),
    (["--data.api_key", "-x", "y", "--seed=1"], ["--data.api_key", "***", "***", "--seed=1"]),
    (["--data.api_key", "--seed=1"], ["--data.api_key", "--seed=1"]),
    (
        ["--data.credentials.user=bob", "--data.key_dim=4"],
        ["--data.credentials.user=***", "--data.key_dim=4"],
    ),
    (["--data={api_key: a b, rows: 3}"], ["--data={api_key: '***', rows: 3}"]),
    (
        ['--data.init_args={"api_key": "x", "rows": [1, 2]}'],
        ["--data.init_args={api_key: '***', rows: [1, 2]}"],
    ),
    (
        ["--model.hidden_dims=[8, 8]", '--data={"rows":  3}'],
        ["--model.hidden_dims=[8, 8]", '--data={"rows":  3}'],
    ),
    ("https://bob:pa@ss@host:80/a", "https://***@host:80/a"),
    ("see https://h/x?sig=abc&b=c or b", "see https://h/x?*** or b"),
    ("https://h/x#access_token=abc", "https://h/x?***"),
    ("https://h/x#chapter", "https://h/x#chapter"),
    ("--data.dsn=host=h password=abc,d dbname=x", "--data.dsn=host=h password=*** dbname=x"),
    ("--data.path=token=abc", "--data.path=token=***"),
    ("AccountName=a;AccountKey=abc==;x=1", "AccountName=a;AccountKey=***;x=1"),
    ("got {'api_key': 'abc', 'rows': 3}", "got {'api_key': '***', 'rows': 3}"),
    ("Namespace(api_key='a b', rows=3)", "Namespace(api_key='***', rows=3)"),
    ("X-Api-Key: abc", "X-Api-Key: ***"),
    ("Authorization: Bearer abcdefgh12", "Authorization: Bearer ***"),
    ("the key: it must be a text; key=None", "the key: it must be a text; key=None"),
    (
        "`data.tokens` must be words or characters; got 'x'",
        "`data.tokens` must be words or characters; got 'x'",
    ),
]


@pytest.mark.parametrize(("given", "kept"), GIVEN)
def test_what_is_hidden_and_what_stays(given: Any, kept: Any) -> None:
    assert redacted(given) == kept
    assert redacted(kept) == kept  # so that the command of a run is found again


@pytest.mark.parametrize(
    "settings",
    [
        {"data": {"init_args": {"api_key": SECRET}}},
        ["--data.api_key", SECRET],
        [f"--data.api_key={SECRET}"],
        ["--data={api_key: " + SECRET + "}"],
        {"path": f"https://bob:{SECRET}@host/"},
    ],
)
def test_what_was_once_a_secret_is_hidden_wherever_it_stands(settings: Any) -> None:
    text = f"no file {SECRET}.csv"
    assert redacted(text) == text
    remember(settings)
    assert redacted({"path": [text]}) == {"path": ["no file ***.csv"]}


def test_a_short_secret_is_hidden_by_its_name_only() -> None:
    remember({"api_key": "test"})
    assert redacted("tests/test.csv") == "tests/test.csv"
    assert redacted({"api_key": "test"}) == {"api_key": "***"}


def test_the_folder_that_a_shell_is_in_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PWD", "/home/me/work")
    monkeypatch.setenv("DB_PWD", "hunter2hunter2")
    assert redacted("/home/me/work/runs hunter2hunter2") == "/home/me/work/runs ***"


def test_values_of_the_environment_are_hidden_quoted_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SASL_PASSWORD", "a/long=password")
    monkeypatch.setenv("A_KEYBOARD", "qwertyuiop")
    assert redacted("x a/long=password y a%2Flong%3Dpassword z qwertyuiop") == "x *** y *** z qwertyuiop"


def test_values_that_refer_to_one_another_take_no_time() -> None:
    """As YAML aliases make them: nine levels of ten, and one that holds itself."""
    bomb: Any = ["x"]
    for _ in range(30):
        bomb = [bomb] * 10
    itself: dict[str, Any] = {"api_key": SECRET, "bomb": bomb}
    itself["itself"] = itself
    begun = time.monotonic()
    hidden = redacted(itself)
    remember(itself)
    require_given({"bomb": bomb})
    assert time.monotonic() - begun < 1
    assert hidden["api_key"] == "***"
    assert hidden["itself"] is hidden
    assert itself["api_key"] == SECRET


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"data": {"init_args": {"api_key": "***"}}}, "data.api_key"),
        ({"data": {"urls": ["a", "https://***@host/"]}}, "data.urls"),
        ({"model": {"auth": {"user": "***"}}}, "model.auth.user"),
    ],
)
def test_what_is_hidden_is_refused_on_the_way_back(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"`{name}` must be given again, since no file .* got .*\*\*\*.* Add `--{name}="
    ):
        require_given(settings)
    require_given({"a": "**", "b": 3, "c": None, "d": ["x"]})


def test_a_text_that_is_nested_without_end_is_left_as_it_is() -> None:
    assert redacted("[" * 5000 + "x password=abc") == "[" * 5000 + "x password=***"
