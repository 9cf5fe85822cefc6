"""Random workflows over all that the language can say; the equality fuzzing and the simulation share them."""

from dressage.simulation.programs import constructs as constructs
from dressage.simulation.programs.define import define
from dressage.simulation.programs.program import (
    CONSTRUCTS,
    LEAVING,
    SHOP,
    TASKS,
    Program,
    can_nest,
    construct,
    holders,
)
from dressage.simulation.programs.versions import other_version

__all__ = [
    "CONSTRUCTS",
    "LEAVING",
    "SHOP",
    "TASKS",
    "Program",
    "can_nest",
    "construct",
    "define",
    "holders",
    "other_version",
]
