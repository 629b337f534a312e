"""Who asks: an open loop of Poisson arrivals, each answer read as it comes and judged when it ends."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random

import aiohttp

from tests.soaking.answers import Twins, Verdict
from tests.soaking.kinds import Question, draw

_SHOWN = 20


@dataclass(slots=True)
class Tally:
    """What became of the requests, as their clients saw it."""

    asked: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    first_bytes_s: list[float] = field(default_factory=list)
    pauses_s: list[float] = field(default_factory=list)
    """The longest pause inside each stream, between two pieces of it."""
    resumed: int = 0
    """Answers of which a header or trailer says that another replica took them up."""

    def note(self, question: Question, verdict: Verdict, where: str = "") -> None:
        """Count how a request ended."""
        self.outcomes[verdict.outcome] += 1
        self.kinds[question.kind] += 1
        if verdict.why and len(self.wrong) < _SHOWN:
            self.wrong.append(f"{verdict.outcome}: {question.kind} {question.variant} {where}: {verdict.why}")


async def offer_load(
    url: str, twins: Twins, tally: Tally, *, per_second: float, seed: int, until_s: float, streams: int | None
) -> None:
    """Ask, however long answers take, until the time is over or so many are asked; then await the last."""
    dice = Random(f"soak/{seed}")
    timeout = aiohttp.ClientTimeout(total=300)
    async with (
        aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as group,
    ):
        next_s = time.monotonic()
        while next_s < until_s and (streams is None or tally.asked < streams):
            await asyncio.sleep(max(0.0, next_s - time.monotonic()))
            tally.asked += 1
            group.create_task(_ask(session, url, draw(dice), twins, tally))
            next_s += dice.expovariate(per_second)


async def _ask(session: aiohttp.ClientSession, url: str, question: Question, twins: Twins, tally: Tally) -> None:
    begun_s = time.monotonic()
    last_s = longest_s = 0.0
    pieces: list[bytes] = []
    where = ""
    try:
        async with session.post(url + question.path, json=question.body) as response:
            where = f"(request {response.headers.get('x-request-id')})"
            if response.status != 200:
                tally.note(
                    question, Verdict("refused", f"{response.status}: {(await response.text())[:300]}"), where
                )
                return
            tally.resumed += "x-hedgeserve-resumed" in response.headers
            async for piece in response.content.iter_any():
                now_s = time.monotonic()
                if pieces:
                    longest_s = max(longest_s, now_s - last_s)
                else:
                    tally.first_bytes_s.append(now_s - begun_s)
                last_s = now_s
                pieces.append(piece)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        said = f"{error!r} after {sum(map(len, pieces))} bytes and {time.monotonic() - begun_s:.1f} s"
        tally.note(question, Verdict("lost", said), where)
        return
    tally.latencies_s.append(time.monotonic() - begun_s)
    if question.streamed:
        tally.pauses_s.append(longest_s)
    tally.note(question, twins.judge(question, b"".join(pieces)), where)
