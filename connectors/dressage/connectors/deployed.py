"""Runs the triggers that are deployed, and follows what becomes of them: added, changed, paused, removed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from dressage.connectors.definitions import LEASE_S, SETTLE_S, Definitions, Entry, Found
from dressage.connectors.rules import Lease, Rules
from dressage.connectors.setting import Setting, cancelled
from dressage.connectors.source import Source
from dressage.connectors.tables import ConfigInvalid
from dressage.connectors.trigger import Running, trigger_of
from dressage.connectors.waiting import RETRY_S
from dressage.protocol.errors import DressageError

_log = logging.getLogger("dressage.connectors")

LOOK_S: Final = 0.4
"""Between two looks for changes."""


class Deployed:
    """All triggers of a namespace, in this process."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._definitions = Definitions(setting.connection, setting.client.names)
        self._lease = Lease()
        self._served: dict[str, _Served] = {}
        self._seq = 0
        self._told = ""
        self._ending = False

    async def serve(self, stop: asyncio.Event) -> None:
        """Returns after `stop`, when every trigger has ended in good order."""
        # Both go on while triggers end: what is in flight may wait for either.
        beside = [asyncio.create_task(work) for work in (self._keep_looking(), self._keep_settling())]
        try:
            await stop.wait()
            self._ending = True
            await asyncio.gather(*(each.end() for each in self._served.values()))
        finally:
            await cancelled(beside)

    async def _keep_looking(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:
                # Nothing is done by what was read before, but what is read next may do.
                _log.exception("triggers that are deployed cannot be followed")
            await asyncio.sleep(LOOK_S)

    async def _look(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        try:
            found, self._seq = await self._definitions.since(self._seq)
        except DressageError as error:
            if error.code != self._told:
                _log.warning("triggers that are deployed cannot be read: %s", error)
            self._told = error.code
            return
        self._told = ""
        for each in found:
            self._follow(each)
        # Only now, when all that was read holds.
        self._lease.until = asked_at + LEASE_S

    def _follow(self, found: Found) -> None:
        served = self._served.get(found.entry.name)
        if served is None and self._ending:
            return
        if served is None:
            served = self._served[found.entry.name] = _Served(self._setting, self._lease)
        served.follow(found)

    async def _keep_settling(self) -> None:
        """Brings changes into force that were asked for long enough ago. Any process may, and one does."""
        while True:
            await asyncio.sleep(LOOK_S)
            for served in list(self._served.values()):
                try:
                    await served.settle(self._definitions)
                except DressageError as error:
                    _log.info("a change of a trigger waits: %s", error)
                    await asyncio.sleep(RETRY_S)
                except Exception:
                    _log.exception("a change of a trigger fails")


class _Served:
    """One trigger that is deployed, or was, in this process."""

    def __init__(self, setting: Setting, lease: Lease) -> None:
        self._setting = setting
        self._lease = lease
        self._found: Found | None = None
        self._seen_at = 0.0
        self._rules: Rules | None = None
        self._incarnation = 0
        self._readable = False
        self._changed = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep())
        self._ending = False

    def follow(self, found: Found) -> None:
        """The rules are others from here on; the rest is done beside."""
        entry = found.entry
        self._found, self._seen_at = found, asyncio.get_running_loop().time()
        if self._rules is None or entry.incarnation != self._incarnation:
            self._rules = Rules(self._setting.rule(entry.name), self._lease)
            self._incarnation = entry.incarnation
        self._readable = False
        try:
            self._rules.set(entry)
            self._readable = True
        except ConfigInvalid as error:
            _log.error(
                "trigger %r does not run here, it was stored by another release: %s", entry.name, error
            )
        self._changed.set()

    async def settle(self, definitions: Definitions) -> None:
        found = self._found
        if found is None or found.entry.asked is None or found.entry.removed or not self._readable:
            return
        if asyncio.get_running_loop().time() < self._seen_at + SETTLE_S:
            return
        if found is self._found:
            await settle(definitions, found, self._source(found))

    async def end(self) -> None:
        self._ending = True
        self._changed.set()
        await self._keeping

    # -- running it --------------------------------------------------------------------------------
    async def _keep(self) -> None:
        """Starts and ends the trigger as its entry says."""
        running: _Running | None = None
        cleared = 0
        while True:
            await self._changed.wait()
            self._changed.clear()
            found = self._found
            assert found is not None, "nothing is served that was not found"
            entry = found.entry
            wanted = not (self._ending or entry.paused or entry.removed) and self._readable
            if running is not None and (not wanted or running.incarnation != entry.incarnation):
                await running.end()
                running = None
            if self._ending:
                return
            cleared = await self._clear(found, cleared)
            if wanted and running is None:
                running = _Running(self._trigger(found), entry.incarnation)

    def _trigger(self, found: Found) -> Running:
        assert self._rules is not None, "set with what was found"
        entry = found.entry
        return trigger_of(entry.versions[-1].config, self._rules, self._setting, entry.incarnation)

    def _source(self, found: Found, incarnation: int = 0) -> Source:
        config = found.entry.versions[-1].config
        return self._setting.source(config, incarnation or found.entry.incarnation)

    async def _clear(self, found: Found, cleared: int) -> int:
        """Removes the consumer of a trigger that was removed, after it has ended here: it may have made it again."""
        last = found.entry.incarnation - (0 if found.entry.removed else 1)
        if self._readable and last > cleared:
            try:
                await self._source(found, last).discard()
            except DressageError as error:
                _log.warning("the consumer of trigger %r stays for now: %s", found.entry.name, error)
                return cleared
        return max(last, cleared)


class _Running:
    """A trigger that runs."""

    def __init__(self, trigger: Running, incarnation: int) -> None:
        self.incarnation: Final = incarnation
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(trigger.run(self._stop))

    async def end(self) -> None:
        self._stop.set()
        await self._task


async def settle(definitions: Definitions, found: Found, source: Source) -> Found | None:
    """Brings into force what an entry asks for, `SETTLE_S` after that was stored; None if somebody else was faster."""
    created, last_seq, done_seq = await source.edge()
    return await definitions.settle(found, created, last_seq, done_seq)


async def in_force(definitions: Definitions, name: str, source_of: Callable[[Entry], Source]) -> Entry:
    """The trigger once nothing is asked for any more, for who has just deployed it: it does not depend on processes
    that run it. Raises `NotFound` if it is removed meanwhile."""
    found = await definitions.get(name)
    while found.entry.asked is not None:
        await asyncio.sleep(SETTLE_S)
        now = await definitions.get(name)
        if now.seq == found.seq:
            await settle(definitions, found, source_of(found.entry))
            now = await definitions.get(name)
        found = now
    return found.entry
