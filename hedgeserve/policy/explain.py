"""Why the fleet is as it is, and what would change it: answers from the very objects that decide. Pure.

Nothing is guessed: a launch is explained by the reason that the plan gave it, a zone by what the policy says of
its next launch, and what lets a replica go by asking the policy what it would do later, or with others ready.
"""

from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches

from hedgeserve.policy.explainroll import (
    is_to_go,
    what_becomes_of_it,
    what_is_hidden,
    what_it_runs,
    what_rolls,
    why_it_rolls_so,
    why_it_runs_so,
)
from hedgeserve.policy.foresight import foresee, lets_go, ready_at_s
from hedgeserve.policy.plan import Candidate, Launch
from hedgeserve.policy.scene import NAMES, Explanation, Past, Scene, Told, clock_of, once
from hedgeserve.replica import STARTING, GoneReason, Market, Replica, State, ZoneId
from hedgeserve.units import format_count, format_duration, format_usd_per_hour

NOW = "now"
"""The subject that stands for the fleet as a whole."""

_ENDS = {
    GoneReason.PREEMPTED: "its cloud took it back",
    GoneReason.FAILED: "it failed",
    GoneReason.SCALED_DOWN: "it was not needed any more",
    GoneReason.REPLACED: "others took its place",
    GoneReason.REAPED: "it belonged to nobody",
}
_LEAVING = frozenset({State.NOTICED, State.DRAINING, State.TERMINATING})
_OF_THE_END = frozenset({"notice", "rebalance", "gone", "refused", "trouble", "reaped", "drill"})
_LAST_STATES = ("ready", "draining", "terminating", "gone")
_SUGGESTED = 5
_MORE_MONEY = "a higher cap in `[budget]`, less that runs, or, for a day's or month's cap, the next one makes room"


# The fleet


def explain_now(scene: Scene) -> Explanation:
    """Why this many replicas are wanted, ready and paid for now, and what is being waited for."""
    seen, target, ready = scene.observation, scene.plan.target, len(scene.ready())
    usd_per_hour = sum(one.offer.usd_per_hour for one in seen.replicas if one.vm_id is not None)
    because = [scene.resting] if scene.resting else []
    if not scene.resting:
        because += [*why_it_rolls_so(scene), _why_target(scene), *scene.sums()]
    if scene.resting:
        headline = f"no replica is wanted: the service rests; {format_count(ready, 'replica', verb=True)} ready"
    elif target and not ready:
        headline = f"nothing is ready, and {format_count(target, 'replica', verb=True)} needed"
        because += _why_nothing_starts(scene)
    else:
        headline = f"{ready} ready of {format_count(target, 'replica')} needed"
        if scene.counted(Market.ON_DEMAND):
            headline += f"; {_bridge(scene)}"
    if rolls := what_rolls(scene):
        headline += f"; {rolls}"
    if scene.halts:
        headline += "; nothing is launched while the journal cannot be written"
    because += [
        f"{one.id} ({NAMES[one.market]}, {one.zone}) {scene.condition(one)}"
        for one in seen.replicas
        if one.state is not State.READY
    ]
    because += [*scene.held_back(), *scene.caps()]
    because += [note for note in scene.plan.notes if not any(note in told for told in because)]
    because += scene.troubles
    return Explanation(
        NOW, f"{headline}; {format_usd_per_hour(usd_per_hour)}", once(because), once(_what_is_next(scene))
    )


def _what_ends_the_halt(scene: Scene) -> Iterator[str]:
    if scene.halts:
        yield "once the journal can be written again, launches go on by themselves"


