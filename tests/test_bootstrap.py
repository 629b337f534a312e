"""From a VM with SSH to a running engine: what is waited for, what survives a lost connection, who keeps what."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from hedgeserve.engines.base import EngineCommand, EngineContext, Upload
from hedgeserve.errors import BootstrapError
from hedgeserve.machines.authority import EngineTls
from hedgeserve.machines.bootstrap import Bootstrap
from hedgeserve.machines.prepare import scratch_script
from hedgeserve.machines.remotetask import run_task
from hedgeserve.machines.ssh import Remote, Unreachable, connect
from hedgeserve.machines.supervisor import unit_text
from tests.conftest import eventually
from tests.sshvm import SshVm, ssh_vm

ODD = "a 'b' \"c\" $HOME `id` \\d \\\\e %h #f é"
# Says what it was given, then lives until it is told to stop.
SERVER = """
import json, os, pathlib, sys, time
pathlib.Path("started").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
print("serving", flush=True)
while not os.path.exists("stop"):
    time.sleep(0.02)
print("I was told to stop", flush=True)
sys.exit(7)
"""


@dataclass
class Server:
    """An engine that is a few lines of Python."""

    script: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict)
    name: str = "server"
    health_path: str = "/health"
    metrics_path: str | None = None
    tls: bool = True
    needs_gpu: bool = True

    def uploads(self) -> Sequence[Upload]:
        return ()

    def install_script(self, context: EngineContext) -> str | None:
        return self.script

    def command(self, context: EngineContext, api_key: str) -> EngineCommand:
        words = [context.scratch, context.certfile, context.keyfile, str(context.gpus)]
        argv = [sys.executable, "-c", SERVER, *words]
        return EngineCommand(argv, self.env, {**self.secret_env, "KEY": api_key})

    def first_token_request(self) -> tuple[str, dict[str, object]]:
        return "/", {}


@pytest.fixture
def vm(short_dir: Path) -> Iterator[SshVm]:
    with ssh_vm(short_dir) as vm:
        yield vm


@pytest.fixture
def gpu_vm(short_dir: Path) -> Iterator[SshVm]:
    with ssh_vm(short_dir, gpus=2) as vm:
        yield vm


@asynccontextmanager
async def connected(vm: SshVm) -> AsyncIterator[Remote]:
    async with connect(vm.machine, vm.keys, timeout_s=20) as remote:
        yield remote


@dataclass
class Trial:
    """A bootstrap, and the phases that it told of."""

    engine: Server = field(default_factory=Server)
    tls: EngineTls | None = None
    prepare: bool | None = None
    driver_wait_s: float = 20.0
    phases: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.bootstrap = Bootstrap(
            self.engine,
            api_key="the-key",
            listen="127.0.0.1",
            port=1,
            timed=lambda phase, seconds: self.phases.append(phase) if seconds >= 0 else None,
            tls=self.tls,
            driver_wait_s=self.driver_wait_s,
            prepare=self.prepare,
        )

    async def start(self, vm: SshVm) -> None:
        async with connected(vm) as remote:
            await self.bootstrap.start(remote)


async def started(vm: SshVm) -> tuple[list[str], dict[str, str]]:
    """What the engine was given: arguments and environment."""
    path = vm.workdir / "started"
    await eventually(lambda: path.exists() and path.read_text())
    arguments, environ = json.loads(path.read_text())
    return arguments, environ


async def test_a_vm_on_our_own_machine_is_started_on_without_further_ado(vm: SshVm) -> None:
    """Upload and start, nothing else: its disks, its boot and its systemd are this machine's."""
    trial = Trial()
    await trial.start(vm)
    arguments, environ = await started(vm)
    assert arguments == [str(vm.workdir), "", "", "0"]
    assert environ["KEY"] == "the-key"
    assert trial.phases == ["upload", "start"]
    assert vm.lines("sudo.log") == vm.lines("cloud-init.log") == []


async def test_an_engine_that_runs_is_left_as_it_is(vm: SshVm) -> None:
    """Another start, by another controller, with another certificate: the same process, the same files."""
    await Trial(tls=EngineTls(b"certificate 1", b"key 1")).start(vm)
    await started(vm)
    pid = (vm.workdir / "engine.pid").read_text()
    later = Trial(tls=EngineTls(b"certificate 2", b"key 2"))
    await later.start(vm)
    assert (vm.workdir / "engine.pid").read_text() == pid
    assert (vm.workdir / "tls/engine.key").read_text() == "key 1"
    assert later.phases == []


