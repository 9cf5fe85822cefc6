"""What webhooks count. Every meter has the webhook's name as its first label."""

from __future__ import annotations

from dressage.connectors.mapping import Post, Start
from dressage.telemetry import Counter, Gauge, Meters


class Metrics:
    """The meters of an app, for all of its webhooks."""

    def __init__(self, meters: Meters) -> None:
        label, code = ["webhook"], ["webhook", "code"]
        self.requests = meters.counter("webhook_requests_total", "Requests, repeated ones too", label)
        self.started = meters.counter("webhook_started_total", "Requests that started a run", label)
        self.posted = meters.counter(
            "webhook_posted_total", "Requests that were posted as external events", label
        )
        self.existing = meters.counter(
            "webhook_existing_total", "Requests that the engine knew before, as when one is sent again", label
        )
        self.skipped = meters.counter("webhook_skipped_total", "Requests that `when` left out", label)
        self.refused = meters.counter("webhook_refused_total", "Requests answered with 4xx", code)
        self.dead = meters.counter(
            "webhook_dead_letters_total", "Requests that ask for nothing that there is, and are kept", code
        )
        self.retries = meters.counter(
            "webhook_retries_total", "Requests answered with 5xx, for the sender to try again", code
        )
        self.faulty = meters.gauge(
            "webhook_faulty", "1 while a passing fault keeps requests from the engine", label
        )


class WebhookMetrics:
    """The meters of one webhook, which show from its beginning, at 0."""

    def __init__(self, all_webhooks: Metrics, webhook: str) -> None:
        self._all = all_webhooks
        self._webhook = webhook
        self.requests: Counter = all_webhooks.requests.labels(webhook)
        self.started: Counter = all_webhooks.started.labels(webhook)
        self.posted: Counter = all_webhooks.posted.labels(webhook)
        self.existing: Counter = all_webhooks.existing.labels(webhook)
        self.skipped: Counter = all_webhooks.skipped.labels(webhook)
        self.faulty: Gauge = all_webhooks.faulty.labels(webhook)

    def accepted(self, request: Start | Post, *, existing: bool) -> None:
        """The engine has taken what a request asked for."""
        counter = self.posted if isinstance(request, Post) else self.started
        (self.existing if existing else counter).inc()

    def dead_letter(self, code: str) -> None:
        self._all.dead.labels(self._webhook, code).inc()

    def failed(self, status: int, code: str) -> None:
        """An error was answered."""
        counter = self._all.retries if status >= 500 else self._all.refused
        counter.labels(self._webhook, code).inc()
