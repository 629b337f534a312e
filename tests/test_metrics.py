"""Metrics: what the rooms tell is what Prometheus reads, and every name is explained."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hedgeserve.errors import CapacityError
from hedgeserve.metrics import FailurePhase, Metrics, Outcome
from hedgeserve.policy.plan import Launch, Plan, Rule
from hedgeserve.replica import GoneReason, Market, Offer, Replica, ReplicaId, State, ZoneId

ZONE = ZoneId("local/east/a")
OFFER = Offer(ZONE, "small", Market.SPOT, 0.3, datetime.now(UTC))
PLAN = Plan(target=3, spot_wanted=5, on_demand_wanted=1)
LOAD = {"inflight": lambda: 7, "queued": lambda: 2, "shunned": lambda: 1}
FORBIDDEN = {"counter", "gauge", "histogram", "ms", "milliseconds", "percent", "minutes"}
WITHOUT_UNIT = ("hedgeserve_request_attempts",)
DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"


def read(metrics: Metrics, name: str, **labels: str) -> float | None:
    """The value of one sample as a scraper sees it."""
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return float(sample.value)
    return None


def replica(number: int, state: State) -> Replica:
    return Replica(ReplicaId(f"demo-{number}"), OFFER, state, 0.0, datetime.now(UTC))


def test_every_metric_has_its_heading_in_the_docs_and_no_other_has() -> None:
    """The heading names the metric, a line below its type and labels as they are."""
    text = DOCS.read_text()
    headings = dict(re.findall(r"^### `([a-z_]+)`\n\n(.*)$", text, re.MULTILINE))
    described = Metrics().describe()
    assert set(headings) == {each.name for each in described}
    for each in described:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        said = f"*{each.kind}*" + (f", by {labels}" if labels else "")
        assert headings[each.name].startswith(said), each.name


def test_what_is_described_is_what_is_served() -> None:
    """No metric escapes the list."""
    metrics = Metrics()
    served = set(re.findall(r"^# TYPE (\w+)", metrics.render().decode(), re.MULTILINE))
    assert served == {each.name for each in metrics.describe()}


def test_only_counters_end_in_total_and_units_are_in_the_names() -> None:
    """Prometheus's conventions, held for the metrics to come too."""
    for each in Metrics().describe():
        assert each.name.startswith(("hedgeserve_", "process_")), each.name
        assert each.name.endswith("_total") == (each.kind == "counter"), each.name
        assert re.fullmatch(r"[a-z]+(_[a-z]+)+", each.name), each.name
        assert not FORBIDDEN & {*each.name.split("_")}, each.name
        if each.kind == "histogram" and each.name not in WITHOUT_UNIT:
            assert each.name.endswith(("_seconds", "_bytes", "_dollars", "_ratio")), each.name
        assert not each.name.endswith(("_count", "_sum", "_bucket", "_created")), each.name
        assert each.help[0].isupper(), each.name
        assert not each.help.endswith("."), each.name
        for label in each.labels:
            assert re.fullmatch(r"[a-z]+(_[a-z]+)*", label), each.name
            assert label not in ("le", "quantile", "job", "instance", "key", "replica", "request_id"), each.name


