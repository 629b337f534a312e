"""`hedgeserve plan`: the world in which every launch is granted, what is lost with a zone, what a file changes."""

import json
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgeserve.console.clouds import aligned
from hedgeserve.console.plan import document, in_words
from hedgeserve.hedge import Launch, NewsKind, Rollout, Spent, Strategy, ZoneNews, make_policy
from hedgeserve.modelfile.effects import Effect, changes
from hedgeserve.modelfile.keys import tables
from hedgeserve.replica import Market, Offer, Replica, State, ZoneId
from hedgeserve.simulate.granted import Course, settle
from hedgeserve.simulate.prospect import Domain, losses
from hedgeserve.simulate.serviceplan import plan_service, read_running
from hedgeserve.spec import HedgeSpec, Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.units import format_usd_per_hour
from hedgeserve.versions import content_of, digest_of
from tests.shell import in_a_clean_shell, run
from tests.zoneworld import THREE, A, B, C, offer, replica

MODEL = """\
[service]
name = "planned"
[model]
engine = "demo"
[replicas]
min = 2
max = 4
target_requests_per_second = 2
[hedge]
policy = "spothedge"
[[pools]]
cloud = "local"
zones = ["east/a", "east/b", "west/a"]
"""


def spec_of(text: str) -> Spec:
    return parse_spec(text, "model.toml", Path(), {})


@st.composite
def settings(draw: st.DrawFn) -> tuple[HedgeSpec, int, tuple[Offer, ...], tuple[Replica, ...]]:
    """A policy, a target, what is offered, and what runs at the begin."""
    names = [ZoneId(f"cloud/{region}/{zone}") for region in ("r", "s") for zone in "abc"]
    places = draw(
        st.lists(
            st.tuples(st.sampled_from(names), st.sampled_from([Market.SPOT, Market.ON_DEMAND])),
            min_size=1,
            unique=True,
        )
    )
    hedge = HedgeSpec(
        policy=draw(st.sampled_from(["spothedge", "forecast"])),
        overprovision=draw(st.integers(0, 3)),
        # A model file that wants on-demand at all times names a pool that has it.
        always_on_demand=draw(st.integers(0, 2)) if Market.ON_DEMAND in {m for _, m in places} else 0,
        headroom=draw(st.integers(0, 2)),
    )
    offers = tuple(offer(zone, market, draw(st.sampled_from([0.2, 0.3, 1.0]))) for zone, market in places)
    there = tuple(
        replica(
            number,
            state=draw(st.sampled_from([State.READY, State.LOADING, State.BOOTING, State.PLANNED])),
            since_s=draw(st.floats(900, 1000)),
            offer=one,
        )
        for number, one in enumerate(draw(st.lists(st.sampled_from(offers), max_size=6)))
    )
    return hedge, draw(st.integers(0, 6)), offers, there


def course_of(setting: tuple[HedgeSpec, int, tuple[Offer, ...], tuple[Replica, ...]]) -> Course:
    hedge, target, offers, there = setting
    return settle(make_policy(hedge), target=target, offers=offers, replicas=there, now_s=1000.0)


@given(settings())
def test_a_fleet_that_is_granted_everything_comes_to_rest_with_enough(
    setting: tuple[HedgeSpec, int, tuple[Offer, ...], tuple[Replica, ...]],
) -> None:
    """What ran, what was launched and what was let go of make what runs; all of it is ready, and paid for."""
    course = course_of(setting)
    _, target, offers, there = setting
    ids = {one.id for one in there}
    for step in course.steps:
        (ids.add if step.launches else ids.remove)(step.replica.id)
    assert {one.id for one in course.fleet} == ids
    assert course.settled
    assert all(one.state is State.READY and one.offer in offers for one in course.fleet)
    assert len(course.fleet) >= target
    assert course.usd_per_hour == pytest.approx(sum(one.offer.usd_per_hour for one in course.fleet))
    assert course.most_usd_per_hour >= course.usd_per_hour - 1e-9
    assert course_of(setting) == course


@given(settings())
def test_a_fleet_at_rest_is_left_as_it_is(
    setting: tuple[HedgeSpec, int, tuple[Offer, ...], tuple[Replica, ...]],
) -> None:
    """SpotHedge begins nothing anew where another plan has ended."""
    hedge, target, offers, there = setting
    hedge = hedge.model_copy(update={"policy": "spothedge"})
    course = course_of((hedge, target, offers, there))
    again = settle(make_policy(hedge), target=target, offers=offers, replicas=course.fleet, now_s=1e6)
    assert again.steps == ()


