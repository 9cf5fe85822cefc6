"""How the runs of one version of a workflow go on in another one: where each of its steps is there."""

from __future__ import annotations

import msgspec


class Migration(msgspec.Struct, frozen=True, omit_defaults=True):
    """Lets runs of version `before` of a workflow go on in version `after`.

    `nodes` says by node of `before` where in `after` a run thread goes on that stands there. At the same step it waits
    on for what it waits for; at any other one it gives that up, and begins there. `variables` are those that have
    another name in `after`. `values` are what variables of `after` begin with, as JSON of their types, where a run has
    none.
    """

    workflow: str
    before: int
    after: int
    nodes: dict[int, int]
    variables: dict[str, str] = {}
    values: dict[str, msgspec.Raw] = {}


class MigrationCheck(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a run can move, as it stands: what is in the way, nothing if it can. `moved` says that it has."""

    reasons: tuple[str, ...] = ()
    moved: bool = False
