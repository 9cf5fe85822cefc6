"""Stands for the world outside: banks that decline, gateways that time out, work that takes time.

All of it follows from a hash, so that a run can be repeated and its outcome predicted (see `expected.py`).
"""

from __future__ import annotations

import hashlib

DECLINED_SHARE = 0.05
TIMEOUT_SHARE = 0.08


def chance(*what: object) -> float:
    """A number in [0, 1) that is always the same for the same things."""
    digest = hashlib.sha256("/".join(map(str, what)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def bank_declines(invoice: str) -> bool:
    """Whether the bank says no to the payment for this invoice, however often it is asked."""
    return chance("bank", invoice) < DECLINED_SHARE


def gateway_times_out(invoice: str, attempt: int) -> bool:
    """Whether this attempt to reach the bank fails; another one may not."""
    return chance("gateway", invoice, attempt) < TIMEOUT_SHARE


def seconds_of(task: str, key: str, shortest_ms: float, longest_ms: float) -> float:
    """How long the work for one key takes."""
    return (shortest_ms + (longest_ms - shortest_ms) * chance("work", task, key)) / 1000
