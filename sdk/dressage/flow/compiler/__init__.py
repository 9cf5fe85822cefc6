"""The compiler: from the source of a workflow's function to its `WorkflowSpec`. Pure; nothing of it is executed.

- `compile`: the whole, in its order.
- `statements`, `assignments`, `tries`: one node or more for each statement.
- `calls`: what is called: tasks, records, failures.
- `names`, `scope`: what a name means where it stands.
- `graph`: nodes under construction.
- `paths`, `inference`: checks of the finished graph: values on every path, and types.
- `language`: the table of Python's syntax, supported or refused.
"""

from dressage.flow.compiler.compile import Compiled, compile_workflow

__all__ = ["Compiled", "compile_workflow"]
