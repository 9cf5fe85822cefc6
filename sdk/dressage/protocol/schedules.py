"""Schedules: when runs of a workflow are started, and what is known of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

FIRES_KEPT = 100
"""Fires of one schedule that its state remembers, the last ones; the events have all."""

QUEUED_MAX = 100
"""Fires of one schedule that wait until the run before has ended; another one is skipped."""

OPEN_MAX = 1_000
"""Runs of one schedule that are open at a time; another fire is skipped."""

CRONS_MAX = 16
"""Cron expressions of one schedule."""

CRON_CHARS_MAX = 256

INPUT_BYTES_MAX = 64 * 1024
"""Bytes of the input that a schedule gives each of its runs."""

EVERY_S_MIN = 1.0
JITTER_S_MAX = 86_400.0

BACKFILL_MAX = 1_000
"""Moments that one backfill makes up for."""

FIRES_PER_COMMAND = 100
"""Moments that one command looks at, of those that passed while nobody served the schedule; then comes another one."""

Overlap = Literal["skip", "queue", "cancel", "allow"]
"""What becomes of a fire while a run of the schedule is open: none is started; one is, when that has ended; that is
cancelled, and when it has ended one is started; one is started beside it."""

FireOutcome = Literal[
    "started", "skipped", "queued", "missed", "refused", "completed", "failed", "cancelled", "engine-fault"
]
"""What came of a fire: "started" as long as its run is open, and then how that ended."""


class Timing(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Moments: those of `cron` expressions in a time `zone`, or every so many seconds, or `at` one of them.

    A cron expression has five fields, or six with seconds in front. Moments are RFC 3339; none fires before `begins`,
    or after `until`. `every_s` counts from `begins`, or from when the schedule was made.
    """

    cron: tuple[str, ...] = ()
    zone: str = "UTC"
    every_s: float = 0.0
    at: str = ""
    begins: str = ""
    until: str = ""


class ScheduleSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What a schedule starts, and when.

    `input` is a JSON object of parameters by name. `version` is what it is at each fire: 0 is the latest then.
    `jitter_s` spreads fires over so long behind their moments. What was due while nobody served the schedule fires late
    if that is no longer ago than `catch_up_s`, and is missed otherwise. `run_id` is the id of the run of one that fires
    once. `moment_as` is the parameter that is given the moment that a run is for.
    """

    workflow: str
    timing: Timing
    input: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    version: Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(max_length=63)] = 0
    overlap: Overlap = "skip"
    jitter_s: float = 0.0
    catch_up_s: float = 86_400.0
    run_id: str = ""
    moment_as: Annotated[str, msgspec.Meta(max_length=128)] = ""


class Fire(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One fire: the moment that it was for, when it was, and what came of it, in milliseconds since 1970."""

    moment_ms: int
    fired_ms: int
    outcome: FireOutcome
    run_id: str = ""
    by_hand: bool = False


class FireView(msgspec.Struct, frozen=True, omit_defaults=True):
    """The same as readers see it; times are RFC 3339."""

    moment: str
    fired: str
    outcome: FireOutcome
    run_id: str = ""
    by_hand: bool = False


class ScheduleView(msgspec.Struct, frozen=True, omit_defaults=True):
    """A schedule as it stands: `next` is the next moment, empty if there is none or it is `paused`.

    `open` are its runs that have not ended, `queued` the moments that wait for that. `fires` are the last ones.
    """

    name: str
    spec: ScheduleSpec
    seq: int
    made_at: str
    changed_at: str
    next: str = ""
    paused: bool = False
    reason: str = ""
    open: tuple[str, ...] = ()
    queued: tuple[str, ...] = ()
    fired: int = 0
    skipped: int = 0
    missed: int = 0
    fires: tuple[FireView, ...] = ()
    actor: str = ""
    shard: int = 0