def _bridge(scene: Scene) -> str:
    """Why there are on-demand replicas, in a few words."""
    there, always = len(scene.counted(Market.ON_DEMAND)), scene.hedge.always_on_demand
    many = format_count(max(1, there - always), "on-demand replica")
    spot_ready = sum(one.state is State.READY for one in scene.counted(Market.SPOT))
    spot_wanted = scene.wanted.spot_wanted
    if there <= always:
        return f"{format_count(there, 'on-demand replica')} at all times, as `hedge.always_on_demand` says"
    if not spot_wanted and there <= scene.wanted.on_demand_wanted:
        return f"{many}, since no spot is to be had"
    if there > scene.wanted.on_demand_wanted:
        return f"{many} still there, until spot has proved itself"
    stands = "stand" if there - always > 1 else "stands"
    if spot_ready < spot_wanted:
        return f"{many} {stands} in for spot: {spot_ready} of {spot_wanted} spot replicas are ready"
    return f"{many} {stands} by beside spot, which might soon be lost again"


def _why_target(scene: Scene) -> str:
    target, spec = scene.plan.target, scene.replicas
    bounds = "" if spec.lowest == spec.highest else f", between {spec.lowest} and {spec.highest}"
    if target < spec.lowest:  # woken from a sleep
        bounds = f", fewer than the {spec.lowest} of `replicas.min`"
    return f"the target is {format_count(target, 'replica')}{bounds}: {scene.scale.reason}"


def _why_nothing_starts(scene: Scene) -> Iterator[str]:
    if scene.resting or scene.starting():
        return
    candidates = scene.candidates()
    if not candidates:
        yield "no pool offers anything that may be launched"
        yield from (f"{zone}: {why}" for zone, sentences in scene.outside.items() for why in sentences)
    elif scene.means is not None and all(scene.unaffordable(one) for one in candidates):
        yield "no zone is asked now, since the caps of `[budget]` leave no room for a VM"
    elif not any(one.rank is not None for one in candidates):
        yield "no zone is asked now"
        yield from (f"{one.offer.zone}: {_standing(scene, one)}" for one in candidates)


def _what_is_next(scene: Scene) -> Iterator[str]:
    """What is waited for, and what the policy will do by itself."""
    if scene.resting:
        least = format_count(scene.replicas.lowest, "replica")
        yield f"when the rest ends, at least {least} will run again, as `[replicas]` says"
        return
    yield from _arrivals(scene, scene.starting())
    yield from _what_ends_the_halt(scene)
    if scene.held_back():
        yield _MORE_MONEY
    if found := foresee(scene, lambda _: True):
        yield found.words(scene)
    if scene.rolling is not None and (ends := foresee(scene, lambda action: not isinstance(action, Launch))):
        yield ends.words(scene)
    if scene.wanted.spot_wanted > len(scene.counted(Market.SPOT)):
        yield from _next_spot(scene)
    yield from _scaling(scene)


def _scaling(scene: Scene) -> Iterator[str]:
    spec, target = scene.replicas, scene.plan.target
    share = spec.target_requests_per_second
    if spec.lowest == spec.highest or share is None:
        key = "replicas.min" if spec.count is None else "replicas.count"
        yield f"another number of replicas is wanted when `{key}` says so"
        return
    if target < spec.highest:
        over = format_duration(spec.upscale_delay)
        yield f"more than {target * share:g} requests/s for {over} (`replicas.upscale_delay`) raise the target"
    if target > spec.lowest:
        over = format_duration(spec.downscale_delay)
        fewer = f"{(target - 1) * share:g} requests/s or less"
        yield f"{fewer} for {over} (`replicas.downscale_delay`) lower the target"


# A replica


