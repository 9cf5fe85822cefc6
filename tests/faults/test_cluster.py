"""Three servers, three orchestrators and four workers under load, while everything around the engine fails.

The short form runs in every suite: each scenario once and briefly, nearly all in one trial. `make faults LONG=1` runs
each of them three times on its own, pauses for 30 s, and goes through all processes and combinations.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from tests.faults import scenarios  # pyright: ignore[reportMissingImports]
from tests.faults.availability import figure, table  # pyright: ignore[reportMissingImports]
from tests.faults.cluster import Shape  # pyright: ignore[reportMissingImports]
from tests.faults.load import Demand  # pyright: ignore[reportMissingImports]
from tests.faults.scenarios import CannotBeDone, Scenario, Stage  # pyright: ignore[reportMissingImports]
from tests.faults.trial import Site  # pyright: ignore[reportMissingImports]

IS_LONG: Final = bool(os.environ.get("FAULTS_LONG"))
FORM: Final = scenarios.LONG if IS_LONG else scenarios.SHORT
DEMAND: Final = Demand(open_wanted=60, per_s=40.0, poll_s=0.2)
OPEN_MIN: Final = 10
DISK_MB: Final = 1024 if IS_LONG else 192
"""A server allows itself three quarters of what is free when it starts, so this is some times what the trials leave."""


TRIALS: Final[dict[str, Sequence[Scenario]]] = (
    {f"{each.__name__}-{round_}": [each] for round_ in range(3) for each in scenarios.ALL}
    if IS_LONG
    else {
        # In one trial, so that it is waited only once until what a lost worker held is given to others, 30 s later;
        # and whatever hits workers comes early, so that the rest is done meanwhile.
        "everything-but-the-disk": [
            scenarios.mixed,
            scenarios.all_killed_at_once,
            scenarios.killed_together,
            scenarios.killed_one_by_one,
            scenarios.paused_together,
            scenarios.paused_one_by_one,
            scenarios.restarted_one_by_one,
            scenarios.links_spoilt,
            scenarios.routes_spoilt,
        ],
        "disk": [scenarios.disk_full],
    }
)

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.faults,
    pytest.mark.timeout(1500 if IS_LONG else 400),
    # nats-py leaves the socket of an attempt to connect that fails half-way to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


class Sites:
    """One cluster for the trials of this module, one after another; a new one after a trial that failed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._site: Site | None = None
        self._stack = contextlib.AsyncExitStack()

    async def site(self) -> Site:
        if self._site is None or self._site.broken:
            await self.close()
            self._number += 1
            folder = self._folder / str(self._number)
            site = Site.open(folder, DEMAND, OPEN_MIN, Shape(small_disk_mb=DISK_MB))
            self._site = await self._stack.enter_async_context(site)
        return self._site

    async def close(self) -> None:
        self._site = None
        await self._stack.aclose()
        gc.collect()  # while the warnings about sockets are ignored


@pytest.fixture(scope="module")
async def sites(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sites]:
    sites = Sites(Path(tmp_path_factory.mktemp("cluster")))
    yield sites
    await sites.close()


@pytest.mark.parametrize("name", TRIALS)
async def test_nothing_is_lost_or_doubled(sites: Sites, name: str) -> None:
    site = await sites.site()
    async with site.trial(name) as trial:
        stage = Stage(trial, FORM, list(TRIALS).index(name) // len(scenarios.ALL), [])
        cannot = [why for scenario in TRIALS[name] if (why := await done(scenario, stage))]
    # In the short form other faults follow within the ack wait of a lost worker, so its figure would be theirs.
    losses = [loss for loss in stage.losses if IS_LONG or loss.lost != "worker"]
    if losses:
        print(table(figure(loss, trial) for loss in losses))
    gc.collect()
    if cannot:
        pytest.skip("; ".join(cannot))


async def done(scenario: Scenario, stage: Stage) -> str:
    """Why the scenario could not be done, or nothing. The others of its trial are done, and checked, all the same."""
    try:
        await scenario(stage)
    except CannotBeDone as error:
        return f"{scenario.__name__}: {error}"
    return ""
