"""The doctor: what it says of this machine, of each cloud and of other people's servers, before money is spent."""

import json
import os
import re
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from click.testing import CliRunner

from hedgeserve.cli import main
from hedgeserve.doctor.home import examine_home
from hedgeserve.doctor.servers import examine_servers
from hedgeserve.doctor.visit import visit
from hedgeserve.drivers.azurecloud.examine import NEEDED
from hedgeserve.drivers.examine import Examination, Finding, Verdict, judge_quota
from hedgeserve.drivers.gcpcloud.examine import PERMISSIONS
from hedgeserve.drivers.static import StaticServer
from hedgeserve.errors import AuthError, CloudError
from hedgeserve.keyring import KeyFile
from hedgeserve.replica import ZoneId
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from hedgeserve.statedir import StateDirectory
from tests.clouds.azure_bench import SIZE, azure
from tests.clouds.azure_bench import Make as MakeAzure
from tests.clouds.azure_bench import make as azure_make
from tests.clouds.ec2_bench import Make, aws, ec2, ec2_server, quick
from tests.clouds.fake_arm import FakeArm
from tests.clouds.fake_ec2 import FakeEc2
from tests.clouds.fake_gce import FakeGce
from tests.clouds.gce_bench import Make as MakeGce
from tests.clouds.gce_bench import gce
from tests.clouds.gce_bench import make as gce_make

__all__ = ["aws", "azure", "azure_make", "ec2", "ec2_server", "gce", "gce_make", "quick"]
DOCS = Path(__file__).parent.parent / "docs" / "clouds"


def said(found: Sequence[Finding], subject: str) -> tuple[Verdict, str]:
    """The verdict and the sentence on a subject."""
    [one] = [one for one in found if one.subject == subject]
    return one.verdict, one.message


def spec_of(directory: Path, *, environ: dict[str, str] | None = None, **changes: str) -> Spec:
    """A service of the demo engine on one static server."""
    values = {
        "listen": "127.0.0.1:0",
        "service": "",
        "model": 'id = "demo"\nengine = "demo"',
        "url": "http://127.0.0.1:9",
        "pool": "",
    }
    values |= changes
    toml = (
        '[service]\nname = "s"\nlisten = "{listen}"\nstate_dir = "{state}"\n{service}\n[model]\n{model}\n'
        '[[pools]]\ncloud = "static"\nurls = ["{url}"]\n{pool}\n'
    )
    return parse_spec(toml.format(state=directory / "state", **values), "model.toml", directory, environ or {})


# This machine


def test_a_sound_machine_is_told_to_be_sound(short_dir: Path) -> None:
    """Engine, directory, disk, port, keys, files; nothing is left locked."""
    found = examine_home(spec_of(short_dir), {}).findings
    assert [one.subject for one in found if one.verdict is Verdict.FAILURE] == []
    assert said(found, "engine") == (Verdict.OK, "demo serves demo")
    assert said(found, "port")[0] is Verdict.OK
    assert {"state directory", "disk", "API keys", "open files", "clock"} <= {one.subject for one in found}
    StateDirectory.open(short_dir / "state").close()


