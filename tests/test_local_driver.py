"""The local cloud: real processes, real SSH servers, real preemptions, and nothing left of any of them."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncssh
import pytest

from hedgeserve.drivers.base import LaunchRequest, Machine, MachineState
from hedgeserve.drivers.local import LocalDriver
from hedgeserve.drivers.localcloud.directory import free_port
from hedgeserve.drivers.localcloud.processes import family
from hedgeserve.drivers.localcloud.record import VmFiles
from hedgeserve.drivers.localcloud.sshd import find_sshd, sshd_refusal
from hedgeserve.errors import CapacityError, CloudError, UnsupportedError
from hedgeserve.machines.notices import NoticeSeen, parse_line, watcher_command
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import LocalSpec, PoolSpec

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
CLIENT_KEY = asyncssh.generate_private_key("ssh-ed25519")
OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
WATCHER = Path(__file__).parent.parent / "hedgeserve" / "machines" / "watcher.py"
NO_SSHD = sshd_refusal(find_sshd(), Path("/tmp"))
SERVERS = [
    pytest.param("sshd", marks=pytest.mark.skipif(NO_SSHD is not None, reason=str(NO_SSHD))),
    "asyncssh",
]
DAEMON = "setsid nohup sleep 600 >/dev/null 2>&1 </dev/null & echo $!"


@dataclass
class Cloud:
    """A driver with one zone, and what it takes to use it."""

    directory: Path
    settings: dict[str, object] = field(default_factory=dict)
    lease_s: float = 900.0
    sshd: str | None = None

    def driver(self) -> LocalDriver:
        """The driver; each call makes another one, as each start of a controller does."""
        return LocalDriver(
            service="s",
            pools=[PoolSpec.model_validate({"cloud": "local", "zones": ["east/a"]})],
            local=LocalSpec.model_validate({"boot_time": "0s", "notice": "60s"} | self.settings),
            directory=self.directory,
            lease_s=self.lease_s,
            sshd=self.sshd,
        )

    def files(self, name: str = "s-1") -> VmFiles:
        return VmFiles(self.directory / name)

    def processes(self, name: str = "s-1") -> frozenset[int]:
        return family(self.files(name).marker)


def request(name: str = "s-1", *, token: str = "t-1", market: Market = Market.SPOT) -> LaunchRequest:
    return LaunchRequest(
        name=name,
        token=token,
        offer=Offer(ZoneId("local/east/a"), "small", market, 0.3, datetime.now(UTC)),
        tags={"hedgeserve-service": "s"},
        authorized_key=CLIENT_KEY.export_public_key().decode(),
        host_key=HOST_KEY.export_private_key().decode(),
    )


@asynccontextmanager
async def connect(
    machine: Machine, *, host: asyncssh.SSHKey = HOST_KEY, client: asyncssh.SSHKey = CLIENT_KEY
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Log in as the fleet does: our key, and the host key that we have made."""
    known = f"[{machine.address}]:{machine.ssh_port} {host.export_public_key().decode()}"
    async with asyncssh.connect(
        machine.address or "",
        machine.ssh_port,
        username=machine.ssh_user,
        client_keys=[client],
        known_hosts=asyncssh.import_known_hosts(known),
        config=None,
        agent_path=None,
        connect_timeout=10,
    ) as ssh:
        yield ssh


async def until(condition: Callable[[], object], *, deadline_s: float = 10.0) -> None:
    """Return once the condition holds."""
    async with asyncio.timeout(deadline_s):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other processes
            await asyncio.sleep(0.01)


async def until_running(driver: LocalDriver, cloud: Cloud) -> Machine:
    """The one VM, once its SSH server listens."""
    async with asyncio.timeout(20):
        while True:
            (machine,) = await driver.list()
            if machine.state is MachineState.RUNNING:
                return machine
            await asyncio.sleep(0.02)


@pytest.fixture
def clouds(tmp_path: Path) -> Iterator[Callable[..., Cloud]]:
    """Makes clouds; afterwards nothing of their VMs is left, whatever the test did."""
    made: list[Cloud] = []

    def make(*, lease_s: float = 900.0, sshd: str | None = None, **settings: object) -> Cloud:
        cloud = Cloud(tmp_path / f"cloud {len(made)}", settings, lease_s, sshd)
        made.append(cloud)
        return cloud

    yield make
    for cloud in made:
        sweep(cloud)


