"""The shop's service: publishes an event for each order, with plain nats-py, and knows nothing of who listens.

    python -m online_retail.publish --server nats://127.0.0.1:4222 --rate 150

It delivers at least once, as services do: every fiftieth event is published a second time.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator

import nats
from nats.js import JetStreamContext

from online_retail.orders import event_of, malformed_events, read_invoices, sample

STREAM = "shop"
SUBJECT = "shop.orders.placed"
TWICE_EVERY = 50
TICK_S = 0.05


def events(invoices: int | None, malformed: bool) -> Iterator[bytes]:
    """Every event in the order of its publication; malformed ones stand among the others."""
    broken = malformed_events() if malformed else []
    for number, invoice in enumerate(sample(read_invoices(), invoices)):
        event = event_of(invoice)
        yield event
        if number % TWICE_EVERY == TWICE_EVERY - 1:
            yield event
        if number % 10 == 9 and broken:
            yield broken.pop(0)
    yield from broken


async def publish(server: str, waiting: list[bytes], rate: float) -> int:
    """Publishes at `rate` events a second; returns how many the stream has acknowledged."""
    # A server that went away ends this program: its caller publishes again, and a second start is harmless.
    client = await nats.connect(server, allow_reconnect=False, max_reconnect_attempts=1)
    try:
        stream = client.jetstream()
        await stream.add_stream(name=STREAM, subjects=["shop.orders.*"])
        return await _publish_all(stream, waiting, rate)
    finally:
        await client.close()


async def _publish_all(stream: JetStreamContext, waiting: list[bytes], rate: float) -> int:
    loop = asyncio.get_running_loop()
    started = loop.time()
    done = 0
    while done < len(waiting):
        due = min(len(waiting), int((loop.time() - started) * rate) + 1)
        # One after the other, since the order of orders matters to a shop.
        for event in waiting[done:due]:
            await stream.publish(SUBJECT, event)
        done = due
        await asyncio.sleep(TICK_S)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description="Publish the shop's orders.")
    parser.add_argument("--server", default="nats://127.0.0.1:4222")
    parser.add_argument("--invoices", type=int, help="only so many, spread over all days")
    parser.add_argument("--rate", type=float, default=150.0, help="events a second")
    parser.add_argument("--malformed", action="store_true", help="put a few among them that nobody can read")
    parser.add_argument("--prepare", action="store_true", help="only make the stream")
    given = parser.parse_args()
    waiting = [] if given.prepare else list(events(given.invoices, given.malformed))
    count = asyncio.run(publish(given.server, waiting, given.rate))
    print(f"published {count} events on {SUBJECT}")


if __name__ == "__main__":
    main()
