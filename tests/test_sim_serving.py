"""Simulated requests: who is answered when, and what notices, drains and losses do to them."""

import math
import os
import random
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgeserve.policy.autoscale import Autoscaler
from hedgeserve.replica import Market, Offer, Replica, ReplicaId, State, ZoneId
from hedgeserve.simulate.load import Load
from hedgeserve.simulate.outcome import LoadOutcome
from hedgeserve.simulate.serving import (
    OnLoss,
    PaperService,
    RequestLoad,
    Routing,
    ServiceModel,
    ServingError,
    TokenService,
)
from hedgeserve.simulate.workload import Workload, poisson, read_requests
from hedgeserve.spec import ReplicasSpec

AZURE = (
    Path(os.environ.get("HEDGESERVE_DATA") or Path(__file__).parents[1] / ".." / "shared" / "data")
    / "requests"
    / "azure-llm-2023-conv.csv"
)
A, B, C = (ReplicaId(f"sim-{number}") for number in range(1, 4))
TEN = TokenService(concurrency=1, prefill_tokens_per_s=100.0, decode_tokens_per_s=10.0)
"""A prompt of 100 tokens is read in 1 s, an answer of 90 written in 9 s: ten seconds in all."""


def replica(which: ReplicaId) -> Replica:
    began = datetime(2024, 1, 1, tzinfo=UTC)
    offer = Offer(ZoneId("sim/east/a"), "gpu", Market.SPOT, 1.0, began)
    return Replica(which, offer, State.READY, 0.0, began)


def requests(*arrival_s: float, prompt: int = 100, output: int = 90, until_s: float = 1e6) -> Workload:
    count = len(arrival_s)
    return Workload("told", np.array(arrival_s), np.full(count, prompt), np.full(count, output), until_s)


def told(load: RequestLoad, *story: tuple[object, ...], end_s: float = 1e5) -> LoadOutcome:
    """Tell a story such as ``(5.0, "gone", A)`` and see what comes of it."""
    for at_s, what, which in story:
        getattr(load, str(what))(replica(which) if what == "ready" else which, at_s)  # type: ignore[arg-type]
    return load.finish(end_s)


def near(values: object, *wanted: float) -> bool:
    return values == pytest.approx(wanted)


def test_a_request_takes_its_prompt_and_its_answer() -> None:
    """One after the other on one replica: the second waits ten seconds; the first token comes after 1.1 s."""
    load: Load = RequestLoad(requests(0, 0), TEN)
    load.ready(replica(A), 0.0)
    outcome = load.finish(100.0)
    assert near(outcome.latencies_s, 10, 20)
    assert near(outcome.ttfts_s, 1.1, 11.1)
    assert outcome.arrived == 2
    assert outcome.failed == {}
    assert outcome.unfinished == 0


def test_an_answer_of_nothing_ends_with_its_prompt() -> None:
    """No token to write: first and last byte come when the prompt has been read."""
    outcome = told(RequestLoad(requests(0, output=0), TEN), (0.0, "ready", A))
    assert near(outcome.latencies_s, 1)
    assert near(outcome.ttfts_s, 1)


def test_requests_go_where_the_fewest_are() -> None:
    """Four requests, two replicas with two places each: all are answered at once."""
    load = RequestLoad(requests(0, 0, 0, 0), replace(TEN, concurrency=2))
    assert near(told(load, (0.0, "ready", A), (0.0, "ready", B)).latencies_s, 10, 10, 10, 10)


def test_the_line_waits_for_the_first_replica() -> None:
    """Nothing is ready until 30 s: both wait, and are served in the order of arrival."""
    outcome = told(RequestLoad(requests(5, 7), TEN), (30.0, "ready", A))
    assert near(outcome.latencies_s, 35, 43)


