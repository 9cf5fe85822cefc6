"""User tasks as the application in front of the people works with them."""

from __future__ import annotations

import uuid
from typing import Any, Final, Protocol

import msgspec

from dressage.client.values import as_raw
from dressage.protocol.commands import UserTaskAction
from dressage.protocol.errors import NotFound
from dressage.protocol.names import check_actor
from dressage.protocol.user_tasks import (
    Action,
    AddComment,
    Assign,
    CancelTask,
    Claim,
    Complete,
    DeleteComment,
    EditComment,
    Release,
    SaveProgress,
    UserTaskView,
)


class Acts(Protocol):
    """What a client does for a user task."""

    async def act(
        self, run_id: str, user_task_id: str, action: Action, *, action_id: str | None = None, actor: str = ""
    ) -> int: ...

    async def user_tasks(self, run_id: str, *, user_task_id: str = "") -> list[UserTaskView]: ...


class UserTaskHandle:
    """An open user task of a run, by its id.

    Every method names the user who does it: the application in front of the people has checked who that is, and that
    they are of the group. `action_id` makes an action one: the same again changes nothing, however late it comes.

    All raise `Refused`: USER_TASK_UNKNOWN for one that is open no more, RUN_FINISHED where the run is over,
    RUN_UNKNOWN, USER_TASK_TAKEN where another user has it and nobody says `override`, USER_TASK_INVALID for what does
    not fit, USER_TASK_FULL where there is no room, COMMAND_MALFORMED for a name that is empty or too long. They give
    the sequence of the command.
    """

    def __init__(self, client: Acts, run_id: str, user_task_id: str) -> None:
        self._client: Final = client
        self.run_id: Final = run_id
        self.user_task_id: Final = user_task_id

    async def view(self) -> UserTaskView:
        """As it stands. Raises `NotFound` (USER_TASK_UNKNOWN) for one that is not open."""
        for view in await self._client.user_tasks(self.run_id, user_task_id=self.user_task_id):
            return view
        raise NotFound(
            f"run {self.run_id!r} has no open user task {self.user_task_id!r}", code="USER_TASK_UNKNOWN"
        )

    async def claim(self, user: str, *, override: bool = False, action_id: str | None = None) -> int:
        """The user takes it."""
        return await self._act(Claim(user, override), action_id)

    async def assign(
        self,
        *,
        user: str = "",
        group: str = "",
        override: bool = False,
        action_id: str | None = None,
        actor: str = "",
    ) -> int:
        """It is for this user and this group from now on, and for nobody else."""
        return await self._act(Assign(user, group, override), action_id, actor)

    async def release(self, user: str, *, override: bool = False, action_id: str | None = None) -> int:
        """The user who has it gives it back to the group; or somebody else does, who is to `override`."""
        return await self._act(Release(user, override), action_id)

    async def comment(self, user: str, text: str, *, action_id: str | None = None) -> int:
        return await self._act(AddComment(user, text), action_id)

    async def edit_comment(self, user: str, number: int, text: str, *, action_id: str | None = None) -> int:
        return await self._act(EditComment(user, number, text), action_id)

    async def delete_comment(self, user: str, number: int, *, action_id: str | None = None) -> int:
        return await self._act(DeleteComment(user, number), action_id)

    async def save(
        self, user: str, values: Any, *, override: bool = False, action_id: str | None = None
    ) -> int:
        """Keeps the fields that are filled in so far, in place of those that were saved before."""
        return await self._act(SaveProgress(user, as_raw(values, "USER_TASK_INVALID"), override), action_id)

    async def complete(
        self,
        user: str,
        values: Any = msgspec.UNSET,
        *,
        override: bool = False,
        action_id: str | None = None,
    ) -> int:
        """It is done, with these fields: an object of the form's class, or a mapping; without any, with those that
        were saved."""
        given = values if values is msgspec.UNSET else as_raw(values, "USER_TASK_INVALID")
        return await self._act(Complete(user, given, override), action_id)

    async def cancel(self, user: str = "", reason: str = "", *, action_id: str | None = None) -> int:
        """Nobody is to do it any more: `UserTaskCancelled` is raised in the workflow."""
        return await self._act(CancelTask(user, reason), action_id)

    async def _act(self, action: Action, action_id: str | None, actor: str = "") -> int:
        return await self._client.act(
            self.run_id, self.user_task_id, action, action_id=action_id, actor=actor
        )

    def __repr__(self) -> str:
        return f"<user task {self.user_task_id} of run {self.run_id}>"


def command_of(user_task_id: str, action: Action, action_id: str | None, actor: str) -> UserTaskAction:
    """Raises `BadInput` for ids that are none."""
    chosen = uuid.uuid4().hex if action_id is None else check_actor(action_id, "action id")
    return UserTaskAction(check_actor(user_task_id, "user task id"), chosen, action, check_actor(actor))