async def test_certificate_and_key_are_handed_over_in_files_of_the_engines_user(vm: SshVm) -> None:
    """Paths go to the engine, the key's file is for nobody else, and no secret is in an argument."""
    await Trial(engine=Server(secret_env={"TOKEN": "hf_secret"}), tls=EngineTls(b"cert", b"private")).start(vm)
    arguments, _ = await started(vm)
    names = ["tls/engine.crt", "tls/engine.key"]
    assert arguments[1:3] == [str(vm.workdir / name) for name in names]
    assert [(vm.workdir / name).read_text() for name in names] == ["cert", "private"]
    for path in vm.workdir.rglob("*"):
        if path.is_file() and {"hf_secret", "the-key", "private"} & set(
            path.read_text().replace('"', "\n").split()
        ):
            assert path.stat().st_mode & 0o077 == 0 or path.name == "started", path
    assert "the-key" not in (vm.workdir / "run.sh").read_text()


async def test_the_end_of_an_engine_is_told_with_its_last_words(vm: SshVm) -> None:
    """Nothing while it runs; then the status and the log's end."""
    trial = Trial()
    await trial.start(vm)
    await started(vm)
    async with connected(vm) as remote:
        assert await trial.bootstrap.exited(remote) == ""
        (vm.workdir / "stop").touch()
        said = await eventually(lambda: trial.bootstrap.exited(remote))
        assert said == "the engine exited with status 7; its last words: serving | I was told to stop"
        assert (await trial.bootstrap.log_tail(remote, 1)).strip() == "I was told to stop"


async def test_an_engine_that_was_killed_with_its_shell_is_missed(vm: SshVm) -> None:
    """Nobody is left to write down a status."""
    trial = Trial()
    await trial.start(vm)
    await started(vm)
    os.killpg(int((vm.workdir / "engine.pid").read_text()), signal.SIGKILL)
    async with connected(vm) as remote:
        assert (await eventually(lambda: trial.bootstrap.exited(remote))).startswith(
            "the engine exited with status unknown"
        )


# --- Long steps over a connection that breaks -----------------------------------------------------------------

LONG = "echo begun >> begun; while [ ! -f go ]; do sleep 0.02; done; echo it is done"


async def test_an_installation_goes_on_while_the_connection_is_lost(vm: SshVm) -> None:
    """Cut in the middle, it is followed further by the next connection, and not begun again."""
    trial = Trial(engine=Server(script=LONG))
    begun = vm.workdir / "begun"
    async with connected(vm) as remote:
        starting = asyncio.create_task(trial.bootstrap.start(remote))
        await eventually(begun.exists)
        remote.connection.abort()
        with pytest.raises(Unreachable):
            await starting
    (vm.workdir / "go").touch()
    await trial.start(vm)
    await started(vm)
    assert begun.read_text() == "begun\n"
    assert sorted(trial.phases) == ["install", "start", "upload"]


async def test_an_installation_is_taken_over_by_the_next_controller(vm: SshVm) -> None:
    """A controller that was started anew knows nothing of the first one's attempt, and follows it all the same."""
    begun = vm.workdir / "begun"
    async with connected(vm) as remote:
        starting = asyncio.create_task(Trial(engine=Server(script=LONG)).bootstrap.start(remote))
        await eventually(begun.exists)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
    (vm.workdir / "go").touch()
    await Trial(engine=Server(script=LONG)).start(vm)
    assert begun.read_text() == "begun\n"


async def test_a_failing_installation_says_its_last_words_and_is_tried_anew_by_another_attempt(vm: SshVm) -> None:
    """The same attempt hears of its failure again and again; the next one begins afresh, and may succeed."""
    engine = Server(script="echo try >> tries; [ -f go ] || { echo the disk is full >&2; exit 3; }")
    trial = Trial(engine=engine)
    for _ in range(2):
        with pytest.raises(BootstrapError, match="install: it ended with status 3: the disk is full"):
            await trial.start(vm)
    assert (vm.workdir / "tries").read_text() == "try\n"
    (vm.workdir / "go").touch()
    await Trial(engine=engine).start(vm)
    assert (vm.workdir / "tries").read_text() == "try\n" * 2


