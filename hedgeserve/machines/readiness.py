"""When a started engine counts as ready, and when no longer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from hedgeserve.errors import BootstrapError
from hedgeserve.machines.probe import Prober
from hedgeserve.spec import ProbeSpec

_FASTEST_S = 0.2
_SUSPICIOUS_TIMEOUT_S = 5.0


class Readiness:
    """Probes one engine; ``exited`` tells (in a sentence, else empty) that there is none left to probe.

    ``doubts`` is called when it comes into doubt, with why, and with an empty text when it is out of it: under
    suspicion, and the first question was not answered. Whether it has failed is not decided by that.
    """

    def __init__(
        self,
        prober: Prober,
        probe: ProbeSpec,
        *,
        url: str,
        api_key: str | None,
        exited: Callable[[], Awaitable[str]],
        timed: Callable[[str, float], None],
        doubts: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._prober = prober
        self._probe = probe
        self._url = url
        self._api_key = api_key
        self._exited = exited
        self._timed = timed
        self._last = "no probe came back"
        self._suspected = asyncio.Event()
        self._doubts = doubts
        self._doubt = ""

    def adopt(self, prober: Prober, probe: ProbeSpec) -> None:
        """Ask in another way from the next question on."""
        self._prober, self._probe = prober, probe

    def suspect(self, unanswered: str = "") -> None:
        """Something else speaks against the engine: have it probed now, and more often until it answers.

        ``unanswered``: somebody else has asked it already, in vain.
        """
        self._suspected.set()
        if unanswered:
            self._come_into_doubt(unanswered)

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
                await self._until_answered(lambda url, key: self._prober.health(url, key), pause_s)
                self._timed("load", clock() - begun_s)
                begun_s = clock()
                await self._until_answered(lambda url, key: self._prober.first_token(url, key), pause_s)
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
        """Return, with the reason, once the engine has ended or failed too many probes in a row.

        Under suspicion the next probe comes at once and has 5 s at most, and so has each one after it until one is
        answered. However quickly they fail, they take that time: what heals within it is not given up.
        """
        clock, failures = asyncio.get_running_loop().time, 0
        patience_s = min(self._probe.timeout, _SUSPICIOUS_TIMEOUT_S)
        self._suspected.clear()
        while True:
            if not failures or not self._suspected.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._probe.interval):
                        await self._suspected.wait()
            begun_s = clock()
            failure = await self._ask_health(patience_s if self._suspected.is_set() else None)
            if not failure:
                failures = 0
                self._suspected.clear()
                self._come_into_doubt("")
                continue
            failures += 1
            if self._suspected.is_set():
                self._come_into_doubt(failure)
            if exited := await self._exited():
                return exited
            if failures >= self._probe.failure_threshold:
                return f"{failures} probes failed in a row; last: {failure}"
            if self._suspected.is_set():
                await asyncio.sleep(begun_s + patience_s - clock())

    def _come_into_doubt(self, why: str) -> None:
        if bool(why) != bool(self._doubt):
            self._doubt = why
            self._doubts(why)

    async def _ask_health(self, limit_s: float | None) -> str:
        try:
            async with asyncio.timeout(limit_s):
                return await self._prober.health(self._url, self._api_key)
        except TimeoutError:
            return f"{self._url} did not answer within {limit_s:g} s"

    async def _until_answered(self, ask: Callable[[str, str | None], Awaitable[str]], pause_s: float) -> None:
        while failure := await ask(self._url, self._api_key):
            self._last = failure
            if exited := await self._exited():
                raise BootstrapError("load", exited)
            await asyncio.sleep(pause_s)
