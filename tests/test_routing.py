"""Routing: who gets the next request, for every standing of the replicas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.pool import Pool
from hedgeserve.proxy.routing import pick
from hedgeserve.replica import Market, ReplicaId, RouteTarget, RoutingSnapshot, ZoneId

IDS = [ReplicaId(f"r-{number}") for number in range(6)]


def target(replica: ReplicaId, *, accepting: bool = True, preferred: bool = True, url: str = "") -> RouteTarget:
    return RouteTarget(
        replica,
        url or f"http://{replica}",
        ZoneId("local/east/a"),
        Market.SPOT,
        accepting=accepting,
        preferred=preferred,
    )


@st.composite
def standings(draw: st.DrawFn) -> tuple[list[RouteTarget], dict[ReplicaId, int], set[ReplicaId], set[ReplicaId]]:
    chosen = draw(st.lists(st.sampled_from(IDS), unique=True))
    targets = [target(replica, accepting=draw(st.booleans()), preferred=draw(st.booleans())) for replica in chosen]
    outstanding = {replica: draw(st.integers(0, 4)) for replica in chosen}
    subset = st.sets(st.sampled_from(IDS))
    return targets, outstanding, draw(subset), draw(subset)


@given(standings(), st.one_of(st.none(), st.integers(1, 4)), st.booleans())
def test_a_pick_is_always_allowed_and_none_only_where_nothing_is(standing, limit, fall_back) -> None:
    """Whatever the standing: never one that drains or is full, never a failed one while another accepts."""
    targets, outstanding, exclude, shunned = standing
    best = pick(targets, outstanding, exclude, limit=limit, shunned=shunned, fall_back=fall_back)
    accepting = [each for each in targets if each.accepting]
    fresh = [each for each in accepting if each.id not in exclude]
    allowed = [
        each
        for each in (fresh or (accepting if fall_back else []))
        if limit is None or outstanding[each.id] < limit
    ]
    assert (best is None) == (not allowed)
    assert best is None or best in allowed


@given(standings())
def test_least_outstanding_wins_among_equals(standing) -> None:
    """Of the replicas that are as good as the one picked, none has fewer requests."""
    targets, outstanding, exclude, shunned = standing
    best = pick(targets, outstanding, exclude, shunned=shunned)
    if best is None:
        return
    equals = [
        each
        for each in targets
        if each.accepting
        and each.preferred == best.preferred
        and (each.id in shunned) == (best.id in shunned)
        and (each.id in exclude) == (best.id in exclude)
    ]
    assert outstanding[best.id] == min(outstanding[each.id] for each in equals)


def test_a_noticed_replica_is_used_only_while_nothing_better_accepts() -> None:
    """The idle one is about to be taken away; the busy one is not."""
    idle_but_noticed, busy = target(IDS[0], preferred=False), target(IDS[1])
    assert pick([idle_but_noticed, busy], {IDS[0]: 0, IDS[1]: 9}) is busy
    assert pick([idle_but_noticed], {}) is idle_but_noticed


def test_one_that_failed_a_moment_ago_comes_last_but_is_not_refused() -> None:
    """A replica that fails fast is always the least busy one: that must not draw the traffic to it."""
    sick, well = target(IDS[0]), target(IDS[1])
    assert pick([sick, well], {IDS[0]: 0, IDS[1]: 9}, shunned={IDS[0]}) is well
    assert pick([sick], {}, shunned={IDS[0]}) is sick


def test_ties_go_round() -> None:
    """Idle replicas take turns, a new one without a backlog of turns to make up for."""
    targets = [target(replica) for replica in IDS[:3]]
    last_used: dict[ReplicaId, int] = {}
    order = []
    for turn in range(1, 7):
        best = pick(targets, {}, last_used=last_used)
        assert best is not None
        last_used[best.id] = turn
        order.append(best.id)
    assert order == IDS[:3] * 2


class PoolStory:
    """Drives a pool by hand, with its own clock."""

    def __init__(self, limit: int = 100) -> None:
        self.now_s = 0.0
        self.version = 0
        self.freed = 0
        self.pool = Pool(limit=limit, now_s=lambda: self.now_s, on_free=self._on_free)

    def _on_free(self) -> None:
        self.freed += 1

    def show(self, *targets: RouteTarget) -> None:
        self.version += 1
        self.pool.update(RoutingSnapshot(self.version, targets))


@given(st.lists(st.tuples(st.sampled_from(["take", "release", "again", "show"]), st.integers(0, 63))))
def test_counts_are_the_leases_held_and_never_negative(events) -> None:
    """Leases come and go, twice at times, replicas vanish under them and come back: the sums hold."""
    story = PoolStory()
    story.show(*(target(replica) for replica in IDS))
    held, given_back = [], []
    for event, number in events:
        if event == "take" and (lease := story.pool.take((), may_return=True)):
            held.append(lease)
        elif event == "release" and held:
            lease = held.pop(number % len(held))
            lease.release()
            given_back.append(lease)
        elif event == "again" and given_back:
            given_back[number % len(given_back)].release()
        elif event == "show":
            story.show(*(target(replica) for bit, replica in enumerate(IDS) if number >> bit & 1))
        for replica in IDS:
            assert story.pool.outstanding(replica) == sum(lease.target.id == replica for lease in held)
        assert story.pool.in_flight == len(held)


def test_a_lease_knows_at_once_that_its_replica_has_vanished() -> None:
    """The snapshot no longer shows the replica; whoever is talking to it is told, once."""
    story, told = PoolStory(), []
    story.show(target(IDS[0]))
    lease = story.pool.take((), may_return=True)
    assert lease is not None
    lease.on_vanish = lambda: told.append("gone")
    story.show()
    story.show()
    assert lease.vanished
    assert told == ["gone"]


def test_an_id_that_comes_back_starts_anew() -> None:
    """A server that somebody else runs goes away and returns under its id: old requests are not its own."""
    story = PoolStory(limit=1)
    story.show(target(IDS[0]))
    old = story.pool.take((), may_return=True)
    story.show()
    story.show(target(IDS[0]))
    new = story.pool.take((), may_return=True)
    assert old is not None
    assert old.vanished
    assert new is not None
    assert not new.vanished
    assert story.pool.outstanding(IDS[0]) == 2


def test_a_draining_replica_keeps_what_it_has_and_gets_nothing_new() -> None:
    """Its lease goes on; the next request finds nothing."""
    story = PoolStory()
    story.show(target(IDS[0]))
    lease = story.pool.take((), may_return=True)
    story.show(target(IDS[0], accepting=False))
    assert lease is not None
    assert not lease.vanished
    assert story.pool.take((), may_return=True) is None
    assert not story.pool.ready


def test_an_old_snapshot_does_not_bring_the_dead_back() -> None:
    """A snapshot that was overtaken on the way changes nothing."""
    story = PoolStory()
    story.show(target(IDS[0]))
    story.pool.update(RoutingSnapshot(0, (target(IDS[1]),)))
    assert story.pool.has(IDS[0])
    assert not story.pool.has(IDS[1])


def test_failures_in_a_row_shun_longer_and_one_success_forgives() -> None:
    """1 s, 2 s, then an answer, then 1 s again."""
    story = PoolStory()
    story.show(target(IDS[0]), target(IDS[1]))

    def first_choice() -> ReplicaId:
        lease = story.pool.take((), may_return=True)
        assert lease is not None
        lease.release()
        return lease.target.id

    sick = story.pool.take((IDS[1],), may_return=True)
    assert sick is not None
    sick.release()
    sick.failed()
    story.now_s = 0.9
    assert [first_choice() for _ in range(3)] == [IDS[1]] * 3
    story.now_s = 1.0
    assert first_choice() == IDS[0]
    sick.failed()
    story.now_s = 2.9
    assert [first_choice() for _ in range(3)] == [IDS[1]] * 3
    sick.worked()
    assert first_choice() == IDS[0]


async def test_wait_idle_returns_when_the_last_request_ends() -> None:
    """Two requests on one replica: the wait ends with the second, and at once where there is none."""
    import asyncio

    story = PoolStory()
    story.show(target(IDS[0]))
    leases = [story.pool.take((), may_return=True) for _ in range(2)]
    async with asyncio.timeout(5):
        await story.pool.wait_idle(ReplicaId("never-seen"))
        waiting = asyncio.create_task(story.pool.wait_idle(IDS[0]))
        for lease in leases:
            assert lease is not None
            await asyncio.sleep(0)
            assert not waiting.done()
            lease.release()
        await waiting


@pytest.mark.parametrize("fails", [False, True])
def test_leaving_a_lease_gives_it_back(fails: bool) -> None:
    """As a context manager it is released whether its attempt succeeds or raises."""
    story = PoolStory()
    story.show(target(IDS[0]))
    lease = story.pool.take((), may_return=True)
    assert lease is not None
    try:
        with lease:
            if fails:
                raise ConnectionError
    except ConnectionError:
        pass
    assert story.pool.outstanding(IDS[0]) == 0
    assert story.freed == 2  # the snapshot, then the release