def test_the_first_plan_is_the_one_that_production_would_make() -> None:
    """Nothing is simulated before the policy is asked."""
    hedge = HedgeSpec(policy="spothedge")
    course = settle(make_policy(hedge), target=2, offers=THREE)
    begun = [step.action for step in course.steps if step.at_s == 0]
    assert tuple(begun) == course.first.actions
    assert [one.offer.market for one in begun if isinstance(one, Launch)] == [Market.SPOT] * 3 + [
        Market.ON_DEMAND
    ] * 2
    # Two minutes of boot, one of hold.
    assert [(step.at_s, step.replica.market) for step in course.steps if not step.launches] == [
        (180.0, Market.ON_DEMAND),
        (180.0, Market.ON_DEMAND),
    ]


@given(st.lists(st.sampled_from([A, B, C, ZoneId("aws/r/x"), ZoneId("static/0/h:1"), ZoneId("static/0/h:2")])))
def test_what_is_lost_and_what_is_left_are_the_whole(zones: list[ZoneId]) -> None:
    """For every zone, region and cloud; the worst of each stands first, and what others run has neither."""
    fleet = [replica(number, zone) for number, zone in enumerate(zones)]
    found = losses(fleet, target=2)
    assert all(loss.lost + loss.left == len(fleet) and loss.enough == (loss.left >= 2) for loss in found)
    assert {loss.place: loss.lost for loss in found if loss.domain is Domain.ZONE} == Counter(zones)
    for domain in Domain:
        lefts = [loss.left for loss in found if loss.domain is domain]
        assert lefts == sorted(lefts)
    assert not any("static" in loss.place for loss in found if loss.domain is not Domain.ZONE)


# Against what runs


def running_as(spec: Spec, *replicas: Replica, target: int = 2) -> tuple[dict[str, object], dict[str, object]]:
    """What a service that was started with this spec would answer."""
    document = {
        "spec": spec.model_dump(mode="json", exclude_unset=True),
        "policy": spec.hedge.policy,
        "memory": make_policy(spec.hedge).export_memory(0.0),
    }
    told = [
        {
            "id": one.id,
            "zone": one.zone,
            "market": str(one.market),
            "instance_type": one.offer.instance_type,
            "usd_per_hour": one.offer.usd_per_hour,
            "state": str(one.state),
            "since_s": 300.0,
            "why": one.why,
            "notice_in_s": None,
            "version": one.version or 1,
        }
        for one in replicas
    ]
    return json.loads(json.dumps(document)), {"target": target, "replicas": told}


LOCAL = tuple(
    offer(ZoneId(f"local/{zone}"), market)
    for zone in ("east/a", "east/b", "west/a")
    for market in (Market.SPOT, Market.ON_DEMAND)
)
THERE = tuple(replica(number, offer=one) for number, one in enumerate(LOCAL[::2], start=1))


def test_the_same_file_changes_nothing() -> None:
    """A service at rest is told so."""
    spec = spec_of(MODEL)
    made = plan_service(spec, LOCAL, read_running(*running_as(spec, *THERE)))
    assert (made.changes, made.replaced, made.prospect.course.steps) == ((), (), ())
    assert made.prospect.usd_per_hour == pytest.approx(0.9)
    assert made.at_most is not None
    assert made.at_most.usd_per_hour == pytest.approx(1.5)


def test_a_plan_keeps_within_the_caps_and_says_what_they_hold_back() -> None:
    """A cap that leaves room for one VM: one is launched, no on-demand beside it, and the reason is told."""
    worst = max(one.usd_per_hour for one in LOCAL)
    capped = spec_of(MODEL + f'[budget]\nusd_per_hour = "{worst * 1.2:g} USD/h"\n')
    made = plan_service(capped, LOCAL)
    course = made.prospect.course
    assert [step.replica.market for step in course.steps] == [Market.SPOT]
    assert course.most_usd_per_hour <= worst * 1.2
    [reason] = course.held_back
    assert "budget.usd_per_hour" in reason
    told = [*in_words(made)]
    assert f"  {reason}" in told
    [cap] = [line for line in told if line.startswith("cap: budget.usd_per_hour")]
    assert "(lean: no spare replicas)" in cap
    assert document(made)["held_back"] == [reason]
    assert document(made)["caps"][0]["state"] == "lean"


