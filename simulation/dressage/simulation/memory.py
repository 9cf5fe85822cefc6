"""What the owners of the shards hold in memory at the end: the third of what must be one state."""

# What an engine holds in memory is its own affair; only the judge of it reaches in.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from dressage.orchestrator.fold.state import Gone, State, encode_state
from dressage.orchestrator.turn.runs import Run
from dressage.protocol.names import Names
from dressage.simulation.releases import plain
from dressage.simulation.world import NAMESPACE, World


def judge_memory(world: World) -> None:
    """Compares every run in the memory of an owner with the refolded commands, and those with the bucket's keys."""
    for number in range(world.watch.count):
        for run in _runs_in_memory(world, number):
            _judge_run(world, number, run)


def _runs_in_memory(world: World, number: int) -> Iterator[Run]:
    for engine in world.engines.values():
        if number in engine.shards:
            tenure = engine._held[number].owner._tenure
            assert tenure is not None
            assert tenure._stages is not None
            yield from tenure._stages.folder._runs._runs.values()


def _judge_run(world: World, number: int, run: Run) -> None:
    watch, home = world.watch, number if run.ended_at is None else run.ended_at
    wanted = watch.refold.shard(home).states.get(run.token)
    if run.ended_at is not None and run.state is not None and not run.state.finished:
        return  # Of what lives elsewhere an owner knows the place, and hands everything on there.
    where = f"{run.token} in the memory of shard {number}"
    if _encoded(run.state) != _encoded(wanted, elsewhere=run.ended_at is not None):
        watch.broken("memory-as-folded", f"{where} is {_encoded(run.state)!r}, not {_encoded(wanted)!r}")
    if run.committed is not run.state or not run.clean:
        watch.broken("memory-as-folded", f"{where} is at rest and not committed, or not stored")
    names = Names(NAMESPACE)
    stored = world.server.last_message(names.runs_stream(), names.run_key(home, run.token))
    if (plain(stored.data) if stored is not None else b"") != _encoded(wanted):
        watch.broken("state-in-bucket", f"{where} is not what the bucket holds")


def _encoded(state: State | None, *, elsewhere: bool = False) -> bytes:
    """A run that ended at an older place is held without a sequence, which would be one of another stream."""
    if state is None or (isinstance(state, Gone) and state.forgotten):
        return b""
    return encode_state(msgspec.structs.replace(state, seq=0) if elsewhere else state)
