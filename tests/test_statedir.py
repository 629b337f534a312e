"""The state directory: found by custom, held by one, honest about what is wrong with it."""

import fcntl
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgeserve.errors import StateDirectoryError, StateLockedError
from hedgeserve.modelfile.apikeys import keys_are_issued
from hedgeserve.statedir import StateDirectory, admin_socket_in, resolve_state_dir, state_root
from tests.conftest import small_spec

_HOLDER = """
import sys
from pathlib import Path
from hedgeserve.statedir import StateDirectory
held = StateDirectory.open(Path(sys.argv[1]), service="chat")
print("held", flush=True)
sys.stdin.read()
"""

_PRINT_REFUSAL = """
import os, sys
from pathlib import Path
from hedgeserve.errors import StateDirectoryError
from hedgeserve.statedir import StateDirectory
if sys.argv[2:] == ["as nobody"]:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    StateDirectory.open(Path(sys.argv[1]))
except StateDirectoryError as error:
    print(error)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds ``tmp_path / "state"`` until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path / "state")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_systemd_gives_the_directory_itself() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/chat:/var/lib/other", "XDG_STATE_HOME": "/xdg"}
    assert state_root(environ) == Path("/var/lib/chat")
    assert resolve_state_dir("chat", "", environ) == Path("/var/lib/chat")


def test_a_person_has_one_directory_per_service_under_xdg() -> None:
    assert resolve_state_dir("chat", "", {"XDG_STATE_HOME": "/xdg"}) == Path("/xdg/hedgeserve/chat")
    assert resolve_state_dir("chat", "", {"HOME": "/home/a"}) == Path("/home/a/.local/state/hedgeserve/chat")


def test_a_relative_xdg_state_home_is_ignored() -> None:
    environ = {"XDG_STATE_HOME": "here", "HOME": "/home/a"}
    assert state_root(environ) == Path("/home/a/.local/state/hedgeserve")


def test_what_the_user_configured_goes_before_every_custom() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/chat", "HOME": "/home/a"}
    assert resolve_state_dir("chat", "/srv/state", environ) == Path("/srv/state")
    assert resolve_state_dir("chat", "~/state", environ) == Path("/home/a/state")
    assert resolve_state_dir("chat", "state", environ) == Path.cwd() / "state"


def test_it_is_made_private(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "deep" / "state") as held:
        for directory in (held.path, held.ssh_dir, held.local_dir):
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert held.journal.parent == held.path
        assert held.admin_socket.parent == held.path


def test_the_probe_leaves_nothing_behind(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as held:
        assert sorted(entry.name for entry in held.path.iterdir()) == ["local", "lock", "ssh"]


def test_the_lock_file_says_who_holds_it(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state", service="chat") as held:
        content = json.loads((held.path / "lock").read_text())
    assert content["pid"] == os.getpid()
    assert content["host"] == socket.gethostname()
    assert content["service"] == "chat"
    assert content["started_at"].endswith("+00:00")


def test_a_second_instance_is_told_who_holds_it(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(StateLockedError) as caught:
        StateDirectory.open(tmp_path / "state")
    message = str(caught.value)
    assert f"process {holder.pid} (chat) on {socket.gethostname()}, since 2" in message
    assert f"kill {holder.pid}" in message
    assert "service.state_dir" in message


def test_a_lock_whose_holder_has_not_written_its_name_yet_is_still_a_lock(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    (tmp_path / "state" / "lock").write_bytes(b"")
    with pytest.raises(StateLockedError, match="just starting"):
        StateDirectory.open(tmp_path / "state")


def test_kill_9_lets_it_go(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    """The holder is killed without a chance to clean up; the next instance starts at once."""
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    with StateDirectory.open(tmp_path / "state") as held:
        assert json.loads((held.path / "lock").read_text())["pid"] == os.getpid()


def test_a_child_that_outlives_us_does_not_hold_it(tmp_path: Path) -> None:
    """The VMs of the local driver outlive their controller on purpose; the lock must not live on in them."""
    held = StateDirectory.open(tmp_path / "state")
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        held.close()
        StateDirectory.open(tmp_path / "state").close()
        child.kill()


def test_closing_keeps_the_lock_file_and_may_be_done_twice(tmp_path: Path) -> None:
    held = StateDirectory.open(tmp_path / "state")
    inode = (held.path / "lock").stat().st_ino
    held.close()
    held.close()
    with StateDirectory.open(tmp_path / "state"):
        assert (held.path / "lock").stat().st_ino == inode


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateDirectoryError, match=r"state: there is a file of that name.*service\.state_dir"):
        StateDirectory.open(tmp_path / "state")
    with pytest.raises(StateDirectoryError, match="a part of the path is a file"):
        StateDirectory.open(tmp_path / "state" / "below")


def test_a_directory_that_everybody_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o777)
    with pytest.raises(StateDirectoryError, match="chmod 700"):
        StateDirectory.open(tmp_path / "state")


def test_a_directory_of_somebody_else_is_refused_with_the_reason(tmp_path: Path) -> None:
    if os.getuid() == 0:
        # Root may do everything, so somebody with no rights tries for it.
        finished = subprocess.run(
            [sys.executable, "-c", _PRINT_REFUSAL, str(tmp_path / "state"), "as nobody"],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        message = finished.stdout
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(StateDirectoryError) as caught:
            StateDirectory.open(tmp_path / "state")
        message = str(caught.value)
    assert "lacks the permission" in message
    assert "service.state_dir" in message


@pytest.mark.parametrize(
    ("mount", "reason"),
    [
        (
            "mount -t tmpfs -o mode=700,size=16k tmpfs {0}; dd if=/dev/zero of={0}/big",
            "the disk is full; free some space",
        ),
        ("mount -t tmpfs -o mode=700,ro tmpfs {0}", "the file system is read-only"),
    ],
)
def test_a_disk_that_cannot_be_written_is_refused_with_the_reason(tmp_path: Path, mount: str, reason: str) -> None:
    """A real full disk and a real read-only one, mounted where this process alone sees them."""
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "mount", "-t", "tmpfs", "tmpfs", tmp_path]).returncode:
        pytest.skip("this machine gives no mount namespaces to its users")
    script = mount.format(tmp_path) + ' 2>/dev/null; exec "$0" -c "$1" "$2"'
    finished = subprocess.run(
        [unshare, "-rm", "sh", "-c", script, sys.executable, _PRINT_REFUSAL, str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert reason in finished.stdout
    assert "service.state_dir" in finished.stdout


def test_a_path_too_long_for_a_socket_is_refused_with_advice(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 100)
    with pytest.raises(StateDirectoryError, match=r"allows 107; set service\.state_dir to a shorter path"):
        admin_socket_in(long)
    longest = Path("/" + "d" * (107 - len("//admin.sock")))
    assert len(os.fsencode(admin_socket_in(longest))) == 107


def test_a_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as held:
        first = held.secret("engine.key")
        assert len(first) >= 43
        assert stat.S_IMODE((held.path / "engine.key").stat().st_mode) == 0o600
        assert held.secret("other.key") != first
    with StateDirectory.open(tmp_path / "state") as held:
        assert held.secret("engine.key") == first


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as held:
        held.secret("engine.key")
        (held.path / "engine.key").chmod(0o644)
        with pytest.raises(StateDirectoryError, match=r"mode 0644.*chmod 600"):
            held.secret("engine.key")


def test_a_damaged_secret_is_not_used(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as held:
        held.secret("engine.key")
        (held.path / "engine.key").write_text("")
        with pytest.raises(StateDirectoryError, match="damaged; delete the file"):
            held.secret("engine.key")


@pytest.mark.parametrize("name", ["../key", "lock", "journal.db", "", "Key", ".hidden"])
def test_a_name_that_is_not_a_secrets_is_a_mistake(tmp_path: Path, name: str) -> None:
    with StateDirectory.open(tmp_path / "state") as held, pytest.raises(ValueError, match="cannot name a secret"):
        held.secret(name)


def test_a_start_that_came_to_nothing_leaves_nothing(tmp_path: Path) -> None:
    """Whatever it had made by then, the directories above included; what was there before stays."""
    deep = tmp_path / "a" / "b" / "state"
    directory = StateDirectory.open(deep)
    directory.secret("engine_key")
    directory.journal.touch()
    directory.forget()
    assert os.listdir(tmp_path) == []

    there = tmp_path / "there"
    there.mkdir()
    (there / "api_keys.json").write_text("[]")
    directory = StateDirectory.open(there)
    directory.journal.touch()
    (there / "notes.txt").write_text("a person's")
    directory.forget()
    assert sorted(os.listdir(there)) == ["api_keys.json", "notes.txt"]


def test_what_an_earlier_run_has_left_is_never_forgotten(tmp_path: Path) -> None:
    """A journal may know of VMs that cost money."""
    with StateDirectory.open(tmp_path / "state") as directory:
        directory.journal.touch()
    again = StateDirectory.open(tmp_path / "state")
    again.forget()
    assert again.journal.exists()
    with StateDirectory.open(tmp_path / "state"):
        pass


def test_a_lock_on_a_file_that_was_taken_away_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two would hold the directory: one the old file, one the new."""
    real, removed = fcntl.flock, []

    def late(descriptor: int, operation: int) -> None:
        if not removed:  # between our opening it and our locking it, its owner goes
            removed.append(True)
            shutil.rmtree(tmp_path / "state")
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with StateDirectory.open(tmp_path / "state"):
        assert json.loads((tmp_path / "state" / "lock").read_text())["pid"] == os.getpid()
        with pytest.raises(StateLockedError):
            StateDirectory.open(tmp_path / "state")


def test_whether_keys_were_issued_in_a_closed_directory_is_not_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start goes on to where it is told what is closed to it, and no key less is asked for meanwhile."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    spec = small_spec(tmp_path)
    monkeypatch.setattr(Path, "exists", refuse)
    assert keys_are_issued(spec, {}) is True
