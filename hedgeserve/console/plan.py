"""``hedgeserve plan``: what serving a model file would launch, cost and risk, and what it would change."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import click

from hedgeserve.books import read_account
from hedgeserve.console.admin import AdminClient
from hedgeserve.console.check import print_problems
from hedgeserve.console.clouds import aligned
from hedgeserve.console.offers import look_at_offers
from hedgeserve.core import Service
from hedgeserve.drivers.catalogue import remarks_on
from hedgeserve.drivers.offers import Quote
from hedgeserve.drivers.static import static_places
from hedgeserve.errors import HedgeServeError, LimitError, NotRunningError, SpecError
from hedgeserve.hedge import Period, Rollout, Rule, Spent, Strategy, begin_of
from hedgeserve.modelfile.effects import Effect
from hedgeserve.replica import Market, Replica
from hedgeserve.simulate.granted import Step
from hedgeserve.simulate.prospect import Domain, Loss, Prospect
from hedgeserve.simulate.serviceplan import Running, ServicePlan, plan_service, read_running
from hedgeserve.spec import Spec
from hedgeserve.specfile import load_spec
from hedgeserve.statedir import resolve_state_dir
from hedgeserve.store import vms_in
from hedgeserve.units import format_duration, format_usd_per_hour

_TAKES = {
    Effect.LIVE: "touches no replica",
    Effect.VERSION: "replaces every replica",
    Effect.RESTART: "takes a restart of the service",
}
_NAMES = {Market.SPOT: "spot", Market.ON_DEMAND: "on-demand", Market.EXTERNAL: "external"}


def show_plan(model: str, directory: Path | None = None, *, as_json: bool) -> bool:
    """Print what serving this file would come to; false where it could not be served and JSON has said so.

    ``directory`` is the state directory of the service to compare with; None: the one that the file names.

    Raises:
        SpecError: The file cannot be served, and the mistakes are to be told as messages.
        HedgeServeError: Nothing could be launched from its pools, or what runs does not tell its spec.
        LimitError: Its caps leave no room for a single VM.
    """
    try:
        spec = load_spec(model)
        Service(spec)  # starts nothing, and refuses what could not be started
    except SpecError as error:
        if not as_json:
            raise
        print_problems(error, model)
        return False
    made, quotes, remarks = make_plan(spec, directory)
    for remark in [*remarks, *remarks_on(spec.pools)]:
        click.echo(remark, err=True)
    course = made.prospect.course
    if not course.fleet and course.held_back:
        raise LimitError(f"nothing would be launched: {'; '.join(course.held_back)}; raise the cap in `[budget]`")
    if not course.fleet:
        raise HedgeServeError(
            f"nothing can be launched from the pools of {model}: "
            f"{_why_nothing(quotes)}; `hedgeserve offers {model}` shows each offer with its reason"
        )
    if as_json:
        click.echo(json.dumps(document(made, quotes)))
        return True
    for line in in_words(made, quotes):
        click.echo(line)
    return True


def make_plan(
    spec: Spec, directory: Path | None = None, *, rollout: Rollout | None = None
) -> tuple[ServicePlan, list[Quote], list[str]]:
    """Ask the clouds for their prices and the running service, if there is one, for what it does; launch nothing.

    With the quotes that the plan was made from, and a sentence for each cloud that could not be asked. ``rollout``
    is the one that would begin, where that is known. Blocking.

    Raises:
        HedgeServeError: The service that runs does not say what it does.
    """
    quotes, remarks = asyncio.run(look_at_offers(spec))
    running, remark = _what_runs(spec, directory)
    offers = [offer for quote in quotes if (offer := quote.offer) is not None]
    externals = [zone for zone, _ in static_places(spec.pools).values()]
    now = datetime.now(UTC)
    spent = _spent(spec, directory, now)
    made = plan_service(spec, offers, running, externals=externals, rollout=rollout, spent=spent, at=now)
    return made, quotes, [*remarks, *remark]


def _what_runs(spec: Spec, directory: Path | None) -> tuple[Running | None, list[str]]:
    directory = directory or resolve_state_dir(spec.service.name, spec.service.state_dir, os.environ)
    client = AdminClient(directory)
    try:
        return read_running(client.spec(), client.status()), []
    except NotRunningError:
        kept = vms_in(directory / "journal.db", spec.service.name)
        left = [name for name, vm in (kept or {}).items() if vm is not None]
        if not left:
            return None, []
        return None, [
            f"{spec.service.name} does not run; its journal has {', '.join(left)}, for a start to take up"
        ]
    except ValueError as error:
        raise HedgeServeError(
            f"the service at {directory} is of another release than this command: {error}; use its own command"
        ) from None


def _spent(spec: Spec, directory: Path | None, now: datetime) -> Spent:
    """What this day and month have cost, of which a cap leaves the rest; nothing where no cap asks."""
    directory = directory or resolve_state_dir(spec.service.name, spec.service.state_dir, os.environ)

    def since(period: Period) -> float:
        begin, journal = begin_of(period, now), directory / "journal.db"
        try:
            return float(AdminClient(directory).cost(int(begin.timestamp()))["spent_usd"])
        except NotRunningError:
            return read_account(journal, begin, now)[0].spent_usd if journal.is_file() else 0.0

    budget = spec.budget
    return Spent(
        day=since(Period.DAY) if budget.usd_per_day is not None else 0.0,
        month=since(Period.MONTH) if budget.usd_per_month is not None else 0.0,
    )


def _why_none(made: ServicePlan, quotes: Sequence[Quote]) -> str:
    """Why nothing would run, in words that lead on."""
    if made.prospect.course.held_back:
        return "`[budget]` leaves no room for a single VM, as below; raise the cap for one to be launched"
    return f"nothing can be launched from the pools: {_why_nothing(quotes)}"


def _why_nothing(quotes: Sequence[Quote]) -> str:
    reasons = Counter(quote.why_not for quote in quotes if quote.why_not)
    return reasons.most_common(1)[0][0] if reasons else "they name no machine"


# For people


def in_words(made: ServicePlan, quotes: Sequence[Quote] = ()) -> Iterator[str]:
    """The plan as lines to read: what changes, what is done, what runs then, what it costs and risks."""
    spec = made.spec
    low, high = spec.replicas.lowest, spec.replicas.highest
    count = f"{low} to {high} replicas as the load asks" if low != high else f"{low} replica{'s' * (low != 1)}"
    yield f"{spec.service.name}: {spec.model.id} ({spec.model.engine}), {count}, policy {spec.hedge.policy}"
    yield from _against_now(made)
    yield from _roll_out(made)
    yield from outcome_in_words(made, quotes)


def outcome_in_words(made: ServicePlan, quotes: Sequence[Quote] = ()) -> Iterator[str]:
    """What is done, what runs then, what it costs and risks, in lines."""
    course = made.prospect.course
    steps = [*_steps(course.steps, now="at once" if made.running and made.running.resting else "now")]
    if made.rollout is not None:
        done_s = course.rolled_s
        took = "longer than a day" if done_s is None else f"about {format_duration(round(done_s) or 1)}"
        yield f"the roll-out takes {took}, or longer where requests on old replicas do"
    resting = "" if made.running is None else made.running.resting
    if resting:
        yield f"nothing is launched now: {resting}"
    if made.waits:
        yield ""
        yield "launches wait at first, since boots fail"
        yield from _indented([_plain(why) for why in made.waits])
    if not steps:
        yield "nothing would be launched or let go"
    else:
        yield ""
        boots = format_duration(round(made.cold_start_s) or 1)
        seen = made.running is not None and made.running.boot_s is not None
        yield (
            f"what would be done{' then' if resting else ''}, if every launch is granted and ready after {boots}"
            f"{', as the last ones were' if seen else ''}"
        )
        yield from _indented(aligned(steps, frozenset({5})))
    if not course.settled:
        yield "  and so on: the policy does not leave this fleet as it is within a day"
    yield ""
    yield f"then: {_count(len(course.fleet), 'replica')} for a target of {course.target}"
    yield from _indented(aligned([*_fleet(course.fleet)], frozenset({0, 4})))
    if not course.fleet:
        yield f"  {_why_none(made, quotes)}"
    yield ""
    yield from _cost(made)
    yield from _caps(made)
    if rows := [_loss(loss) for domain in Domain if (loss := made.prospect.worst(domain)) is not None]:
        yield ""
        yield from aligned([["if it goes", "lost", "still ready", ""], *rows], frozenset({1}))
    if refused := sum(1 for quote in quotes if quote.why_not):
        yield ""
        yield f"{_count(refused, 'kind')} of VM not offered; `hedgeserve offers` says why"


def _against_now(made: ServicePlan) -> Iterator[str]:
    running = made.running
    if running is None:
        yield "nothing of that name runs; this only looks, and launches nothing"
        return
    yield (
        f"runs now: {running.ready} ready of {_count(len(running.replicas), 'replica')} for a target of "
        f"{running.target}, {format_usd_per_hour(running.usd_per_hour)}"
    )
    if not made.changes:
        yield f"no key of {_file_name(made)} is another than what runs"
        return
    yield ""
    yield f"{_count(len(made.changes), 'key')} of {_file_name(made)} changed"
    yield from _indented(aligned([[str(change), _TAKES[change.effect]] for change in made.changes]))
    if made.replaced:
        yield f"  another version: {', '.join(one.id for one in made.replaced)} would be replaced"


def _file_name(made: ServicePlan) -> str:
    return Path(made.spec.origin.source).name or "the model file"


def _roll_out(made: ServicePlan) -> Iterator[str]:
    """Which version takes the place of which, and how."""
    rollout = made.rollout
    if rollout is None:
        return
    update = made.spec.update
    match rollout.strategy:
        case Strategy.ROLLING:
            how = f"one after another, at most {update.max_surge} more than wanted at a time"
        case Strategy.BLUE_GREEN:
            how = "a whole new set beside the old one, then all requests change over"
        case Strategy.ROLLBACK:
            how = "an earlier version returns at once"
    yield ""
    yield f"roll-out of version {rollout.new} ({rollout.strategy}): {how}"
    why = None if made.running is None else made.running.taken_back.get(rollout.new)
    if why is not None:
        yield f"version {rollout.new} was taken back before: {why}"


def _steps(steps: Sequence[Step], *, now: str) -> Iterator[list[str]]:
    """One row for what is done alike at one time; ``now`` is what the begin is called."""

    def alike(step: Step) -> tuple[object, ...]:
        offer = step.replica.offer
        known = "" if step.launches or step.replica.id.startswith("new-") else step.replica.id
        return step.at_s, step.launches, offer, known, step.action.rule

    for _, group in groupby(steps, key=alike):
        same = [*group]
        one = same[0]
        offer = one.replica.offer
        known = "" if one.launches or one.replica.id.startswith("new-") else f" {one.replica.id}"
        many = f" {len(same)} ×" if len(same) > 1 else ""
        yield [
            now if one.at_s < 1 else f"after {format_duration(round(one.at_s))}",
            f"{'launch' if one.launches else 'let go'}{many}{known}",
            _NAMES[offer.market],
            offer.zone,
            offer.instance_type,
            format_usd_per_hour(offer.usd_per_hour),
            _briefly(one),
        ]


def _briefly(step: Step) -> str:
    """The reason without the words on the place, which stands beside it."""
    reason, rule = step.action.reason, step.action.rule
    return (
        reason.split(": ", 1)[0] if rule is Rule.SPREAD else reason.split("; ", 1)[0] if step.launches else reason
    )


def _fleet(fleet: Sequence[Replica]) -> Iterator[list[str]]:
    for count, one in _alike(fleet):
        offer = one.offer
        price = "" if offer.market is Market.EXTERNAL else format_usd_per_hour(offer.usd_per_hour)
        yield [f"{count} ×", _NAMES[offer.market], offer.zone, offer.instance_type, price]


def _alike(fleet: Sequence[Replica]) -> Iterator[tuple[int, Replica]]:
    def kind(one: Replica) -> tuple[object, ...]:
        offer = one.offer
        return (
            offer.market is not Market.SPOT,
            offer.zone,
            offer.instance_type,
            str(offer.market),
            offer.usd_per_hour,
        )

    for _, group in groupby(sorted(fleet, key=kind), key=kind):
        same = [*group]
        yield len(same), same[0]


def _cost(made: ServicePlan) -> Iterator[str]:
    now = made.prospect
    before = "" if made.running is None else f" (now {format_usd_per_hour(made.running.usd_per_hour)})"
    most = now.course.most_usd_per_hour
    meanwhile = f"; up to {format_usd_per_hour(most)} until then" if most > now.usd_per_hour + 1e-9 else ""
    yield f"cost: {_price(now)}{before}{meanwhile}"
    if made.at_most is not None:
        yield f"at most: {_price(made.at_most)}, when the load needs {made.at_most.target}"


def _caps(made: ServicePlan) -> Iterator[str]:
    """What the caps hold back, and what they leave once the fleet rests."""
    course = made.prospect.course
    if course.held_back:
        yield "held back by `[budget]`:"
        yield from _indented(course.held_back)
    yield from (f"cap: {cap.leaves}" for cap in course.caps)
    if made.at_most is not None:
        yield from (
            f"cap, when the load needs {made.at_most.target}: {told}"
            for told in made.at_most.course.held_back
            if told not in course.held_back
        )


def _price(found: Prospect) -> str:
    told = f"{format_usd_per_hour(found.usd_per_hour)}, {found.usd_per_month:,.0f} USD a month"
    if found.on_demand_usd_per_hour and found.course.fleet:
        share = found.usd_per_hour / found.on_demand_usd_per_hour
        told += f", {share:.0%} of the {format_usd_per_hour(found.on_demand_usd_per_hour)} of on-demand alone"
    return told


def _loss(loss: Loss) -> list[str]:
    short = loss.target - loss.left
    then = "enough" if loss.enough else f"{short} below the target until replacements are ready"
    return [f"{loss.domain} {loss.place}", str(loss.lost), f"{loss.left} of {loss.target}", then]


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _plain(text: str) -> str:
    """The text without characters that would do something to a terminal: engines' last words may hold them."""
    return "".join(character if character.isprintable() else " " for character in text)


