"""What people do with user tasks, and how they see them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from dressage.protocol.names import ACTOR_CHARS_MAX

NOTES_BYTES_MAX = 8 * 1024
COMMENT_BYTES_MAX = 4 * 1024
COMMENTS_MAX = 100
"""Comments of one user task; one that was deleted counts."""

REMINDERS_MAX = 100
"""How often people are reminded of one assignment."""

REMIND_S_MIN = 1.0
"""Reminders come no faster than that."""

Person = Annotated[str, msgspec.Meta(min_length=1, max_length=ACTOR_CHARS_MAX)]
"""A user or a group, as the application in front of the people calls them."""

Somebody = Annotated[str, msgspec.Meta(max_length=ACTOR_CHARS_MAX)]
"""The same, or empty: nobody."""


class Claim(
    msgspec.Struct, tag="claim", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """A user takes it. One that another user has is refused, unless it is to `override`."""

    user: Person
    override: bool = False


class Assign(
    msgspec.Struct, tag="assign", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """It is for this user and this group from now on, and for nobody else; one of the two is given.

    One that a user has is refused, unless it is to `override`. (Who has it can release it.)
    """

    user: Somebody = ""
    group: Somebody = ""
    override: bool = False


class Release(
    msgspec.Struct, tag="release", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """The user who has it gives it back to the group; or somebody else does, who is to `override`."""

    user: Person
    override: bool = False


class AddComment(
    msgspec.Struct, tag="comment", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    user: Person
    text: str


class EditComment(
    msgspec.Struct,
    tag="edit-comment",
    tag_field="do",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Gives the comment of this number another text. It is `user`'s own."""

    user: Person
    number: int
    text: str


class DeleteComment(
    msgspec.Struct,
    tag="delete-comment",
    tag_field="do",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """Takes the text of the comment of this number away. It is `user`'s own."""

    user: Person
    number: int


class SaveProgress(
    msgspec.Struct, tag="save", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Keeps the fields that are filled in so far, a JSON object, in place of those that were saved before."""

    user: Person
    values: msgspec.Raw
    override: bool = False


class Complete(
    msgspec.Struct,
    tag="complete",
    tag_field="do",
    frozen=True,
    omit_defaults=True,
    forbid_unknown_fields=True,
):
    """It is done, with these fields, a JSON object; without any, with those that were saved before.

    One that another user has is refused, unless it is to `override`; one that nobody has is the user's with this.
    """

    user: Person
    values: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    override: bool = False


class CancelTask(
    msgspec.Struct, tag="cancel", tag_field="do", frozen=True, omit_defaults=True, forbid_unknown_fields=True
):
    """Nobody is to do it any more: `UserTaskCancelled` is raised in the workflow."""

    user: Somebody = ""
    reason: str = ""


Action = (
    Claim | Assign | Release | AddComment | EditComment | DeleteComment | SaveProgress | Complete | CancelTask
)


class Comment(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What a user said of a user task; one that was deleted has no text. Comments count from 1."""

    number: int
    user: str
    text: str
    at: str
    changed_at: str = ""


class UserTaskView(msgspec.Struct, frozen=True, omit_defaults=True):
    """An open user task as people see it.

    `values` are the fields that were saved so far, without those that are masked, `form` the JSON Schema of the whole.
    `epoch` counts how often it went to other people.
    """

    run_id: str
    id: str
    user_task: str
    workflow: str
    version: int
    state: Literal["unassigned", "assigned"]
    opened_at: str
    user: str = ""
    group: str = ""
    notes: str = ""
    due_at: str = ""
    overdue: bool = False
    epoch: int = 0
    reminders: int = 0
    comments: tuple[Comment, ...] = ()
    values: dict[str, Any] = {}
    form: dict[str, Any] = {}


def wrong_with_assignment(
    user: str, group: str, escalate_to: str = "", notes: str = "", *, escalates: bool = False
) -> str:
    """What is wrong with whom a user task is for, in words; empty if nothing is."""
    if not (user or group):
        return "a user task is for somebody: give a user, a group, or both"
    for name in (user, group, escalate_to):
        if len(name) > ACTOR_CHARS_MAX:
            return f"the name of a user or a group has at most {ACTOR_CHARS_MAX} characters, not {len(name)}"
    size = len(notes.encode(errors="replace"))
    if size > NOTES_BYTES_MAX:
        allowed = f"{NOTES_BYTES_MAX} allowed: say where to read the rest (limit user-task-notes)"
        return f"notes take {size} bytes of {allowed}"
    if escalates and not (escalate_to or group):
        return "a user task that escalates goes to a group: give escalate_to, or a group"
    if escalate_to and not escalates:
        return "escalate_to says where it goes, and escalate_after when: give both"
    return ""
