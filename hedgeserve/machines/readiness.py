"""When a started engine counts as ready, and when no longer."""

import asyncio
from collections.abc import Awaitable, Callable

from hedgeserve.errors import BootstrapError
from hedgeserve.machines.probe import Prober
from hedgeserve.spec import ProbeSpec

_FASTEST_S = 0.2


class Readiness:
    """Probes one engine; ``exited`` tells (in a sentence, else empty) that there is none left to probe."""

    def __init__(
        self,
        prober: Prober,
        probe: ProbeSpec,
        *,
        url: str,
        api_key: str | None,
        exited: Callable[[], Awaitable[str]],
        timed: Callable[[str, float], None],
    ) -> None:
        self._prober = prober
        self._probe = probe
        self._url = url
        self._api_key = api_key
        self._exited = exited
        self._timed = timed
        self._last = "no probe came back"

    async def wait_ready(self) -> None:
        """Return once the health path and then a one-token completion have been answered.

        Raises:
            BootstrapError: The engine ended, or ``probe.initial_delay`` passed first.
        """
        clock = asyncio.get_running_loop().time
        pause_s = max(_FASTEST_S, self._probe.interval / 10)
        begun_s = clock()
        try:
            async with asyncio.timeout(self._probe.initial_delay):
                await self._until_answered(self._prober.health, pause_s)
                self._timed("load", clock() - begun_s)
                begun_s = clock()
                await self._until_answered(self._prober.first_token, pause_s)
                self._timed("first_token", clock() - begun_s)
        except TimeoutError:
            raise BootstrapError(
                "load",
                f"not ready {self._probe.initial_delay:g} s after the start of the engine; last: {self._last}",
            ) from None

    async def try_ready(self) -> str:
        """Ask once; empty when it is ready, else what came instead."""
        return await self._prober.health(self._url, self._api_key) or await self._prober.first_token(
            self._url, self._api_key
        )

    async def wait_failed(self) -> str:
        """Return, with the reason, once the engine has ended or failed too many probes in a row."""
        failures = 0
        while True:
            await asyncio.sleep(self._probe.interval)
            failure = await self._prober.health(self._url, self._api_key)
            if not failure:
                failures = 0
                continue
            failures += 1
            if exited := await self._exited():
                return exited
            if failures >= self._probe.failure_threshold:
                return f"{failures} probes failed in a row; last: {failure}"

    async def _until_answered(self, ask: Callable[[str, str | None], Awaitable[str]], pause_s: float) -> None:
        while failure := await ask(self._url, self._api_key):
            self._last = failure
            if exited := await self._exited():
                raise BootstrapError("load", exited)
            await asyncio.sleep(pause_s)