@pytest.mark.parametrize("rolls", [False, True])
def test_launches_that_wait_since_boots_fail_come_later_and_are_told(rolls: bool) -> None:
    """As the service does it: nothing of that version is launched until the wait is over."""
    spec = spec_of(MODEL)
    policy = make_policy(spec.hedge)
    version = 2 if rolls else 1
    for at_s in (0.0, 30.0):
        policy.observe(
            ZoneNews(
                LOCAL[0].zone, Market.SPOT, NewsKind.BOOT_FAILED, at_s, "out of\x1b[2J memory", version=version
            )
        )
    told, status = running_as(spec, *(THERE if rolls else THERE[:1]))
    told["memory"] = json.loads(json.dumps(policy.export_memory(31.0)))
    rollout = Rollout(1, 2, Strategy.ROLLING) if rolls else None
    made = plan_service(spec, LOCAL, read_running(told, status), rollout=rollout)
    [why] = made.waits
    assert f"launches of version {version} wait: 2 times in a row" in why
    launches = [step for step in made.prospect.course.steps if step.launches]
    assert launches
    assert min(step.at_s for step in launches) > 30
    assert made.prospect.course.settled
    lines = [*in_words(made)]
    at = lines.index("launches wait at first, since boots fail")
    assert "out of [2J memory" in lines[at + 1]
    assert document(made)["waits"] == [why]


def test_a_plan_leaves_of_a_day_what_is_spent_already() -> None:
    """At noon the rest of the day is to be paid for; what is spent is not there any more."""
    capped = spec_of(MODEL + '[budget]\nusd_per_day = "60 USD/day"\n')
    noon = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert plan_service(capped, LOCAL, at=noon).prospect.course.fleet
    spent = plan_service(capped, LOCAL, at=noon, spent=Spent(59.0, 59.0)).prospect.course
    assert (spent.steps, spent.fleet) == ((), ())
    assert spent.held_back


@pytest.mark.parametrize(
    ("offers", "budget", "why"),
    [
        (LOCAL, '[budget]\nusd_per_hour = "0.5 USD/h"\n', "`[budget]` leaves no room for a single VM"),
        ((), "", "nothing can be launched from the pools"),
    ],
)
def test_a_fleet_of_nothing_is_told_in_words(offers: tuple[Offer, ...], budget: str, why: str) -> None:
    """Caps without room, or pools without an offer: the page says so, and has no table of what may be lost."""
    told = [*in_words(plan_service(spec_of(MODEL + budget), offers))]
    place = told.index("then: 0 replicas for a target of 2")
    assert why in told[place + 1]
    assert not any(line.startswith("if it goes") for line in told)
    [cost] = [line for line in told if line.startswith("cost: ")]
    assert cost == "cost: 0.00 USD/h, 0 USD a month"


CELLS = st.text(alphabet="ab é·", max_size=6)


@given(
    st.integers(0, 4).flatmap(lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), max_size=5)),
    st.frozensets(st.integers(0, 4)),
)
def test_any_rows_can_be_aligned(rows: list[list[str]], right: frozenset[int]) -> None:
    """None at all, rows without cells, empty cells: a line each, with every cell in its column."""
    lines = aligned(rows, right)
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert line == line.rstrip()
        assert line.replace(" ", "") == "".join(row).replace(" ", "")


def test_a_change_is_named_with_what_it_takes_and_what_comes_of_it() -> None:
    """More spares are launched beside what runs; another engine's arguments replace all of it."""
    old = spec_of(MODEL)
    new = spec_of(
        MODEL.replace('"demo"', '"demo"\nargs = ["--x"]').replace('"spothedge"', '"spothedge"\noverprovision = 2')
    )
    made = plan_service(new, LOCAL, read_running(*running_as(old, *THERE)))
    assert {change.key: change.effect for change in made.changes} == {
        "model.args": Effect.VERSION,
        "hedge.overprovision": Effect.LIVE,
    }
    assert [one.id for one in made.replaced] == [one.id for one in THERE]
    [first, *_] = made.prospect.course.steps
    assert (first.launches, first.at_s, first.replica.market) == (True, 0.0, Market.SPOT)
    assert not made.needs_restart


@pytest.mark.parametrize(("known", "number"), [({}, 4), ({"another": 6}, 7), (None, 2)])
def test_a_version_is_called_by_the_number_that_it_gets(known: dict[str, int] | None, number: int) -> None:
    """Words that there have been keep their number; others get the next one that no version has had."""
    new = spec_of(MODEL.replace("[model]", '[model]\nargs = ["--seed", "1"]'))
    document, status = running_as(spec_of(MODEL), *THERE)
    versions = {digest_of(content_of(new)): 2} if known is None else known
    running = read_running({**document, "versions": versions}, {**status, "model_version": 3})
    made = plan_service(new, LOCAL, running)
    assert made.rollout == Rollout(3, number, Strategy.ROLLING)