def _indented(lines: Sequence[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


# For programs


def document(made: ServicePlan, quotes: Sequence[Quote] = ()) -> dict[str, Any]:
    """The plan, JSON-able; its shape is described in ``docs/cli.md`` and only ever grows."""
    spec, running, found = made.spec, made.running, made.prospect
    return {
        "service": spec.service.name,
        "model": spec.model.id,
        "policy": spec.hedge.policy,
        "replicas": {"min": spec.replicas.lowest, "max": spec.replicas.highest},
        "running": None
        if running is None
        else {
            "target": running.target,
            "replicas": len(running.replicas),
            "ready": running.ready,
            "usd_per_hour": round(running.usd_per_hour, 4),
            "resting": running.resting or None,
        },
        "changes": [
            {"key": one.key, "before": one.before, "after": one.after, "effect": str(one.effect), "line": one.line}
            for one in made.changes
        ],
        "replaced": [one.id for one in made.replaced],
        "rollout": None
        if made.rollout is None
        else {
            "from": made.rollout.old,
            "to": made.rollout.new,
            "strategy": str(made.rollout.strategy),
            "taken_back": None if running is None else running.taken_back.get(made.rollout.new),
            "takes_s": None if found.course.rolled_s is None else round(found.course.rolled_s, 1),
        },
        "cold_start_s": round(made.cold_start_s, 1),
        "steps": [_step(step) for step in found.course.steps],
        "settled": found.course.settled,
        "settled_after_s": round(found.course.after_s, 1),
        "fleet": [
            {
                "zone": one.zone,
                "instance_type": one.offer.instance_type,
                "market": str(one.market),
                "usd_per_hour": one.offer.usd_per_hour,
                "replicas": count,
            }
            for count, one in _alike(found.course.fleet)
        ],
        **_costs(found),
        "caps": [cap.document() for cap in found.course.caps],
        "held_back": list(found.course.held_back),
        "waits": list(made.waits),
        "most_usd_per_hour": round(found.course.most_usd_per_hour, 4),
        "at_most": None if made.at_most is None else _costs(made.at_most),
        "losses": [
            {
                "domain": str(loss.domain),
                "place": loss.place,
                "lost": loss.lost,
                "left": loss.left,
                "enough": loss.enough,
            }
            for loss in found.losses
        ],
        "not_offered": [
            {
                "zone": quote.zone,
                "instance_type": quote.instance_type,
                "market": str(quote.market),
                "why_not": quote.why_not,
            }
            for quote in quotes
            if quote.why_not
        ],
    }


def _costs(found: Prospect) -> dict[str, Any]:
    alone = found.on_demand_usd_per_hour
    return {
        "target": found.target,
        "ready": len(found.course.fleet),
        "usd_per_hour": round(found.usd_per_hour, 4),
        "usd_per_month": round(found.usd_per_month, 2),
        "on_demand_usd_per_hour": None if alone is None else round(alone, 4),
    }


def _step(step: Step) -> dict[str, Any]:
    offer = step.replica.offer
    return {
        "at_s": round(step.at_s, 1),
        "what": type(step.action).__name__.lower(),
        "replica": step.replica.id,
        "zone": offer.zone,
        "instance_type": offer.instance_type,
        "market": str(offer.market),
        "usd_per_hour": offer.usd_per_hour,
        "rule": str(step.action.rule),
        "reason": step.action.reason,
    }