async def test_a_step_that_succeeded_is_found_done_and_another_script_is_another_step(vm: SshVm) -> None:
    """By the text of the script, not by its name."""
    async with connected(vm) as remote:
        for script, runs in (("echo x >> runs", 1), ("echo x >> runs", 1), ("echo x >> runs #", 2)):
            await run_task(remote, "step", script, workdir=str(vm.root), attempt="a", timeout_s=20)
            assert len((vm.root / "runs").read_text()) == 2 * runs


async def test_a_step_that_is_killed_or_takes_too_long_is_told(vm: SshVm) -> None:
    """A kill leaves no status behind; what takes too long is ended, all of it."""
    pid, log = vm.root / "tasks/step/pid", vm.root / "tasks/step/log"
    async with connected(vm) as remote:
        killing = asyncio.create_task(
            run_task(remote, "step", "echo on my way; sleep 61", workdir=str(vm.root), attempt="a", timeout_s=20)
        )
        await eventually(lambda: pid.exists() and log.exists() and "on my way" in log.read_text())
        os.killpg(int(pid.read_text()), signal.SIGKILL)
        with pytest.raises(BootstrapError, match="step: it was killed on the VM; its last words: on my way"):
            await killing


async def test_a_step_that_takes_too_long_is_ended_whole(vm: SshVm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its children too."""
    monkeypatch.setattr("hedgeserve.machines.remotetask._LOOKS", 3)
    async with connected(vm) as remote:
        script = "echo working; sleep 3600 & sleep 3600"
        with pytest.raises(BootstrapError, match=r"step: it did not end within 0\.5 s; its last words: working"):
            await run_task(remote, "step", script, workdir=str(vm.root), attempt="a", timeout_s=0.5)
        group = int((vm.root / "tasks/step/pid").read_text())
        await eventually(lambda: not _group_lives(group))


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --- A VM of a cloud ------------------------------------------------------------------------------------------

# Does for one unit what systemd does: reads it and its environment file, starts it with nothing but these.
SYSTEMCTL = r"""
import pathlib, re, shlex, subprocess, sys
root = pathlib.Path(sys.argv[1])
words = sys.argv[2:]
with (root / "systemctl.log").open("a") as log:
    log.write(" ".join(words) + "\n")
if words[0] != "start":
    sys.exit(0)
unit = (root / "run/systemd/system" / words[1]).read_text()
settings = dict(re.findall(r"^(\w+)=(.*)$", unit, re.M))
environ = {"PATH": "/usr/bin:/bin"}
text = pathlib.Path(f"{root}{settings['EnvironmentFile']}").read_text()
for name, value in re.findall(r'^(\w+)="((?:[^"\\]|\\.)*)"$', text, re.M):
    environ[name] = re.sub(r'\\([\\"`$])', r"\1", value)
command = shlex.split(settings["ExecStart"].replace("%%", "%"))
subprocess.Popen(command, env={**environ, "UNDER": "systemd", "HOME": str(root)}, start_new_session=True)
"""


def with_systemd(vm: SshVm, *, network_of_first: str = "net:[1]") -> None:
    vm.program("readlink", f"case $1 in /proc/1/*) echo '{network_of_first}' ;; *) echo 'net:[1]' ;; esac")
    (vm.root / "systemctl.py").write_text(SYSTEMCTL)
    vm.program("systemctl", f'exec {sys.executable} "$ROOT/systemctl.py" "$ROOT" "$@"')


async def test_a_cloud_vm_is_waited_for_and_its_engine_kept_by_systemd(gpu_vm: SshVm) -> None:
    """Boot, driver, scratch, then the unit; secrets under /run, for root alone, and in no unit."""
    with_systemd(gpu_vm)
    gpu_vm.program("nvidia-smi", "echo 'GPU 0: L4 (UUID: 1)'; echo 'GPU 1: L4 (UUID: 2)'")
    gpu_vm.program("mountpoint", '[ "$2" = /opt/dlami/nvme ]')
    engine = Server(env={"ODD": ODD}, secret_env={"TOKEN": ODD}, script="echo installing")
    trial = Trial(engine=engine, prepare=True)
    await trial.start(gpu_vm)
    arguments, environ = await started(gpu_vm)
    assert arguments == ["/opt/dlami/nvme/hedgeserve", "", "", "2"]
    assert (environ["UNDER"], environ["TOKEN"], environ["ODD"]) == ("systemd", ODD, ODD)
    assert trial.phases == ["cloud_init", "driver", "scratch", "upload", "install", "start"]
    assert gpu_vm.lines("cloud-init.log") == ["status --wait"]
    assert (gpu_vm.root / "run/hedgeserve/engine.env").stat().st_mode & 0o777 == 0o600
    assert not (gpu_vm.workdir / "engine.env").exists()
    unit = gpu_vm.root / "run/systemd/system/hedgeserve-engine.service"
    assert "User=someone\n" in unit.read_text()
    assert "the-key" not in unit.read_text()
    assert "start hedgeserve-engine.service" in gpu_vm.lines("systemctl.log")
    async with connected(gpu_vm) as remote:
        assert await trial.bootstrap.exited(remote) == ""
        (gpu_vm.workdir / "stop").touch()
        said = await eventually(lambda: trial.bootstrap.exited(remote))
        assert said.startswith("the engine exited with status 7; its last words: serving")


async def test_the_systemd_of_a_host_is_left_alone(vm: SshVm) -> None:
    """A VM that is a network namespace of a machine with systemd: the units there are not its own."""
    with_systemd(vm, network_of_first="net:[2]")
    await Trial(prepare=True).start(vm)
    _, environ = await started(vm)
    assert "UNDER" not in environ
    assert vm.lines("systemctl.log") == ["show -p Version"]


async def test_without_systemd_a_cloud_vm_keeps_the_engine_as_a_process(gpu_vm: SshVm) -> None:
    """As in a container, or where sudo asks for a password; the odd characters arrive in the same way."""
    gpu_vm.program("nvidia-smi", "echo 'GPU 0: L4 (UUID: 1)'; echo 'GPU 1: L4 (UUID: 2)'")
    trial = Trial(engine=Server(env={"ODD": ODD}), prepare=True)
    await trial.start(gpu_vm)
    arguments, environ = await started(gpu_vm)
    assert arguments == [str(gpu_vm.workdir), "", "", "2"]
    assert environ["ODD"] == ODD
    assert (gpu_vm.workdir / "engine.env").stat().st_mode & 0o777 == 0o600


async def test_a_driver_that_comes_late_is_waited_for(gpu_vm: SshVm) -> None:
    """First not there, then with one GPU of two, then with both."""
    script = """
        echo x >> "$ROOT/asked"
        case $(wc -l < "$ROOT/asked") in
            1) echo failed; exit 9 ;;
            2) echo 'GPU 0: L4' ;;
            *) printf 'GPU 0\\nGPU 1\\n' ;;
        esac
    """
    gpu_vm.program("nvidia-smi", script)
    gpu_vm.program("sleep", "exec /bin/sleep 0.05")
    trial = Trial(prepare=True)
    await trial.start(gpu_vm)
    assert len(gpu_vm.lines("asked")) == 3


@pytest.mark.parametrize(
    ("smi", "said"),
    [
        (
            "echo 'NVIDIA-SMI has failed'; exit 9",
            "NVIDIA-SMI has failed | no NVIDIA driver answered within 0 s; use an",
        ),
        ("echo 'GPU 0: L4'", "the driver knows 1 GPUs after 0 s, and the VM was rented with 2"),
    ],
)
async def test_a_driver_that_does_not_come_is_told_of(gpu_vm: SshVm, smi: str, said: str) -> None:
    """With what it said last, and what to do."""
    gpu_vm.program("nvidia-smi", smi)
    with pytest.raises(BootstrapError) as caught:
        await Trial(prepare=True, driver_wait_s=0.2).start(gpu_vm)
    assert caught.value.phase == "driver"
    assert said in str(caught.value)


async def test_an_engine_without_use_for_a_gpu_does_not_wait_for_its_driver(gpu_vm: SshVm) -> None:
    """The demo engine, on a VM with a broken driver."""
    gpu_vm.program("nvidia-smi", "exit 9")
    await Trial(engine=Server(needs_gpu=False), prepare=True).start(gpu_vm)
    await started(gpu_vm)


async def test_a_boot_that_went_wrong_in_part_is_no_reason_not_to_start(vm: SshVm) -> None:
    """cloud-init ends with an error where some package of the image did; what we need was done before."""
    vm.program("cloud-init", "exit 1")
    await Trial(prepare=True).start(vm)
    await started(vm)


# --- Its scripts by themselves --------------------------------------------------------------------------------


def disks(vm: SshVm, listing: str) -> None:
    """Have lsblk tell of these disks (``name type size children mountpoint signature``, one a line)."""
    (vm.root / "disks").write_text(listing)
    vm.program(
        "lsblk",
        """
        case $* in
            *MOUNTPOINT*) grep "^${3#/dev/} " "$ROOT/disks" | cut -d ' ' -f 5 | tr -d - ;;
            *SIZE*) cut -d ' ' -f 1-3 "$ROOT/disks" ;;
            *) grep "^${3#/dev/} " "$ROOT/disks" | cut -d ' ' -f 4 | xargs seq ;;
        esac
        """,
    )
    blank = 'case $(grep "^${2#/dev/} " "$ROOT/disks" | cut -d " " -f 6) in -) exit 2 ;; esac'
    vm.program("blkid", blank)
    for name in ("mkfs.ext4", "mount"):
        vm.program(name, f'echo {name} "$@" >> "$ROOT/{name}.log"')


async def scratch_of(vm: SshVm, dialect: str = "aws") -> str:
    async with connected(vm) as remote:
        told = await remote.run("sh -s", stdin=scratch_script(workdir="/home/vm/work dir", dialect=dialect))
    assert told.status == 0
    return told.stdout.splitlines()[-1]


async def test_the_biggest_blank_nvme_becomes_scratch(vm: SshVm) -> None:
    """Not the system's disk, not one with partitions, a mount or any signature, not a disk of another kind."""
    disks(
        vm,
        "nvme0n1 disk 900 3 - gpt\nnvme1n1 disk 800 1 - -\nnvme2n1 disk 500 1 - -\nsda disk 999 1 - -\n"
        "nvme3n1 disk 990 1 /data -\nnvme4n1 disk 980 1 - ext4\nnvme5n1 loop 970 1 - -\n",
    )
    assert await scratch_of(vm) == "/mnt/hedgeserve-scratch/hedgeserve"
    [made] = vm.lines("mkfs.ext4.log")
    assert made.split()[-1] == "/dev/nvme1n1"
    assert vm.lines("mount.log")[0].split()[3] == "/dev/nvme1n1"