def test_a_version_that_was_taken_back_is_offered_with_that_word() -> None:
    """What `apply` says of it `plan` says too."""
    new = spec_of(MODEL.replace("[model]", '[model]\nargs = ["--seed", "1"]'))
    told, status = running_as(spec_of(MODEL), *THERE)
    told |= {"versions": {digest_of(content_of(new)): 2}, "taken_back": {"2": "half of its requests failed"}}
    made = plan_service(new, LOCAL, read_running(told, {**status, "model_version": 3}))
    assert "version 2 was taken back before: half of its requests failed" in [*in_words(made)]
    assert document(made)["rollout"]["taken_back"] == "half of its requests failed"


def test_a_plan_of_a_service_that_rests_says_when_it_would_be_done() -> None:
    """Paused: nothing is launched now, whatever the plan is for afterwards."""
    spec = spec_of(MODEL)
    told, status = running_as(spec, target=0)
    paused = {"rest": "paused", "why": "paused by `hedgeserve pause`; `hedgeserve resume` ends it"}
    made = plan_service(spec, LOCAL, read_running(told, {**status, "standing": paused}))
    page = [*in_words(made)]
    assert "nothing is launched now: paused by `hedgeserve pause`; `hedgeserve resume` ends it" in page
    assert any(line.startswith("what would be done then, if ") for line in page)
    assert any(line.startswith("  at once ") for line in page)
    assert not any(line.startswith("  now ") for line in page)
    assert document(made)["running"]["resting"] == paused["why"]
    asleep = {"rest": "asleep", "why": "asleep until 08:00", "wakes_on_request": True}
    running = read_running(told, {**status, "standing": asleep})
    assert running.resting == "asleep until 08:00; a request wakes it before"
    assert read_running(told, {**status, "standing": {"rest": "awake", "why": ""}}).resting == ""


def test_what_is_on_its_way_out_is_in_what_it_costs_until_then() -> None:
    """Or the most on the way would be less than what is paid now."""
    spec = spec_of(MODEL)
    leaving = [
        replica(number, offer=LOCAL[1], state=State.DRAINING) for number in (8, 9)
    ]  # on-demand ones that drain
    made = plan_service(spec, LOCAL, read_running(*running_as(spec, *THERE, *leaving)))
    assert made.running is not None
    assert made.prospect.course.most_usd_per_hour >= made.running.usd_per_hour > made.prospect.usd_per_hour
    [cost] = [line for line in in_words(made) if line.startswith("cost: ")]
    assert f"up to {format_usd_per_hour(made.running.usd_per_hour)} until then" in cost


def test_a_plan_calls_the_file_by_its_name() -> None:
    """It need not be model.toml."""
    spec = parse_spec(MODEL, "/somewhere/quickstart.toml", Path(), {})
    same = plan_service(spec, LOCAL, read_running(*running_as(spec, *THERE)))
    assert "no key of quickstart.toml is another than what runs" in [*in_words(same)]
    other = parse_spec(MODEL.replace("max = 4", "max = 5"), "/somewhere/quickstart.toml", Path(), {})
    changed = plan_service(other, LOCAL, read_running(*running_as(spec, *THERE)))
    assert "1 key of quickstart.toml changed" in [*in_words(changed)]


def test_what_a_roll_out_under_way_leaves_comes_back_at_once() -> None:
    """As `hedgeserve apply` has it."""
    old = spec_of(MODEL)
    new = spec_of(MODEL.replace("[model]", '[model]\nargs = ["--seed", "1"]'))
    document, status = running_as(new, *THERE)
    told = {"from": 1, "to": 2, "strategy": "rolling", "state": "rolling"}
    versions = {digest_of(content_of(old)): 1, digest_of(content_of(new)): 2}
    running = read_running({**document, "versions": versions}, {**status, "model_version": 2, "rollout": told})
    assert plan_service(old, LOCAL, running).rollout == Rollout(2, 1, Strategy.ROLLBACK)


