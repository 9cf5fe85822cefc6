"""Secrets stand in a connector's configuration by name only: `${env:NAME}` or `${file:/path}`.

They are looked up by the process that connects, when it connects: what is stored or printed holds no secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from dressage.protocol.errors import BadInput

SECRET: Final = re.compile(r"\$\{(env|file):([^}]+)\}")

HIDDEN: Final = "***"

_SENSITIVE: Final = re.compile(r"password|secret|passphrase|\.key\.pem|user\.info", re.IGNORECASE)


class SecretMissing(BadInput):
    """A variable of the environment that is not set, or a file that cannot be read."""

    code = "SECRET_MISSING"


def revealed(text: str) -> str:
    """`text` with every secret in its place. Raises `SecretMissing`."""
    return SECRET.sub(lambda found: _looked_up(found[1], found[2]), text)


def _looked_up(whence: str, name: str) -> str:
    if whence == "env":
        value = os.environ.get(name)
        if value is None:
            raise SecretMissing(f"the environment has no variable {name}: set it where the connector runs")
        return value
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SecretMissing(f"file {name} cannot be read: {error}") from error


def settings_revealed(settings: Mapping[str, str]) -> dict[str, str]:
    """Settings with every secret in its place. Raises `SecretMissing`."""
    return {key: revealed(value) for key, value in settings.items()}


def is_sensitive(key: str) -> bool:
    """Whether a setting of this name is a secret by what it says."""
    return _SENSITIVE.search(key) is not None


def scrubbed(text: str, settings: Mapping[str, str]) -> str:
    """`text` without any secret of these settings, as they are after `settings_revealed`."""
    for key, value in settings.items():
        if value and is_sensitive(key):
            text = text.replace(value, HIDDEN)
    return text