async def test_a_scratch_that_is_mounted_is_made_no_second_time(vm: SshVm) -> None:
    """After a lost connection, or by the next controller."""
    disks(vm, "nvme1n1 disk 800 1 - -\n")
    vm.program("mountpoint", '[ "$2" = /mnt/hedgeserve-scratch ]')
    assert await scratch_of(vm) == "/mnt/hedgeserve-scratch/hedgeserve"
    assert vm.lines("mkfs.ext4.log") == []


async def test_azures_resource_disk_is_used_on_azure_only(vm: SshVm) -> None:
    """Elsewhere /mnt may be anything; without any disk it is the work directory."""
    vm.program("mountpoint", '[ "$2" = /mnt ]')
    assert await scratch_of(vm, "azure") == "/mnt/hedgeserve"
    assert await scratch_of(vm, "gcp") == "/home/vm/work dir"


async def test_a_disk_that_cannot_be_made_ready_is_done_without(vm: SshVm) -> None:
    """No mkfs, no permission: the work directory will do."""
    disks(vm, "nvme1n1 disk 800 1 - -\n")
    vm.program("mkfs.ext4", "exit 1")
    assert await scratch_of(vm) == "/home/vm/work dir"


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    """Checked by systemd itself, for a user's engine and for one that needs root."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze here")
    for as_root in (False, True):
        command = EngineCommand(["true"], as_root=as_root)
        unit = tmp_path / "hedgeserve-engine.service"
        unit.write_text(unit_text(command, workdir="/home/some one/100%", user="root"))
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=60)
        assert "hedgeserve-engine" not in done.stderr, done.stderr
        assert ("User=" in unit.read_text()) != as_root