def test_one_under_notice_is_the_last_resort() -> None:
    """A is under notice: B takes the first, A only what B has no room for; alone, A takes all."""
    load = RequestLoad(requests(1, 2), TEN)
    load.ready(replica(A), 0.0)
    load.ready(replica(B), 0.0)
    load.noticed(A, 0.5)
    assert load.idle(A, 1.5)
    assert not load.idle(B, 1.5)
    assert not load.idle(A, 2.5)
    alone = RequestLoad(requests(1), TEN)
    assert near(told(alone, (0.0, "ready", A), (0.5, "noticed", A)).latencies_s, 10)


def test_a_draining_replica_ends_what_it_has() -> None:
    """A drains at 1 s with one request; the next waits for B; A is idle when its own has ended."""
    load = RequestLoad(requests(0, 2), TEN)
    load.ready(replica(A), 0.0)
    load.draining(A, 1.0)
    assert not load.idle(A, 9.999)
    assert load.idle(A, 10.0)
    load.gone(A, 10.0)
    assert load.idle(A, 11.0)
    assert load.signal(20.0).queued == 1
    load.ready(replica(B), 30.0)
    assert near(load.finish(100.0).latencies_s, 10, 38)


@pytest.mark.parametrize(
    ("on_loss", "latency_s", "ttft_s"),
    [
        # A is lost at 6 s; B takes over at once. Anew: 6 + 10, and the first token at 6 + 1.1.
        (OnLoss.RETRY, 16.0, 7.1),
        # 50 of 90 tokens are there: B reads 150 tokens in 1.5 s, writes 40 in 4 s; the client saw one at 1.1 s.
        (OnLoss.CONTINUE, 11.5, 1.1),
        (OnLoss.FINISH, 10.0, 1.1),
    ],
)
def test_a_lost_replica(on_loss: OnLoss, latency_s: float, ttft_s: float) -> None:
    """What it was answering is begun anew, continued, or (as published) answered all the same."""
    load = RequestLoad(requests(0), TEN, on_loss=on_loss)
    outcome = told(load, (0.0, "ready", A), (0.0, "ready", B), (6.0, "gone", A))
    assert near(outcome.latencies_s, latency_s)
    assert near(outcome.ttfts_s, ttft_s)
    assert outcome.failed == {}


def test_a_lost_replica_fails_its_requests_where_nobody_sends_them_again() -> None:
    """Two of three are on it; the third is answered."""
    load = RequestLoad(requests(0, 0, 0), replace(TEN, concurrency=2), on_loss=OnLoss.LOST)
    outcome = told(load, (0.0, "ready", A), (0.0, "ready", B), (6.0, "gone", A))
    assert near(outcome.latencies_s, 10)
    assert outcome.failed == {"lost": 2}


def test_a_loss_before_the_first_token_continues_from_the_prompt() -> None:
    """Half of the prompt was read, which is worth nothing: 0.5 s are lost, and no token was seen."""
    load = RequestLoad(requests(0), TEN, on_loss=OnLoss.CONTINUE)
    outcome = told(load, (0.0, "ready", A), (0.0, "ready", B), (0.5, "gone", A))
    assert near(outcome.latencies_s, 10.5)
    assert near(outcome.ttfts_s, 1.6)


def test_an_answer_is_continued_more_than_once() -> None:
    """Lost at 6 s (50 tokens) and, after 1.5 s of reading, at 8.5 s (10 more): 1.6 s to read 160, 3 s for 30."""
    load = RequestLoad(requests(0), TEN, on_loss=OnLoss.CONTINUE)
    outcome = told(
        load, (0.0, "ready", A), (6.0, "gone", A), (6.0, "ready", B), (8.5, "gone", B), (20.0, "ready", C)
    )
    assert near(outcome.latencies_s, 24.6)
    assert near(outcome.ttfts_s, 1.1)


def test_who_is_sent_back_stands_where_it_stood() -> None:
    """The first is hit at 6 s; two have come since and wait; the first is served before them."""
    load = RequestLoad(requests(0, 1, 2), TEN)
    outcome = told(load, (0.0, "ready", A), (6.0, "gone", A), (10.0, "ready", B))
    assert near(outcome.latencies_s, 20, 29, 38)


