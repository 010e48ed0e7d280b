"""Redaction of secrets: passwords in addresses, keys and tokens."""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "***"
LEAST = 8  # characters; a shorter value of an environment variable is not taken for a secret
_NAME = re.compile(
    r"(?:^|[._-])(?:api_?key|access_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE
)
_FLAG = re.compile(r"^(--[\w.-]+)=(.+)$", re.DOTALL)
_USER = re.compile(r"(?<=://)[^/@\s]+(?=@)")


def redacted(value: Any) -> Any:
    """Copy of `value` (a text, or a list or dictionary of values) without secrets.

    Hidden are user and password of an address (``https://USER:PASSWORD@HOST``), values of environment
    variables whose name ends with key, token, secret, password or credentials, and values of settings and
    flags with such a name."""
    return _redacted(value, sorted(_environment(), key=len, reverse=True))


def _environment() -> set[str]:
    return {text for name, text in os.environ.items() if len(text) >= LEAST and _NAME.search(name)}


def _redacted(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            name: HIDDEN if isinstance(inner, str) and _NAME.search(str(name)) else _redacted(inner, secrets)
            for name, inner in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_redacted(inner, secrets) for inner in value)
    if not isinstance(value, str):
        return value
    if (flag := _FLAG.match(value)) and _NAME.search(flag[1]):
        return f"{flag[1]}={HIDDEN}"
    for secret in secrets:
        value = value.replace(secret, HIDDEN)
    return _USER.sub(HIDDEN, value)