def test_what_is_served_is_what_a_scraper_can_read() -> None:
    """Every family has its help and its type, no sample comes twice, and nothing else is there."""
    seen = set()
    for family in text_string_to_metric_families(Metrics().render().decode()):
        assert family.documentation, family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        for sample in family.samples:
            assert not sample.name.endswith("_created")
            key = (sample.name, *sorted(sample.labels.items()))
            assert key not in seen
            seen.add(key)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_has_nothing_to_object_to() -> None:
    """`promtool check metrics`, where there is one."""
    done = subprocess.run(["promtool", "check", "metrics"], input=Metrics().render(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_series_that_alarms_need_are_there_before_anything_happens() -> None:
    """A rate cannot see the step from nothing to one."""
    metrics = Metrics()
    metrics.expect_routes(["/v1/completions"])
    assert read(metrics, "hedgeserve_requests_total", route="/v1/completions", outcome="ok") == 0
    for phase in FailurePhase:
        assert read(metrics, "hedgeserve_upstream_failures_total", phase=phase) == 0
    for rule in Rule:
        assert read(metrics, "hedgeserve_decisions_total", kind="launch", rule=rule) == 0
    metrics.expect_clouds(["local"])
    metrics.expect_places([(Market.SPOT, ZONE), (Market.ON_DEMAND, ZONE)])
    for name in ("terminate_failures", "vms_reaped", "ssh_losses", "watch_troubles"):
        assert read(metrics, f"hedgeserve_{name}_total", cloud="local") == 0
    for market in (Market.SPOT, Market.ON_DEMAND):
        assert read(metrics, "hedgeserve_launches_total", zone=ZONE, market=market, result="capacity") == 0
    assert read(metrics, "hedgeserve_preemptions_total", zone=ZONE, market="spot", notice="none") == 0
    assert read(metrics, "hedgeserve_streams_lost_total") == 0
    assert read(metrics, "hedgeserve_resumptions_total", way="continue", result="failed") == 0
    for reason in GoneReason:
        assert read(metrics, "hedgeserve_replicas_gone_total", market="spot", reason=reason) == 0


def test_two_services_in_one_process_do_not_mix() -> None:
    """Each has a registry of its own."""
    one, other = Metrics(), Metrics()
    one.request_ended("/v1/completions", Outcome.OK, 200)
    assert read(one, "hedgeserve_requests_total", route="/v1/completions") == 1
    assert read(other, "hedgeserve_requests_total", route="/v1/completions") is None


def test_a_state_that_no_replica_is_in_any_more_is_shown_as_zero() -> None:
    """It loaded, then it was ready: it must not be counted twice."""
    metrics = Metrics()
    metrics.set_replicas([replica(1, State.LOADING), replica(2, State.LOADING)])
    metrics.set_replicas([replica(1, State.READY), replica(2, State.LOADING)])
    metrics.set_replicas([replica(1, State.READY)])
    assert read(metrics, "hedgeserve_replicas", state="ready", market="spot", zone=ZONE) == 1
    assert read(metrics, "hedgeserve_replicas", state="loading", market="spot", zone=ZONE) == 0


def test_launches_are_counted_by_what_the_cloud_answered() -> None:
    """One VM came, one was refused for want of capacity; a quota refusal is shown with zero."""
    metrics = Metrics()
    metrics.launched(ZONE, Market.SPOT)
    metrics.launched(ZONE, Market.SPOT, CapacityError("none left"))
    found = {
        result: read(metrics, "hedgeserve_launches_total", zone=ZONE, market="spot", result=result)
        for result in ("ok", "capacity", "quota")
    }
    assert found == {"ok": 1, "capacity": 1, "quota": 0}


@pytest.mark.parametrize(
    ("tell", "name", "labels", "value"),
    [
        (lambda m: m.planned(PLAN), "replica_target", {}, 3),
        (lambda m: m.planned(PLAN), "replicas_wanted", {"market": "spot"}, 5),
        (lambda m: m.planned(PLAN), "replicas_wanted", {"market": "on_demand"}, 1),
        (lambda m: m.set_replicas([replica(1, State.NOTICED), replica(2, State.READY)]), "replicas_ready", {}, 2),
        (lambda m: m.preempted(ZONE, Market.SPOT, lead_s=9), "preemptions_total", {"notice": "notice"}, 1),
        (lambda m: m.preempted(ZONE, Market.SPOT, lead_s=9), "notice_lead_seconds_sum", {"market": "spot"}, 9),
        (lambda m: m.preempted(ZONE, Market.SPOT, lead_s=None), "preemptions_total", {"notice": "none"}, 1),
        (lambda m: m.rebalance(ZONE, Market.SPOT), "rebalances_total", {"zone": ZONE}, 1),
        (lambda m: m.gone(Market.SPOT, GoneReason.FAILED), "replicas_gone_total", {"reason": "failed"}, 1),
        (lambda m: m.ssh_lost("aws"), "ssh_losses_total", {"cloud": "aws"}, 1),
        (lambda m: m.watch_failed("aws"), "watch_troubles_total", {"cloud": "aws"}, 1),
        (lambda m: m.not_terminated("aws"), "terminate_failures_total", {"cloud": "aws"}, 1),
        (lambda m: m.reaped("aws"), "vms_reaped_total", {"cloud": "aws"}, 1),
        (lambda m: m.watch_troubles({"journal": lambda: True}), "trouble", {"part": "journal"}, 1),
        (lambda m: m.ticked(0.25), "tick_duration_seconds_sum", {}, 0.25),
        (lambda m: m.errored("queue_full"), "errors_total", {"code": "queue_full"}, 1),
        (lambda m: m.limited("tokens"), "key_limit_hits_total", {"limit": "tokens"}, 1),
        (lambda m: m.stream_lost(), "streams_lost_total", {}, 1),
        (lambda m: m.taken_up(0.5), "resumption_gap_seconds_sum", {}, 0.5),
        (lambda m: m.answered_tokens(11, 2.0), "time_per_output_token_seconds_sum", {}, 0.2),
        (lambda m: m.answered_tokens(11, None), "time_per_output_token_seconds_count", {}, 0),
        (lambda m: m.answered_tokens(11, None), "answer_tokens_total", {}, 11),
        (lambda m: m.prompted(7), "prompt_tokens_total", {}, 7),
        (lambda m: m.fell_silent(), "replica_silences_total", {}, 1),
        (
            lambda m: m.decided(Launch(OFFER, Rule.SPREAD, "missing")),
            "decisions_total",
            {"kind": "launch", "rule": "spread"},
            1,
        ),
        (lambda m: m.booted("ssh", 2.0), "boot_duration_seconds_sum", {"phase": "ssh"}, 2),
        (
            lambda m: m.spent(Market.SPOT, "serving", 0.5),
            "spend_dollars_total",
            {"market": "spot", "purpose": "serving"},
            0.5,
        ),
        (lambda m: m.on_demand_alone(0.7), "baseline_dollars_total", {}, 0.7),
        (lambda m: m.saved(-0.2), "saved_dollars", {}, -0.2),
        (lambda m: m.capped([("day", 4.0, 1.0)]), "budget_used_ratio", {"period": "day"}, 0.25),
        (lambda m: m.capped([("day", 4.0, 1.0)]), "budget_limit_dollars", {"period": "day"}, 4.0),
        (lambda m: m.loop_lagged(0.2), "loop_lag_seconds_sum", {}, 0.2),
        (lambda m: m.upstream_failed(FailurePhase.STALL), "upstream_failures_total", {"phase": "stall"}, 1),
        (lambda m: m.queue_waited(4.0), "queue_wait_seconds_sum", {}, 4),
        (lambda m: m.watch_load(**LOAD), "inflight_requests", {}, 7),
        (lambda m: m.watch_load(**LOAD), "queue_depth", {}, 2),
        (lambda m: m.watch_load(**LOAD), "replicas_shunned", {}, 1),
        (lambda m: m.request_took("/v1/completions", 1.5, 2, 0.3), "request_attempts_sum", {}, 2),
        (lambda m: m.request_took("/v1/completions", 1.5, 2, 0.3), "time_to_first_token_seconds_sum", {}, 0.3),
        (lambda m: None, "build_info", {}, 1),
    ],
)
def test_what_is_told_is_what_is_served(tell, name: str, labels: dict[str, str], value: float) -> None:
    """Each method moves its metric, under its labels, in its unit."""
    metrics = Metrics()
    tell(metrics)
    assert read(metrics, f"hedgeserve_{name}", **labels) == pytest.approx(value)


def test_first_token_buckets_reach_a_cold_start() -> None:
    """A request that waited ten minutes for a replica is not lost in the last bucket."""
    assert b'hedgeserve_time_to_first_token_seconds_bucket{le="600.0"}' in Metrics().render()
