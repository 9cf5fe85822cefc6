"""The examples are found by the name that their own users give them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

EXAMPLES: Final = Path(__file__).resolve().parents[2] / "examples"

sys.path.insert(0, str(EXAMPLES))
