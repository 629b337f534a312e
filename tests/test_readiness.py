"""When a replica counts as ready and when no longer, in virtual time: asserting on when it happens."""

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest

from hedgeserve.errors import BootstrapError
from hedgeserve.machines.probe import Prober
from hedgeserve.machines.readiness import Readiness
from hedgeserve.spec import ProbeSpec

pytestmark = pytest.mark.looptime

PROBE = ProbeSpec.model_validate(
    {"interval": "10s", "timeout": "2s", "initial_delay": "1m", "failure_threshold": 3}
)


class Answers:
    """A prober whose answers are written down beforehand: empty is a success; the last one is repeated."""

    def __init__(self, health: list[str], first_token: list[str] | None = None) -> None:
        self._health = self._repeating(health)
        self._first_token = self._repeating(first_token or [""])

    @staticmethod
    def _repeating(answers: list[str]) -> Iterator[str]:
        yield from answers
        while True:
            yield answers[-1]

    async def health(self, url: str, api_key: str | None) -> str:
        return next(self._health)

    async def first_token(self, url: str, api_key: str | None) -> str:
        return next(self._first_token)


def readiness(
    answers: Answers,
    *,
    exits_at_s: float = float("inf"),
    timed: list[str] | None = None,
    probe: dict[str, str] | None = None,
) -> Readiness:
    """A readiness whose engine ends at a time."""

    async def exited() -> str:
        return "the engine exited with status 1" if asyncio.get_running_loop().time() >= exits_at_s else ""

    phases = timed if timed is not None else []
    return Readiness(
        cast(Prober, answers),
        PROBE if probe is None else ProbeSpec.model_validate(PROBE.model_dump() | probe),
        url="http://engine",
        api_key=None,
        exited=exited,
        timed=lambda phase, seconds: phases.append(f"{phase} {seconds:g}"),
    )


def now_s() -> float:
    """Virtual seconds since the test began."""
    return asyncio.get_running_loop().time()


async def test_it_is_ready_once_the_path_and_then_a_token_were_answered() -> None:
    """Loading is probed ten times as often as a ready replica; both phases are timed."""
    timed: list[str] = []
    await readiness(Answers(["503", "503", "503", ""], ["500", ""]), timed=timed).wait_ready()
    assert now_s() == 4
    assert timed == ["load 3", "first_token 1"]


async def test_after_the_initial_delay_it_has_failed_and_the_last_answer_is_told() -> None:
    """One minute, not a second more."""
    with pytest.raises(BootstrapError, match=r"load: not ready 60 s after .*; last: answered 500"):
        await readiness(Answers(["answered 500"])).wait_ready()
    assert now_s() == 60


async def test_an_engine_that_exits_while_it_loads_is_not_waited_for() -> None:
    """The exit is found at the next failed probe."""
    with pytest.raises(BootstrapError, match="exited with status 1"):
        await readiness(Answers(["refused"]), exits_at_s=5).wait_ready()
    assert now_s() == 5


async def test_a_ready_replica_may_fail_some_probes_but_not_many_in_a_row() -> None:
    """Two failures, a success, then three in a row: the sixth probe ends it."""
    reason = await readiness(Answers(["x", "x", "", "x", "x", "timed out"])).wait_failed()
    assert now_s() == 60
    assert reason == "3 probes failed in a row; last: timed out"


async def test_an_engine_that_exits_when_ready_is_given_up_at_the_next_probe() -> None:
    """There is nothing left that could recover."""
    reason = await readiness(Answers(["refused"]), exits_at_s=15).wait_failed()
    assert now_s() == 20
    assert reason == "the engine exited with status 1"


async def test_a_suspicion_is_probed_at_once_and_cleared_by_the_answer() -> None:
    """What answers serves on, at the usual pace."""
    ready = readiness(Answers(["", "x"]))
    failing = asyncio.create_task(ready.wait_failed())
    await asyncio.sleep(4)
    ready.suspect()
    await failing
    assert now_s() == 4 + 3 * 10


async def test_a_suspicion_that_is_confirmed_ends_it_without_waiting_for_the_interval() -> None:
    """Three probes one after the other in place of three intervals, and no pause after the last."""
    ready = readiness(Answers(["refused"]))
    failing = asyncio.create_task(ready.wait_failed())
    await asyncio.sleep(4)
    ready.suspect()
    ready.suspect()
    assert await failing == "3 probes failed in a row; last: refused"
    assert now_s() == 4 + 2 * 2, "each was given its 2 s although it was refused at once"


async def test_what_heals_while_it_is_suspected_is_not_given_up() -> None:
    """Two failures, then an answer: the network was away for 3 s."""
    answers = Answers(["refused"])
    ready = readiness(answers)
    failing = asyncio.create_task(ready.wait_failed())
    await asyncio.sleep(4)
    ready.suspect()
    await asyncio.sleep(3)
    answers.health = Answers([""]).health  # type: ignore[method-assign]
    await asyncio.sleep(60)
    assert not failing.done()
    failing.cancel()


async def test_a_suspect_that_says_nothing_has_five_seconds_a_probe() -> None:
    """However patient the ordinary probe is."""

    class Silent(Answers):
        async def health(self, url: str, api_key: str | None) -> str:
            await asyncio.sleep(15)
            return "no answer"

    ready = readiness(Silent([""]), probe={"timeout": "15s"})
    failing = asyncio.create_task(ready.wait_failed())
    ready.suspect()
    await asyncio.sleep(0)
    ready.suspect()
    assert "last: http://engine did not answer within 5 s" in await failing
    assert now_s() == 15


async def test_an_old_suspicion_says_nothing_of_an_engine_that_has_become_ready_since() -> None:
    """The connection may have been lost many times while it was loading."""
    ready = readiness(Answers(["x"]))
    ready.suspect()
    await ready.wait_failed()
    assert now_s() == 30


async def test_one_that_does_not_answer_under_suspicion_is_in_doubt_until_it_does() -> None:
    """Told once each; that probes fail without a suspicion is not told, and nothing fails sooner for it."""
    told: list[str] = []
    clock = asyncio.get_running_loop().time

    async def exited() -> str:
        return ""

    answers = Answers(["silent", "silent", "", "silent", "", "silent"])
    one = Readiness(
        cast(Prober, answers), PROBE, url="http://engine", api_key=None, exited=exited,
        timed=lambda phase, seconds: None, doubts=lambda why: told.append(f"{why or 'healed'} at {clock():g}"),
    )  # fmt: skip
    begun_s = clock()
    failing = asyncio.create_task(one.wait_failed())
    await asyncio.sleep(1)
    one.suspect()
    await asyncio.sleep(30)
    assert told == [f"silent at {begun_s + 1:g}", f"healed at {begun_s + 5:g}"]
    one.suspect("asked by somebody else")
    await asyncio.sleep(0)
    assert told[2:] == [f"asked by somebody else at {begun_s + 31:g}"]
    failing.cancel()
    await asyncio.gather(failing, return_exceptions=True)