def test_patience_ends_in_the_line() -> None:
    """5 s of patience: the second is not reached in time; what it waited is counted over its attempts."""
    outcome = told(RequestLoad(requests(0, 1), TEN, queue_timeout_s=5), (0.0, "ready", A))
    assert near(outcome.latencies_s, 10)
    assert outcome.failed == {"timeout": 1}
    # 3 s of waiting before A, 2 s more after it is lost, then patience ends at 12 s.
    load = RequestLoad(requests(0), TEN, queue_timeout_s=5)
    load.ready(replica(A), 3.0)
    load.gone(A, 10.0)
    assert load.signal(11.9).queued == 1
    assert load.signal(12.0).queued == 0
    assert load.finish(20).failed == {"timeout": 1}


def test_a_slot_that_frees_at_the_last_moment_is_taken() -> None:
    """10 s of patience, and the replica is free after exactly 10 s."""
    outcome = told(RequestLoad(requests(0, 0), TEN, queue_timeout_s=10), (0.0, "ready", A))
    assert near(outcome.latencies_s, 10, 20)


def test_a_deadline_ends_an_answer_and_frees_its_slot() -> None:
    """12 s in all: the second, begun at 10 s, is cut off at 13 s, when the third comes and is begun."""
    load = RequestLoad(requests(0, 1, 13), TEN, total_timeout_s=12)
    load.ready(replica(A), 0.0)
    assert load.signal(12.99).in_flight == 1
    outcome = load.finish(100)
    assert near(outcome.latencies_s, 10, 10)
    assert outcome.failed == {"timeout": 1}


def test_a_full_line_turns_away() -> None:
    """One is answered, one waits, the third finds the line full; who is sent back by a loss is let in."""
    load = RequestLoad(requests(0, 1, 2), TEN, max_queue=1)
    outcome = told(load, (0.0, "ready", A), (6.0, "gone", A), (7.0, "ready", B))
    assert near(outcome.latencies_s, 17, 26)
    assert outcome.failed == {"queue_full": 1}


def test_the_warm_up_is_simulated_and_not_counted() -> None:
    """The first arrives during the warm-up and keeps the second waiting; only the second is counted."""
    load = RequestLoad(requests(0, 5), TEN, warm_up_s=5)
    outcome = told(load, (0.0, "ready", A))
    assert near(outcome.latencies_s, 15)
    assert outcome.arrived == 1


def test_what_is_not_answered_at_the_end_is_unfinished() -> None:
    """At 15 s one of three is answered, one half, one not begun."""
    outcome = told(RequestLoad(requests(0, 1, 2, 50), TEN), (0.0, "ready", A), end_s=15)
    assert outcome.arrived == 3
    assert len(outcome.latencies_s) == 1
    assert outcome.unfinished == 2


def test_time_does_not_go_back() -> None:
    """A world that asks about the past has a mistake in it."""
    load = RequestLoad(requests(0), TEN)
    load.signal(10.0)
    with pytest.raises(ServingError, match="went back from 10 s to 9 s"):
        load.signal(9.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TokenService(concurrency=0), "concurrency of 0"),
        (lambda: TokenService(prefill_tokens_per_s=0), "prefill_tokens_per_s is 0"),
        (lambda: TokenService(decode_tokens_per_s=math.inf), "decode_tokens_per_s is inf"),
        (lambda: PaperService(mean_s=math.nan), "mean_s is nan"),
        (lambda: RequestLoad(requests(0), TEN, queue_timeout_s=0), "queue_timeout_s is 0"),
        (lambda: RequestLoad(requests(0), TEN, sample_s=math.inf), "sample_s is inf"),
        (lambda: RequestLoad(requests(0), TEN, max_queue=-1), "max_queue"),
    ],
)
def test_what_cannot_be_simulated_is_refused(make, words) -> None:
    """With the number and its name."""
    with pytest.raises(ServingError, match=words):
        make()


