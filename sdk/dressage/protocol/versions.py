"""The versions of a workflow: what they are called, and which of them a new run gets.

A version has a number, which counts on with each registration and which runs, commands and events name, and a label of
two, `major.minor`: the major one counts on where a change breaks those who use the workflow. Runs stay on the version
that they began with; what is said here is only for who starts one, who resolves it and names the number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from dressage.protocol.errors import BadInput, NotFound
from dressage.protocol.names import check_name
from dressage.protocol.retention import Retention

VersionRef = int | str
"""How a version is asked for: its number, its label as `2.1`, the newest of a major one as `2.x`, an alias, or
`latest`, which is also what an empty text means."""

LATEST: Final = "latest"
ALIASES_MAX: Final = 100
"""Aliases of one workflow."""

VERSIONS_SHOWN: Final = 100
"""Versions in one answer, the last ones."""

_ALIAS: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")
_LABEL: Final = re.compile(r"([1-9][0-9]{0,8})\.(x|0|[1-9][0-9]{0,8})")


class Label(NamedTuple):
    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


class Labels(msgspec.Struct, frozen=True, array_like=True):
    """From version `first` on, to where the next ones begin, labels count up from this one."""

    first: int
    major: int
    minor: int


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A name for a version, with who gave it, and when (RFC 3339)."""

    version: int
    actor: str = ""
    at: str = ""


class Versions(msgspec.Struct, frozen=True, omit_defaults=True):
    """All versions of a workflow: the number and the digest of the newest, and what stands of them.

    `retired` ones, and all of an `archived` workflow, are not for new runs. `retention` says for how long runs are
    kept, of all versions; None: as the namespace has it.
    """

    version: int
    digest: str
    labels: tuple[Labels, ...] = ()
    retired: tuple[int, ...] = ()
    aliases: dict[str, Alias] = {}
    archived: bool = False
    retention: Retention | None = None

    @property
    def latest(self) -> int:
        """The newest version that is not retired; 0 if all are."""
        return self._newest(range(self.version, 0, -1))

    def label(self, version: int) -> Label:
        found = next((each for each in reversed(self.labels) if each.first <= version), Labels(1, 1, 0))
        return Label(found.major, found.minor + version - found.first)

    def next_label(self, base: int, *, breaking: bool) -> Label:
        """What comes after version `base`: the next minor one of its major, or the next major one."""
        known = [self.label(version) for version in range(1, self.version + 1)] or [Label(1, -1)]
        if breaking:
            return Label(1 + max(each.major for each in known), 0)
        major = self.label(base).major
        return Label(major, 1 + max(each.minor for each in known if each.major == major))

    def buried(self, base: int) -> Versions:
        """With one more version, which nobody was given, and which is not for new runs."""
        after = self.with_version("", self.next_label(base, breaking=False))
        return msgspec.structs.replace(after, retired=(*self.retired, after.version))

    def with_version(self, digest: str, label: Label) -> Versions:
        """With one more version, which is the newest."""
        version = self.version + 1
        labels = self.labels or (Labels(1, 1, 0),)
        if self.label(version) != label:
            labels = (*labels, Labels(version, *label))
        return msgspec.structs.replace(self, version=version, digest=digest, labels=labels)

    def resolve(self, workflow: str, ref: VersionRef) -> int:
        """The number of the version that a new run gets.

        Raises `NotFound` (WORKFLOW_UNKNOWN, ALIAS_UNKNOWN), or `BadInput` (VERSION_INVALID, VERSION_RETIRED,
        WORKFLOW_ARCHIVED).
        """
        if self.archived:
            raise BadInput(
                f"workflow {workflow!r} is archived: no new run of it is started until it is unarchived",
                code="WORKFLOW_ARCHIVED",
            )
        version = self.find(workflow, ref)
        if version in self.retired:
            raise BadInput(
                f"version {version} of workflow {workflow!r} is retired: start another, or restore it",
                code="VERSION_RETIRED",
            )
        return version

    def find(self, workflow: str, ref: VersionRef) -> int:
        """The same for who does not start a run: also a retired version, and one of an archived workflow."""
        if ref in ("", LATEST):
            return self.latest or self.version
        if type(ref) not in (int, str):
            raise BadInput(
                f"{ref!r} is no version: give a number, or a text such as '1.1' or 'stable'",
                code="VERSION_INVALID",
            )
        if isinstance(ref, str) and _is_number(ref):
            ref = int(ref)
        if isinstance(ref, int):
            if not 0 < ref <= self.version:
                raise NotFound(f"workflow {workflow!r} has no version {ref}", code="WORKFLOW_UNKNOWN")
            return ref
        label = _LABEL.fullmatch(ref)
        if label is not None:
            return self._labelled(workflow, int(label[1]), label[2])
        alias = self.aliases.get(check_alias(ref))
        if alias is None:
            known = f"it has {', '.join(sorted(self.aliases))}" if self.aliases else "it has none"
            raise NotFound(f"workflow {workflow!r} has no alias {ref!r}: {known}", code="ALIAS_UNKNOWN")
        return alias.version

    def _labelled(self, workflow: str, major: int, minor: str) -> int:
        found = [
            version
            for version in range(self.version, 0, -1)
            if (label := self.label(version)).major == major and minor in ("x", str(label.minor))
        ]
        if not found:
            raise NotFound(f"workflow {workflow!r} has no version {major}.{minor}", code="WORKFLOW_UNKNOWN")
        return self._newest(found) or found[0]

    def _newest(self, versions: range | list[int]) -> int:
        return next((version for version in versions if version not in self.retired), 0)


