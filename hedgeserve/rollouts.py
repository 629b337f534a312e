"""Which version of the model a service wants, and the roll-out that brings it in.

The acting half of :mod:`hedgeserve.policy.rollout`, which decides. Crash-only: a roll-out and each step of it is
in the store before anything is done for it, and every replica's row says which version it runs. A controller that
is killed half-way finds the roll-out there and goes on with it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hedgeserve.errors import StateDirectoryError
from hedgeserve.fleet import Edition, EventKind, Journal
from hedgeserve.hedge import (
    LEAVING,
    Count,
    Health,
    Leaving,
    Observation,
    Plan,
    Rolling,
    Rollout,
    Step,
    Strategy,
    Verdict,
    amend,
    look,
    unneeded,
    waits_for,
)
from hedgeserve.lastread import LastRead
from hedgeserve.metrics import Metrics
from hedgeserve.redaction import redact
from hedgeserve.register import Register
from hedgeserve.replica import GoneReason, Replica, Role, State
from hedgeserve.spec import ModelSpec, Spec
from hedgeserve.store import Store
from hedgeserve.tables.replicas import StoredReplica
from hedgeserve.tables.versions import StoredRollout
from hedgeserve.trail import BACK, LEFT, Trail
from hedgeserve.versions import Version, content_of, digest_of

_FIRST = "first"
_GOES_ON, _SWITCHED, _DONE, _BACK, _LEFT = "rolling", "switched", "done", BACK, LEFT
_MOST_LOOKS = 3
_LONGEST_REASON = 240
_LONGEST_BEGIN = 60
_MOST_REMEMBERED = 100
"""Roll-outs by which it is known what was before, and what was taken back."""
_UNDER_WAY = frozenset({_GOES_ON, _SWITCHED})


@dataclass(frozen=True, slots=True)
class Around:
    """What roll-outs ask of the service around them.

    ``counts`` is what the replicas of each version have done with requests, ``assign`` says what they are for, and
    ``adopt`` has the service go by :attr:`Rollouts.spec`, its editions and its wanted version from now on.
    ``usd_per_hour`` is what all costs now, or would by a spec once it has settled (None: nobody knows). ``forget``
    has the policy forget that boots of a version failed. ``plan`` is the last one.
    """

    counts: Callable[[], Mapping[int, Count]]
    replicas: Callable[[], Sequence[Replica]]
    assign: Callable[[Mapping[int, Role]], None]
    adopt: Callable[[], Awaitable[None]]
    usd_per_hour: Callable[[Spec | None], float | None]
    forget: Callable[[int], None]
    plan: Callable[[], Plan]


class Rollouts:
    """The versions of one service, and the roll-out under way. :meth:`open` comes first, then :meth:`begin`."""

    def __init__(
        self, spec: Spec, store: Store, journal: Journal, metrics: Metrics, environ: Mapping[str, str]
    ) -> None:
        self.file = spec
        self.spec = spec
        self.wanted = 0
        self._service = spec.service.name
        self._store = store
        self._journal = journal
        self._metrics = metrics
        self.register = Register(spec.service.name, store, environ)
        self.last_read = LastRead(spec.service.name, store)
        self._history: list[StoredRollout] = []
        self._rollout: Rollout | None = None
        self._record: StoredRollout | None = None
        self._step: Step | None = None
        self._seen: Observation | None = None
        self._running: set[int] = set()
        self._failures = 0
        self._last_failure = ""
        self._counted_before: Mapping[int, Count] = {}
        self._around: Around | None = None
        self.lock = asyncio.Lock()
        """Held by whoever is changing what is wanted."""

    # What there is

    @property
    def around(self) -> Around:
        """The service; only after :meth:`begin`."""
        if self._around is None:
            raise RuntimeError("the service around the roll-outs has not begun yet")
        return self._around

    @property
    def versions(self) -> Mapping[int, Version]:
        """All that there ever were, by number."""
        return self.register.versions

    @property
    def under_way(self) -> Rollout | None:
        """The roll-out that goes on."""
        return self._rollout

    @property
    def taken_back(self) -> Mapping[int, str]:
        """The versions that were taken back and not asked for since, with the reason why."""
        return Trail.of(self._history).taken_back

    @property
    def step(self) -> Step | None:
        """What was made of the last moment of the roll-out under way, with what the policy was asked."""
        return self._step

    @property
    def rolling(self) -> Rolling | None:
        """The roll-out under way, for whoever wants to know what it would do; None while there is none."""
        return None if self._rollout is None else Rolling(self._rollout, self.spec.update, self._health())

    @property
    def leaving(self) -> Leaving:
        """Whom the roll-out under way is going to end; nobody while there is none."""
        rolling = self.rolling
        if rolling is None or self._seen is None:
            return Leaving()
        return rolling.leaving(replace(self._seen, replicas=tuple(self.around.replicas())))

    @property
    def waits_for(self) -> tuple[str, ...]:
        """How far the roll-out under way is and what it waits for now, in sentences; empty while there is none."""
        if self._rollout is None or self._seen is None:
            return ()
        now_s = asyncio.get_running_loop().time()
        seen = replace(self._seen, now_s=now_s, replicas=tuple(self.around.replicas()))
        return waits_for(self._rollout, seen, at=_now(), update=self.spec.update)

    @property
    def editions(self) -> dict[int, Edition]:
        """The versions that run or may be launched."""
        numbers = {self.wanted, *self._running} | ({self._rollout.old} if self._rollout else set())
        return {
            number: Edition(version.spec(self.file), self.register.engine(number, instead=self.wanted))
            for number, version in self.register.versions.items()
            if number in numbers
        }

    @property
    def models(self) -> dict[int, ModelSpec]:
        """The models whose names are answered, the wanted one last: both while one takes the other's place."""
        rollout = self._rollout
        both = rollout is not None and rollout.switched_s is None and rollout.old in self.register.versions
        numbers = [rollout.old] if rollout is not None and both else []
        return {number: self.register.versions[number].model for number in (*numbers, self.wanted)}

    def document(self, *, stopping: bool = False) -> dict[str, Any] | None:
        """The roll-out under way, for the status; None while there is none. In a ``stopping`` service it rests."""
        record, step, rollout = self._record, self._step, self._rollout
        if record is None or rollout is None:
            return None
        waits: tuple[str, ...] = self.waits_for
        if stopping:
            waits = (*waits[:1], "The service is stopping: the next start goes on with this")
        there = self.around.replicas()
        old = [one for one in there if one.version not in (0, rollout.new) and one.state not in LEAVING]
        back = rollout.strategy is Strategy.ROLLBACK
        return {
            "from": rollout.old,
            "to": rollout.new,
            "strategy": str(rollout.strategy),
            "state": record.state,
            "began_at": record.began_at.isoformat(timespec="seconds"),
            "who": record.who,
            "why": record.why,
            "ready": sum(one.version == rollout.new and one.state is State.READY for one in there),
            "left": len(old) if step else None,
            "goes_anyway": 0 if back else unneeded(old, self.around.plan()),
            "failures": self._failures,
            "waits_for": list(waits),
            "can_roll_back": self.way_back() == rollout.old,
        }

    async def listing(self) -> dict[str, Any]:
        """All versions and the last roll-outs, JSON-able."""
        await self.register.read()
        counts = dict.fromkeys(self.register.versions, 0)
        for one in self.around.replicas():
            counts[one.version] = counts.get(one.version, 0) + 1
        return {
            "wanted": self.wanted,
            "way_back": self.way_back(),
            "versions": [
                one.document()
                | {
                    "taken_back": self.taken_back.get(one.number),
                    "replicas": counts.get(one.number, 0),
                }
                for one in self.register.versions.values()
            ],
            "rollouts": [one.document() for one in await self._store.rollouts(self._service)],
        }

    # Start

    async def open(self, alive: Sequence[StoredReplica]) -> None:
        """Find which version is wanted: the recorded one, and where the file has changed, a roll-out to that.

        A file that asks for what it did at the last start has not: what was applied since stays.

        Raises:
            StateDirectoryError: The store cannot be read or written.
        """
        source, digest = self.file.origin.source, digest_of(content_of(self.file))
        number = await self.register.new_version(self.file, who="start", why=f"as {Path(source).name} says")
        await self.last_read.open()
        await self._open(number, alive, source=source, digest=digest)
        # Last: whoever is killed before has not begun what the file asks for, or goes on with it.
        await self.last_read.started_with(source, digest)
        self.compose()

    async def _open(self, number: int, alive: Sequence[StoredReplica], *, source: str, digest: str) -> None:
        self._running = {one.version for one in alive}
        past = self._history = await self._store.rollouts(self._service, _MOST_REMEMBERED)
        if not past:
            await self._begin(number, old=0, strategy=_FIRST, state=_DONE, who="start", why="the first version")
            return
        last = past[-1]
        self.wanted, self._record = last.to_version, last
        if last.state == _BACK:  # killed between the two halves of taking it back
            await self._begin_back(last.from_version, who="hedgeserve", why=last.outcome)
        elif number == self.wanted or number in self.taken_back or self.last_read.is_as_before(digest):
            if last.state in _UNDER_WAY:
                self._resume(last)
            if number != self.wanted:
                await self._journal.event(EventKind.NOTE, self._why_it_stays(number, source))
        else:
            await self.begin_rollout(number, who="start", why=self.last_read.why_anew(source))

    def _why_it_stays(self, asked: int, source: str) -> str:
        if asked in self.taken_back:
            return (
                f"{source} asks for version {asked}, which was taken back; version {self.wanted} stays "
                f"(`hedgeserve apply` brings version {asked} in again)"
            )
        return self.last_read.stays(source, asked, self.register.versions[self.wanted])

    def begin(self, around: Around) -> None:
        """The service is there."""
        self._around = around
        self._counted_before = dict(around.counts())

    # The tick

    async def plan(self, seen: Observation, ask: Callable[[Observation], Plan]) -> Plan:
        """The policy's plan, as the roll-out under way amends it."""
        async with self.lock:
            step = await self._look(seen)
        if step is None:
            return ask(replace(seen, runs=(self.wanted,)))  # which may have been another a verdict ago
        self.around.assign(step.roles)
        return amend(step, seen, [ask(view.observation) for view in step.views], update=self.spec.update)

    async def _look(self, seen: Observation) -> Step | None:
        """Where the roll-out stands, with all done that follows from it; None where none is under way."""
        self._running = {one.version for one in seen.replicas if one.version}
        self._seen = seen
        step = None
        if self._rollout is None:
            await self._prove(seen)
        # A verdict may change what is to be judged: that is looked at once more.
        for _ in range(_MOST_LOOKS):
            if (rollout := self.under_way) is None:
                break
            step = look(rollout, seen, at=_now(), update=self.spec.update, health=self._health())
            if not await self._heed(step, seen):
                break
        rollout = self.under_way
        left = step.left if step is not None and rollout is not None else 0
        self._metrics.rolling(self.wanted, None if rollout is None else rollout.strategy, left)
        return None if rollout is None else step

    def ended(self, replica: Replica, why: str) -> None:
        """A replica is gone, for this reason."""
        rollout = self._rollout
        if rollout is None or replica.version != rollout.new or replica.vm_id is None:
            return
        if replica.gone is GoneReason.FAILED:
            self._failures += 1
            self._last_failure = f"{_short(why or replica.why)} ({replica.id})"

    async def _heed(self, step: Step, seen: Observation) -> bool:
        """Write down and do what has been found; whether that asks for another look."""
        proven = step.rollout.new_proven and not (self._rollout and self._rollout.new_proven)
        self._rollout, self._step = step.rollout, step
        record = self._record
        assert record is not None
        try:
            if proven:
                await self.register.prove(step.rollout.new)
            match step.verdict:
                case Verdict.GOES_ON:
                    return False
                case Verdict.SWITCH:
                    await self._save(_SWITCHED, switched_at=_now())
                    self._rollout = replace(step.rollout, switched_s=seen.now_s)
                    await self._tell(f"{step.reason}: all requests go there from now on, in one step")
                case Verdict.DONE:
                    await self._save(_DONE, outcome=step.reason, ended_at=_now())
                    self._rollout = self._step = None
                    self.around.assign({})
                    await self._tell(f"done: {step.reason}", rollout=step.rollout)
                case Verdict.BACK:
                    await self._save(_BACK, outcome=step.reason, ended_at=_now())
                    await self._begin_back(step.rollout.old, who="hedgeserve", why=step.reason)
        except StateDirectoryError:  # the journal shows the trouble; nothing has been done, and it is tried again
            return False
        self.compose()
        await self.around.adopt()
        return True

    async def _prove(self, seen: Observation) -> None:
        """Notice that the wanted version serves, also when nothing is rolled out."""
        version = self.register.versions.get(self.wanted)
        if version is None or version.proven_at is not None:
            return
        if any(one.version == self.wanted and one.state is State.READY for one in seen.replicas):
            await self.register.prove(self.wanted)

    def _health(self) -> Health:
        counts = dict(self.around.counts())
        rollout = self._rollout
        assert rollout is not None
        # A version that returns is not judged: all that it ever did is what the other one is compared with.
        judged = rollout.strategy is not Strategy.ROLLBACK
        if judged and (now := counts.get(rollout.new)) is not None:
            was = self._counted_before.get(rollout.new, Count())
            counts[rollout.new] = Count(
                now.served - was.served, now.failed - was.failed, now.refused - was.refused
            )
        return Health(counts, self._failures, self._last_failure)

    # Roll-outs

    def strategy(self, number: int | None, spec: Spec) -> Strategy:
        """How this version would come in with this file; what a roll-out under way leaves comes back at once."""
        rollout = self._rollout
        goes_forward = rollout is not None and rollout.strategy is not Strategy.ROLLBACK
        if rollout is not None and goes_forward and number == rollout.old:
            return Strategy.ROLLBACK  # it has never been left altogether
        return Strategy(spec.update.strategy)

    def way_back(self) -> int | None:
        """The version before the wanted one that has served as it should; None where there is none."""
        rollout, trail = self._rollout, Trail.of(self._history)
        before = trail.before(self.wanted)
        if rollout is not None and rollout.old_proven and rollout.old in before:
            return rollout.old
        return next((number for number in before if self.register.is_proven(number)), None)

    def _is_ready(self, number: int) -> bool:
        replicas = self._around.replicas() if self._around is not None else ()
        return any(one.version == number and one.state is State.READY for one in replicas)

    async def begin_rollout(
        self, number: int, *, who: str, why: str, spec: Spec | None = None, back: bool = False
    ) -> None:
        """From what is wanted now to this version; one that is under way is left where it is.

        With ``back`` what is wanted now is taken back by it.
        """
        rollout, strategy = self._rollout, self.strategy(number, spec or self.file)
        old = self.wanted
        if rollout is not None and not self.register.is_proven(self.wanted):
            old = rollout.old if rollout.old != number else self.wanted
        if back:
            await self._mark_back(f"{who} asked for version {number} instead: {why}")
            self._forget(old if rollout is None else rollout.new)
        else:
            await self._close_record(f"{who} asked for version {number}")
        await self._begin(number, old=old, strategy=strategy, state=_GOES_ON, who=who, why=why)
        await self._tell(f"version {number} takes the place of version {old} ({strategy}): {why}", who=who)

    async def take_back(self, number: int, *, who: str, why: str) -> Strategy:
        """Return to this version at once; to one that has never served as it should or was taken back, as to a
        new one. The answer is how it returns.

        Raises:
            UpdateRefusedError: It cannot be started any more.
            StateDirectoryError: It could not be written down.
        """
        self.register.make_engine(number)
        if number in self.taken_back:  # a step forward, whatever it is called: judged as any new version
            await self.begin_rollout(number, who=who, why=why)
        elif self.register.is_proven(number):
            outcome = f"{who} asked for version {number} instead"
            rollout = self._rollout
            if rollout is not None and rollout.strategy is not Strategy.ROLLBACK:
                await self._mark_back(outcome)  # one that an apply leaves is superseded: nobody took it back
            else:
                await self._close_record(outcome)
            await self._begin_back(number, who=who, why=why)
        else:
            await self.begin_rollout(number, who=who, why=why, back=True)
        assert self._record is not None
        return Strategy(self._record.strategy)

    async def _begin_back(self, number: int, *, who: str, why: str) -> None:
        left = self.wanted
        await self._begin(number, old=left, strategy=Strategy.ROLLBACK, state=_GOES_ON, who=who, why=why)
        self._forget(left)
        await self._tell(f"version {left} is taken back, version {number} returns: {why}", who=who)

    def _forget(self, left: int) -> None:
        if self._around is not None:
            self._around.forget(left)

    async def _close_record(self, outcome: str) -> None:
        if self._rollout is not None:
            await self._save(_LEFT, outcome=outcome, ended_at=_now())

    async def _mark_back(self, outcome: str) -> None:
        """Write down that what is wanted is taken back, so that no restart brings it in again."""
        if (
            self._record is not None and self._record.from_version
        ):  # of the first one there is nothing to go back to
            await self._save(_BACK, outcome=redact(outcome), ended_at=_now())

    async def _begin(self, number: int, *, old: int, strategy: str, state: str, who: str, why: str) -> None:
        """Write the roll-out down and make it the one under way (if it is)."""
        at, who, why = _now(), redact(who), redact(why)
        made = await self._store.begin_rollout(
            self._service, old=old, new=number, strategy=strategy, state=state, who=who, why=why, at=at
        )
        self.wanted = number
        record = StoredRollout(made, old, number, strategy, state, who, why, at, None, None, "")
        self._history = [*self._history, record][-_MOST_REMEMBERED:]
        self._record, self._rollout, self._step = record, None, None
        if state in _UNDER_WAY:
            self._resume(record)
        self.compose()

    def _resume(self, record: StoredRollout) -> None:
        # One that was taken back since has to prove itself anew.
        before = Trail.of(one for one in self._history if one.id != record.id)
        switched_s = None
        if record.switched_at is not None:
            ago_s = (_now() - record.switched_at).total_seconds()
            switched_s = asyncio.get_running_loop().time() - max(0.0, ago_s)
        self._rollout = Rollout(
            old=record.from_version,
            new=record.to_version,
            strategy=Strategy(record.strategy),
            old_proven=self.register.is_proven(record.from_version) or self._is_ready(record.from_version),
            new_proven=self.register.is_proven(record.to_version) and record.to_version not in before.taken_back,
            switched_s=switched_s,
        )
        self._failures, self._last_failure = 0, ""
        self._counted_before = dict(self._around.counts()) if self._around is not None else {}

    async def _save(
        self,
        state: str,
        *,
        outcome: str = "",
        switched_at: datetime | None = None,
        ended_at: datetime | None = None,
    ) -> None:
        record = self._record
        assert record is not None
        await self._store.save_rollout(
            record.id, state, outcome=outcome, switched_at=switched_at, ended_at=ended_at
        )
        if state not in _UNDER_WAY and record.state in _UNDER_WAY:
            self._metrics.rolled_out(record.strategy, state)
        self._record = replace(
            record, state=state, outcome=outcome or record.outcome, switched_at=switched_at, ended_at=ended_at
        )
        self._history = [self._record if one.id == record.id else one for one in self._history]

    async def _tell(self, message: str, *, rollout: Rollout | None = None, who: str = "hedgeserve") -> None:
        told = rollout or self._rollout
        data = {"who": who}
        if told is not None:
            data |= {"from": str(told.old), "to": str(told.new), "strategy": str(told.strategy)}
        await self._journal.event(EventKind.UPDATE, message, data=data)

    # Versions

    def compose(self, file: Spec | None = None) -> None:
        """The words of the file (this one from now on, if given), the wanted version's for what replicas run."""
        self.file = file or self.file
        version = self.register.versions[self.wanted]
        same = version.digest == digest_of(content_of(self.file))
        self.spec = self.file if same else version.spec(self.file).with_origin(self.file.origin)


def _short(text: str) -> str:
    """What an engine or a cloud said at last, without secrets, short enough for a sentence."""
    told = " ".join(redact(text).split())
    if len(told) <= _LONGEST_REASON:
        return told
    # What was wrong stands at the end: a traceback's last line, say.
    begin, end = told[:_LONGEST_BEGIN], told[_LONGEST_BEGIN - _LONGEST_REASON :]
    half_word, _, words = end.partition(" ")
    return f"{begin.rpartition(' ')[0] or begin} … {words if words and len(half_word) < _LONGEST_BEGIN else end}"


def _now() -> datetime:
    return datetime.now(UTC)