def explain_replica(scene: Scene, replica: Replica, story: Sequence[Told] = ()) -> Explanation:
    """Why this replica is there, and there, and what lets it go; ``story`` are its events, the oldest first."""
    price = format_usd_per_hour(replica.offer.usd_per_hour)
    kind = f"{replica.id} ({NAMES[replica.market]}, {replica.zone}, {price})"
    condition = f"it {scene.condition(replica)}"
    if replica.market is Market.EXTERNAL:
        return Explanation(
            str(replica.id),
            f"{replica.id} is a server that somebody else runs, {replica.state} for {scene.age(replica)}",
            ('a pool with cloud = "static" names it in `urls`', condition),
            ("it is neither launched nor ended from here; without its URL in the pool it is left alone",),
        )
    because = [*_why_launched(story)] or ["the reason of its launch stands no longer in the journal"]
    because.append(condition)
    if replica.id in scene.doubted:
        return _in_doubt(kind, because)
    changes: list[str] = []
    runs = what_it_runs(scene, replica)
    if runs:
        because += [f"it {runs}", *why_it_runs_so(scene, replica)]
    if replica.state in _LEAVING:
        headline = f"{kind} is on its way out, {replica.state} for {scene.age(replica)}"
        changes += _what_ends_it(scene, replica)
    elif scene.resting:
        headline = f"{kind} is {replica.state}, and goes"
        because.append(scene.resting)
    elif is_to_go(scene, replica):
        headline = f"{kind} has been {replica.state} for {scene.age(replica)}"
        if all(one.id != replica.id for one in scene.shown.replicas):
            because += what_is_hidden(scene)
        if found := foresee(scene, lets_go(replica)):
            changes.append(found.words(scene))
        changes += what_becomes_of_it(scene, replica)
    elif replica.market is Market.ON_DEMAND:
        headline = f"{kind} is {replica.state}: {_bridge(scene)}"
        because += scene.sums()
        changes += [*_what_ends_on_demand(scene, replica), *what_becomes_of_it(scene, replica)]
    else:
        headline = f"{kind} has been {replica.state} for {scene.age(replica)}"
        because += scene.sums()[:1]
        changes += [*_what_ends_spot(scene, replica), *what_becomes_of_it(scene, replica)]
    if replica.state in STARTING:
        changes += _arrivals(scene, [replica])
    if runs:
        headline += f"; it {runs}"
    return Explanation(str(replica.id), headline, once(because), once(changes))


def _in_doubt(kind: str, because: Sequence[str]) -> Explanation:
    return Explanation(
        kind.partition(" ")[0],
        f"{kind} is in doubt: its probes decide whether it ends",
        (*because, "until they have, it is counted as if it were leaving, so that another is launched in time"),
        (
            "a probe that is answered takes the doubt away, and what is then too much goes",
            "`probe.failure_threshold` probes in a row that are not answered end it",
        ),
    )


def _why_launched(story: Sequence[Told]) -> Iterator[str]:
    for told in story:
        if told.kind == "launch":
            yield f"launched at {clock_of(told.at)}: {told.message}"
        elif told.kind == "adopted":
            yield f"found at {clock_of(told.at)}, when the controller started: {told.message}"


def _what_ends_on_demand(scene: Scene, replica: Replica) -> Iterator[str]:
    hedge = scene.hedge
    if found := foresee(scene, lets_go(replica)):
        yield found.words(scene)
    elif len(scene.counted(Market.ON_DEMAND)) <= hedge.always_on_demand:
        yield f"a lower `hedge.always_on_demand` than {hedge.always_on_demand} lets it go"
    elif scene.wanted.spot_wanted:
        missing = scene.wanted.spot_wanted - len(scene.counted(Market.SPOT))
        lacks = f"; {format_count(missing, 'spot replica', verb=True)} missing" if missing > 0 else ""
        yield f"it goes when spot carries the load again{lacks}"
        yield from _next_spot(scene)
    if hedge.fallback and scene.wanted.spot_wanted:
        yield "with `hedge.fallback = false` nothing would stand in for spot, and requests would wait for it"


def _what_ends_spot(scene: Scene, replica: Replica) -> Iterator[str]:
    if found := foresee(scene, lets_go(replica)):
        yield found.words(scene)
    yield "its cloud may take it back at any time; its replacement is launched the moment that this is announced"
    if scene.replicas.lowest != scene.replicas.highest:
        yield "less load may let it go, the last of those that do not serve yet"


