"""The pool: slots that requests hold on replicas, for every coming and going of those."""

import asyncio
import functools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.proxy.pool import Lease, Pool
from hedgeserve.proxy.routing import Wants, make_router
from hedgeserve.replica import Market, ReplicaId, RouteTarget, RoutingSnapshot, ZoneId
from hedgeserve.spec import RoutingSpec

IDS = [ReplicaId(f"r-{number}") for number in range(6)]
RETURNS = Wants(may_return=True)


def target(replica: ReplicaId, *, accepting: bool = True, url: str = "") -> RouteTarget:
    return RouteTarget(
        replica, url or f"http://{replica}", ZoneId("local/east/a"), Market.SPOT, accepting=accepting
    )


class PoolStory:
    """Drives a pool by hand, with its own clock."""

    def __init__(self, limit: int = 100) -> None:
        self.now_s = 0.0
        self.version = 0
        self.freed = 0
        router = make_router(RoutingSpec(), lambda: 0.5)
        self.pool = Pool(router, limit=limit, now_s=lambda: self.now_s, on_free=self._on_free)

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
        if event == "take" and (lease := story.pool.take(RETURNS)):
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
        for incarnation in {lease.incarnation for lease in held}:
            mine = [lease for lease in held if lease.incarnation is incarnation]
            assert incarnation.candidate.requests == len(mine)
            assert incarnation.candidate.tokens == sum(lease.tokens for lease in mine)
        assert story.pool.in_flight == len(held)


class Teller:
    """A holder that does this when its replica has vanished."""

    def __init__(self, vanished: Callable[[], None]) -> None:
        self.vanished = vanished


def test_a_lease_knows_at_once_that_its_replica_has_vanished() -> None:
    """The snapshot no longer shows the replica; whoever is talking to it is told, once."""
    story, told = PoolStory(), []
    story.show(target(IDS[0]))
    lease = story.pool.take(RETURNS)
    assert lease is not None
    lease.holder = Teller(lambda: told.append("gone"))
    story.show()
    story.show()
    assert lease.vanished
    assert told == ["gone"]


def test_an_id_that_comes_back_starts_anew() -> None:
    """A server that somebody else runs goes away and returns under its id: old requests are not its own."""
    story = PoolStory(limit=1)
    story.show(target(IDS[0]))
    old = story.pool.take(RETURNS)
    story.show()
    story.show(target(IDS[0]))
    new = story.pool.take(RETURNS)
    assert old is not None
    assert old.vanished
    assert new is not None
    assert not new.vanished
    assert story.pool.outstanding(IDS[0]) == 2


def test_a_draining_replica_keeps_what_it_has_and_gets_nothing_new() -> None:
    """Its lease goes on; the next request finds nothing."""
    story = PoolStory()
    story.show(target(IDS[0]))
    lease = story.pool.take(RETURNS)
    story.show(target(IDS[0], accepting=False))
    assert lease is not None
    assert not lease.vanished
    assert story.pool.take(RETURNS) is None
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
        lease = story.pool.take(RETURNS)
        assert lease is not None
        lease.release()
        return lease.target.id

    sick = story.pool.take(Wants(avoid=(IDS[1],), may_return=True))
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
    story = PoolStory()
    story.show(target(IDS[0]))
    leases = [story.pool.take(RETURNS) for _ in range(2)]
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
    lease = story.pool.take(RETURNS)
    assert lease is not None
    try:
        with lease:
            if fails:
                raise ConnectionError
    except ConnectionError:
        pass
    assert story.pool.outstanding(IDS[0]) == 0
    assert story.freed == 2  # the snapshot, then the release


def test_the_work_of_a_lease_is_taken_off_as_it_gets_done() -> None:
    """What is still to be done counts, and all of it is taken back in the end."""
    story = PoolStory()
    story.show(target(IDS[0]))
    lease = story.pool.take(Wants(tokens=300))
    assert lease is not None
    candidate = lease.incarnation.candidate
    assert candidate.tokens == 300
    lease.expect(120)
    assert candidate.tokens == 120
    lease.release()
    lease.expect(50)
    assert candidate.tokens == 0


def test_one_that_is_given_up_tells_its_leases_and_is_avoided_but_not_gone() -> None:
    """It was silent: what it was answering goes on elsewhere; only the fleet can say that it is gone."""
    story, told = PoolStory(), list[Lease]()
    story.show(target(IDS[0]), target(IDS[1]))
    leases = [story.pool.take(RETURNS) for _ in range(4)]
    for lease in leases:
        assert lease is not None
        lease.holder = Teller(functools.partial(told.append, lease))
    silent = leases[0].incarnation  # type: ignore[union-attr]
    story.pool.give_up(silent)
    assert {lease.target.id for lease in told} == {silent.target.id}
    assert not silent.vanished
    after = story.pool.take(RETURNS)
    assert after is not None
    assert after.target.id != silent.target.id


def test_a_replica_whose_key_has_changed_is_asked_with_the_new_one() -> None:
    """The same incarnation, its counts and all, but no old connection."""
    story = PoolStory()
    story.show(RouteTarget(IDS[0], "http://r", ZoneId("local/east/a"), Market.SPOT, api_key="old"))
    (incarnation,) = story.pool.incarnations
    before = incarnation.endpoint
    story.show(RouteTarget(IDS[0], "http://r", ZoneId("local/east/a"), Market.SPOT, api_key="new"))
    assert story.pool.incarnations == (incarnation,)
    assert before.closed
    assert b"Bearer new" in incarnation.endpoint.fixed_lines
