"""A cloud that fails for reasons that no zone is to blame for: it is left in peace, and more so each time."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from hedgeserve.core import Service
from hedgeserve.drivers.base import LaunchRequest, Machine
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.errors import AuthError, CloudError, ThrottledError
from hedgeserve.hedge import NewsKind
from hedgeserve.replica import Market
from tests.conftest import eventually, messages, replicas, small_spec
from tests.zoneworld import ON_DEMAND, SPOT, A, B, hedge, launches, offer, see, tell


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
@pytest.mark.parametrize("market", [SPOT, ON_DEMAND])
def test_a_cloud_that_fails_is_asked_more_and_more_rarely_and_a_note_says_why(policy: str, market: Market) -> None:
    """No credentials, say: no zone is to blame, and none is asked at every tick."""
    told, asked_at_s = hedge(policy=policy, retry_delay="30s", overprovision=0), []
    kinds = tuple(offer(zone, market) for zone in (A, B))
    for now_s in range(1000, 3000, 5):
        if launches(told.plan(see(target=1, now_s=now_s, offers=kinds))):
            asked_at_s.append(now_s)
            for zone in (A, B):
                tell(told, zone, NewsKind.LAUNCH_ERROR, at_s=now_s, market=market, detail="log in again")
            notes = told.plan(see(target=1, now_s=now_s, offers=kinds)).notes
            assert any("log in again" in note and "rests for" in note for note in notes), notes
    pauses_s = [later - earlier for earlier, later in itertools.pairwise(asked_at_s)]
    assert pauses_s == [30, 60, 120, 240, 480, 480, 480]


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
def test_an_answer_of_any_kind_ends_the_growing_of_the_pauses(policy: str) -> None:
    """The cloud has judged a launch again: the next failure is the first one."""
    told, kinds = hedge(policy=policy, retry_delay="30s", overprovision=0), (offer(A),)
    for at_s in (1000, 1030, 1100):
        tell(told, A, NewsKind.LAUNCH_ERROR, at_s=at_s)
    tell(told, A, NewsKind.GRANTED, at_s=1300)
    tell(told, A, NewsKind.LAUNCH_ERROR, at_s=1400)
    assert not launches(told.plan(see(target=1, now_s=1429, offers=kinds)))
    assert launches(told.plan(see(target=1, now_s=1430, offers=kinds)))


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
def test_a_cloud_that_answers_again_is_asked_at_once(policy: str) -> None:
    """Whatever pause its silence has led to; but one that comes and goes is not asked each time."""
    told, kinds = hedge(policy=policy, retry_delay="30s", overprovision=0), (offer(A),)
    for at_s in (1000, 1030, 1100):
        tell(told, A, NewsKind.LAUNCH_ERROR, at_s=at_s)
    assert not launches(told.plan(see(target=1, now_s=1105, offers=kinds)))
    asked = []
    for at_s in range(1110, 1120):
        tell(told, A, NewsKind.REACHABLE, at_s=at_s)
        if launches(told.plan(see(target=1, now_s=at_s, offers=kinds))):
            asked.append(at_s)
            tell(told, A, NewsKind.LAUNCH_ERROR, at_s=at_s)
    assert asked == [1110, 1111, 1112]
    tell(told, A, NewsKind.GRANTED, at_s=1150)
    tell(told, A, NewsKind.LAUNCH_ERROR, at_s=1151)
    tell(told, A, NewsKind.REACHABLE, at_s=1152)
    assert launches(told.plan(see(target=1, now_s=1152, offers=kinds)))


class RefusingCloud(LocalDriver):
    """The local cloud, which refuses every launch with one error."""

    error: CloudError = AuthError("the token has expired; log in again")
    asked = 0

    async def launch(self, request: LaunchRequest) -> Machine:
        RefusingCloud.asked += 1
        raise RefusingCloud.error


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Callable[[CloudError], None]:
    """Put the refusing cloud in the place of the local one."""

    def put(error: CloudError) -> None:
        monkeypatch.setattr("hedgeserve.drivers.local.LocalDriver", RefusingCloud)
        monkeypatch.setattr(RefusingCloud, "asked", 0)
        monkeypatch.setattr(RefusingCloud, "error", error)

    return put


async def settled(service: Service) -> list[str]:
    """What was refused until the policy has nothing left to try; one tick more, to see that it stays so."""
    await eventually(lambda: service.status()["plan"]["notes"] and replicas(service) == [], within_s=10)
    last = service._plan
    await eventually(lambda: service._plan is not last, what="one more tick")
    return await messages(service, "refused")


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
async def test_a_cloud_without_credentials_rests_as_a_whole(
    short_dir: Path, refusing: Callable[[CloudError], None], policy: str
) -> None:
    """One refusal says it of all zones and markets: the others are not asked, and nothing launches in a loop."""
    refusing(AuthError("the token has expired; log in again"))
    spec = small_spec(short_dir, retry_delay="1h", fallback="true")
    spec = spec.model_copy(update={"hedge": spec.hedge.model_copy(update={"policy": policy})})
    async with Service(spec, environ={}) as service:
        refused = await settled(service)
        # Those of one plan are launched side by side, and none knows of the refusal of another.
        assert 1 <= RefusingCloud.asked == len(refused) <= 3, "not one for each of the six offers"
        assert set(refused) == {"the token has expired; log in again"}
        zones = {zone["zone"] for zone in service.status()["zones"] if "rest" in zone["state"]}
        assert len(zones) == 3 or policy == "forecast"
        assert any("log in again" in trouble for trouble in service.status()["trouble"])


@pytest.mark.parametrize("policy", ["spothedge", "forecast"])
async def test_a_cloud_that_throttles_is_asked_once_for_each_zone(
    short_dir: Path, refusing: Callable[[CloudError], None], policy: str
) -> None:
    """The driver has been patient already: what still fails rests."""
    refusing(ThrottledError("too many calls"))
    spec = small_spec(short_dir, retry_delay="1h", markets='["spot"]')
    spec = spec.model_copy(update={"hedge": spec.hedge.model_copy(update={"policy": policy})})
    async with Service(spec, environ={}) as service:
        await settled(service)
        assert RefusingCloud.asked == 3
