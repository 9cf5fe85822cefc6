"""A service with a stream of its own, and a trigger that posts each of its events to a correlation key."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Final

from msgspec.json import encode

from dressage.brokers.interface import Message, StreamConfig
from dressage.client import Client
from dressage.connectors import TriggerOptions, TriggerRunner, parse_triggers
from dressage.connectors.source import consumer_name, event_id
from dressage.protocol.errors import NoAnswer, ServerUnreachable
from dressage.protocol.names import key_of
from dressage.simulation.behaviour import ARRIVALS, arriving
from dressage.simulation.script import Action, Script
from dressage.simulation.workloads import workload
from dressage.simulation.world import NAMESPACE, World

ARRIVED: Final = "arrived"
LOOK_S: Final = 0.3
CONFIG: Final = """
[[trigger]]
name = "arrivals"
source = { stream = "ARRIVALS" }
event = "arrived"
key = "str(event)"
"""
OPTIONS: Final = TriggerOptions(NAMESPACE, in_flight=10, ack_wait_s=4.0, answer_s=4.0, drain_s=2.0)
KEYS: Final = 3


@workload
def triggers(script: Script, chance: random.Random, clients: list[str], seconds: float) -> None:
    """Events that a trigger posts, in one process or several that die now and then.

    The choice has a stream of its own: seeds without a trigger are what they would be without this workload.
    """
    chance = random.Random(f"triggers {script.seed}")
    if chance.random() > 0.25:
        return
    script.programs["arriving"] = arriving()
    publishing = [
        _publish(number % KEYS, chance.choice(clients), chance.random() * seconds)
        for number in range(chance.randint(4, 15))
    ]
    script.actions.extend(publishing)
    for client in chance.sample(clients, chance.randint(1, len(clients))):
        script.actions.append(_trigger(publishing, client, chance.random() * seconds / 3))


def _publish(number: int, client: str, at_s: float) -> Action:
    """What has no known outcome is published again: then it is there twice, and so it is two events."""

    async def act(world: World, client: Client) -> None:
        await client.connection.ensure_stream(StreamConfig(ARRIVALS, [f"{ARRIVALS}.*"]))
        await client.connection.publish(Message(f"{ARRIVALS}.{number}", encode(number)))

    return Action(client, at_s, f"publish arrival {number}", act)


def _trigger(publishing: list[Action], client: str, at_s: float) -> Action:
    """Runs the trigger until all has been published, and dealt with."""

    async def act(world: World, client: Client) -> None:
        runner = TriggerRunner(client._broker, parse_triggers(CONFIG), OPTIONS)  # pyright: ignore[reportPrivateUsage]
        running = asyncio.create_task(runner.run())
        while not running.done() and not (all(each.done for each in publishing) and _is_drained(world)):
            await asyncio.sleep(LOOK_S)
        runner.stop()
        try:
            await running
        except ServerUnreachable as error:
            raise NoAnswer(error.message) from error

    return Action(client, at_s, "run the trigger of arrivals", act)


def _is_drained(world: World) -> bool:
    stream = world.server.streams.get(ARRIVALS)
    consumer = stream.consumers.get(consumer_name(NAMESPACE, "arrivals")) if stream else None
    return stream is not None and consumer is not None and consumer.ack_floor >= stream.log.last_seq


def judge_triggers(world: World) -> None:
    """Each stored event has been posted once, under its id and at its key."""
    stream = world.server.streams.get(ARRIVALS)
    if stream is None:
        return
    wanted = Counter(
        (record.data.decode(), event_id(ARRIVALS, seq, record.time_ns))
        for seq, record in stream.log.messages.items()
    )
    shards = [world.watch.refold.shard(number) for number in range(world.watch.count)]
    filed = {each for shard in shards for each in shard.filed}
    posted = Counter((key, which) for (event, key), which in _keyed(filed) if event == ARRIVED)
    if posted != wanted:
        lost, more = wanted - posted, posted - wanted
        world.watch.broken("triggered-once", f"not posted: {sorted(lost)}; posted beside: {sorted(more)}")


def _keyed(filed: set[tuple[str, str]]) -> list[tuple[tuple[str, str], str]]:
    return [(key_of(token), which) for token, which in filed]