def test_strangers_are_no_trouble() -> None:
    """A replica that never became ready may be noticed, drained and lost."""
    load = RequestLoad(requests(0), TEN)
    outcome = told(load, (0.0, "noticed", B), (1.0, "draining", B), (2.0, "gone", B), (2.0, "ready", A))
    assert near(outcome.latencies_s, 12)


def waiting_s(rate_per_s: float, mean_s: float, servers: int) -> float:
    """Mean waiting time in an M/M/c queue (Erlang C)."""
    offered = rate_per_s * mean_s
    top = offered**servers / math.factorial(servers) * servers / (servers - offered)
    share = top / (sum(offered**k / math.factorial(k) for k in range(servers)) + top)
    return share * mean_s / (servers - offered)


def steady(service: ServiceModel, replicas: int, workload: Workload, **limits: object) -> LoadOutcome:
    load = RequestLoad(workload, service, **limits)  # type: ignore[arg-type]
    for number in range(replicas):
        load.ready(replica(ReplicaId(f"sim-{number}")), 0.0)
    return load.finish(workload.duration_s)


def test_one_exponential_server_is_an_mm1_queue() -> None:
    """At 70 % load the mean time is 1 / (mu - lambda) = 33.3 s."""
    outcome = steady(PaperService(), 1, poisson(0.07, 1e6, seed=5), queue_timeout_s=math.inf)
    assert np.mean(outcome.latencies_s) == pytest.approx(1 / (0.1 - 0.07), rel=0.05)


def test_one_line_for_many_slots_is_an_mmc_queue() -> None:
    """Answers of exponential length, three slots on one replica or on three: Erlang's formula holds for both."""
    workload = poisson(0.25, 4e5, seed=6)
    lengths = np.random.default_rng(1).exponential(1000.0, len(workload)).round().astype(int)
    workload = replace(workload, prompt_tokens=np.zeros(len(workload), dtype=int), output_tokens=lengths)
    for replicas, slots in ((1, 3), (3, 1)):
        service = TokenService(concurrency=slots, decode_tokens_per_s=100.0)
        outcome = steady(service, replicas, workload, total_timeout_s=math.inf, queue_timeout_s=math.inf)
        assert np.mean(outcome.latencies_s) == pytest.approx(10 + waiting_s(0.25, 10, 3), rel=0.06)


def test_the_published_latencies_come_out() -> None:
    """Three replicas, three clients of which two march in step (all three in one window of ten).

    The simulator published with the paper gives P50 15.0, P90 44.2 (44.7), P99 84.5 (85.3), mean 20.1 s; each
    failure counts as 100 s.
    """
    seen: list[float] = []
    for window in range(10):
        workload = poisson(0.15, 86400.0, seed=window, clients=3, in_step=2 if window else 3)
        outcome = steady(
            PaperService(wait_for_replica=False),
            3,
            workload,
            seed=window,
            queue_timeout_s=100.0,
            total_timeout_s=math.inf,
            on_loss=OnLoss.FINISH,
            warm_up_s=120.0,
        )
        seen += [*outcome.latencies_s, *[100.0] * sum(outcome.failed.values())]
    assert np.mean(seen) == pytest.approx(20.1, rel=0.04)
    assert np.quantile(seen, [0.5, 0.9, 0.99]) == pytest.approx([15.0, 44.2, 84.5], rel=0.06)


@pytest.mark.skipif(not AZURE.is_file(), reason=f"no recorded requests at {AZURE}; set HEDGESERVE_DATA")
def test_a_recorded_hour_of_conversations() -> None:
    """5.5 requests/s of 7.3 s each keep 41 slots busy: 2 x 32 answer without delay, 1 x 32 falls behind."""
    hour = read_requests(AZURE)
    work_s = hour.prompt_tokens / 4000 + hour.output_tokens / 30
    enough, short = (steady(TokenService(), count, hour, warm_up_s=60.0) for count in (2, 1))
    counted = hour.arrival_s >= 60
    assert enough.arrived == short.arrived == int(counted.sum())
    assert np.mean(enough.latencies_s) == pytest.approx(work_s[counted].mean(), rel=0.03)
    assert enough.failed == {}
    assert short.failed["queue_full"] > 1000
    for outcome in (enough, short):
        assert outcome.arrived == len(outcome.latencies_s) + sum(outcome.failed.values()) + outcome.unfinished