@pytest.mark.parametrize("strategy", ["rolling", "blue-green"])
def test_another_version_is_rolled_through(strategy: str) -> None:
    """By the steps of the roll-out itself: its launches, who goes when, how many at most, how long it takes."""
    old = spec_of(MODEL)
    new = spec_of(
        MODEL.replace("[model]", '[model]\nargs = ["--seed", "1"]') + f'[update]\nstrategy = "{strategy}"\n'
    )
    document, status = running_as(old, *THERE)
    made = plan_service(new, LOCAL, read_running({**document, "boot_s": 40.0}, {**status, "model_version": 3}))
    course = made.prospect.course
    assert made.rollout is not None
    assert (made.rollout.old, made.rollout.new, made.rollout.strategy, made.cold_start_s) == (3, 4, strategy, 40.0)
    assert {one.version for one in course.fleet} == {4}
    assert {step.replica.id for step in course.steps if not step.launches} == {one.id for one in THERE}
    alive, most = len(THERE), 0
    for step in course.steps:
        alive += 1 if step.launches else -1
        most = max(most, alive)
    if strategy == "rolling":
        assert [step.launches for step in course.steps] == [True, False] * 3
        assert most == len(THERE) + new.update.max_surge
        # Each new one starts for 40 s and proves itself for 30 s before an old one goes.
        assert course.rolled_s == pytest.approx(3 * 70 + 30, abs=10)
    else:
        assert most == 2 * len(THERE)
        assert course.rolled_s == pytest.approx(40 + 30, abs=5)


def test_a_roll_out_under_way_goes_on_in_the_plan() -> None:
    """Half done: the new ones stay, the old ones are replaced."""
    spec = spec_of(MODEL)
    there = [replace(THERE[0], version=2), *(replace(one, version=1) for one in THERE[1:])]
    document, status = running_as(spec, *there)
    told = {"from": 1, "to": 2, "strategy": "rolling", "state": "rolling"}
    made = plan_service(spec, LOCAL, read_running(document, {**status, "model_version": 2, "rollout": told}))
    assert {one.version for one in made.prospect.course.fleet} == {2}
    assert {step.replica.id for step in made.prospect.course.steps if not step.launches} == {
        one.id for one in there[1:]
    }
    assert made.replaced == ()


def test_what_an_option_has_set_is_no_change_of_the_file() -> None:
    """`hedgeserve serve --listen` stands above `service.listen`."""
    document, status = running_as(spec_of(MODEL + '[timeouts]\ndrain = "9s"\n'), *THERE)
    made = plan_service(
        spec_of(MODEL), LOCAL, read_running({**document, "overridden": ["timeouts.drain"]}, status)
    )
    assert made.changes == ()
    assert plan_service(spec_of(MODEL), LOCAL, read_running(document, status)).changes != ()


def test_fewer_replicas_are_let_go_of() -> None:
    """The target of now is brought within the new bounds."""
    old, new = (
        spec_of(MODEL),
        spec_of(
            MODEL.replace("min = 2", "min = 1")
            .replace("max = 4", "max = 1")
            .replace("target_requests_per_second = 2\n", "")
        ),
    )
    made = plan_service(new, LOCAL, read_running(*running_as(old, *THERE, target=2)))
    assert (made.prospect.target, len(made.prospect.course.fleet), made.at_most) == (1, 2, None)
    assert [step.launches for step in made.prospect.course.steps] == [False]


def test_what_is_on_its_way_out_is_not_counted() -> None:
    """A replica under notice is replaced."""
    spec = spec_of(MODEL)
    leaving = replace(THERE[0], state=State.DRAINING)
    made = plan_service(spec, LOCAL, read_running(*running_as(spec, leaving, *THERE[1:])))
    assert [step.replica.zone for step in made.prospect.course.steps if step.replica.market is Market.SPOT] == [
        THERE[0].zone
    ]


def test_servers_of_others_count_and_cost_nothing() -> None:
    """Each is a zone of its own."""
    spec = spec_of(MODEL)
    made = plan_service(spec, LOCAL, externals=[ZoneId("static/0/h:1"), ZoneId("static/0/h:2")])
    markets = Counter(one.market for one in made.prospect.course.fleet)
    assert markets == {Market.EXTERNAL: 2, Market.SPOT: 1}
    assert made.prospect.usd_per_hour == pytest.approx(0.3)


def test_a_service_that_may_sleep_is_planned_awake() -> None:
    """What it costs to keep none is known."""
    made = plan_service(spec_of(MODEL.replace("min = 2", "min = 0")), LOCAL)
    assert made.prospect.target == 1


def test_what_another_release_tells_is_not_understood() -> None:
    """And is said to be so, not met with a traceback."""
    document, status = running_as(spec_of(MODEL))
    with pytest.raises(ValueError, match="galaxy"):
        read_running({**document, "spec": {"galaxy": {}}}, status)
    with pytest.raises(ValueError, match="memory"):
        read_running({"spec": document["spec"], "policy": "x"}, status)


