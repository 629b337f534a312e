"""The policy with all that it knows: asked, told, remembered over restarts, made anew when the spec says so.

What is lent to it for a drill is taken back at the drill's end; all that it is told and answers is in the
transcript, if there is one.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from hedgeserve.drills.lessons import Lessons
from hedgeserve.errors import StateDirectoryError
from hedgeserve.hedge import (
    Launch,
    NewsKind,
    Observation,
    Plan,
    Policy,
    Rule,
    TypeRests,
    ZoneNews,
    make_policy,
)
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import HedgeSpec, Spec
from hedgeserve.store import Store
from hedgeserve.transcript.writer import TranscriptWriter


class Adviser:
    """Holds the policy of one service; :attr:`lessons` are those of a drill that goes on."""

    def __init__(self, hedge: HedgeSpec) -> None:
        self.hedge = hedge
        self.policy: Policy = make_policy(hedge)
        self.lessons = Lessons()
        self._types = TypeRests(retry_delay_s=hedge.retry_delay)
        self._memory_is_new = False
        self._transcript: TranscriptWriter | None = None
        self._store: Store

    @property
    def trouble(self) -> str:
        """Why the transcript cannot be written; empty while it can."""
        return self._transcript.trouble if self._transcript is not None else ""

    async def open_transcript(self, path: Path) -> TranscriptWriter:
        """Write down all that follows there; the writer is the caller's to close.

        Raises:
            TranscriptError: It cannot be written.
        """
        self._transcript = await TranscriptWriter.open(path)
        return self._transcript

    async def recall(self, store: Store) -> None:
        """Take up what an earlier run has kept in this store, where this one will be kept too."""
        self._store = store
        memory = await store.load_memory(self.policy.name)
        saved_at = await store.memory_saved_at(self.policy.name)
        kept_at_s = _now_s()
        if memory is not None and saved_at is not None:
            # Its ages are those of the time when it was kept, which on our clock was so long ago.
            kept_at_s -= max(0.0, (datetime.now(UTC) - saved_at).total_seconds())
            self.policy.restore_memory(memory, kept_at_s)
        if self._transcript is not None:
            self._transcript.started(self.hedge, memory, kept_at_s)

    async def adopt(self, hedge: HedgeSpec) -> None:
        """Decide by this table from now on, with what is known."""
        if hedge == self.hedge:
            return
        before, now_s = self.policy, _now_s()
        self.hedge, self.policy = hedge, make_policy(hedge)
        self._types = TypeRests(retry_delay_s=hedge.retry_delay)
        if before.name != self.policy.name:
            await self.recall(self._store)
            return
        memory = before.export_memory(now_s)
        self.policy.restore_memory(memory, now_s)
        if self._transcript is not None:
            self._transcript.started(hedge, memory, now_s)

    def left(self, offers: Sequence[Offer], now_s: float) -> tuple[Offer, ...]:
        """The offers without the instance types that rest."""
        return self._types.left(tuple(offers), now_s)

    def resting(self, now_s: float) -> Mapping[ZoneId, Sequence[str]]:
        """Why instance types rest, by zone, in sentences."""
        return self._types.resting(now_s)

    def plan(self, observation: Observation) -> Plan:
        """What to do now."""
        plan = self.policy.plan(observation)
        if self._transcript is not None:
            self._transcript.planned(observation, plan)
        return plan

    def learn(self, news: ZoneNews, offers: Sequence[Offer]) -> None:
        """Tell it one thing about a zone."""
        told = self._types.hear(news, tuple(offers))
        if told is not None and self.lessons.admit(told):
            self.policy.observe(told)
            if self._transcript is not None:
                self._transcript.heard(told)
            self._memory_is_new = True

    def forget(self, version: int) -> None:
        """A version is taken back: that its boots failed is no reason to wait, should it ever be wanted again."""
        nowhere = ZoneId("")  # it is no zone's news
        self.learn(ZoneNews(nowhere, Market.EXTERNAL, NewsKind.TAKEN_BACK, _now_s(), version=version), ())

    async def remember(self, now_s: float) -> None:
        """Keep what is new in what it knows."""
        if not self._memory_is_new:
            return
        self._memory_is_new = False
        try:
            memory = self.lessons.kept(self.policy).export_memory(now_s)
            await self._store.save_memory(self.policy.name, memory)
        except StateDirectoryError:  # worth keeping, not worth stopping for
            self._memory_is_new = True

    def unlearn(self) -> None:
        """A drill is over: go on with what would be known without it, as after a restart."""
        now_s = _now_s()
        if (memory := self.lessons.end(now_s)) is None:
            return
        self.policy = make_policy(self.hedge)
        self.policy.restore_memory(memory, now_s)
        self._types = TypeRests(retry_delay_s=self.hedge.retry_delay)
        if self._transcript is not None:
            self._transcript.started(self.hedge, memory, now_s)
        self._memory_is_new = True

    def settled_usd_per_hour(self, spec: Spec, target: int, offers: Sequence[Offer]) -> float | None:
        """What a service with this spec would cost once all that it wants runs, as far as these offers tell.

        None where nobody knows: where nothing could be launched now.
        """
        now_s, policy = _now_s(), make_policy(spec.hedge_for_load())
        if policy.name == self.policy.name:
            policy.restore_memory(self.policy.export_memory(now_s), now_s)
        target = min(max(target, spec.replicas.lowest), spec.replicas.highest)
        plan = policy.plan(Observation(now_s, target, (), self.left(offers, now_s)))
        # What only bridges until spot is there is gone by then.
        settled = [one for one in plan.actions if isinstance(one, Launch) and one.rule is not Rule.FALLBACK]
        if target and not settled:
            return None
        return sum(one.offer.usd_per_hour for one in settled)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
