"""Random workflows over all that the language can say; the equality fuzzing and the simulation share them."""

from dressage.simulation.programs import constructs as constructs
from dressage.simulation.programs.define import define
from dressage.simulation.programs.program import CONSTRUCTS, TASKS, Program, construct

__all__ = ["CONSTRUCTS", "TASKS", "Program", "construct", "define"]
