"""Subjects and their wildcards: `*` stands for one token, `>` for one or more at the end."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def tokens_of(subject: str) -> tuple[str, ...]:
    return tuple(subject.split("."))


def has_wildcard(subject: str) -> bool:
    return "*" in subject or ">" in subject


def is_publishable(subject: str) -> bool:
    """Whether a message may go there: no empty token and no wildcard."""
    return bool(subject) and all(token and token not in ("*", ">") for token in subject.split("."))


def within(subject: str, pattern: str) -> bool:
    """Whether `subject`, which may have wildcards itself, lies wholly within `pattern`."""
    if pattern == subject or pattern == ">":
        return True
    if not has_wildcard(pattern):
        return False
    # What has wildcards is asked for again and again; plain subjects come and go with their runs.
    subject_tokens = tuple(subject.split("."))
    pattern_tokens = tokens_of(pattern)
    for place, wanted in enumerate(pattern_tokens):
        if place >= len(subject_tokens):
            return False
        if wanted == ">":
            return True
        token = subject_tokens[place]
        if token == ">" or (token == "*" and wanted != "*"):
            return False
        if wanted not in ("*", token):
            return False
    return len(subject_tokens) == len(pattern_tokens)


def overlap(one: str, other: str) -> bool:
    """Whether some subject matches both."""
    mine, others = tokens_of(one), tokens_of(other)
    for left, right in zip(mine, others, strict=False):
        if left == ">" or right == ">":
            return True
        if left != right and "*" not in (left, right):
            return False
    return len(mine) == len(others)