def test_independent_clients_and_the_shortest_queue_are_better() -> None:
    """Bursts of three on one replica, then three clients on their own, then whoever has the fewest requests."""
    day = [poisson(0.15, 86400.0, seed=1, clients=3, in_step=in_step) for in_step in (3, 1, 1)]
    ways = [Routing.ROUND_ROBIN, Routing.ROUND_ROBIN, Routing.LEAST_OUTSTANDING]
    means = [
        np.mean(steady(PaperService(routing=way), 3, load).latencies_s)
        for way, load in zip(ways, day, strict=True)
    ]
    assert means[0] > 1.3 * means[1] > 1.5 * means[2]


def test_queues_of_their_own() -> None:
    """A client goes round: A, B, A, B. A is lost: what it answers is answered, as published, the rest fails."""
    workload = requests(1, 1, 1, 1)
    load = RequestLoad(workload, PaperService(), on_loss=OnLoss.FINISH)
    load.ready(replica(A), 0.0)
    load.ready(replica(B), 0.0)
    assert (load.signal(1.0).queued, load.signal(1.0).in_flight) == (2, 2)
    load.draining(A, 1.0)
    assert not load.idle(A, 1.0)
    load.gone(A, 1.0)
    outcome = load.finish(1e5)
    assert outcome.failed == {"lost": 1}
    assert len(outcome.latencies_s) == 3
    alone = RequestLoad(workload, PaperService(wait_for_replica=False))
    assert alone.finish(1e5).failed == {"no_replica": 4}


def test_patience_ends_in_a_queue_of_its_own_too() -> None:
    """Who gives up frees its place: the replica is idle afterwards and counts nobody as waiting."""
    load = RequestLoad(
        requests(0, 0, 0), PaperService(mean_s=1e4, routing=Routing.LEAST_OUTSTANDING), queue_timeout_s=5
    )
    load.ready(replica(A), 0.0)
    assert load.signal(4.0).queued == 2
    assert load.signal(6.0).queued == 0
    assert load.finish(1e6).failed == {"timeout": 2}


def test_the_work_of_a_request_is_the_same_under_every_fleet() -> None:
    """With a replica for each, latencies are the drawn times; another seed draws others."""
    workload = requests(0, 0, 0)
    alone = [
        sorted(steady(PaperService(routing=Routing.LEAST_OUTSTANDING), count, workload, seed=seed).latencies_s)
        for count, seed in ((3, 1), (5, 1), (3, 2))
    ]
    assert alone[0] == alone[1] != alone[2]


def test_nobody_looks_while_nothing_comes() -> None:
    """One request at 5,000 s: looked at just before, when it comes, for as long as it matters, and then never."""
    load = RequestLoad(requests(5000.5), TEN, sample_s=30, settle_s=100)
    load.ready(replica(A), 0.0)
    looks = [0.0]
    while (again := load.next_change_s(looks[-1])) is not None:
        assert again > looks[-1]
        looks.append(again)
    assert looks[:4] == [0.0, 4980.0, 5000.5, 5010.0]
    assert 5110 < looks[-1] < 5250
    assert len(looks) < 12