@pytest.mark.parametrize("name", ["quickstart", "clouds", "rack", "vllm-local", "backtest"])
def test_a_spec_is_the_same_after_its_journey(name: str) -> None:
    """From the service that runs to the command that asks."""
    path = Path(__file__).parent.parent / "examples" / f"{name}.toml"
    spec = parse_spec(path.read_text(), str(path), path.parent, {})
    sent = json.loads(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    assert changes(spec, Spec.model_validate(sent)) == ()


def test_every_key_that_differs_is_found() -> None:
    """Also one that no row of the table speaks of: it takes the dearest."""
    assert {info.path for info in tables()} >= {"service", "model", "hedge", "pools"}
    old, new = spec_of(MODEL), spec_of(MODEL + '[admin]\nlisten = "127.0.0.1:0"\n')
    [change] = changes(old, new)
    assert (change.key, change.effect, change.line) == ("admin.listen", Effect.RESTART, 15)


# The verb


@pytest.fixture
def _clean(monkeypatch: pytest.MonkeyPatch, short_dir: Path) -> None:
    in_a_clean_shell(monkeypatch, short_dir)


@pytest.mark.usefixtures("_clean")
def test_a_plan_is_a_page_to_read_and_an_object_to_work_with(short_dir: Path) -> None:
    """Launches, cost, the on-demand baseline, the worst losses; nothing is launched and nothing is left behind."""
    (short_dir / "model.toml").write_text(MODEL)
    done = run("plan")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "nothing of that name runs; this only looks, and launches nothing" in done.stdout
    assert (
        "cost: 0.90 USD/h, 657 USD a month, 45% of the 2.00 USD/h of on-demand alone; up to 2.90 USD/h"
        in done.stdout
    )
    assert "zone local/east/a     1  2 of 2       enough" in done.stdout
    assert "region local/east     2  1 of 2       1 below the target" in done.stdout
    told = json.loads(run("plan", "--json").stdout)
    assert (told["running"], told["changes"], told["replaced"]) == (None, [], [])
    assert [step["what"] for step in told["steps"]] == ["launch"] * 5 + ["drain"] * 2
    assert (told["usd_per_hour"], told["on_demand_usd_per_hour"], told["settled"]) == (0.9, 2.0, True)
    assert not (short_dir / "state").exists()


@pytest.mark.usefixtures("_clean")
def test_a_plan_of_a_wrong_file_is_what_check_says(short_dir: Path) -> None:
    """With lines, as messages or as JSON; exit code 2."""
    (short_dir / "model.toml").write_text(MODEL + "[replicsa]\n")
    done, as_json = run("plan"), run("plan", "--json")
    assert (done.exit_code, as_json.exit_code) == (2, 2)
    assert "model.toml:14: replicsa" in done.stderr
    assert json.loads(as_json.stdout)["problems"][0]["line"] == 14


@pytest.mark.usefixtures("_clean")
def test_pools_that_offer_nothing_are_a_failure_that_says_why(short_dir: Path) -> None:
    """Above the limit of their pool, all of them."""
    limit = '\nmax_usd_per_hour = "0.01 USD/h"'
    (short_dir / "model.toml").write_text(MODEL.replace('"west/a"]', '"west/a"]' + limit))
    done = run("plan")
    assert done.exit_code == 1
    assert "nothing can be launched from the pools of model.toml" in done.stderr


@pytest.mark.usefixtures("_clean")
def test_a_cap_without_room_for_any_vm_is_found_before_it_is_served(short_dir: Path) -> None:
    """The file of a make-believe cloud tells its prices itself: `check` and `doctor` say it, and go on."""
    (short_dir / "model.toml").write_text(MODEL + '[budget]\nusd_per_hour = "0.5 USD/h"\n')
    done = run("check")
    assert done.exit_code == 0
    assert "model.toml: nothing can be launched now: budget.usd_per_hour (0.5 USD/h) leaves no room" in done.stderr
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [one["verdict"] for one in found if one["subject"] == "budget"] == ["warning"]
    (short_dir / "model.toml").write_text(MODEL + '[budget]\nusd_per_hour = "5 USD/h"\n')
    assert "nothing can be launched" not in run("check").stderr
    found = json.loads(run("doctor", "--json").stdout)["findings"]
    assert [one["verdict"] for one in found if one["subject"] == "budget"] == ["ok"]
