"""What a VM is told at its first boot: the shape of both forms, and their scripts, run for real."""

import getpass
import json
import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.drivers.cloudinit import cloud_config, startup_script
from hedgeserve.drivers.deadman import switch_script
from hedgeserve.replica import Market, Offer, ZoneId

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
AUTHORIZED = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
REQUEST = LaunchRequest(
    name="s-1",
    token="t-1",
    offer=Offer(ZoneId("aws/us-east-1/a"), "g6.xlarge", Market.SPOT, 0.3, datetime.now(UTC)),
    tags={"hedgeserve-service": "s"},
    authorized_key=AUTHORIZED,
    host_key=HOST_KEY,
)


def config(user: str = "ubuntu") -> dict[str, Any]:
    first, _, rest = cloud_config(REQUEST, user=user, lease_s=900).partition("\n")
    assert first == "#cloud-config"
    told: dict[str, Any] = json.loads(rest)
    return told


def test_cloud_config_is_small_yaml_with_our_host_key_and_nothing_else_to_log_in_with() -> None:
    """Below EC2's limit; one host key, which is ours; one user, with our key and sudo; no passwords."""
    assert len(cloud_config(REQUEST, user="ubuntu", lease_s=900).encode()) < 8 * 1024
    told = config()
    assert told["ssh_keys"] == {"ed25519_private": HOST_KEY}
    assert (told["ssh_deletekeys"], told["ssh_pwauth"], told["disable_root"]) == (True, False, True)
    [user] = told["users"]
    assert (user["name"], user["ssh_authorized_keys"], user["lock_passwd"]) == ("ubuntu", [AUTHORIZED], True)
    assert "NOPASSWD" in user["sudo"]
    assert config("root")["disable_root"] is False


def test_cloud_config_is_yaml_as_well() -> None:
    """cloud-init reads YAML: it must find in it what JSON finds."""
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(cloud_config(REQUEST, user="ubuntu", lease_s=900)) == config()


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
def test_every_script_can_be_parsed(shell: str) -> None:
    """By each shell that may be an image's sh."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    [[_, _, boot]] = config()["bootcmd"]
    for script in (boot, switch_script(user="u", lease_s=1), startup_script(REQUEST, user="u", lease_s=900)):
        subprocess.run([shell, "-n"], input=script, text=True, check=True, timeout=10)


# --- The dead-man switch, run --------------------------------------------------------------------------------


class Vm:
    """Stand-ins for what the scripts use of a VM: programs that take notes, a home, an uptime."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bin = root / "bin"
        self.bin.mkdir()
        self.home = root / "home"
        (self.home / "hedgeserve").mkdir(parents=True)
        self.lease = self.home / "hedgeserve" / "lease"
        self.calls = root / "calls"
        self.calls.write_text("")
        self.uptime = root / "uptime"
        self.program("getent", f"echo 'someone:x:1:1::{self.home}:/bin/sh'")
        for name in ("poweroff", "systemctl", "useradd"):
            self.program(name, f'echo {name} "$@" >> {self.calls}')

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        return {"PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin:/sbin"}

    def told(self) -> list[str]:
        return self.calls.read_text().splitlines()

    def moved_here(self, script: str) -> str:
        """The script with the system's directories inside ours."""
        for path in ("/etc/", "/usr/local/sbin", "/run/systemd/system"):
            script = script.replace(path, f"{self.root}{path}")
        return script


@pytest.fixture
def vm(tmp_path: Path) -> Vm:
    return Vm(tmp_path)


