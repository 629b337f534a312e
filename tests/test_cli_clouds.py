"""The verbs that ask clouds: offers, orphans, down; and what `check` says of pools in clouds."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from hedgeserve.console.admin import AdminClient
from hedgeserve.console.down import take_down
from hedgeserve.drivers.base import MachineState
from hedgeserve.errors import AuthError, HedgeServeError, NotRunningError
from hedgeserve.replica import Market, Offer, ReplicaId, State, ZoneId
from hedgeserve.statedir import StateDirectory
from hedgeserve.store import Store, vms_in
from tests.memorycloud import MODEL, MemoryCloud, Sky
from tests.shell import run


@pytest.fixture
def sky(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sky:
    """An empty cloud in the place of AWS; pauses between looks are short."""
    made = Sky()
    monkeypatch.setattr(MemoryCloud, "sky", made)
    monkeypatch.setattr("hedgeserve.drivers.aws.AwsDriver", MemoryCloud)
    monkeypatch.setattr("hedgeserve.drivers.clearance._FIRST_PAUSE_S", 0.01)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    return made


@pytest.fixture
def model(short_dir: Path) -> str:
    path = short_dir / "model.toml"
    path.write_text(MODEL.format(state=short_dir / "state", pool=""))
    return str(path)


def journal(directory: Path, service: str, *, vm: str | None = None) -> None:
    """A journal that knows a service, with one living replica ``<service>-1`` where ``vm`` is its VM."""
    directory.mkdir(parents=True, exist_ok=True)

    async def write() -> None:
        store = await Store.open(directory / "journal.db")
        offer = Offer(ZoneId("aws/us-east-1/us-east-1a"), "g6.xlarge", Market.SPOT, 0.4, datetime.now(UTC))
        replica = await store.new_replica(service, offer=offer, token="t", reason="r", now=datetime.now(UTC))
        state, vm_id = (State.BOOTING, vm) if vm else (State.GONE, None)
        await store._run("UPDATE replicas SET state = ?, vm_id = ? WHERE id = ?", state, vm_id, replica)
        await store.close()

    asyncio.run(write())


# offers


def test_offers_tells_live_prices_and_marks_the_others_as_stale(model: str, sky: Sky) -> None:
    sky.live = {("us-east-1/us-east-1a", "g6.xlarge", Market.SPOT): 0.25}
    told = json.loads(run("offers", model, "--json").stdout)
    assert [(one["zone"], one["market"], one["price"], one["usd_per_hour"]) for one in told][:2] == [
        ("aws/us-east-1/us-east-1a", "spot", "live", 0.25),
        ("aws/us-west-2/us-west-2b", "spot", "catalogue", 0.41),
    ]
    lines = run("offers", model).stdout.splitlines()
    assert lines[0].split() == ["zone", "type", "GPU", "market", "USD/h", "USD/h", "per", "throughput", "price"]
    assert lines[1].endswith("live")
    assert "catalogue of 2025-07-01, stale" in lines[2]


def test_offers_works_without_credentials(model: str, sky: Sky) -> None:
    sky.error = AuthError("no AWS credentials were found; run `aws configure`")
    done = run("offers", model)
    assert done.exit_code == 0
    assert "aws told no live price" in done.stderr
    assert "run `aws configure`" in done.stderr
    assert len(done.stdout.splitlines()) == 5


def test_offers_shows_what_is_not_offered_and_why(model: str, sky: Sky) -> None:
    path = Path(model)
    path.write_text(
        path.read_text().replace('["g6.xlarge"]', '["g6.xlarge", "g9.huge"]')
        + '[[pools]]\ncloud = "aws"\nregions = ["us-east-2"]\ngpu = "L4:1"\nmarkets = ["on_demand"]\n'
        'max_usd_per_hour = "0.90 USD/h"\n'
    )
    done = run("offers", model, "--json")
    told = {(one["instance_type"], one["zone"]): one for one in json.loads(done.stdout)}
    unpriced = told["g9.huge", "aws/us-east-1/us-east-1a"]
    assert (unpriced["offered"], unpriced["price"]) == (False, "unknown")
    assert "max_usd_per_hour" in unpriced["why_not"]
    assert told["g6.xlarge", "aws/us-east-2/us-east-2a"]["offered"]
    assert "costs more" in told["g6.2xlarge", "aws/us-east-2/us-east-2a"]["why_not"]
    assert "the catalogue does not know g9.huge" in done.stderr


# check


def test_check_refuses_unknown_gpus_and_regions_with_what_was_meant(model: str, sky: Sky) -> None:
    with Path(model).open("a") as file:
        file.write('[[pools]]\ncloud = "gcp"\nregions = ["us-centrall1"]\ngpu = "L44"\n')
    done = run("check", model)
    assert done.exit_code == 2
    assert 'pools[1].regions[0]: the catalogue knows no zones of the region "us-centrall1"' in done.stderr
    assert 'did you mean "us-central1"?' in done.stderr
    assert 'pools[1].gpu[0]: no machine of gcp with the GPU "L44"' in done.stderr
    assert "L4:1" in done.stderr


def test_check_counts_the_zones_of_regions_and_remarks_on_unknown_types(model: str, sky: Sky) -> None:
    path = Path(model)
    path.write_text(path.read_text().replace('"g6.xlarge"', '"g6.xlrge"') + 'regions = ["us-east-2"]\n')
    done = run("check", model)
    assert done.exit_code == 0, done.stderr
    assert "on 5 zones (aws)" in done.stdout
    assert "did you mean g6.xlarge?" in done.stderr


# bake


def test_bake_prints_the_recipe_for_the_only_cloud_of_the_pools(model: str, sky: Sky) -> None:
    path = Path(model)
    path.write_text(path.read_text().replace('engine = "demo"', 'engine = "vllm"\nid = "Qwen/Qwen3-8B"'))
    done = run("bake", model)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("#!/bin/sh")
    assert "aws ec2 create-image" in done.stdout
    assert "gcloud compute images create" in run("bake", model, "--cloud", "gcp").stdout


def test_bake_says_why_there_is_no_recipe(model: str, sky: Sky) -> None:
    done = run("bake", model)
    assert (done.exit_code, done.stdout) == (1, "")
    assert 'nothing is installed for engine = "demo"' in done.stderr
    path = Path(model)
    path.write_text(path.read_text() + '[[pools]]\ncloud = "gcp"\nregions = ["us-east1"]\ngpu = "L4"\n')
    done = run("bake", model)
    assert done.exit_code == 1
    assert "has pools in aws, gcp; say which cloud the image is for with --cloud" in done.stderr


# orphans


def test_what_a_journal_owns_is_no_orphan(model: str, sky: Sky, short_dir: Path) -> None:
    machine = sky.add_vm("svc-1")
    sky.add_thing("sg-1")
    journal(short_dir / "state", "svc", vm=machine.id)
    done = run("orphans", model, "--remove", "--yes")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "Nothing in aws is without a service." in done.stderr
    assert sky.machines
    assert sky.leftovers


def test_a_vm_of_ours_in_no_journal_is_shown_with_its_price_and_removed_when_asked(
    model: str, sky: Sky, short_dir: Path
) -> None:
    owned = sky.add_vm("svc-1")
    stray = sky.add_vm("svc-7", state=MachineState.STOPPED)
    sky.add_thing("sg-1")
    sky.add_thing("vol-1", kind="disk", in_use=False)
    sky.add_thing("vol-2", kind="disk", in_use=False, age=timedelta(minutes=5))
    journal(short_dir / "state", "svc", vm=owned.id)
    shown = run("orphans", model)
    assert shown.exit_code == 0
    assert [line.split()[3:5] for line in shown.stdout.splitlines()[1:2]] == [["us-east-1/i-svc-7", "(svc-7),"]]
    assert "0.41" in shown.stdout
    assert [line for line in shown.stdout.splitlines() if "vol-1" in line]
    assert "vol-2" not in shown.stdout
    assert stray.id in sky.machines

    unasked = run("orphans", model, "--remove")
    assert unasked.exit_code == 3
    assert "Terminate 1 VM, about 0.41 USD/h in all, and remove 1 other thing?" in unasked.stderr
    assert stray.id in sky.machines

    done = run("orphans", model, "--remove", "--yes")
    assert done.exit_code == 0, done.stderr
    assert list(sky.machines) == [owned.id]
    assert [one.id for one in sky.leftovers] == ["sg-1", "vol-2"]


def test_what_a_controller_elsewhere_may_need_goes_only_by_its_name(model: str, sky: Sky, short_dir: Path) -> None:
    journal(short_dir / "state", "svc")
    sky.add_vm("other-1", service="other", owner="far-away")
    sky.add_thing("sg-9", service="other")
    sky.add_vm("svc-3", owner="far-away")
    told = json.loads(run("orphans", model, "--json").stdout)
    assert [(one["name"], one["owner"], one["removable"]) for one in told] == [
        ("other-1", "far-away", False),
        ("svc-3", "far-away", False),
        ("", None, False),
    ]
    kept = run("orphans", model, "--remove", "--yes")
    assert kept.exit_code == 0
    assert "only with --service NAME" in kept.stderr
    assert len(sky.machines) == 2

    done = run("orphans", model, "--service", "other", "--remove", "--yes")
    assert done.exit_code == 0, done.stderr
    assert [one.name for one in sky.machines.values()] == ["svc-3"]
    assert sky.leftovers == []


def test_another_service_with_a_journal_here_is_judged_by_it(
    model: str, sky: Sky, short_dir: Path, tmp_path: Path
) -> None:
    mine = sky.add_vm("other-1", service="other")
    sky.add_vm("other-2", service="other")
    journal(tmp_path / "xdg" / "hedgeserve" / "other", "other", vm=mine.id)
    done = run("orphans", model, "--remove", "--yes")
    assert done.exit_code == 0, done.stderr
    assert list(sky.machines) == [mine.id]


def test_leftovers_of_a_stopped_service_may_go(model: str, sky: Sky, short_dir: Path) -> None:
    sky.add_thing("sg-1")
    sky.clear_refusals = 1
    journal(short_dir / "state", "svc")
    done = run("orphans", model, "--remove", "--yes")
    assert done.exit_code == 0, done.stderr
    assert sky.leftovers == []


def test_a_cloud_that_cannot_be_asked_is_a_failure(model: str, sky: Sky) -> None:
    sky.error = AuthError("no AWS credentials were found")
    done = run("orphans", model)
    assert done.exit_code == 1
    assert "aws could not be asked: no AWS credentials were found" in done.stderr


def test_a_journal_is_read_without_being_held(short_dir: Path) -> None:
    with StateDirectory.open(short_dir / "state") as directory:
        assert vms_in(directory.journal, "svc") is None
        journal(short_dir / "state", "svc", vm="us-east-1/i-1")
        assert vms_in(directory.journal, "svc") == {ReplicaId("svc-1"): "us-east-1/i-1"}
        assert vms_in(directory.journal, "other") is None


def test_vms_of_a_service_that_does_not_run_are_no_orphans_and_are_told(
    model: str, sky: Sky, short_dir: Path
) -> None:
    """`Nothing is without a service` alone would be read as `nothing runs`."""
    machine = sky.add_vm("svc-1")
    journal(short_dir / "state", "svc", vm=machine.id)
    said = run("orphans", model).stderr
    assert "Nothing in aws is without a service." in said
    assert (
        "Not counted, though their service does not run: svc's journal holds 1 VM that may still run, 0.40" in said
    )
    assert f"`hedgeserve down MODEL.toml --state-dir {short_dir}/state` ends it" in said
    sky.machines.clear()
    assert "may still run" not in run("orphans", model).stderr, "its cloud says that it does not"


# down, where no controller runs


def test_down_ends_everything_and_proves_it(model: str, sky: Sky, short_dir: Path) -> None:
    """VMs that are listed for a while, a group that is in use for a while; another service is left alone."""
    machine = sky.add_vm("svc-1")
    foreign = sky.add_vm("other-1", service="other")
    sky.add_thing("sg-1")
    sky.add_thing("sg-9", service="other")
    sky.listed_after_end, sky.clear_refusals = 2, 2
    journal(short_dir / "state", "svc", vm=machine.id)
    done = run("down", model, "--yes")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[1:] == [
        "terminated us-east-1/i-svc-1",
        "removed aws security group sg-1 in us-east-1",
        "aws us-east-1: 0 VMs, 0 other things",
        "aws us-west-2: 0 VMs, 0 other things",
    ]
    assert list(sky.machines) == [foreign.id]
    assert [one.id for one in sky.leftovers] == ["sg-9"]
    assert vms_in(short_dir / "state" / "journal.db", "svc") == {}


def test_down_that_cannot_clear_all_says_what_is_left(
    model: str, sky: Sky, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky.add_thing("sg-1")
    sky.clear_refusals = 10_000
    monkeypatch.setattr("hedgeserve.takedown.PATIENCE_S", 0.05)
    journal(short_dir / "state", "svc")
    done = run("down", model, "--yes")
    assert done.exit_code == 1
    assert "aws still has security group sg-1 in us-east-1: sg-1 is still in use; run it again" in done.stderr


def test_down_without_credentials_touches_nothing(model: str, sky: Sky, short_dir: Path) -> None:
    machine = sky.add_vm("svc-1")
    journal(short_dir / "state", "svc", vm=machine.id)
    sky.error = AuthError("no AWS credentials were found")
    done = run("down", model, "--yes")
    assert done.exit_code == 1
    assert "no AWS credentials were found" in done.stderr
    assert vms_in(short_dir / "state" / "journal.db", "svc") == {ReplicaId("svc-1"): machine.id}


class Ending:
    """A service as `down` reaches it: it says what it has, is told to end, and answers no more."""

    def __init__(self, directory: Path, file: str, *replicas: str) -> None:
        self.directory, self.file, self.runs = directory, file, True
        self._replicas = [
            {"id": id, "zone": "aws/us-east-1/us-east-1a", "market": "spot", "state": "ready", "usd_per_hour": 0.4}
            for id in replicas
        ]

    def status(self) -> dict[str, object]:
        if not self.runs:
            raise NotRunningError("no service runs")
        return {"service": "svc", "replicas": self._replicas, "usd_per_hour": 0.4 * len(self._replicas)}

    def events(self, *, limit: int) -> list[dict[str, int]]:
        return []

    def spec(self) -> dict[str, str]:
        return {"file": self.file}

    def down(self) -> None:
        self.runs = False


def test_down_asks_the_clouds_where_the_journal_is_late(
    model: str, sky: Sky, short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a full disk the service ended its VMs and could not write it down: that is no VM that is left."""
    journal(short_dir / "state", "svc", vm="us-east-1/i-svc-1")
    service = Ending(short_dir / "state", model, "svc-1")
    take_down(cast(AdminClient, service), None, agreed=lambda question: True, as_json=False)
    told = capsys.readouterr()
    assert told.out.splitlines()[1:] == [
        "aws us-east-1: 0 VMs, 0 other things",
        "aws us-west-2: 0 VMs, 0 other things",
    ]
    assert "svc has stopped, and its journal still holds 1 VM: its clouds are asked." in told.err
    assert "Done: svc has stopped" in told.err
    assert vms_in(short_dir / "state" / "journal.db", "svc") == {}


def test_down_ends_what_the_service_could_not(
    model: str, sky: Sky, short_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And says what may be left where the clouds cannot be asked."""
    machine = sky.add_vm("svc-1")
    journal(short_dir / "state", "svc", vm=machine.id)
    sky.error = AuthError("log in")
    service = Ending(short_dir / "state", model, "svc-1")
    with pytest.raises(HedgeServeError, match=rf"1 VM may still run, svc-1: log in.*`hedgeserve down {model}`"):
        take_down(cast(AdminClient, service), None, agreed=lambda question: True, as_json=True)
    assert json.loads(capsys.readouterr().out)["done"] is False
    sky.error, service.runs = None, True
    take_down(cast(AdminClient, service), None, agreed=lambda question: True, as_json=False)
    assert "terminated us-east-1/i-svc-1" in capsys.readouterr().out
    assert sky.machines == {}
