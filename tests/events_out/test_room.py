"""Who is next when there is no room."""

from __future__ import annotations

import asyncio

from dressage.connectors.events_out.room import Room


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_oldest_event_is_next_and_who_gives_up_takes_no_room() -> None:
    room, done = Room(2), list[int]()
    gates = {seq: asyncio.Event() for seq in range(10)}

    async def work(seq: int) -> None:
        async with room.taken(seq):
            done.append(seq)
            await gates[seq].wait()

    tasks = {seq: asyncio.create_task(work(seq)) for seq in (8, 9, 5, 3, 7, 4)}
    await settled()
    assert done == [8, 9]
    tasks[3].cancel()
    gates[9].set()
    await settled()
    assert done == [8, 9, 4]
    # One that is given its turn and cancelled before it takes it passes it on.
    gates[8].set()
    await asyncio.sleep(0)
    tasks[5].cancel()
    await settled()
    for gate in gates.values():
        gate.set()
    await settled()
    assert done == [8, 9, 4, 7]
    more = [asyncio.create_task(work(seq)) for seq in (1, 2)]
    await asyncio.gather(*more)
    assert room._free == 2
    await asyncio.gather(*tasks.values(), return_exceptions=True)