@contextmanager
def switch(vm: Vm, *, lease_s: float, grace_s: float, fake_uptime: bool = False) -> Iterator[None]:
    script = switch_script(user="someone", lease_s=lease_s, grace_s=grace_s)
    if fake_uptime:
        script = script.replace("/proc/uptime", str(vm.uptime))
    process = subprocess.Popen(
        ["sh", "-c", script], env=vm.environ, start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_for(condition: Callable[[], object], *, within_s: float = 20.0) -> float:
    """Seconds until the condition held."""
    begun_s = time.monotonic()
    while not condition():
        assert time.monotonic() - begun_s < within_s
        time.sleep(0.01)
    return time.monotonic() - begun_s


def test_a_vm_whose_lease_is_touched_lives_and_dies_when_it_is_not(vm: Vm) -> None:
    """Touched for longer than the lease: nothing happens. Then silence, and it powers itself off, once."""
    with switch(vm, lease_s=0.6, grace_s=30):
        until_s = time.monotonic() + 1.5
        while time.monotonic() < until_s:
            vm.lease.touch()
            assert vm.told() == []
            time.sleep(0.02)
        assert wait_for(vm.told) > 0.3
    assert vm.told() == ["poweroff"]


def test_a_vm_that_nobody_connects_to_has_a_grace_for_booting(vm: Vm) -> None:
    """Lease and grace together, and then its end."""
    with switch(vm, lease_s=0.3, grace_s=0.7):
        assert wait_for(vm.told) > 0.8
    assert vm.told() == ["poweroff"]


def test_a_lease_file_from_before_does_not_count_as_touched_for_ever(vm: Vm) -> None:
    """One touch is worth one lease, however old or far ahead its date: a clock that is set means nothing."""
    vm.lease.touch()
    os.utime(vm.lease, (4_000_000_000, 4_000_000_000))
    with switch(vm, lease_s=0.3, grace_s=60):
        wait_for(vm.told)


def test_a_leap_of_the_uptime_ends_no_vm(vm: Vm) -> None:
    """A VM that was suspended for a day has its lease's time to hear of its controller."""
    vm.lease.touch()
    vm.uptime.write_text("1000.08 1.00\n")
    looked = vm.root / "looked"
    vm.program("stat", f'echo x >> {looked}; exec /usr/bin/stat "$@"')
    with switch(vm, lease_s=1, grace_s=0, fake_uptime=True):
        wait_for(looked.exists)
        vm.uptime.write_text("87400.09 1.00\n")
        seen = len(looked.read_text())
        wait_for(lambda: len(looked.read_text()) > seen + 8)
        assert vm.told() == []
        for second in range(87401, 87420):
            vm.uptime.write_text(f"{second}.00 1.00\n")
            seen = len(looked.read_text())
            wait_for(lambda seen=seen: len(looked.read_text()) > seen + 2 or vm.told())  # type: ignore[misc]
        assert vm.told() == ["poweroff"]


def test_the_switch_is_installed_for_systemd_at_boot(vm: Vm) -> None:
    """Twice does no harm; the unit starts the script, and is started without waiting for the boot's end."""
    [[_, _, boot]] = config()["bootcmd"]
    (vm.root / "run/systemd/system").mkdir(parents=True)
    for _ in range(2):
        subprocess.run(["sh", "-c", vm.moved_here(boot)], env=vm.environ, check=True, timeout=10)
    script = vm.root / "usr/local/sbin/hedgeserve-lease"
    assert script.read_text() == switch_script(user="ubuntu", lease_s=900).replace("/etc/", f"{vm.root}/etc/")
    assert script.stat().st_mode & 0o777 == 0o755
    unit = vm.root / "etc/systemd/system/hedgeserve-lease.service"
    assert f"ExecStart={script}\n" in unit.read_text()
    assert "systemctl start --no-block hedgeserve-lease.service" in vm.told()
    if shutil.which("systemd-analyze"):
        verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, timeout=30)
        assert "hedgeserve" not in verified.stderr, verified.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="the start-up script gives files away, which root alone may")
def test_the_startup_script_does_what_cloud_init_does(vm: Vm) -> None:
    """The user's key once, sudo, our host key alone, no passwords; a second boot changes and restarts nothing."""
    me = getpass.getuser()
    vm.program("getent", f"echo '{me}:x:0:0::{vm.home}:/bin/sh'")
    config_file = vm.root / "etc/ssh/sshd_config"
    config_file.parent.mkdir(parents=True)
    config_file.write_text("HostKey /etc/ssh/ssh_host_rsa_key\nPort 22\n")
    (vm.root / "run/systemd/system").mkdir(parents=True)
    script = vm.moved_here(startup_script(REQUEST, user=me, lease_s=900))
    for _ in range(2):
        done = subprocess.run(["sh"], input=script, env=vm.environ, text=True, timeout=10, capture_output=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert (vm.home / ".ssh/authorized_keys").read_text() == AUTHORIZED + "\n"
    assert (vm.home / ".ssh").stat().st_mode & 0o777 == 0o700
    assert "NOPASSWD" in (vm.root / "etc/sudoers.d/90-hedgeserve").read_text()
    host_key = vm.root / "etc/ssh/hedgeserve_host_ed25519_key"
    assert asyncssh.read_private_key(host_key).get_algorithm() == "ssh-ed25519"
    assert host_key.stat().st_mode & 0o777 == 0o600
    assert vm.told().count("systemctl restart ssh.service") == 1
    assert not [call for call in vm.told() if call.startswith("useradd")]
    sshd = shutil.which("sshd", path="/usr/sbin:/sbin")
    if sshd is None:
        return
    settings = subprocess.run([sshd, "-T", "-f", config_file], capture_output=True, text=True, timeout=10)
    told = settings.stdout.splitlines()
    assert [line for line in told if line.startswith("hostkey ")] == [f"hostkey {host_key}"], settings.stderr
    assert "passwordauthentication no" in told


def test_the_user_is_made_where_the_image_has_none(vm: Vm) -> None:
    """useradd is asked, once it is known that there is none of this name."""
    name = "hs-nobody-here"
    with pytest.raises(KeyError):
        pwd.getpwnam(name)
    (vm.root / "run/systemd/system").mkdir(parents=True)
    (vm.root / "etc/ssh").mkdir(parents=True)
    script = vm.moved_here(startup_script(REQUEST, user=name, lease_s=900))
    subprocess.run(["sh"], input=script, env=vm.environ, text=True, timeout=10, capture_output=True)
    assert f"useradd -m -s /bin/bash {name}" in vm.told()
