"""Redaction of secrets: passwords, keys and tokens, by the names of settings and in texts.

Whatever is written down goes through `redacted`: settings, commands, messages, what a tracked run is told.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import yaml

from dream.errors import ConfigError

HIDDEN = "***"
LEAST = 8  # characters; a shorter secret is hidden where it is named, and not wherever its letters stand
_WORDS = {
    *("key", "token", "secret", "password", "passwd", "pwd", "passphrase", "credential", "auth"),
    *("secrets", "passwords", "credentials", "authorization", "bearer", "cookie", "cookies", "signature"),
}
_JOINED = re.compile(
    r"(?:passw(?:or)?ds?|passphrase|secrets?|credentials?"
    r"|(?:api|access|account|auth|client|encryption|master|private|refresh|session|signing|ssh)_?(?:key|token)s?)$"
)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_FLAG = re.compile(r"(--?[A-Za-z][\w.+-]*)(?:=(.*))?", re.DOTALL)
# name=value, name: value and, as in a printed dictionary, 'name': 'value'
_NAMED = re.compile(
    r"""(?<![\w.])(?P<quote>['"]?)(?P<name>[A-Za-z][\w.-]*)(?P=quote)(?P<sign>=|[ ]?:[ ]?)"""
    r"""(?P<value>\*{3}|"[^"]*"|'[^']*'|[^\s&;'"`}\])]+)"""
)
_BEARER = re.compile(r"\b(Bearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_USER = re.compile(r"(?<=://)[^\s/?#'\"]*@")
_QUERY = re.compile(r"""(\b[A-Za-z][\w+.-]*://[^\s?#'"<>]*)(\?|#(?=[^\s'"<>]*=))[^\s'"<>]*""")
_FOLDER = "PWD"  # in every shell the folder that one is in, and no password
_known: set[str] = set()


def is_secret(name: str) -> bool:
    """Whether the setting or variable of this name holds a secret, or is inside of a section that does.

    >>> [is_secret(name) for name in ("data.api_key", "saslPassword", "keys", "key_dim", "monkey")]
    [True, True, False, False, False]
    """
    return any(map(_ends_as_secret, name.split(".")))


def _ends_as_secret(name: str) -> bool:
    letters = name.rstrip("0123456789_+- ")
    words = _PARTS.findall(letters)
    return bool(words) and (words[-1].lower() in _WORDS or _JOINED.search(letters.lower()) is not None)


def redacted(value: Any) -> Any:
    """Copy of `value` (a text, or a list or dictionary of values) without secrets.

    Hidden are values of settings and flags whose name says that they are secret (`is_secret`); user, password
    and query of an address (``https://USER:PASSWORD@HOST/PATH?QUERY``); values of environment variables of
    such a name, and the secrets that `remember` was told, wherever they stand.
    """
    return _redacted(value, False, _patterns(), {})


def remember(values: Any) -> None:
    """Hide the secrets among these settings from now on, in all that `redacted` is given."""
    found = _secrets(values, False, set())
    _known.update(text for text in found if len(text) >= LEAST and HIDDEN not in text)


def require_given(values: Any, prefix: str = "") -> None:
    """Refuse settings in which `redacted` has hidden something.

    Args:
        values: A list or dictionary of settings.
        prefix: What stands before their names in the message.

    Raises:
        ConfigError: naming the first such setting.
    """
    for name, value in hidden(values, prefix).items():
        raise ConfigError(
            f"`{name}` must be given again, since no file of a run holds secrets; got {value!r}. Add "
            f"`--{name}=VALUE`."
        )


def hidden(values: Any, prefix: str = "") -> dict[str, str]:
    """Names of the settings in which `redacted` has hidden something, and what is there now."""
    leaves = _leaves(values, prefix, set())
    return {name: value for name, value in leaves if isinstance(value, str) and HIDDEN in value}


def setting_names(values: Any, prefix: str = "") -> set[str]:
    """Dotted names of all settings, without the level `init_args`."""
    return {name for name, _ in _leaves(values, prefix, set())}


def without(values: dict[str, Any], names: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Copy of settings without those of these names."""
    made = {}
    for key, value in values.items():
        name = prefix if key == "init_args" else f"{prefix}.{key}".lstrip(".")
        if name not in names or key == "init_args":
            made[key] = without(value, names, name) if isinstance(value, dict) else value
    return made


def _patterns() -> list[str]:
    """Texts that are hidden wherever they stand, the longest first."""
    named = {text for name, text in os.environ.items() if name != _FOLDER and _ends_as_secret(name)}
    found = {text for text in named if len(text) >= LEAST} | _known
    return sorted(found | {quote(text, safe="") for text in found}, key=lambda text: (-len(text), text))


def _redacted(value: Any, hide: bool, texts: list[str], done: dict[tuple[int, bool], Any]) -> Any:
    """See `redacted`; with `hide`, all of `value` is secret. `done` has what was met before."""
    if isinstance(value, (dict, list, tuple)) and (found := done.get((id(value), hide))) is not None:
        return found
    if isinstance(value, dict):
        made: dict[Any, Any] = {}
        done[id(value), hide] = made
        for name, inner in value.items():
            secret = name != "class_path" and (hide or is_secret(str(name)))
            made[name] = _redacted(inner, secret, texts, done)
        return made
    if isinstance(value, (list, tuple)):
        several: list[Any] = []
        done[id(value), hide] = several
        several += [_redacted(inner, hide or secret, texts, done) for inner, secret in _after_flags(value)]
        return several if isinstance(value, list) else tuple(several)
    if hide and not _tells_nothing(value):
        return HIDDEN
    return _text(value, texts) if isinstance(value, str) else value


def _after_flags(values: Iterable[Any]) -> Iterator[tuple[Any, bool]]:
    """The values, and whether each is a word after a flag that says it is a secret: ``--key value``."""
    follows, secret = False, False
    for value in values:
        dashed = isinstance(value, str) and value.startswith("-")
        flag = _FLAG.fullmatch(value) if dashed and value.startswith("--") else None
        secret = secret and flag is None and (follows or not dashed)  # a secret may begin with -
        yield value, secret
        follows = flag is not None and flag[2] is None and is_secret(flag[1].lstrip("-"))
        secret = secret or follows


def _text(text: str, texts: list[str]) -> str:
    if (flag := _FLAG.fullmatch(text)) and flag[2]:
        if is_secret(flag[1].lstrip("-")):
            return text if _tells_nothing(flag[2]) else f"{flag[1]}={HIDDEN}"
        return f"{flag[1]}={_text(flag[2], texts)}"
    if (inner := _settings(text)) is not None:
        with suppress(RecursionError):
            before, after = (_inline(settings) for settings in (inner, _redacted(inner, False, texts, {})))
            return text if before == after else after
    for secret in texts:
        text = text.replace(secret, HIDDEN)
    text = _QUERY.sub(rf"\1?{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))
    return _NAMED.sub(_named, _BEARER.sub(rf"\1{HIDDEN}", text))


def _named(found: re.Match[str]) -> str:
    """A name and its value, which is hidden if the name says so."""
    sentence = ":" in found["sign"] and not found["quote"] and found["name"].lower() in _WORDS
    value = found["value"]
    if not is_secret(found["name"]) or sentence or _tells_nothing(value.strip("'\"")):
        value = _NAMED.sub(_named, value)
    else:
        value = re.sub(r"[^'\"]+", HIDDEN, value)
    return f"{found['quote']}{found['name']}{found['quote']}{found['sign']}{value}"


def _settings(text: str) -> Any:
    """Settings that are written in a word, ``{api_key: VALUE}``; None where it is another text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        return None
    return found if isinstance(found, (dict, list)) else None


def _inline(settings: Any) -> str:
    text: str = yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, width=10**9)
    return text.strip()


def _tells_nothing(value: Any) -> bool:
    """Whether a value is none that anyone would keep secret."""
    words = ("", "true", "false", "null", "none", "value", HIDDEN)
    return value is None or isinstance(value, bool) or str(value).lower() in words


def _secrets(value: Any, hide: bool, seen: set[tuple[int, bool]]) -> Iterator[str]:
    """The secrets in some settings, each as text."""
    if isinstance(value, (dict, list, tuple)):
        if (id(value), hide) in seen:
            return
        seen.add((id(value), hide))
        if isinstance(value, dict):
            parts = [(inner, name != "class_path" and is_secret(str(name))) for name, inner in value.items()]
        else:
            parts = list(_after_flags(value))
        for inner, secret in parts:
            yield from _secrets(inner, hide or secret, seen)
    elif hide:
        if not _tells_nothing(value):
            yield str(value)
    elif isinstance(value, str):
        flag = _FLAG.fullmatch(value)
        text = flag[2] or "" if flag else value
        if flag and is_secret(flag[1].lstrip("-")):
            yield text
        elif (inner := _settings(text)) is not None:
            yield from _secrets(inner, False, set())
        yield from (found[0].rstrip("@").rpartition(":")[2] for found in _USER.finditer(value))


def _leaves(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (dict, list, tuple)):
        if id(value) in seen:
            return
        seen.add(id(value))
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in parts:
            new = isinstance(value, dict) and key != "init_args"
            inside = f"{name}.{key}".lstrip(".") if new else name
            yield from _leaves(inner, inside, seen)
    else:
        yield name, value