def _what_ends_it(scene: Scene, replica: Replica) -> Iterator[str]:
    if replica.notice is not None:
        yield f"its VM ends at {scene.clock(replica.notice.deadline_s)}, as its cloud says; nothing stops that"
        if replica.state is State.NOTICED:
            yield f"it drains as soon as enough others are ready: {len(scene.ready())} of {scene.plan.target} are"
        yield from _next_spot(scene)
    elif replica.state is State.DRAINING:
        yield "it ends with the last of its requests, at the latest after `timeouts.drain`"
    else:
        yield "it is gone when its cloud lists its VM no more"


# A replica that is gone


def explain_gone(scene: Scene, past: Past) -> Explanation:
    """Why a replica was there and why it went, from the journal."""
    ago = format_duration(round(max(0.0, (scene.at - past.ended_at).total_seconds())))
    how = _ENDS[past.gone] if past.gone is not None else past.why
    because = [*_why_launched(past.story)]
    because += [f"at {clock_of(told.at)}: {told.message}" for told in past.story if _is_of_the_end(told)]
    if not past.story:
        because.append(f"its events stand no longer in the journal; its last word was: {past.why}")
    changes = ["nothing brings it back: an id is never used twice"]
    if past.market is Market.SPOT and not scene.resting:
        changes += _next_spot(scene)
        changes += [
            f"{past.zone} is not where the next one goes: {_standing(scene, one)}"
            for one in scene.candidates(zone=past.zone, market=past.market)
            if one.rank != 0
        ]
    headline = f"{past.id} ({NAMES[past.market]}, {past.zone}) went at {clock_of(past.ended_at)}, {ago} ago: {how}"
    return Explanation(past.id, headline, once(because), once(changes))


def _is_of_the_end(told: Told) -> bool:
    """Whether an event belongs to the end of a replica, and not to its way up."""
    if told.kind != "state":
        return told.kind in _OF_THE_END
    return any(f"→ {state}:" in told.message for state in _LAST_STATES)


# A zone


def explain_zone(scene: Scene, zone: ZoneId) -> Explanation:
    """Why this zone has what it has, whether the next replica would go there, and what would change that."""
    there = [one for one in scene.observation.replicas if one.zone == zone]
    candidates = scene.candidates(zone=zone)
    holds = ", ".join(f"{one.id} ({NAMES[one.market]}, {one.state})" for one in there)
    because = [f"it has {holds}" if there else "it has no replica"]
    if scene.resting:
        because.append(scene.resting)
    because += [_standing(scene, one) for one in candidates]
    because += what_is_hidden(scene)
    because += scene.outside.get(zone, ())
    if not scene.resting:
        because += [why_not for one in candidates if (why_not := scene.unaffordable(one))]
        because += scene.caps() if candidates else ()
    if scene.halts:
        because.append(f"nothing is launched anywhere while the journal cannot be written: {scene.halts}")
    if state := scene.policy.zone_states().get(zone):
        because.append(f"in a word, as `hedgeserve status --json` has it: {state}")
    changes = [*_what_ends_the_halt(scene)]
    if not scene.resting and any(scene.unaffordable(one) for one in candidates):
        changes.append(_MORE_MONEY)
    changes += [sentence for one in candidates for sentence in _what_opens(scene, one)]
    if candidates and scene.wanted.spot_wanted <= len(scene.counted(Market.SPOT)):
        changes.append("no spot replica is missing now: the next is launched when one is lost, or more are needed")
    return Explanation(str(zone), _zone_headline(scene, zone, candidates), once(because), once(changes))