def test_a_port_that_is_taken_is_a_failure_unless_the_service_itself_has_it(short_dir: Path) -> None:
    """Its own admin socket tells the two apart."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        spec = spec_of(short_dir, listen=f"127.0.0.1:{other.getsockname()[1]}")
        verdict, message = said(examine_home(spec, {}).findings, "port")
        assert verdict is Verdict.FAILURE
        assert "in use by another program" in message
        with closing(socket.socket(socket.AF_UNIX)) as admin:
            admin.bind(str(short_dir / "state" / "admin.sock"))
            admin.listen()
            assert said(examine_home(spec, {}).findings, "port")[0] is Verdict.OK


def test_a_state_directory_that_runs_or_cannot_be_is_told_apart(short_dir: Path) -> None:
    """In use: fine. Not to be written: a failure."""
    with StateDirectory.open(short_dir / "state"):
        verdict, message = said(examine_home(spec_of(short_dir), {}).findings, "state directory")
        assert (verdict, message[:6]) == (Verdict.OK, "in use")
    (short_dir / "file").write_text("")
    spec = spec_of(short_dir / "file")
    assert said(examine_home(spec, {}).findings, "state directory")[0] is Verdict.FAILURE


def test_keys_that_can_be_guessed_are_warned_of_and_never_shown(short_dir: Path) -> None:
    """By length and by variety; good ones are counted."""
    good = "tV9mB2kXq7LrW4sZd1NfYh3c"
    for keys, verdict in (("hunter2", Verdict.WARNING), ("a" * 40, Verdict.WARNING), (good, Verdict.OK)):
        found = examine_home(spec_of(short_dir), {"HEDGESERVE_API_KEYS": keys}).findings
        assert said(found, "API keys")[0] is verdict
        assert keys not in str(found)


def test_keys_that_were_issued_are_counted(short_dir: Path) -> None:
    """Where the last of them is revoked nobody can ask any more, and that is said."""
    state = short_dir / "state"
    state.mkdir(mode=0o700)
    KeyFile(state).path.write_text('{"keys": []}')
    found = examine_home(spec_of(short_dir, listen="0.0.0.0:0"), {}).findings
    assert said(found, "issued keys")[0] is Verdict.WARNING
    assert not any(one.subject == "API keys" for one in found)
    KeyFile(state).path.write_text("{")
    found = examine_home(spec_of(short_dir), {}).findings
    assert said(found, "issued keys")[0] is Verdict.FAILURE


def test_an_open_address_without_tls_or_keys_is_told(short_dir: Path) -> None:
    """Without keys it could not even start."""
    spec = spec_of(short_dir, listen="0.0.0.0:0")
    assert said(examine_home(spec, {}).findings, "API keys")[0] is Verdict.FAILURE
    assert said(examine_home(spec, {}).findings, "TLS")[0] is Verdict.WARNING


def test_weights_that_need_a_login_are_asked_for(short_dir: Path) -> None:
    """A token is said to be there, and not what it is."""
    model = 'id = "meta-llama/Llama-3.1-8B-Instruct"\nengine = "vllm"'
    assert said(examine_home(spec_of(short_dir, model=model), {}).findings, "weights")[0] is Verdict.WARNING
    environ = {"HF_TOKEN": "hf_secret"}
    spec = spec_of(short_dir, model=model + '\nsecret_env = ["HF_TOKEN"]', environ=environ)
    found = examine_home(spec, environ).findings
    assert said(found, "weights")[0] is Verdict.OK
    assert "hf_secret" not in str(found)
    verdict, message = said(examine_home(spec, {}).findings, "engine")
    assert (verdict, "HF_TOKEN" in message) == (Verdict.FAILURE, True)


@pytest.mark.parametrize(
    ("limit", "used", "verdict"),
    [
        (0.0, 0.0, Verdict.FAILURE),
        (8.0, 6.0, Verdict.FAILURE),
        (8.0, None, Verdict.WARNING),
        (16.0, 0.0, Verdict.OK),
    ],
)
def test_a_quota_is_held_against_one_replica_and_against_all(
    limit: float, used: float | None, verdict: Verdict
) -> None:
    """None at all, too few, enough."""
    found = Examination()
    judge_quota(found, "q", limit=limit, used=used, one=4, most=3, unit="vCPUs", advice="ask for more")
    assert found.findings[0].verdict is verdict
    assert ("ask for more" in found.findings[0].message) == (verdict is not Verdict.OK)


# Clouds


async def test_aws_tells_of_quotas_zones_image_and_of_what_it_would_refuse(aws: Make, ec2: FakeEc2) -> None:
    """A dry run for the permission, Service Quotas for the vCPUs; nothing is made."""
    driver = aws()
    found = await driver.examine()
    assert said(found, "aws login")[0] is Verdict.OK
    assert said(found, "aws us-east-1 image x86_64")[0] is Verdict.OK
    assert said(found, "aws us-east-1 us-east-1a subnet")[0] is Verdict.OK
    assert said(found, "aws us-east-1 g6.xlarge launch")[0] is Verdict.OK
    assert said(found, "aws us-east-1 g6.xlarge spot quota") == (
        Verdict.OK,
        "64 vCPUs, enough for 2 replicas of 4",
    )
    verdict, message = said(found, "aws us-east-1 g6.xlarge on_demand quota")
    assert verdict is Verdict.FAILURE
    assert "'Running On-Demand G and VT instances'" in message
    assert said(found, "aws us-east-1 us-east-1a g6.xlarge")[0] in (Verdict.OK, Verdict.FAILURE)
    assert [request["DryRun"] for request in ec2.of("RunInstances")] == ["true"]
    assert not ec2.instances()
    made = {action for action in ec2.actions if not action.startswith(("Describe", "Get"))}
    assert made == {"RunInstances"}


async def test_aws_without_permissions_is_told_which(aws: Make, ec2: FakeEc2) -> None:
    """A launch that may not be made fails; what only the doctor asks is unknown; other things go on."""
    ec2.allowed = {"DescribeInstances", "DescribeSubnets", "DescribeImages"}
    ec2.quotas = {}
    found = await aws().examine()
    verdict, message = said(found, "aws us-east-1 g6.xlarge launch")
    assert (verdict, "ec2:RunInstances" in message) == (Verdict.FAILURE, True)
    verdict, message = said(found, "aws us-east-1 g6.xlarge spot quota")
    assert (verdict, "servicequotas:GetServiceQuota" in message) == (Verdict.UNKNOWN, True)
    assert said(found, "aws us-east-1 g6.xlarge offered")[0] is Verdict.UNKNOWN
    assert said(found, "aws leftovers")[0] is Verdict.WARNING


async def test_aws_without_a_login_says_only_that(aws: Make, tmp_path: Path) -> None:
    """And what to do; no key is in it."""
    [one] = await aws(environ={"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}).examine()
    assert (one.subject, one.verdict) == ("aws login", Verdict.FAILURE)
    assert "aws configure" in one.message


async def test_google_tells_of_permissions_quotas_and_zones(gce: FakeGce, gce_make: MakeGce) -> None:
    """The role of the documentation is what is asked for."""
    gce.held.discard("compute.instances.create")
    found = await gce_make().examine()
    verdict, message = said(found, "gcp permissions")
    assert (verdict, message.startswith("this login lacks compute.instances.create;")) == (Verdict.FAILURE, True)
    place = "gcp us-central1"
    assert said(found, f"{place} us-central1-a g2-standard-8")[0] is Verdict.OK
    assert said(found, f"{place} g2-standard-8 spot quota PREEMPTIBLE_NVIDIA_L4_GPUS")[0] is Verdict.OK
    assert said(found, f"{place} g2-standard-8 on_demand quota NVIDIA_L4_GPUS")[0] is Verdict.FAILURE
    assert said(found, f"{place} g2-standard-8 spot quota GPUS_ALL_REGIONS")[0] is Verdict.WARNING
    assert said(found, "gcp image")[0] is Verdict.OK
    assert set(PERMISSIONS) == set(
        re.findall(r"^  - (compute\.\S+)$", (DOCS / "gcp.md").read_text(), re.MULTILINE)
    )


async def test_azure_tells_of_permissions_quotas_and_zones(azure: FakeArm, azure_make: MakeAzure) -> None:
    """A size that is barred in a zone, a family without quota, a role that lacks a word."""
    azure.permissions = [{"actions": ["*"], "notActions": ["Microsoft.Compute/virtualMachines/delete"]}]
    azure.skus = [
        {
            "resourceType": "virtualMachines",
            "name": SIZE,
            "family": "StandardNCADSA100v4Family",
            "locationInfo": [{"location": "eastus", "zones": ["1", "2"]}],
            "restrictions": [{"type": "Zone", "restrictionInfo": {"zones": ["1"]}}],
        }
    ]
    azure.usages = [
        {"name": {"value": "lowPriorityCores"}, "limit": 100, "currentValue": 0},
        {"name": {"value": "StandardNCADSA100v4Family"}, "limit": 0, "currentValue": 0},
    ]
    found = await azure_make().examine()
    assert said(found, f"azure eastus 1 {SIZE}")[0] is Verdict.FAILURE
    assert said(found, f"azure eastus none {SIZE}")[0] is Verdict.OK
    assert said(found, f"azure eastus {SIZE} spot quota")[0] is Verdict.OK
    assert said(found, f"azure eastus {SIZE} on_demand quota")[0] is Verdict.FAILURE
    verdict, message = said(found, "azure permissions")
    assert (verdict, "virtualMachines/delete" in message) == (Verdict.WARNING, True)
    assert said(found, "azure eastus image")[0] is Verdict.OK
    role = (DOCS / "azure.md").read_text()
    assert [action for action in NEEDED if f'"{action}"' not in role] == []


async def test_a_cloud_that_cannot_be_reached_is_told_first(aws: Make, short_dir: Path) -> None:
    """No address, no answer: then nothing more is asked of it; a driver that could not be made is a line too."""
    with closing(socket.create_server(("127.0.0.1", 0))) as gone:
        port = gone.getsockname()[1]
    spec, odd = spec_of(short_dir), aws(endpoint=f"http://127.0.0.1:{port}")
    found = await visit(spec, {"aws": odd, "gcp": AuthError("log in first")}, (), {})
    verdict, message = said(found, "aws address")
    assert (verdict, "cannot be reached" in message) == (Verdict.FAILURE, True)
    assert said(found, "gcp") == (Verdict.FAILURE, "log in first")
    assert not any(one.subject == "aws login" for one in found)


async def test_the_clocks_are_compared_with_those_of_the_clouds(
    azure: FakeArm, azure_make: MakeAzure, short_dir: Path
) -> None:
    """By the Date of any answer, an error included."""
    found = await visit(spec_of(short_dir), {"azure": azure_make()}, CloudError("no key"), {})
    assert said(found, "azure clock")[0] is Verdict.OK
    assert said(found, "static servers") == (Verdict.FAILURE, "no key")


# Other people's servers


@asynccontextmanager
async def server(**routes: Callable[[web.Request], Any]) -> AsyncIterator[StaticServer]:
    """An engine that answers so."""
    app = web.Application()
    for name, answer in routes.items():

        async def handle(request: web.Request, answer: Callable[[web.Request], Any] = answer) -> web.Response:
            told = answer(request)
            return told if isinstance(told, web.Response) else web.json_response(told)

        app.router.add_route("*", "/" + name.replace("__", "/"), handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    yield StaticServer(f"http://127.0.0.1:{port}", ZoneId("static/0/a"), "key")
    await runner.cleanup()


async def test_a_server_that_can_fail_over_is_told_to_be_sound(short_dir: Path) -> None:
    """The model, the version, and a path that failover needs."""
    spec = spec_of(short_dir, model='id = "org/m"\nengine = "vllm"')
    keys: list[str] = []

    def models(request: web.Request) -> Any:
        keys.append(request.headers["Authorization"])
        return {"data": [{"id": "org/m"}]}

    async with server(
        v1__models=models, version=lambda _: {"version": "0.11.0"}, detokenize=lambda _: {"prompt": "x"}
    ) as one:
        found = (await examine_servers(spec, (one,))).findings
    assert {finding.verdict for finding in found} == {Verdict.OK}
    assert len(found) == 3
    assert keys == ["Bearer key"]


async def test_servers_that_will_not_do_are_told_apart(short_dir: Path) -> None:
    """Another model, a wrong key, no engine, nobody there; one that cannot tokenize back."""
    spec = spec_of(short_dir, model='id = "org/m"\nengine = "vllm"')

    async def verdict_on(models: Callable[[web.Request], Any]) -> list[Finding]:
        async with server(v1__models=models) as one:
            return (await examine_servers(spec, (one,))).findings

    found = await verdict_on(lambda _: {"data": [{"id": "other"}]})
    assert "it serves other, and not org/m" in found[0].message
    assert [one.verdict for one in found] == [Verdict.FAILURE, Verdict.WARNING, Verdict.WARNING]
    [one] = await verdict_on(lambda _: web.Response(status=401))
    assert "its key is wrong" in one.message
    [one] = await verdict_on(lambda _: {"hello": 1})
    assert "is this an engine?" in one.message
    gone = StaticServer("http://127.0.0.1:9", ZoneId("static/0/a"))
    [one] = (await examine_servers(spec, (gone,))).findings
    assert (one.verdict, "cannot be reached" in one.message) == (Verdict.FAILURE, True)


async def test_a_redirect_is_not_followed_as_probes_do_not(short_dir: Path) -> None:
    """Nobody sends a key where a server points; where it points is said without what may be secret."""
    spec = spec_of(short_dir, model='id = "org/m"\nengine = "vllm"')
    asked: list[str] = []

    def elsewhere(request: web.Request) -> Any:
        asked.append(request.path)
        return web.Response(
            status=307, headers={"Location": "https://u:hush@other.example:8443/v1/models?key=hush"}
        )

    async with server(v1__models=elsewhere) as one:
        [found] = (await examine_servers(spec, (one,))).findings
    assert found.verdict is Verdict.FAILURE
    assert found.message == (
        "it redirects to https://other.example:8443, and HedgeServe follows no redirect: name the engine's own "
        "address in the pool's urls"
    )
    assert asked == ["/v1/models"]


# The verb


def test_the_verb_prints_a_line_each_and_exits_by_failures(short_dir: Path) -> None:
    """0 where nothing failed; 1 where something did; mistakes in the file are findings too."""
    model = short_dir / "model.toml"
    model.write_text(
        f'[service]\nlisten = "127.0.0.1:0"\nstate_dir = "{short_dir}/state"\n[model]\nid = "demo"\n'
        'engine = "demo"\n[[pools]]\ncloud = "local"\nzones = ["east/a"]\n'
    )
    environ = {name: None for name in os.environ if name.startswith("HEDGESERVE")}
    found = CliRunner(env=environ).invoke(main, ["doctor", str(model)])
    assert found.exit_code == 0, found.output
    assert "ok       engine" in found.stdout
    model.write_text(model.read_text() + "oops = 1\n")
    found = CliRunner(env=environ).invoke(main, ["doctor", str(model), "--json", "--offline"])
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert (report["ok"], report["failures"]) == (False, 1)
    assert "unknown key `oops`" in report["findings"][0]["message"]
