"""A model.toml as a world to simulate: its pools' offers with their prices, on the zones of recorded traces."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from hedgeserve.drivers.catalogue import zones_of
from hedgeserve.drivers.localcloud.weather import climates_of
from hedgeserve.drivers.offers import ASSUMED_AT, catalogue_offers
from hedgeserve.errors import BacktestError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.simulate.scenario import EPOCH, MODEL_POLICIES, Demand, Requests, Scenario, whole_ticks
from hedgeserve.simulate.servicemodel import OnLoss, TokenService
from hedgeserve.simulate.setting import OfferModel
from hedgeserve.simulate.traces import TraceSet, ZoneTrace
from hedgeserve.spec import BacktestSpec, Cloud, PoolSpec, Spec

_MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
"""When a record of which nobody says it has begun."""

_NOTICE_S = {Cloud.AWS: 120.0, Cloud.GCP: 30.0, Cloud.AZURE: 30.0}
"""How long before the end a cloud tells of a preemption, by its own word."""


def model_scenario(
    spec: Spec,
    traces: TraceSet,
    *,
    requests: Requests | None = None,
    ignore_missing_zones: bool = False,
    begins_at: datetime | None = None,
) -> Scenario:
    """The world of a model.toml, as its ``[backtest]`` says.

    A pool's zone is the trace's whose last part is the same: ``us-east-1/us-east-1f`` is
    ``aws/us-east-1/us-east-1f``. With ``requests`` the autoscaler sets the target; else it is ``replicas.min``.
    A pool zone without a trace is an error, or with ``ignore_missing_zones`` left out. By the calendar of
    ``[schedule]`` the record begins at ``begins_at``; None: as the traces say, else on a Monday at 0:00 UTC.

    Raises:
        BacktestError: A pool's zone has no trace, or two of them; or no pool launches anything.
        SpecError: A file that the model file names cannot be used.
    """
    notes = list(traces.notes)
    if Cloud.STATIC in spec.clouds():
        notes.append("the servers of static pools are left out: nothing is recorded of them")
    pools = [pool for pool in spec.pools if pool.cloud is not Cloud.STATIC]
    if not pools:
        raise BacktestError(
            f"{spec.origin.source} has only static pools, and nothing is recorded of servers that somebody else "
            "runs; add a pool with zones"
        )
    matched = _match(pools, traces, notes, ignore_missing_zones=ignore_missing_zones)
    offers = _offers(spec, pools, matched, notes)
    if not offers:
        raise BacktestError(
            f"every offer of {spec.origin.source} is above `max_usd_per_hour`, or of unknown price; raise it, or "
            "see what `hedgeserve offers` says"
        )
    low, high = spec.replicas.lowest, spec.replicas.highest
    hours = [spec.replicas.within(one.lowest, one.highest) for one in spec.schedule.scale]
    elastic = any(fewest != most for fewest, most in [(low, high), *hours])
    scaled = requests is not None and elastic
    if elastic and not scaled:
        notes.append(f"without requests the target is `replicas.min` = {low}; --requests or --poisson scales it")
    backtest = spec.backtest
    demand = None if requests is None else _demand(spec, requests, scaled=scaled)
    schedule = spec.schedule if spec.schedule.sleep or spec.schedule.scale else None
    begins_at = begins_at or traces.begins_at
    if schedule is not None and begins_at is None:
        notes.append(
            f"nobody says when the record began: for [schedule] it is {_MONDAY:%A %Y-%m-%d}, 0:00 UTC; "
            "--starts-at says otherwise"
        )
    if schedule is not None and schedule.wake_on_request and requests is None:
        notes.append("without requests nothing wakes the service in its sleep; --requests or --poisson does")
    if spec.budget.any:
        notes.append("the caps of [budget] hold every policy but the omniscient one, by the record's calendar")
    return Scenario(
        name=spec.service.name,
        record=traces.name,
        record_s=traces.duration_s,
        offers=offers,
        target=low,
        hedge=spec.hedge,
        replicas=spec.replicas,
        policies=MODEL_POLICIES,
        overprovision=spec.hedge.overprovision,
        warm_up_s=whole_ticks(max(cold_starts_s(backtest)), backtest.tick),
        tick_s=backtest.tick,
        launch_latency_s=backtest.launch_latency,
        drain_s=spec.timeouts.drain,
        preemption_order=backtest.preemption_order,
        demand=demand,
        schedule=schedule,
        budget=spec.budget if spec.budget.any else None,
        begins_at=begins_at or _MONDAY,
        notes=tuple(notes),
    )


def cold_starts_s(backtest: BacktestSpec) -> tuple[float, ...]:
    """The cold starts that are equally likely."""
    return tuple(backtest.cold_starts) or (backtest.cold_start,)


def _demand(spec: Spec, requests: Requests, *, scaled: bool) -> Demand:
    backtest = spec.backtest
    return Demand(
        requests=requests,
        service=TokenService(
            concurrency=backtest.concurrency,
            prefill_tokens_per_s=backtest.prefill_tokens_per_second,
            decode_tokens_per_s=backtest.tokens_per_second,
        ),
        on_loss=OnLoss(backtest.on_loss),
        queue_timeout_s=spec.timeouts.queue,
        total_timeout_s=spec.timeouts.total,
        max_queue=spec.limits.max_queue,
        scaled=scaled,
    )


def _match(
    pools: Sequence[PoolSpec], traces: TraceSet, notes: list[str], *, ignore_missing_zones: bool
) -> Mapping[str, ZoneTrace]:
    """The trace of each zone of the pools (``region/zone``) that has one and wants one."""
    recorded: dict[str, list[ZoneTrace]] = {}
    for trace in traces:
        recorded.setdefault(_last(trace.zone), []).append(trace)
    wanted = spot_zones(pools)
    matched: dict[str, ZoneTrace] = {}
    for zone in wanted:
        found = recorded.get(_last(zone), [])
        exact = [trace for trace in found if trace.zone == zone or trace.zone.endswith(f"/{zone}")]
        if len(exact or found) > 1:
            both = ", ".join(trace.zone for trace in exact or found)
            raise BacktestError(f"the zone {zone} of the pools may be any of the traces {both}; keep one of them")
        if found:
            matched[zone] = (exact or found)[0]
    missing = [zone for zone in wanted if zone not in matched]
    if missing and (not ignore_missing_zones or not matched):
        raise BacktestError(
            f"no trace in {traces.name} for the pool zone{'s' * (len(missing) > 1)} {', '.join(missing)}; it "
            f"holds {', '.join(trace.zone for trace in traces)}. Name those, say --ignore-missing-zones, or make "
            "some up for the file: `hedgeserve traces synth --preset volatile --for MODEL.toml --out DIR`"
        )
    if missing:
        notes.append(f"pool zones without a trace are left out: {', '.join(missing)}")
    used = {trace.zone for trace in matched.values()}
    if unused := [trace.zone for trace in traces if trace.zone not in used]:
        notes.append(f"traces of zones that no pool names are left out: {', '.join(unused)}")
    return matched


def spot_zones(pools: Sequence[PoolSpec]) -> list[str]:
    """The zones (``region/zone``) in which the pools want spot, each once."""
    return list(dict.fromkeys(zone for pool in pools if Market.SPOT in pool.markets for zone in zones_of(pool)))


def _last(zone: str) -> str:
    """What a zone is known by: its last part, and its region where that alone says nothing (Azure's ``1``)."""
    parts = zone.lower().split("/")
    return "/".join(parts[-2:]) if parts[-1].isdecimal() or parts[-1] == "none" else parts[-1]


def _offers(
    spec: Spec, pools: Sequence[PoolSpec], traces: Mapping[str, ZoneTrace], notes: list[str]
) -> tuple[OfferModel, ...]:
    """What the pools offer, by the prices that their clouds' drivers would tell where nobody asks the clouds."""
    local = [pool for pool in pools if pool.cloud is Cloud.LOCAL]
    climates = climates_of(spec.local, (zone for pool in local for zone in pool.zones))
    found: dict[tuple[ZoneId, str, Market], OfferModel] = {}
    for pool in local:
        for name in _recorded_zones(pool, traces):
            climate = climates[ZoneId(f"local/{name}")]
            prices = {Market.SPOT: climate.spot_usd_per_hour, Market.ON_DEMAND: climate.on_demand_usd_per_hour}
            for market in pool.markets:
                if pool.max_usd_per_hour is not None and prices[market] > pool.max_usd_per_hour:
                    continue
                for kind in pool.instance_types or ["small"]:
                    offer = Offer(climate.zone, kind, market, prices[market], EPOCH)
                    found[climate.zone, kind, market] = _model(
                        offer, spec.backtest, traces.get(name), climate.notice_s, climate.no_notice_share
                    )
    for offer in _cheapest(spec, pools, traces, notes):
        name = offer.zone.partition("/")[2]
        notice_s = spec.gcp.notice if offer.cloud == Cloud.GCP else None
        found[offer.zone, offer.instance_type, offer.market] = _model(
            offer, spec.backtest, traces.get(name), notice_s or _NOTICE_S[Cloud(offer.cloud)], 0.0
        )
    return tuple(found.values())


def _cheapest(
    spec: Spec, pools: Sequence[PoolSpec], traces: Mapping[str, ZoneTrace], notes: list[str]
) -> list[Offer]:
    """Of each zone and market in a real cloud its cheapest machine, at the catalogue's price.

    One alone, since a record counts the VMs of one kind: a second would have them all once more.
    """
    cheapest: dict[tuple[ZoneId, Market], Offer] = {}
    left_out: set[str] = set()
    for pool in pools:
        if pool.cloud is Cloud.LOCAL:
            continue
        zones = set(_recorded_zones(pool, traces))
        offers = [offer for offer in catalogue_offers(pool) if offer.zone.partition("/")[2] in zones]
        for offer in offers:
            place = (offer.zone, offer.market)
            best = min(offer, cheapest.get(place, offer), key=lambda one: (one.usd_per_work, one.instance_type))
            left_out |= {offer.instance_type, cheapest.get(place, offer).instance_type} - {best.instance_type}
            cheapest[place] = best
    if cheapest:
        dates = sorted({f"{offer.read_at:%Y-%m-%d}" for offer in cheapest.values() if offer.read_at != ASSUMED_AT})
        read = f" of {' and '.join(dates)}" if dates else ""
        notes.append(f"prices of real clouds are those of the built-in catalogue{read}, at all times")
    if assumed := sorted({one.instance_type for one in cheapest.values() if one.read_at == ASSUMED_AT}):
        notes.append(f"nobody tells a price of {', '.join(assumed)}: spot counts as on-demand, or as its limit")
    if left_out - {offer.instance_type for offer in cheapest.values()}:
        notes.append(
            "of several machines in a zone only the cheapest is simulated, since a record is of one: "
            + ", ".join(sorted({offer.instance_type for offer in cheapest.values()}))
        )
    return list(cheapest.values())


def _recorded_zones(pool: PoolSpec, traces: Mapping[str, ZoneTrace]) -> list[str]:
    """The zones of a pool that are simulated: one that is left out is left out for on-demand too."""
    return [name for name in zones_of(pool) if Market.SPOT not in pool.markets or name in traces]


def _model(
    offer: Offer, backtest: BacktestSpec, trace: ZoneTrace | None, notice_s: float, no_notice_share: float
) -> OfferModel:
    model = OfferModel(offer=offer, cold_start_s=cold_starts_s(backtest))
    if offer.market is not Market.SPOT:
        return replace(model, available=backtest.on_demand_available)
    assert trace is not None
    return replace(
        model,
        capacity=replace(trace, zone=offer.zone),
        notice_s=notice_s if backtest.notice is None else backtest.notice,
        no_notice_share=no_notice_share if backtest.no_notice_share is None else backtest.no_notice_share,
    )
