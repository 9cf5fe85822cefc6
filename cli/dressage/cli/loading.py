"""Finding an application or a workflow by the name of its module."""

from __future__ import annotations

import importlib
import logging
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from dressage.flow import App, Workflow
from dressage.protocol.errors import BadInput, DressageError

_log = logging.getLogger("dressage.cli")


def load_app(target: str) -> tuple[App, ModuleType]:
    """The application that `module:name` names, and its module; without a name it is `app`.

    Raises `BadInput` (APP_NOT_FOUND, MODULE_NOT_FOUND, MODULE_BROKEN), or what a refused definition raises.
    """
    module_name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    module = load_module(module_name)
    found = getattr(module, attribute, None)
    if isinstance(found, App):
        return found, module
    there = ", ".join(name for name, value in vars(module).items() if isinstance(value, App))
    what = "is not there" if found is None else f"is {type(found).__name__}, not an App"
    raise BadInput(
        f"{attribute!r} {what} in module {module_name!r}: "
        + (f"it has the App {there}" if there else "define one, as in app = App('orders')"),
        code="APP_NOT_FOUND",
    )


def load_workflows(target: str) -> list[Workflow[..., Any]]:
    """The workflow that `module:name` names, by variable or by workflow name; without a name, all of the module.

    Raises `BadInput` as `load_app` does, with WORKFLOW_NOT_FOUND.
    """
    module_name, _, wanted = target.partition(":")
    module = load_module(module_name)
    found = workflows_of(module)
    if wanted:
        found = [each for each in found if wanted in (each.name, _variable(module, each))]
    if not found:
        which = f"no workflow {wanted!r}" if wanted else "no workflow"
        raise BadInput(
            f"there is {which} in module {module_name!r}: define one, under @workflow",
            code="WORKFLOW_NOT_FOUND",
        )
    return found


def workflows_of(module: ModuleType) -> list[Workflow[..., Any]]:
    """Every workflow that a module defines or imports, once, in the order of its names."""
    found: list[Workflow[..., Any]] = []
    for value in vars(module).values():
        if isinstance(value, Workflow) and not any(value is known for known in found):
            found.append(value)
    return found


def _variable(module: ModuleType, workflow: Workflow[..., Any]) -> str:
    return next(name for name, value in vars(module).items() if value is workflow)


def load_module(name: str) -> ModuleType:
    """Imports a module, also from the current folder, where a command's user expects it to be found."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except DressageError:
        raise
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise BadInput(
                f"there is no module {name!r} in {here} nor among the installed ones: give it as "
                "package.module, and call from the folder that it is in",
                code="MODULE_NOT_FOUND",
            ) from error
        raise _broken(name, error) from error
    except Exception as error:
        raise _broken(name, error) from error


def _broken(name: str, error: Exception) -> BadInput:
    """The module was found, but importing it raised: say where, as the author would ask first."""
    _log.info("importing %s raised", name, exc_info=error)
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}"
    else:
        where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else name
    what = f"{type(error).__name__}: {error}"
    return BadInput(f"importing {name!r} failed at {where}: {what} (see all with -v)", code="MODULE_BROKEN")
