"""Another version of a program, which does the same: all that the compiler numbers has another number there."""

from __future__ import annotations

import re
import textwrap
from typing import Final

_FIRST: Final = re.compile(r"^( +)a, (?:b, )?s(?:, t)? = 3, .*$", re.MULTILINE)
"""Each function of a program begins so."""

_STEPS: Final = """
pad = 0
for pad_item in [1, 2]:
    pad += pad_item
if pad > 10_000:
    pad = await number(pad)
"""

_ON_ONE_LINE: Final = "; pad, *more = [1, 2]; pad = (await number(pad)) if pad > 10_000 else len(more)"


def other_version(text: str, *, same_lines: bool = False) -> str:
    """The text of that version; with `same_lines` nothing stands on another line there."""
    if same_lines:
        return _FIRST.sub(lambda found: found[0] + _ON_ONE_LINE, text)
    return _FIRST.sub(lambda found: found[0] + textwrap.indent(_STEPS, found[1]).rstrip(), text)
