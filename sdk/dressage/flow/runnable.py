"""What runs are started of, as the compiler knows it: a workflow that another one starts a run of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dressage.flow.signatures import Signature
from dressage.protocol.spec import ChildDef, WorkflowSpec


class Runnable:
    """A compiled workflow: its function, its signature and its spec."""

    function: Callable[..., Any]
    signature: Signature
    spec: WorkflowSpec

    @property
    def child(self) -> ChildDef:
        """What another workflow has to know of it."""
        return ChildDef(self.spec.name, self.spec.params, self.spec.output)
