"""A drill's real notice, the whole way: the verb, the cloud, the VM's metadata service, its watcher, the fleet."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from hedgeserve.cli import main
from hedgeserve.console.admin import AdminClient
from hedgeserve.core import Service
from hedgeserve.drivers.awscloud import interruption
from hedgeserve.errors import HedgeServeError
from hedgeserve.takedown import reap
from tests.clouds.fake_ec2 import ACCESS_KEY, SECRET_KEY
from tests.clouds.fake_fis import ROLE, FakeFis
from tests.conftest import eventually, messages
from tests.testbed.bed import NamespaceHost
from tests.testbed.bench import model_spec, model_toml
from tests.testbed.worlds import world_of

pytestmark = [
    pytest.mark.testbed,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NOTICE_S = 12.0
"""In this world two minutes are over sooner."""


async def test_aws_gives_the_notice_of_a_drill_and_the_vm_hears_it(
    host: NamespaceHost, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FIS is asked for it, EC2 tells the VM, the VM the fleet; streams leave, nothing is lost, nothing is left."""
    monkeypatch.setattr(interruption, "_LOOK_FIRST_S", 0.2)
    monkeypatch.setattr(interruption, "_LOOK_EVERY_S", 0.2)
    loop = asyncio.get_running_loop()
    with closing(FakeFis({ACCESS_KEY: SECRET_KEY})) as fis, world_of("aws", short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        fis.course = [{"status": "initiating"}, {"status": "running"}]

        async def interrupt(instance: str) -> None:
            name = next(
                tag["value"]
                for one in world.fake.instances()  # type: ignore[attr-defined]
                if one.id == instance
                for tag in one.get_tags()
                if tag["key"] == "Name"
            )
            await host.vms[name].preempt(NOTICE_S)
            world.preempted(name)
            fis.course = [{"status": "completed"}]

        interrupted: list[object] = []

        def begin(operation: str) -> None:
            if operation == "StartExperiment":
                [template] = fis.of("CreateExperimentTemplate")
                instance = template["targets"]["vm"]["resourceArns"][0].rpartition("/")[2]
                interrupted.append(asyncio.run_coroutine_threadsafe(interrupt(instance), loop))

        fis.before = begin
        environ = {**world.environ, "AWS_ENDPOINT_URL_FIS": fis.url}
        clouds = world.toml().replace("[aws]\n", f'[aws]\nfis_role = "{ROLE}"\n')
        spec = model_spec(short_dir, world, clouds=clouds)
        async with Service(spec, environ=environ) as service:
            await service.wait_ready(2)
            argv = ["drill", "preempt", "--load", "6", "--yes", "--json", "--state-dir", str(short_dir / "state")]
            found = await asyncio.to_thread(CliRunner().invoke, main, argv)
            print(found.output)
            assert found.exit_code == 0, found.output
            assert (
                "by AWS's Fault Injection Service EC2 takes it 2m after the experiment has begun" in found.stderr
            )
            report = json.loads(found.stdout.splitlines()[-1])
            [victim] = report["victims"]
            assert report["notices"] == {victim: "aws spot/instance-action terminate"}
            assert (report["requests"]["lost"], report["load"]["failed"]) == (0, 0)
            told = await messages(service, "notice", "gone", replica=victim)
            assert "aws spot/instance-action" in told[0]
            assert "gone: preempted" in told[-1]
            assert all(
                one["data"].get("staged") for one in await service.events(limit=1000) if one["kind"] == "gone"
            )
        await eventually(lambda: "DeleteExperimentTemplate" in fis.names)
        assert fis.templates() == {}
        assert fis.violations == []
        await reap(spec, environ=environ)
        assert world.left() == []


async def test_what_a_killed_controller_left_of_its_drill_is_removed_by_the_next(
    host: NamespaceHost, short_dir: Path
) -> None:
    """``kill -9`` between FIS's template and its experiment; the journal says that a drill was meant."""
    with closing(FakeFis({ACCESS_KEY: SECRET_KEY})) as fis, world_of("aws", short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        environ = {**os.environ, **world.environ, "AWS_ENDPOINT_URL_FIS": fis.url}
        clouds = world.toml().replace("[aws]\n", f'[aws]\nfis_role = "{ROLE}"\n')
        model = short_dir / "model.toml"
        model.write_text(model_toml(short_dir, world, clouds=clouds))
        state = str(short_dir / "state")
        client = AdminClient(short_dir / "state")

        def hedgeserve(*arguments: str) -> subprocess.Popen[bytes]:
            log = (short_dir / "log").open("ab")
            return subprocess.Popen([sys.executable, "-m", "hedgeserve", *arguments], env=environ, stderr=log)

        async def serving() -> subprocess.Popen[bytes]:
            made = hedgeserve("serve", str(model))

            async def ready() -> bool:
                try:
                    return int((await asyncio.to_thread(client.status))["ready"]) == 2
                except HedgeServeError:
                    return False

            await eventually(ready, within_s=60)
            return made

        first = await serving()
        fis.before = lambda operation: first.kill() if operation == "StartExperiment" else None
        drill = hedgeserve("drill", "preempt", "--yes", "--state-dir", state)
        assert await asyncio.to_thread(first.wait) == -signal.SIGKILL
        assert await asyncio.to_thread(drill.wait) == 1
        assert len(fis.templates()) == 1
        fis.before = lambda operation: None
        fis.age(timedelta(hours=2))
        second = await serving()
        await eventually(lambda: fis.templates() == {})
        told = [event["message"] for event in await asyncio.to_thread(lambda: list(client.events(limit=1000)))]
        begun = next(index for index, message in enumerate(told) if message.startswith("preempt-"))
        removed = next(index for index, message in enumerate(told) if "experiment-template" in message)
        assert "begins: bed-" in told[begun]
        assert begun < removed
        print(told[begun], told[removed], sep="\n")
        assert await asyncio.to_thread(hedgeserve("down", "--yes", "--state-dir", state).wait) == 0
        assert await asyncio.to_thread(second.wait) == 0
        assert world.left() == []
        assert fis.violations == []