def sweep(cloud: Cloud) -> None:
    """Terminate everything, from a thread: a loop may be running in this one."""

    async def terminate_all() -> None:
        driver = cloud.driver()
        for machine in await driver.list():
            await driver.terminate(machine.id)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, terminate_all()).result(timeout=30)


@asynccontextmanager
async def running_vm(cloud: Cloud, *, market: Market = Market.SPOT) -> AsyncIterator[tuple[LocalDriver, Machine]]:
    driver = cloud.driver()
    await driver.launch(request(market=market))
    yield driver, await until_running(driver, cloud)


@pytest.fixture(scope="module", params=SERVERS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud with one running spot VM, `s-1`, for tests that do it no harm; its zone has room for no other."""
    settings = {"ssh_server": request.param, "zones": [{"zone": "east/a", "capacity": 1}]}
    cloud = Cloud(tmp_path_factory.mktemp("a cloud") / "vms", settings)

    async def launch() -> None:
        async with running_vm(cloud):
            pass

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, launch()).result(timeout=30)
    yield cloud
    sweep(cloud)


async def the_vm(cloud: Cloud) -> Machine:
    (machine,) = await cloud.driver().list()
    return machine


async def test_a_command_runs_over_ssh_and_says_how_it_ended(shared: Cloud) -> None:
    """Input goes in; output, errors and the exit status come back, all of it."""
    async with connect(await the_vm(shared)) as ssh:
        result = await ssh.run("seq 20000; cat; echo oh >&2; exit 3", input="end\n")
        assert result.stdout == "".join(f"{number}\n" for number in range(1, 20001)) + "end\n"
        assert (result.stderr, result.exit_status) == ("oh\n", 3)
        killed = await ssh.run("kill -9 $$")
        assert killed.exit_signal is not None
        assert killed.exit_signal[0] == "KILL"


async def test_files_are_uploaded_to_the_work_directory(shared: Cloud, tmp_path: Path) -> None:
    """SFTP writes where the machine's description says."""
    machine = await the_vm(shared)
    (tmp_path / "up").write_bytes(b"weights" * 10_000)
    async with connect(machine) as ssh, ssh.start_sftp_client() as sftp:
        await sftp.put(str(tmp_path / "up"), f"{machine.workdir}/up")
        result = await ssh.run(f"cksum < '{machine.workdir}/up'")
    assert result.stdout.split()[1] == "70000"


async def test_ports_of_the_vm_are_reached_through_ssh(shared: Cloud) -> None:
    """A tunnel to the metadata service answers as the service does."""
    machine = await the_vm(shared)
    port = int(machine.metadata_url.rsplit(":", 1)[1])
    async with connect(machine) as ssh, aiohttp.ClientSession() as http:
        tunnel = await ssh.forward_local_port("127.0.0.1", 0, machine.address or "", port)
        async with http.get(f"http://127.0.0.1:{tunnel.get_port()}/latest/meta-data/instance-id") as answer:
            assert answer.status == 401


async def test_a_stranger_is_not_let_in(shared: Cloud) -> None:
    """A key that was not given to the VM opens nothing, and neither does another user's name."""
    machine = await the_vm(shared)
    for attempt in (connect(machine, client=OTHER_KEY), connect(replace(machine, ssh_user="daemon"))):
        with pytest.raises(asyncssh.PermissionDenied):
            async with attempt:
                raise AssertionError("let in")


async def test_a_wrong_host_key_is_refused(shared: Cloud) -> None:
    """The VM shows the key that we have given it; expecting another one ends the connection."""
    with pytest.raises(asyncssh.HostKeyNotVerifiable):
        async with connect(await the_vm(shared), host=OTHER_KEY):
            raise AssertionError("connected")


async def test_everything_started_over_ssh_is_known_as_the_vms(shared: Cloud) -> None:
    """A daemon in a session of its own is a member of the family, and stays one when we have logged out."""
    async with connect(await the_vm(shared)) as ssh:
        result = await ssh.run("setsid sleep 600 >/dev/null 2>&1 </dev/null & echo $!")
    daemon = int(result.stdout or 0)
    assert daemon in shared.processes()
    os.kill(daemon, signal.SIGKILL)
    await until(lambda: daemon not in shared.processes())


async def test_our_environment_is_not_the_vms(
    clouds: Callable[..., Cloud], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret of the controller is not inherited by what it starts."""
    monkeypatch.setenv("HF_TOKEN", "very-secret")
    cloud = clouds(boot_time="60s")
    await cloud.driver().launch(request())
    processes = cloud.processes()  # of a VM that has not booted: its supervisor, and what that may be asking
    assert processes
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            environment = Path(f"/proc/{process}/environ").read_bytes()  # noqa: ASYNC240 - no file of a disk
            assert b"very-secret" not in environment


async def test_a_controller_that_starts_later_finds_the_vm(shared: Cloud) -> None:
    """Another driver on the same directory sees the same VM, and leaves it alone when it closes."""
    first, second = shared.driver(), shared.driver()
    (seen,) = await first.list()
    assert (seen.name, seen.state, seen.market) == ("s-1", MachineState.RUNNING, Market.SPOT)
    assert seen.tags == {"hedgeserve-service": "s"}
    await first.aclose()
    assert await second.list() == [seen]


async def test_the_same_token_is_the_same_vm(shared: Cloud) -> None:
    """A launch that is repeated after a crash finds what it has started, even in a zone that is full by now."""
    (seen,) = await shared.driver().list()
    assert await shared.driver().launch(request("s-1", token="t-1")) == seen
    assert await shared.driver().list() == [seen]


async def test_a_name_is_not_given_twice(shared: Cloud) -> None:
    """Another launch under the name of a VM that lives is a mistake, and says so."""
    with pytest.raises(CloudError, match="there is a VM named s-1 already"):
        await shared.driver().launch(request("s-1", token="t-2", market=Market.ON_DEMAND))


async def test_a_full_zone_refuses_a_spot_launch(shared: Cloud) -> None:
    """One VM in a zone for one: the second launch is told so, and starts nothing."""
    with pytest.raises(CapacityError, match="local/east/a has no spot capacity: 1 of 1 in use"):
        await shared.driver().launch(request("s-2", token="t-2"))
    assert len(await shared.driver().list()) == 1


async def test_no_one_else_can_read_the_keys_or_give_orders(shared: Cloud) -> None:
    """The files are the owner's alone; an order without the token is 401 and changes nothing."""
    files = shared.files()
    assert stat.S_IMODE(files.root.stat().st_mode) == 0o700
    for path in (files.record, files.host_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    machine = await the_vm(shared)
    port = json.loads(files.record.read_text())["control_port"]
    async with aiohttp.ClientSession() as http:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            url = f"http://{machine.address}:{port}/preempt"
            async with http.post(url, json={"notice_s": 0.0}, headers=headers) as answer:
                assert answer.status == 401
    assert await the_vm(shared) == machine


@pytest.mark.parametrize("server", SERVERS)
async def test_preempted_without_notice_the_vm_is_gone_in_a_moment(
    clouds: Callable[..., Cloud], server: str
) -> None:
    """The SSH connection ends within a second, daemons die with the rest, and the cloud lists nothing."""
    cloud = clouds(ssh_server=server)
    async with running_vm(cloud) as (driver, machine):
        async with connect(machine) as ssh:
            await ssh.run(DAEMON)
            await driver.preempt(machine.id, notice_s=0)
            assert cloud.processes() == frozenset()
            async with asyncio.timeout(1):
                await ssh.wait_closed()
        assert await driver.list() == []
        assert list(cloud.directory.iterdir()) == []


@pytest.mark.parametrize("server", SERVERS)
async def test_a_vm_that_vanishes_closes_nothing_and_answers_nobody(
    clouds: Callable[..., Cloud], server: str
) -> None:
    """Its connections stay open and new ones are made; it is listed for a while, then nothing is left."""
    cloud = clouds(ssh_server=server, vanish_seen_after="2s")
    async with running_vm(cloud) as (driver, machine):
        async with connect(machine) as ssh:
            await ssh.run(DAEMON)
            await driver.vanish(machine.id)
            everyone = cloud.processes()
            answer = asyncio.create_task(ssh.run("true"))
            reader, writer = await asyncio.open_connection(machine.address, machine.ssh_port)
            with closing(writer):
                welcome = asyncio.create_task(reader.read(1))
                done, _ = await asyncio.wait({answer, welcome}, timeout=0.5)
                assert not done
                assert not ssh.is_closed()
                assert cloud.processes() == everyone
                assert await driver.list() == [machine]
                async with asyncio.timeout(10):
                    while await driver.list():  # noqa: ASYNC110 - a cloud is asked, it tells nobody
                        await asyncio.sleep(0.01)
                farewell, _ = await asyncio.gather(answer, welcome, return_exceptions=True)
            assert isinstance(farewell, asyncssh.Error | OSError)
        assert cloud.processes() == frozenset()
        assert list(cloud.directory.iterdir()) == []


async def test_the_weather_has_vms_vanish(clouds: Callable[..., Cloud]) -> None:
    """What the seed has decided is played: the cloud still lists a VM that answers nobody."""
    cloud = clouds(preempt_every="10ms", no_notice_share=1.0, vanish_share=1.0, vanish_seen_after="60s")
    driver = cloud.driver()
    await driver.launch(request())
    playing = asyncio.create_task(driver.run())
    log = cloud.files().log
    await until(lambda: "the VM has vanished" in log.read_text())
    assert len(await driver.list()) == 1
    playing.cancel()
    await asyncio.wait({playing})


async def test_a_notice_is_heard_and_kept(clouds: Callable[..., Cloud]) -> None:
    """The watcher tells of the end over SSH; at the deadline everything dies, with no controller needed."""
    cloud = clouds(notice="2s")
    async with running_vm(cloud) as (driver, machine), connect(machine) as ssh:
        async with ssh.start_sftp_client() as sftp:
            await sftp.put(str(WATCHER), f"{machine.workdir}/watcher.py")
        await ssh.run(DAEMON)
        command = watcher_command(machine, path=f"{machine.workdir}/watcher.py", poll_s=0.1)
        async with ssh.create_process(command) as watcher:
            await watcher.stdout.readline()
            told_s = time.monotonic()
            await driver.preempt(machine.id)
            # A second order, for later, moves nothing.
            await driver.preempt(machine.id, notice_s=60)
            async with asyncio.timeout(2):
                while not isinstance(
                    event := parse_line(await watcher.stdout.readline(), 0.0, datetime.now(UTC)), NoticeSeen
                ):
                    assert cloud.processes()
            assert event.notice.deadline_s <= 2.0
            assert cloud.files().lease.exists()
        await until(lambda: not cloud.processes())
        assert 1.9 < time.monotonic() - told_s < 4


async def test_an_approved_azure_preemption_starts_at_once(clouds: Callable[..., Cloud]) -> None:
    """A minute of notice; approving the event ends the VM now."""
    cloud = clouds(zones=[{"zone": "east/a", "dialect": "azure"}], boot_time="60s")
    driver = cloud.driver()
    machine = await driver.launch(request())
    await driver.preempt(machine.id)
    url = f"{machine.metadata_url}/metadata/scheduledevents?api-version=2020-07-01"
    async with aiohttp.ClientSession(headers={"Metadata": "true"}) as http:
        async with http.get(url) as answer:
            (event,) = (await answer.json())["Events"]
        async with http.post(url, json={"StartRequests": [{"EventId": event["EventId"]}]}) as answer:
            assert answer.status == 200
    await until(lambda: not cloud.processes())


async def test_a_rebalance_recommendation_reaches_the_metadata_service(clouds: Callable[..., Cloud]) -> None:
    """Ordered through the driver, told by the VM; and no VM, no order."""
    cloud = clouds(boot_time="60s")
    driver = cloud.driver()
    with pytest.raises(CloudError, match="there is no VM s-1"):
        await driver.rebalance("s-1")
    machine = await driver.launch(request())
    await driver.rebalance(machine.id)
    async with aiohttp.ClientSession(machine.metadata_url) as http:
        lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
        async with http.put("/latest/api/token", headers=lifetime) as answer:
            token = {"X-aws-ec2-metadata-token": await answer.text()}
        async with http.get("/latest/meta-data/events/recommendations/rebalance", headers=token) as answer:
            assert answer.status == 200


async def test_an_on_demand_vm_is_never_preempted(clouds: Callable[..., Cloud]) -> None:
    """It starts where no spot VM would, and an order to preempt it is refused."""
    cloud = clouds(zones=[{"zone": "east/a", "capacity": 0}], boot_time="60s")
    driver = cloud.driver()
    with pytest.raises(CapacityError, match="0 of 0 in use"):
        await driver.launch(request())
    machine = await driver.launch(request(market=Market.ON_DEMAND))
    with pytest.raises(UnsupportedError, match="s-1 is an on_demand VM; only spot is preempted"):
        await driver.preempt(machine.id, notice_s=0)
    assert (await the_vm(cloud)).state is MachineState.PENDING


async def test_the_weather_is_played(clouds: Callable[..., Cloud]) -> None:
    """A zone where no VM lives for long: somebody only has to let the driver run."""
    cloud = clouds(preempt_every="100ms", no_notice_share=1.0, boot_time="60s")
    driver = cloud.driver()
    await driver.launch(request())
    playing = asyncio.create_task(driver.run())
    await until(lambda: not cloud.processes())
    assert not playing.done()
    playing.cancel()
    await asyncio.wait({playing})
    assert playing.cancelled()


async def test_a_vm_whose_lease_is_not_renewed_ends_itself(clouds: Callable[..., Cloud]) -> None:
    """It lives while somebody touches the lease, for several times its length, and dies soon after that stops."""
    cloud = clouds(lease_s=0.8, boot_time="60s")
    driver = cloud.driver()
    await driver.launch(request())
    lease = cloud.files().lease
    end_s = time.monotonic() + 1.8
    while time.monotonic() < end_s:
        lease.touch()
        await asyncio.sleep(0.05)
    assert len(await driver.list()) == 1
    await until(lambda: not cloud.processes(), deadline_s=3)


async def test_terminate_leaves_no_process_and_no_file_even_of_a_frozen_vm(clouds: Callable[..., Cloud]) -> None:
    """A VM that answers nobody any more is taken away all the same; doing it again is a success."""
    cloud = clouds()
    async with running_vm(cloud) as (driver, machine):
        supervisor = json.loads(cloud.files().supervisor.read_text())["pid"]
        os.kill(supervisor, signal.SIGSTOP)
        await driver.terminate(machine.id)
        assert cloud.processes() == frozenset()
        assert not os.path.exists(f"/proc/{supervisor}"), "a zombie is left"  # noqa: ASYNC240 - no file of a disk
        assert list(cloud.directory.iterdir()) == []
        assert await driver.list() == []
        await driver.terminate(machine.id)


async def test_terminate_goes_nowhere_else(clouds: Callable[..., Cloud], tmp_path: Path) -> None:
    """A name that is a path names no VM: nothing outside the directory is touched."""
    cloud = clouds()
    cloud.directory.mkdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("../precious", "..", ".", "", str(precious)):
        await cloud.driver().terminate(name)
    assert precious.exists()
    assert cloud.directory.exists()


@pytest.mark.parametrize("server", SERVERS)
async def test_what_a_killed_supervisor_leaves_behind_is_swept(clouds: Callable[..., Cloud], server: str) -> None:
    """kill -9 of the VM's first process alone: the next list drops the VM, its SSH server and its daemons."""
    cloud = clouds(ssh_server=server)
    async with running_vm(cloud) as (driver, machine), connect(machine) as ssh:
        daemon = int((await ssh.run(DAEMON)).stdout or 0)
        # Its shell answers before the daemon's exec is done, and until then it bears no marker.
        await until(lambda: daemon in cloud.processes())
        supervisor = json.loads(cloud.files().supervisor.read_text())["pid"]
        os.kill(supervisor, signal.SIGKILL)
        async with asyncio.timeout(5):
            while await driver.list():  # noqa: ASYNC110 - the kill is the kernel's work
                await asyncio.sleep(0.01)
        assert cloud.processes() == frozenset()
        async with asyncio.timeout(1):
            await ssh.wait_closed()


async def test_a_crash_in_the_middle_of_a_launch_is_cleared_away(clouds: Callable[..., Cloud]) -> None:
    """A directory without a record, and one with a record but no process: neither is a VM, both go."""
    cloud = clouds(boot_time="60s")
    driver = cloud.driver()
    await driver.launch(request())
    record = cloud.files().record.read_text()
    await driver.terminate("s-1")
    (cloud.directory / "s-8").mkdir()
    (cloud.directory / "s-9").mkdir()
    cloud.files("s-9").record.write_text(record.replace("s-1", "s-9"))
    assert await driver.list() == []
    assert list(cloud.directory.iterdir()) == []


async def test_a_vm_of_which_nobody_wrote_down_the_process_is_found(clouds: Callable[..., Cloud]) -> None:
    """A crash right after the start of the VM: its marker tells that it lives, and it can be terminated."""
    cloud = clouds(boot_time="60s")
    driver = cloud.driver()
    machine = await driver.launch(request())
    cloud.files().supervisor.unlink()
    assert await driver.list() == [machine]
    await driver.terminate("s-1")
    await until(lambda: not cloud.processes())


async def test_no_ssh_server_is_a_clear_error(clouds: Callable[..., Cloud], tmp_path: Path) -> None:
    """`sshd` was asked for and is not there: the launch says so and what to do, and starts nothing."""
    cloud = clouds(ssh_server="sshd", sshd=str(tmp_path / "sshd"))
    with pytest.raises(CloudError, match=r"sshd is not there or cannot be run; install openssh-server; or set it"):
        await cloud.driver().launch(request())
    assert not cloud.directory.exists()


async def test_without_sshd_the_server_of_asyncssh_takes_its_place(
    clouds: Callable[..., Cloud], tmp_path: Path
) -> None:
    """`auto` needs nothing but Python."""
    cloud = clouds(sshd=str(tmp_path / "sshd"), boot_time="60s")
    await cloud.driver().launch(request())
    assert json.loads(cloud.files().record.read_text())["sshd"] is None


async def test_a_directory_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    """The state directory is a file: the error names it, the VM and the reason."""
    (tmp_path / "state").write_text("")
    cloud = Cloud(tmp_path / "state" / "vms", {"ssh_server": "asyncssh"})
    with pytest.raises(CloudError, match=r"state.*Not a directory"):
        await cloud.driver().launch(request())


@pytest.mark.parametrize("name", ["", "S-1", "../s-1", "s 1", "s" * 64])
async def test_a_name_that_is_no_file_name_is_refused(clouds: Callable[..., Cloud], name: str) -> None:
    """Names become directories."""
    with pytest.raises(CloudError, match="cannot name a VM"):
        await clouds().driver().launch(request(name))


async def test_a_zone_outside_the_pools_is_unsupported(clouds: Callable[..., Cloud]) -> None:
    """The zones that there are are named."""
    wrong = request()
    wrong = replace(wrong, offer=replace(wrong.offer, zone=ZoneId("local/east/q")))
    with pytest.raises(UnsupportedError, match="no spot VMs in local/east/q; the pools have local/east/a"):
        await clouds().driver().launch(wrong)


async def test_offers_are_what_the_pools_allow(tmp_path: Path) -> None:
    """Zones, types and markets of all pools, none above its price limit, none twice."""
    pools = [
        PoolSpec.model_validate(
            {"cloud": "local", "zones": ["east/a", "east/b"], "max_usd_per_hour": "0.50 USD/h"}
        ),
        PoolSpec.model_validate(
            {"cloud": "local", "zones": ["east/a"], "instance_types": ["small", "big"], "markets": ["spot"]}
        ),
        PoolSpec.model_validate({"cloud": "static", "urls": ["http://127.0.0.1:1"]}),
    ]
    local = LocalSpec.model_validate({"zones": [{"zone": "east/b", "spot_price": "0.20 USD/h"}]})
    driver = LocalDriver(service="s", pools=pools, local=local, directory=tmp_path)
    offers = {
        (offer.zone, offer.instance_type, offer.market, offer.usd_per_hour) for offer in await driver.offers()
    }
    assert offers == {
        ("local/east/a", "small", Market.SPOT, 0.3),
        ("local/east/a", "big", Market.SPOT, 0.3),
        ("local/east/b", "small", Market.SPOT, 0.2),
    }
    assert len(await driver.offers()) == len(offers)


def test_a_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    """Something else listens there already: the VM gets another port, at the same address."""
    with socket.socket() as other:
        other.bind(("127.99.1.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert free_port("127.99.1.1", taken) != taken
        assert free_port("127.99.1.2", taken) == taken


def test_a_supervisor_is_started_by_nobody_but_the_driver(tmp_path: Path) -> None:
    """Without its marker its processes could not be found again: it refuses."""
    command = [sys.executable, "-m", "hedgeserve.drivers.localcloud.vm", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1
    assert "a VM is started by its driver" in result.stderr


async def test_what_costs_more_than_its_pool_allows_is_withheld_with_the_reason(tmp_path: Path) -> None:
    """It is no offer, and whoever asks why is told."""
    made = LocalDriver(
        service="s",
        pools=[PoolSpec(cloud="local", zones=["east/a"], max_usd_per_hour="0.50 USD/h")],
        local=LocalSpec(),
        directory=tmp_path,
        lease_s=60.0,
    )
    assert [offer.market for offer in await made.offers()] == [Market.SPOT]
    limit = "it costs more than the pool's max_usd_per_hour of 0.50 USD/h"
    assert made.withheld() == {"local/east/a": [f"on-demand: small for 1.00 USD/h is not offered: {limit}"]}
    await made.aclose()
