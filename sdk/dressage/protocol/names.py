"""Every subject, stream, bucket and key of Dressage is spelled and parsed here, and nowhere else.

Names are `[a-z0-9][a-z0-9-]{0,62}`. Run ids are free text up to 128 bytes of UTF-8; in subjects and keys
they appear as one reversibly encoded token, so nothing in a run id can be read as a wildcard, a dot or a space.
"""

from __future__ import annotations

import functools
import itertools
import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

from dressage.protocol.errors import BadInput, BadName, BadRunId

_SAFE: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_TOKEN: Final = re.compile(r"(?:[A-Za-z0-9_-]|=[0-9A-F]{2})+")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")

_SUBJECT: Final = re.compile(r"[^\s.*>\x00-\x1f\x7f]+(?:\.[^\s.*>\x00-\x1f\x7f]+)*")

_NOT_THEIRS: Final = ("$", "_INBOX.", "dressage.")
"""How subjects begin that are the broker's, of those who await an answer, and the engine's own."""

NAME_CHARS_MAX: Final = 63
"""A name is one token of a subject, and part of the names of streams, which are folders of the server."""

RUN_ID_BYTES_MAX: Final = 128
ACTOR_CHARS_MAX: Final = 512
REPLY_CHARS_MAX: Final = 1_024
SUBJECT_BYTES_MAX: Final = 1_024
"""Bytes of a subject that a workflow publishes to. A server takes no more than 4,096 in the line that names it."""

OUT: Final = "out"
"""Stands for a target shard in the subject of what is published to users' subjects."""

_NAME: Final = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{NAME_CHARS_MAX - 1}}}")
KEY_BYTES_MAX: Final = 128
_KEY_TOKEN: Final = re.compile(
    rf"=key_([a-z0-9][a-z0-9-]{{0,{NAME_CHARS_MAX - 1}}})_(?:=marks([0-9a-f]+)_)?(.+)"
)
EVENT_BUCKETS: Final = 64
"""How many subjects the events of one (shard, workflow, kind) are spread over; bounds the server's memory."""


def is_name(name: str) -> bool:
    """Whether `name` follows the rule for names."""
    return _NAME.fullmatch(name) is not None


def check_name(name: object, what: str) -> str:
    """Returns `name` if it is a valid name, else raises `BadName` telling the rule; `what` says whose name."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise BadName(
        f"{what} name {_shown(name)} is not valid: use 1 to {NAME_CHARS_MAX} characters a-z, 0-9 and '-', "
        "starting with a letter or digit (limit name-size)"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def build_queue(queue: str, build: str) -> str:
    """The queue of a task of a version that is one of a build; without a build it is the task's own.

    No name has a `_`, so it is never what another task, or another build, has. Raises `BadName`.
    """
    return f"{queue}_{check_name(build, 'build')}" if build else queue


def queue_text(queue: str) -> str:
    """What `build_queue` gave, in words for people."""
    name, _, build = queue.partition("_")
    return f"{name} of build {build}" if build else name


def check_actor(actor: str, what: str = "actor") -> str:
    """Returns `actor` if it fits into every command and event of what somebody does. Raises `BadInput`."""
    size = len(actor)
    if size > ACTOR_CHARS_MAX:
        raise BadInput(
            f"{what} {_shown(actor)} has {size} characters: at most {ACTOR_CHARS_MAX} are allowed; shorten it "
            "(limit actor-size)",
            code="ACTOR_INVALID",
        )
    try:
        actor.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{what} {_shown(actor)} cannot be encoded as UTF-8: remove lone surrogates", code="ACTOR_INVALID"
        ) from error
    return actor


def is_reply_subject(subject: str) -> bool:
    """Whether an answer may be published there: a plain subject that is neither the broker's nor the engine's own.

    A sender names the subject of its answer, and must not be able to make an engine publish where only that may.
    """
    return (
        len(subject) <= REPLY_CHARS_MAX
        and _SUBJECT.fullmatch(subject) is not None
        and not subject.startswith(("$", "dressage."))
    )


def is_theirs(subject: str) -> bool:
    """Whether a subject, or a filter of subjects, may be a user's own, as it begins."""
    return not f"{subject}.".startswith(_NOT_THEIRS)


