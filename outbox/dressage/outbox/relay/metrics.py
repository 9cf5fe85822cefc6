"""What a relay counts."""

from __future__ import annotations

from math import nan

from dressage.telemetry import Meters


class RelayMetrics:
    """Until the table has been looked at, its depth and age are not known to be nothing."""

    def __init__(self, meters: Meters) -> None:
        self.sent = meters.counter("outbox_sent_total", "Messages that the engine has accepted, repeats too")
        self.dead_letters = meters.counter(
            "outbox_dead_letters_total", "Messages that can never be accepted", ["code"]
        )
        self.retries = meters.counter(
            "outbox_retries_total", "Messages put off, for a passing reason", ["code"]
        )
        self.faults = meters.counter(
            "outbox_faults_total", "Times that database, broker or engine failed", ["code"]
        )
        self.pending = meters.gauge("outbox_pending", "Messages of the table that wait")
        self.oldest = meters.gauge("outbox_oldest_seconds", "Age of the oldest message that waits")
        self.dead = meters.gauge("outbox_dead", "Messages of the table that are dead")
        self.lag = meters.histogram("outbox_lag_seconds", "From the row's time to the engine's acceptance")
        self.slot_lag = meters.gauge("outbox_slot_lag_bytes", "Log that the slot keeps for the relay")
        for gauge in (self.pending, self.oldest, self.dead, self.slot_lag):
            gauge.set(nan)
