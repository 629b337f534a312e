"""A model.toml as a world to simulate: its pools' offers with their prices, on the zones of recorded traces."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hedgeserve.drivers.localcloud.weather import climates_of
from hedgeserve.errors import BacktestError
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.simulate.scenario import EPOCH, MODEL_POLICIES, Demand, Requests, Scenario, whole_ticks
from hedgeserve.simulate.servicemodel import OnLoss, TokenService
from hedgeserve.simulate.setting import OfferModel
from hedgeserve.simulate.traces import TraceSet, ZoneTrace
from hedgeserve.spec import BacktestSpec, Cloud, PoolSpec, Spec


def model_scenario(
    spec: Spec, traces: TraceSet, *, requests: Requests | None = None, ignore_missing_zones: bool = False
) -> Scenario:
    """The world of a model.toml, as its ``[backtest]`` says.

    A pool's zone is the trace's whose last part is the same: ``us-east-1/us-east-1f`` is
    ``aws/us-east-1/us-east-1f``. With ``requests`` the autoscaler sets the target; else it is ``replicas.min``.
    A pool zone without a trace is an error, or with ``ignore_missing_zones`` left out.

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
    offers = _offers(spec, pools, matched)
    if not offers:
        raise BacktestError(f"every offer of {spec.origin.source} is above `max_usd_per_hour`; raise it")
    low, high = spec.replicas.lowest, spec.replicas.highest
    scaled = requests is not None and low != high
    if low != high and not scaled:
        notes.append(f"without requests the target is `replicas.min` = {low}; --requests or --poisson scales it")
    backtest = spec.backtest
    demand = None if requests is None else _demand(spec, requests, scaled=scaled)
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
    wanted = list(dict.fromkeys(zone for pool in pools if Market.SPOT in pool.markets for zone in pool.zones))
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
            f"holds {', '.join(trace.zone for trace in traces)}. Name those, or say --ignore-missing-zones"
        )
    if missing:
        notes.append(f"pool zones without a trace are left out: {', '.join(missing)}")
    used = {trace.zone for trace in matched.values()}
    if unused := [trace.zone for trace in traces if trace.zone not in used]:
        notes.append(f"traces of zones that no pool names are left out: {', '.join(unused)}")
    return matched


def _last(zone: str) -> str:
    return zone.rsplit("/", 1)[-1].lower()


def _offers(spec: Spec, pools: Sequence[PoolSpec], traces: Mapping[str, ZoneTrace]) -> tuple[OfferModel, ...]:
    """What the pools offer, by the prices that their clouds' drivers would tell."""
    backtest = spec.backtest
    climates = climates_of(spec.local, (zone for pool in pools for zone in pool.zones))
    found: dict[tuple[ZoneId, str, Market], OfferModel] = {}
    for pool in pools:
        for name in pool.zones:
            if Market.SPOT in pool.markets and name not in traces:
                continue  # a zone that is left out is left out for on-demand too
            climate = climates[ZoneId(f"local/{name}")]
            prices = {Market.SPOT: climate.spot_usd_per_hour, Market.ON_DEMAND: climate.on_demand_usd_per_hour}
            for market in pool.markets:
                if pool.max_usd_per_hour is not None and prices[market] > pool.max_usd_per_hour:
                    continue
                for kind in pool.instance_types or ["small"]:
                    offer = Offer(climate.zone, kind, market, prices[market], EPOCH)
                    model = OfferModel(offer=offer, cold_start_s=cold_starts_s(backtest))
                    if market is Market.SPOT:
                        model = replace(
                            model,
                            capacity=replace(traces[name], zone=climate.zone),
                            notice_s=climate.notice_s if backtest.notice is None else backtest.notice,
                            no_notice_share=(
                                climate.no_notice_share
                                if backtest.no_notice_share is None
                                else backtest.no_notice_share
                            ),
                        )
                    else:
                        model = replace(model, available=backtest.on_demand_available)
                    found[climate.zone, kind, market] = model
    return tuple(found.values())