def wrong_with_subject(subject: str) -> str:
    """What is wrong with a subject that a workflow publishes to; empty for a plain one that is its author's own."""
    try:
        size = len(subject.encode())
    except UnicodeEncodeError:
        return f"subject {_shown(subject)} cannot be encoded as UTF-8: remove lone surrogates"
    if size > SUBJECT_BYTES_MAX:
        return f"a subject takes {size} bytes of {SUBJECT_BYTES_MAX} allowed: shorten it (limit subject-size)"
    if _SUBJECT.fullmatch(subject) is None:
        return (
            f"subject {_shown(subject)} is not valid: give tokens between dots, none of them empty, without spaces, "
            "'*' and '>'"
        )
    if not is_theirs(subject):
        return f"subject {_shown(subject)} is none of yours: it may not begin with {', '.join(_NOT_THEIRS)}"
    return ""


def check_run_id(run_id: object) -> str:
    """Returns `run_id` if usable: text of 1 to 128 bytes in UTF-8. Raises `BadRunId` otherwise."""
    if not isinstance(run_id, str) or not run_id:
        raise BadRunId(
            f"run id {_shown(run_id)} is not valid: give text of 1 to {RUN_ID_BYTES_MAX} bytes (limit run-id-size)"
        )
    try:
        size = len(run_id.encode())
    except UnicodeEncodeError as error:
        raise BadRunId(
            f"run id {_shown(run_id)} cannot be encoded as UTF-8: remove lone surrogates"
        ) from error
    if size > RUN_ID_BYTES_MAX:
        raise BadRunId(
            f"run id {_shown(run_id)} has {size} bytes: at most {RUN_ID_BYTES_MAX} are allowed; shorten it "
            "(limit run-id-size)"
        )
    return run_id


def run_token(run_id: str) -> str:
    """The run id as one subject token; `run_id_of` gives it back. Raises `BadRunId`."""
    if len(run_id) <= RUN_ID_BYTES_MAX and _PLAIN.fullmatch(run_id):
        return run_id
    return _encoded(check_run_id(run_id))


def _encoded(text: str) -> str:
    return "".join(chr(byte) if byte in _SAFE else f"={byte:02X}" for byte in text.encode())