class VersionView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One version as readers see it; `breaks` says why its major number is another one than that of the one before."""

    version: int
    label: str
    digest: str
    registered_at: str
    actor: str = ""
    breaks: tuple[str, ...] = ()
    retired: bool = False
    aliases: tuple[str, ...] = ()
    build: str = ""


class VersionsView(msgspec.Struct, frozen=True):
    """A workflow with its last versions, the newest first. `latest` is what new runs get, 0 if there is none."""

    workflow: str
    latest: int
    archived: bool
    aliases: dict[str, Alias]
    versions: list[VersionView]
    more: bool = False


def check_ref(ref: str) -> str:
    """Returns `ref` if it can name a version. Raises `BadInput` (VERSION_INVALID)."""
    if ref == LATEST or _LABEL.fullmatch(ref) or (_is_number(ref) and int(ref)):
        return ref
    return check_alias(ref)


def _is_number(ref: str) -> bool:
    return ref.isascii() and ref.isdigit() and len(ref) < 10


def check_alias(alias: str) -> str:
    """Returns `alias` if it can be one. Raises `BadInput` (VERSION_INVALID)."""
    if alias == LATEST or not _ALIAS.fullmatch(alias):
        raise BadInput(
            f"{alias!r} is no version: give a number, a label such as 2.1 or 2.x, latest, or an alias of 1 to 63 "
            "characters a-z, 0-9 and '-', that begins with a letter and is not latest",
            code="VERSION_INVALID",
        )
    return alias


def parse_target(text: str) -> tuple[str, VersionRef]:
    """The workflow and the version that `name@version` names; without an `@` the version is an empty text.

    Raises `BadName`, or `BadInput` (VERSION_INVALID) where nothing stands behind the `@`.
    """
    name, at, ref = text.partition("@")
    check_name(name, "workflow")
    if at and not ref:
        raise BadInput(f"{text!r} has no version behind its @", code="VERSION_INVALID")
    if ref and _is_number(ref) and not int(ref):
        raise BadInput(f"{text!r}: versions count from 1", code="VERSION_INVALID")
    return name, int(ref) if _is_number(ref) else ref


def aliases_of(aliases: Mapping[str, Alias], version: int) -> list[str]:
    """The names that a version has."""
    return sorted(name for name, alias in aliases.items() if alias.version == version)
