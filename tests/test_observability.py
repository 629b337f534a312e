"""The dashboard and the alerts of contrib/: they name what there is, and other people's tools accept them."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hedgeserve.metrics import Metrics
from hedgeserve.replica import Market, ZoneId
from hedgeserve.spec import Cloud
from tests.promql import names_in
from tests.upstreams import open_house

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "contrib" / "prometheus" / "alerts.yaml"
DASHBOARD = json.loads((ROOT / "contrib" / "grafana" / "hedgeserve.json").read_text())
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
OF_THE_SCRAPE = {"job", "instance"}
CLOUDS = {cloud for cloud in Cloud if cloud is not Cloud.STATIC}
PARTS = {"journal", "control_loop", "transcript", "entrance", *CLOUDS}
# What no metric need have been seen with: states and codes that come with replicas and requests.
OPEN_VALUES = {("hedgeserve_replicas", "state"), ("hedgeserve_requests_total", "outcome")}


def panels(within: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in within:
        yield panel
        yield from panels(panel.get("panels", []))


PANELS = list(panels(DASHBOARD["panels"]))
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
EXPRESSIONS = (
    [(rule["alert"], rule["expr"]) for rule in RULES]
    + [(panel["title"], target["expr"]) for panel in GRAPHS for target in panel["targets"]]
    + [(each["name"], each["expr"]) for each in DASHBOARD["annotations"]["list"]]
    + [(each["name"], each["definition"]) for each in DASHBOARD["templating"]["list"] if "definition" in each]
)


@pytest.fixture
async def served() -> dict[str, dict[str, set[str]]]:
    """Each sample that a balancer and a fleet serve before anything has happened, with its labels' values."""
    async with open_house() as house:
        metrics = house.metrics
        metrics.expect_clouds(["local"])
        metrics.expect_places([(Market.SPOT, ZoneId("local/a/a")), (Market.ON_DEMAND, ZoneId("local/a/a"))])
        metrics.watch_troubles({part: lambda: False for part in PARTS})
        text = (await house.get("/metrics")).body.decode()
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            for label, value in sample.labels.items():
                found[sample.name][label].add(value)
            found[sample.name]
    for each in metrics.describe():
        for label in each.labels:
            for name in [each.name] if each.kind != "histogram" else [f"{each.name}_bucket"]:
                found[name][label]
    return found


def test_what_an_expression_names_is_found() -> None:
    """Metrics with their matchers, labels that are grouped by; no functions, durations or numbers."""
    named = names_in('sum by (le) (rate(a_total{x="1", y!~"b|c"}[5m])) > 2 * time() and on (z) b_ratio')
    assert named.metrics == [("a_total", [("x", "=", "1"), ("y", "!~", "b|c")]), ("b_ratio", [])]
    assert named.groupings == ["le", "z"]


async def test_every_metric_label_and_value_that_is_named_is_there(served: dict[str, dict[str, set[str]]]) -> None:
    """Of a metric that is renamed, nobody would miss the alert until it was needed."""
    named = set()
    for where, expression in EXPRESSIONS:
        found = names_in(expression.replace("label_values(hedgeserve_build_info, job)", "hedgeserve_build_info"))
        labels = set()
        for metric, matchers in found.metrics:
            if metric in ("up", *OF_THE_SCRAPE):
                continue
            assert metric in served, f"{where}: there is no {metric}"
            named.add(re.sub("_(bucket|sum|count)$", "", metric))
            labels |= set(served[metric])
            for label, operator, value in matchers:
                if label in OF_THE_SCRAPE:
                    continue
                assert label in served[metric], f"{where}: {metric} has no label {label}"
                if (metric, label) not in OPEN_VALUES and "." not in value:
                    for one in value.split("|"):
                        assert one in served[metric][label], f"{where}: {metric} has no {label}{operator}{one}"
        # `pod` and the like are of somebody's Prometheus; what is ours must exist.
        assert set(found.groupings) <= labels | {"le"}, f"{where}: {found.groupings}"
    described = {each.name for each in Metrics().describe()}
    assert len(named & described) > 0.9 * len(described), described - named


def test_each_alert_says_how_bad_it_is_and_where_to_read_what_to_do() -> None:
    """A severity, a summary, a section of docs/observability.md, which says the same severity."""
    text = (ROOT / "docs" / "observability.md").read_text()
    headings = re.findall(r"^### (HedgeServe\w+)\n\n\*(\w+)\*\. ", text, re.MULTILINE)
    assert headings == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook"] == f"docs/observability.md#{rule['alert'].lower()}"
        assert not rule["annotations"]["summary"].endswith(".")


def test_the_dashboard_is_what_grafana_can_import() -> None:
    """Ids are unique, nothing overlaps, everything has a unit, a description and a data source to be chosen."""
    assert DASHBOARD["uid"] == "hedgeserve"
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in GRAPHS:
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}, panel["title"]
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
@pytest.mark.parametrize("command", ["check rules alerts.yaml", "test rules alerts_test.yaml"])
def test_promtool_accepts_the_alerts(command: str) -> None:
    """They parse, and they fire when they should and not when they should not."""
    done = subprocess.run(["promtool", *command.split()], cwd=ALERTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_can_read_what_the_dashboard_asks(tmp_path: Path) -> None:
    """Each expression, with a number in the place of Grafana's variables, as a recording rule."""
    rules = [
        {"record": f"dashboard:{number}", "expr": re.sub(r"\$__rate_interval", "5m", target["expr"])}
        for number, target in enumerate(target for panel in GRAPHS for target in panel["targets"])
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