def _zone_headline(scene: Scene, zone: ZoneId, candidates: Sequence[Candidate]) -> str:
    if any(one.zone == zone and one.market is Market.EXTERNAL for one in scene.observation.replicas):
        return f"{zone} is a server that somebody else runs"
    if not candidates:
        return f"nothing may be launched in {zone}"
    one = candidates[0]  # of spot, where the zone has any
    market = NAMES[one.offer.market]
    if one.rank == 0:
        awake = " once the service runs again" if scene.resting else ""
        awake = awake or (" once the journal can be written again" if scene.halts else "")
        if not scene.resting and scene.unaffordable(one):
            return (
                f"{zone} is where the next {market} replica would go, if the caps of `[budget]` left room for it"
            )
        return f"{zone} is where the next {market} replica goes{awake}"
    if one.rank is not None:
        if not scene.resting and scene.unaffordable(one):
            return f"{zone} is not asked for {market} now: the caps of `[budget]` leave no room for it"
        return f"{zone} may be asked for {market}: it is number {one.rank + 1} in the order"
    until = f" until {scene.clock(one.until_s)}" if one.until_s is not None else ""
    return f"{zone} is not asked for {market} now{until}"


def _standing(scene: Scene, one: Candidate) -> str:
    """What a policy says of one zone and market, with the machine and its price."""
    offer = f"{NAMES[one.offer.market]} ({one.offer.instance_type}, {format_usd_per_hour(one.offer.usd_per_hour)})"
    if one.rank is None:
        until = f"; until {scene.clock(one.until_s)}" if one.until_s is not None else ""
        return f"{offer} is not asked for: {one.why}{until}"
    return f"{offer} is {'next' if one.rank == 0 else f'number {one.rank + 1}'}: {one.why}"


def _what_opens(scene: Scene, one: Candidate) -> Iterator[str]:
    market = NAMES[one.offer.market]
    if one.rank is None and one.until_s is not None:
        yield f"it may be asked for {market} again at {scene.clock(one.until_s)}"
    elif one.rank is None:
        yield f"a replica that becomes ready there, or bad news of other zones, opens it for {market} again"
    elif one.rank > 0:
        yield f"it comes first for {market} when the zones before it are lost, full, or dearer than it is"


# What all have in common


def _arrivals(scene: Scene, starting: Sequence[Replica]) -> Iterator[str]:
    if not starting:
        return
    if scene.boot_s is None:
        names = ", ".join(one.id for one in starting)
        are = "is" if len(starting) == 1 else "are"
        yield f"when {names} {are} ready; how long that takes here is not known yet"
        return
    usual = format_duration(round(scene.boot_s))
    for one in starting:
        age_s = (scene.at - one.created_at).total_seconds()
        if age_s > scene.boot_s:
            yield f"{one.id} should be ready at any moment: the last ones took {usual}, this one has {age_s:.0f} s"
        else:
            yield f"{one.id} should be ready at {scene.clock(ready_at_s(scene, one))}: the last ones took {usual}"


def _next_spot(scene: Scene) -> Iterator[str]:
    """Where the next spot replica goes, or why nowhere."""
    spot = scene.candidates(market=Market.SPOT)
    if scene.resting or not spot:
        return
    if spot[0].rank == 0:
        if why_not := scene.unaffordable(spot[0]):
            yield f"the next spot replica would go to {spot[0].offer.zone}, but: {why_not}"
        else:
            yield f"the next spot replica goes to {spot[0].offer.zone}: {spot[0].why}"
        return
    ends = [(one.until_s, one) for one in spot if one.until_s is not None]
    if ends:
        until_s, one = min(ends, key=lambda end: end[0])
        yield f"no zone is asked for spot now; {one.offer.zone} may be again at {scene.clock(until_s)}"
    else:
        yield "no zone is asked for spot now, until there is other news of one"


def near_misses(subject: str, known: Iterable[str]) -> list[str]:
    """The subjects that were most likely meant: those that this is a part of, then those that look like it."""
    there = list(dict.fromkeys(known))
    parts = [name for name in there if subject and subject in name]
    return list(dict.fromkeys([*parts, *get_close_matches(subject, there, n=3, cutoff=0.5)]))[:_SUGGESTED]
