"""A replica that somebody else runs: probed and routed to, never launched, never terminated, never billed."""

import asyncio
from dataclasses import replace

import structlog

from hedgeserve.machines.hands import Hands
from hedgeserve.machines.journal import EventKind
from hedgeserve.machines.readiness import Readiness
from hedgeserve.replica import Replica, State

_log = structlog.get_logger("hedgeserve.fleet")


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

    def adopt(self, hands: Hands) -> None:
        """Probe with these from now on."""
        self._hands = hands
        self._readiness.adopt(hands.prober, hands.spec.probe)

    async def run(self) -> None:
        """Probe for ever, whatever happens; returns only when cancelled."""
        why, pause_s = "waiting for the server to answer its probe", 0.0
        while True:
            try:
                if self.replica.state is not State.LOADING:
                    await self._to(State.LOADING, why)
                await asyncio.sleep(pause_s)
                await self._follow()
            except Exception as error:  # a bug of ours must cost one server for a while, not the fleet
                _log.exception("the task of a replica failed; it goes on", replica=self.replica.id)
                why, pause_s = f"an unexpected error: {error!r}", self._hands.spec.probe.interval

    async def _follow(self) -> None:
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
