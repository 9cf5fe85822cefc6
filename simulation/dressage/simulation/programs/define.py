"""From the text of a module to the module, with its source where `inspect` finds it."""

from __future__ import annotations

import itertools
import linecache
import sys
from types import ModuleType

_numbers = itertools.count()


def define(text: str) -> ModuleType:
    """Executes the text of a module that no file holds. Raises `DefinitionError` for a workflow that is refused."""
    name = f"defined_{next(_numbers)}"
    file = f"{name}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    exec(compile(text, file, "exec"), module.__dict__)
    return module
