"""A replica that somebody else runs: probed and routed to, never launched, never terminated, never billed."""

import asyncio
from dataclasses import replace

from hedgeserve.machines.journal import EventKind
from hedgeserve.machines.life import Hands
from hedgeserve.machines.readiness import Readiness
from hedgeserve.replica import Replica, State


class ExternalLife:
    """Keeps :attr:`replica` true to what the server at its URL answers."""

    def __init__(self, replica: Replica, hands: Hands, *, url: str, api_key: str | None) -> None:
        self.replica = replace(replica, url=url)
        self.api_key = api_key
        self._hands = hands
        self._readiness = Readiness(
            hands.prober,
            hands.spec.probe,
            url=url,
            api_key=api_key,
            exited=_never,
            timed=lambda phase, seconds: None,
        )

    async def run(self) -> None:
        """Probe for ever; returns only when cancelled."""
        await self._to(State.LOADING, "waiting for the server to answer its probe")
        while True:
            # However long it takes: there is nobody whom we could ask for another.
            failure = await self._readiness.try_ready()
            if failure:
                await asyncio.sleep(self._hands.spec.probe.interval)
                continue
            await self._to(State.READY, "it answers its probe")
            await self._to(State.LOADING, await self._readiness.wait_failed())

    async def _to(self, state: State, why: str) -> None:
        before = self.replica.state
        self.replica = self.replica.to(state, now_s=asyncio.get_running_loop().time(), why=why)
        self._hands.changed()
        await self._hands.journal.event(
            EventKind.STATE,
            f"{before} → {state}: {why}",
            replica=self.replica.id,
            zone=self.replica.zone,
            data={"market": str(self.replica.market)},
        )


async def _never() -> str:
    """We cannot see the process of a server that is not ours."""
    return ""