def run_id_of(token: str) -> str:
    """The run id that `run_token` encoded. Raises `BadRunId` for anything that function cannot have made."""
    if _PLAIN.fullmatch(token) and len(token) <= RUN_ID_BYTES_MAX:
        return token
    if not _TOKEN.fullmatch(token):
        raise BadRunId(f"subject token {_shown(token)} does not encode a run id")
    raw = re.sub(rb"=([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), token.encode())
    try:
        run_id = raw.decode()
    except UnicodeDecodeError as error:
        raise BadRunId(f"subject token {_shown(token)} does not encode UTF-8 text") from error
    if run_token(run_id) != token:
        raise BadRunId(f"subject token {_shown(token)} is not the canonical form of its run id")
    return run_id


def check_key(key: object, what: str = "correlation key") -> str:
    """Returns a key if usable: text of 1 to 128 bytes in UTF-8. Raises `BadInput` (KEY_INVALID); `what` says which."""
    if not isinstance(key, str) or not key:
        raise BadInput(
            f"{what} {_shown(key)} is not valid: give text of 1 to {KEY_BYTES_MAX} bytes (limit key-size)",
            code="KEY_INVALID",
        )
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise BadInput(
            f"{what} {_shown(key)} cannot be encoded as UTF-8: remove lone surrogates",
            code="KEY_INVALID",
        ) from error
    if size > KEY_BYTES_MAX:
        raise BadInput(
            f"{what} {_shown(key)} has {size} bytes: at most {KEY_BYTES_MAX} are allowed; shorten it "
            "(limit key-size)",
            code="KEY_INVALID",
        )
    return key


_SCHEDULE: Final = "=schedule_"
"""How the token of a schedule begins; no run id is ever encoded to it."""


_LIMITER: Final = "=limiter_"
"""How the token of a limiter begins; no run id is ever encoded to it."""

LIMIT_KEY: Final = "key of a task's limit"


def key_token(event: str, key: str) -> str:
    """An event's name and a correlation key as one subject token, which stands where a command has its run.

    No run id is ever encoded to it. Raises `BadName` or `BadInput`.
    """
    return f"=key_{check_name(event, 'event')}_{_encoded(check_key(key))}"


def marks_token(event: str, key: str, path: str) -> str:
    """One token for a part of the marks of a correlation key's events: those that begin with `path`, in hexadecimal."""
    return f"=key_{check_name(event, 'event')}_=marks{path}_{_encoded(check_key(key))}"


def schedule_token(name: str) -> str:
    """A schedule as one subject token, which stands where a command has its run. Raises `BadName`."""
    return f"{_SCHEDULE}{check_name(name, 'schedule')}"


def is_schedule(token: str) -> bool:
    """Whether a token stands for a schedule."""
    return token.startswith(_SCHEDULE)


def schedule_of(token: str) -> str:
    """The name that `schedule_token` encoded. Raises `BadRunId` for anything else."""
    name = token.removeprefix(_SCHEDULE)
    if not is_schedule(token) or not is_name(name):
        raise BadRunId(f"subject token {_shown(token)} does not encode a schedule")
    return name


TIMETABLES: Final = 120
"""Each schedule has one of so many timetables. The number can be divided by most numbers of shards that there are, and
then a schedule and its timetable are on one shard."""

_TIMETABLE: Final = re.compile(r"=timetable_[0-9]{1,3}_[0-9]{1,6}")


def timetable_token(schedule: str) -> str:
    """What keeps the moments of a schedule, and of others, as one subject token, which stands where a command has its
    run. Raises `BadName`."""
    return _timetable(zlib.crc32(schedule_token(schedule).encode()) % TIMETABLES)


@functools.cache
def _timetable(number: int) -> str:
    """The first one of this number that has the same hash, as far as the number says what that is."""
    tokens = (f"=timetable_{number}_{place}" for place in itertools.count())
    return next(token for token in tokens if zlib.crc32(token.encode()) % TIMETABLES == number)


def is_timetable(token: str) -> bool:
    """Whether a token stands for a timetable."""
    return _TIMETABLE.fullmatch(token) is not None


def limiter_token(task: str, key: str = "") -> str:
    """The limiter of a task, or of one key of its calls, as one subject token, which stands where a command has its
    run. Raises `BadName` or `BadInput`."""
    behind = f"_{_encoded(check_key(key, LIMIT_KEY))}" if key else ""
    return f"{_LIMITER}{check_name(task, 'task')}{behind}"


def is_limiter(token: str) -> bool:
    """Whether a token stands for the limiter of a task."""
    return token.startswith(_LIMITER)


def limiter_of(token: str) -> tuple[str, str]:
    """The task's name and the key that `limiter_token` encoded; the key is empty if there is none. Raises `BadRunId`
    for anything else."""
    task, found, key = token.removeprefix(_LIMITER).partition("_")
    if not is_limiter(token) or not is_name(task):
        raise BadRunId(f"subject token {_shown(token)} does not encode a limiter")
    return task, run_id_of(key) if found else ""


def is_key(token: str) -> bool:
    """Whether a token stands for an event's name and a correlation key, or a part of its marks, and not for a run."""
    return token.startswith("=key_")


def key_of(token: str) -> tuple[str, str]:
    """The event's name and the key that `key_token` encoded. Raises `BadRunId` for anything else."""
    event, key, path = marks_of(token)
    if path:
        raise BadRunId(f"subject token {_shown(token)} encodes no correlation key, but a part of its marks")
    return event, key


def marks_of(token: str) -> tuple[str, str, str]:
    """The event's name, the key and the path that `marks_token` encoded; a key's own token has no path.

    Raises `BadRunId` for anything else.
    """
    found = _KEY_TOKEN.fullmatch(token)
    if found is None:
        raise BadRunId(f"subject token {_shown(token)} does not encode a correlation key")
    return found[1], run_id_of(found[3]), found[2] or ""


def place_of(token: str) -> str:
    """What says on which shard that lives for which a token stands: a run's id, a key's token. Raises `BadRunId`."""
    if is_key(token):
        marks_of(token)
        return token
    if is_schedule(token):
        schedule_of(token)
        return token
    if is_timetable(token):
        return token
    if is_limiter(token):
        limiter_of(token)
        return token
    return run_id_of(token)


def child_id(parent: str, wait_id: str) -> str:
    """The id of a child run: it shares the shard of its parent, and no two waits have the same."""
    return f"{parent}~{wait_id}"


def root_of(run_id: str) -> str:
    """The part of a run's id before the first `~`: what a run shares with its child runs."""
    return run_id.split("~", 1)[0]


def root_token(run_id: str) -> str:
    """The token of the root of a run, under which its large values are stored. Raises `BadRunId`."""
    check_run_id(run_id)
    # An id may begin with `~`; no token is empty.
    return _encoded(root_of(run_id)) or "="


def shard_of(place: str, shards: int) -> int:
    """The shard of a run: a hash of its id's part before the first `~`, so that a child shares its parent's.

    That of a correlation key, a schedule or a limiter is the hash of its token, in which there is no `~`.
    """
    return zlib.crc32(root_of(place).encode()) % shards


def event_bucket(run_id: str) -> int:
    """Which of the `EVENT_BUCKETS` subjects carries the output events of this run."""
    return zlib.crc32(run_id.encode()) % EVENT_BUCKETS


class Names:
    """All names of one namespace."""

    def __init__(self, namespace: str = "default") -> None:
        self.namespace: Final = check_name(namespace, "namespace")
        self.root: Final = f"dressage.{namespace}"
        self.events_stream: Final = f"dressage_{namespace}_events"
        self.dead_stream: Final = f"dressage_{namespace}_dead"
        self.runs_bucket: Final = f"dressage_{namespace}_runs"
        self.definitions_bucket: Final = f"dressage_{namespace}_definitions"
        self.members_bucket: Final = f"dressage_{namespace}_members"
        self.objects_bucket: Final = f"dressage_{namespace}_objects"

    # -- the shard stream and its subject families -------------------------------------------------
    def shard_stream(self, shard: int) -> str:
        return f"dressage_{self.namespace}_{shard}"

    def shard_subjects(self, shard: int) -> list[str]:
        base = f"{self.root}.{shard}"
        return [f"{base}.cmd.*", f"{base}.task.*", f"{base}.timer.*.*", f"{base}.send.*.*", f"{base}.cursor"]

    def command(self, shard: int, token: str) -> str:
        return f"{self.root}.{shard}.cmd.{token}"

    def commands(self, shard: int) -> str:
        return f"{self.root}.{shard}.cmd.*"

    def task(self, shard: int, queue: str) -> str:
        return f"{self.root}.{shard}.task.{queue}"

    def tasks(self, shard: int) -> str:
        return f"{self.root}.{shard}.task.*"

    def timer(self, shard: int, token: str, timer_id: str) -> str:
        return f"{self.root}.{shard}.timer.{token}.{timer_id}"

    def send(self, shard: int, target: int, token: str) -> str:
        return f"{self.root}.{shard}.send.{target}.{token}"

    def publish(self, shard: int, token: str) -> str:
        """Where a domain event waits to be published to its user's subject."""
        return f"{self.root}.{shard}.send.{OUT}.{token}"

    def publish_id(self, token: str, started_ms: int, index: int) -> str:
        """The message id of a domain event, the same however often it is published, and never another one's."""
        return f"{self.namespace}.{token}.{started_ms}.{index}"

    def sends(self, shard: int) -> str:
        """Sends to other shards, and what is to be published."""
        return f"{self.root}.{shard}.send.*.*"

    def cursor(self, shard: int) -> str:
        return f"{self.root}.{shard}.cursor"

    def output_id(self, connector: str, token: str, index: int, command: str) -> str:
        """The id of an output event where a connector writes it, the same however often, and never another one's.

        Runs of one id follow each other and count their events anew; the command tells them apart.
        """
        return f"{self.namespace}/{connector}/{token}/{index}/{command}"

    # -- consumers ---------------------------------------------------------------------------------
    @staticmethod
    def command_consumer(epoch: int) -> str:
        return f"orch_{epoch}"

    @staticmethod
    def forward_consumer(epoch: int) -> str:
        return f"fwd_{epoch}"

    @staticmethod
    def consumer_epoch(consumer: str) -> int | None:
        """The epoch in the name of an owner's consumer; None for a consumer that is not an owner's."""
        kind, _, epoch = consumer.partition("_")
        return int(epoch) if kind in ("orch", "fwd") and epoch.isdigit() else None

    @staticmethod
    def task_consumer(queue: str) -> str:
        return f"task_{queue}"

    # -- output events -----------------------------------------------------------------------------
    def event(self, shard: int, workflow: str, kind: str, bucket: int) -> str:
        return f"{self.root}.events.{shard}.{workflow}.{kind}.{bucket}"

    def all_events(self) -> str:
        return f"{self.root}.events.>"

    def events_like(self, workflow: str = "*", kind: str = "*") -> str:
        """A filter for the output events of a workflow, of a kind, or of both."""
        return f"{self.root}.events.*.{workflow}.{kind}.*"

    def events_of_run(self, shard: int, run_id: str, workflow: str = "*") -> str:
        return f"{self.root}.events.{shard}.{workflow}.*.{event_bucket(run_id)}"

    def position(self, shard: int) -> str:
        return f"{self.root}.position.{shard}"

    def events_subjects(self) -> list[str]:
        return [f"{self.root}.events.*.*.*.*", f"{self.root}.position.*"]

    # -- dead letters ------------------------------------------------------------------------------
    def dead_command(self, shard: int) -> str:
        return f"{self.root}.dead.command.{shard}"

    def dead_publish(self, shard: int) -> str:
        return f"{self.root}.dead.publish.{shard}"

    def dead_trigger(self, trigger: str) -> str:
        return f"{self.root}.dead.trigger.{trigger}"

    def dead_webhook(self, webhook: str) -> str:
        return f"{self.root}.dead.webhook.{webhook}"

    def dead_connector(self, connector: str) -> str:
        return f"{self.root}.dead.connector.{connector}"

    def dead_subjects(self) -> list[str]:
        return [f"{self.root}.dead.*.*"]

    # -- KV: states and definitions ----------------------------------------------------------------
    def runs_stream(self) -> str:
        return f"KV_{self.runs_bucket}"

    def definitions_stream(self) -> str:
        return f"KV_{self.definitions_bucket}"

    def run_key(self, shard: int, token: str) -> str:
        """Subject of a run's state in the bucket."""
        return f"$KV.{self.runs_bucket}.run.{shard}.{token}"

    @staticmethod
    def shard_of_run_key(key: str) -> int:
        return int(key.rsplit(".", 2)[1])

    def run_keys(self, shard: int) -> str:
        return f"$KV.{self.runs_bucket}.run.{shard}.*"

    def fence_key(self, shard: int) -> str:
        return f"$KV.{self.runs_bucket}.fence.{shard}"

    def workflow_key(self, name: str) -> str:
        """Subject of the pointer to a workflow's latest version."""
        return f"$KV.{self.definitions_bucket}.workflow.{name}"

    def workflow_version_key(self, name: str, version: int) -> str:
        return f"$KV.{self.definitions_bucket}.workflow.{name}.{version}"

    def event_key(self, name: str) -> str:
        """Subject of the pointer to an external event's latest version."""
        return f"$KV.{self.definitions_bucket}.event.{name}"

    def event_version_key(self, name: str, version: int) -> str:
        return f"$KV.{self.definitions_bucket}.event.{name}.{version}"

    def connector_key(self, name: str) -> str:
        """Subject of a connector's definition."""
        return f"$KV.{self.definitions_bucket}.connector.{name}"

    def connector_place_key(self, name: str) -> str:
        """Subject of what says which process of a sink is the active one, and how far it is."""
        return f"$KV.{self.definitions_bucket}.connector.{name}.place"

    def connector_keys(self) -> str:
        return f"$KV.{self.definitions_bucket}.connector.*"

    def workflow_keys(self) -> str:
        return f"$KV.{self.definitions_bucket}.workflow.*"

    def workflow_version_keys(self) -> str:
        return f"$KV.{self.definitions_bucket}.workflow.*.*"

    def trigger_key(self, name: str) -> str:
        """Subject of a trigger that is deployed."""
        return f"$KV.{self.definitions_bucket}.trigger.{name}"

    def trigger_place_key(self, name: str, incarnation: int) -> str:
        """Subject of what says which process of a trigger takes its events, and how far it is."""
        return f"$KV.{self.definitions_bucket}.trigger.{name}.place.{incarnation}"

    def trigger_keys(self) -> str:
        return f"$KV.{self.definitions_bucket}.trigger.*"

    def namespace_key(self) -> str:
        """Subject of the namespace's own definition: its shard count and the format of what it stores."""
        return f"$KV.{self.definitions_bucket}.namespace"

    # -- KV: who is alive --------------------------------------------------------------------------
    def members_stream(self) -> str:
        return f"KV_{self.members_bucket}"

    def member_key(self, member: str) -> str:
        """Subject of an orchestrator's heartbeat."""
        return f"$KV.{self.members_bucket}.{member}"

    def member_keys(self) -> str:
        return f"$KV.{self.members_bucket}.*"

    # -- the object store (ADR-20): values too large for a message -----------------------------------
    def objects_stream(self) -> str:
        return f"OBJ_{self.objects_bucket}"

    def objects_subjects(self) -> list[str]:
        return [self.all_object_chunks(), self.all_object_infos()]

    @staticmethod
    def object_name(root: str, digest: str) -> str:
        """The name of an object: the token of the root of its run, and the SHA-256 of its bytes in hexadecimal."""
        return f"{root}/{digest}"

    def object_info(self, root: str, digest: str) -> str:
        """Subject of what is said of an object."""
        name = self.object_name(root, digest).encode()
        return f"$O.{self.objects_bucket}.M.{urlsafe_b64encode(name).decode()}"

    @staticmethod
    def object_nuid(root: str, digest: str, upload: str) -> str:
        """What ADR-20 calls the NUID of an object: with dots, so that those of one root are a family of subjects."""
        return f"{root}.{digest}.{upload}"

    def object_chunks(self, nuid: str) -> str:
        return f"$O.{self.objects_bucket}.C.{nuid}"

    def object_chunks_of(self, root: str) -> str:
        return f"$O.{self.objects_bucket}.C.{root}.*.*"

    def all_object_chunks(self) -> str:
        return f"$O.{self.objects_bucket}.C.>"

    def all_object_infos(self) -> str:
        return f"$O.{self.objects_bucket}.M.>"

    def all_objects(self) -> str:
        """Chunks, and what is said of objects."""
        return f"$O.{self.objects_bucket}.*.>"

    @staticmethod
    def object_of_chunks(subject: str) -> tuple[str, str] | None:
        """Root and digest in a subject of chunks; None for one that is not of our making."""
        parts = subject.split(".")
        return (parts[3], parts[4]) if len(parts) == 6 and parts[2] == "C" else None

    @staticmethod
    def object_of_info(subject: str) -> tuple[str, str] | None:
        """Root and digest in a subject of what is said of an object; None for one that is not of our making."""
        try:
            name = urlsafe_b64decode(subject.rpartition(".")[2]).decode()
        except ValueError:
            return None
        root, _, digest = name.partition("/")
        return (root, digest) if digest else None

    # -- requests outside the streams --------------------------------------------------------------
    def nudge(self) -> str:
        """Asks every orchestrator to look at the members at once."""
        return f"{self.root}.nudge"

    def ask(self, shard: int) -> str:
        return f"{self.root}.ask.{shard}"

    def stop(self, queue: str) -> str:
        return f"{self.root}.stop.{queue}"

    def query(self) -> str:
        return f"{self.root}.query"

    def api(self, operation: str) -> str:
        return f"{self.root}.api.{operation}"
