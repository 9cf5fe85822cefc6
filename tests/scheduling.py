"""Which process gets which file of tests, also after one died."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]
from xdist.workermanage import WorkerController  # type: ignore[import-untyped]

HELD_BACK = 2
"""A process holds its last test back until it knows what comes next, so that it has to be given two, or told to end."""


class FileScheduling(LoadFileScheduling):  # type: ignore[misc]
    """That of pytest-xdist 3.8, which hangs for ever after a process has died (its issues 1323, 1327 and 1378): it
    gives out again what was done already, waits for answers to that, and leaves a process with a single test.
    """

    def remove_node(self, node: WorkerController) -> str | None:
        """Gives the test that it died in, which is not tried again: it is reported as failed."""
        units = self.assigned_work.pop(node)
        left = [(file, test) for file, unit in units.items() for test, is_done in unit.items() if not is_done]
        if not left:
            return None
        died_in: str
        (_, died_in), *others = left
        for file, test in others:
            self.workqueue.setdefault(file, {})[test] = False
        for each in self.assigned_work:
            self._reschedule(each)
        return died_in

    def add_node_collection(self, node: WorkerController, collection: Sequence[str]) -> None:
        super().add_node_collection(node, collection)
        assert node in self.registered_collections, (
            "it has collected other tests than the process that it replaces"
        )

    def _assign_work_unit(self, node: WorkerController) -> None:
        """What a process is given that has just died is left over by it, as all that it had."""
        with contextlib.suppress(OSError):
            super()._assign_work_unit(node)

    def _reschedule(self, node: WorkerController) -> None:
        if node not in self.registered_collections:
            return
        super()._reschedule(node)
        while not node.shutting_down and self._pending_of(self.assigned_work[node]) < HELD_BACK:
            super()._reschedule(node)