@pytest.mark.parametrize("seed", range(3))
def test_looking_when_told_gives_the_same_targets_as_looking_always(seed: int) -> None:
    """An autoscaler from zero to three: asked each tick, or only when told, it has the same target all along."""
    spec = ReplicasSpec(
        min=0, max=3, target_requests_per_second=0.1, window="60s", upscale_delay="90s", downscale_delay="300s"
    )
    bursts = [poisson(0.25, 900.0, seed=seed * 10 + number) for number in range(3)]
    times = np.concatenate([burst.arrival_s + 5000.0 * number for number, burst in enumerate(bursts)])
    workload = requests(*times.tolist(), until_s=20000.0)

    def targets(told_when: bool) -> list[int]:
        load = RequestLoad(workload, replace(TEN, concurrency=9), sample_s=10, settle_s=360)
        load.ready(replica(A), 0.0)
        scaler, seen, target, again = Autoscaler(spec), [], 0, 0.0
        for tick in range(2000):
            now_s = tick * 10.0
            if not told_when or (again is not None and again <= now_s):
                target = scaler.decide(load.signal(now_s)).target
                again = load.next_change_s(now_s)
            seen.append(target)
        return seen

    assert max(targets(False)) == 3
    assert targets(True) == targets(False)


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[float], list[tuple[float, str, ReplicaId]]]:
    """Arrivals, and what happens to three replicas, at whole seconds so that things coincide."""
    times = sorted(draw(st.lists(st.integers(0, 60), min_size=1, max_size=25)))
    step = st.tuples(
        st.integers(0, 80), st.sampled_from(["ready", "noticed", "draining", "gone"]), st.sampled_from([A, B, C])
    )
    return [float(time) for time in times], sorted(draw(st.lists(step, max_size=15)), key=lambda each: each[0])


@settings(deadline=None)
@given(lives(), st.sampled_from(OnLoss), st.integers(1, 3), st.booleans(), st.integers(0, 4))
def test_every_request_is_somewhere_and_none_is_in_two_places(life, on_loss, slots, tokens, max_queue) -> None:
    """Arrived = answered + failed + unfinished, whatever happens; never more at once than slots; sane times."""
    times, story = life
    service: ServiceModel = replace(TEN, concurrency=slots) if tokens else PaperService(mean_s=5.0)
    load = RequestLoad(
        requests(*times, prompt=100, output=40),
        service,
        on_loss=on_loss,
        max_queue=max_queue,
        queue_timeout_s=20.0,
        total_timeout_s=40.0,
    )
    there: set[ReplicaId] = set()
    for at_s, what, which in story:
        getattr(load, what)(replica(which) if what == "ready" else which, float(at_s))
        (there.add if what == "ready" else there.discard if what == "gone" else lambda _: None)(which)
        signal = load.signal(float(at_s))
        assert signal.queued >= 0
        if on_loss is not OnLoss.FINISH:
            assert 0 <= signal.in_flight <= (slots if tokens else 1) * len(there)
        assert all(load.idle(each, float(at_s)) for each in (A, B, C) if each not in there)
    outcome = load.finish(1000.0)
    assert outcome.arrived == len(times)
    assert outcome.arrived == len(outcome.latencies_s) + sum(outcome.failed.values())
    assert outcome.unfinished == 0
    assert len(outcome.ttfts_s) == len(outcome.latencies_s)
    for ttft_s, latency_s in zip(outcome.ttfts_s, outcome.latencies_s, strict=True):
        assert 0 < ttft_s <= latency_s + 1e-9
        assert latency_s <= 40.0 + 1e-9
    assert all(load.idle(each, 1000.0) for each in (A, B, C))
    assert (load.signal(1000.0).queued, load.signal(1000.0).in_flight) == (0, 0)


@settings(deadline=None)
@given(lives(), st.sampled_from(OnLoss), st.randoms(use_true_random=False))
def test_looking_changes_nothing(life, on_loss, dice: random.Random) -> None:
    """The same story, with and without somebody who looks in between, ends the same to the last bit."""
    times, story = life

    def outcome(looks: bool) -> LoadOutcome:
        load, now_s = RequestLoad(requests(*times), TEN, on_loss=on_loss), 0.0
        for at_s, what, which in story:
            if looks:
                now_s = dice.uniform(now_s, float(at_s))
                load.signal(now_s)
                load.next_change_s(now_s)
                load.idle(which, now_s)
            now_s = float(at_s)
            getattr(load, what)(replica(which) if what == "ready" else which, now_s)
        return load.finish(500.0)

    assert outcome(looks=False) == outcome(looks=True)
