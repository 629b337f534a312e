"""The service under a service manager: what it is told, what it hands over, and a restart that refuses nobody."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgeserve.console.supervised import Supervision
from hedgeserve.systemd.notify import Notifier
from tests.manager import Ears, launch
from tests.shell import ask, clean_environ, model_toml

MODEL = model_toml("held", 'on_exit = "keep"\n')
BODY = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})


class FakeService:
    """Only as much of one as is spoken for."""

    def __init__(self) -> None:
        self.state, self.headline, self.tick_age_s = "starting", "starting", 0.0


@pytest.fixture
def ears(tmp_path: Path) -> Iterator[Ears]:
    made = Ears(str(tmp_path / "notify"))
    yield made
    made.close()


@pytest.fixture
def model(tmp_path: Path) -> str:
    path = tmp_path / "model.toml"
    path.write_text(MODEL)
    return str(path)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        yield made


async def test_a_whole_conversation(ears: Ears) -> None:
    """A start that takes its time asks for more; READY once it serves; a line where it is new; STOPPING."""
    service = FakeService()
    async with Supervision(Notifier(ears.address), service) as supervision:
        supervision._look()
        assert ears.listen(5) == ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=starting"]
        service.state, service.headline = "serving", "2/2 replicas ready, 1.90 USD/h"
        supervision.serving()
        assert ears.listen(5) == ["READY=1", "STATUS=2/2 replicas ready, 1.90 USD/h"]
        supervision._look()
        assert ears.listen(0) == []
        with supervision.reloading():
            told = ears.listen(5)
            assert told[0] == "RELOADING=1"
            assert told[1].removeprefix("MONOTONIC_USEC=").isdigit()
        assert ears.listen(5) == ["READY=1"]
        service.state, service.headline = "stopping", "stopping"
        supervision.stopping()
        supervision._look()
        assert ears.listen(5) == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=30000000", "STATUS=stopping"]


def test_a_reload_is_told_in_one_datagram_with_its_time(tmp_path: Path) -> None:
    """What systemd's notify-reload waits for: a stamp of CLOCK_MONOTONIC that is younger than its signal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        begun_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        assert Notifier(str(tmp_path / "notify")).reloading()
        state, _, stamp = manager.recv(65536).decode().partition("\n")
        told_us = int(stamp.removeprefix("MONOTONIC_USEC="))
    assert state == "RELOADING=1"
    assert begun_ns // 1000 <= told_us <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


async def test_a_reload_that_fails_is_over_too(ears: Ears) -> None:
    """The old settings are in force then, and the manager must not wait for ever."""
    service = FakeService()
    service.state = "serving"
    supervision = Supervision(Notifier(ears.address), service)
    with pytest.raises(RuntimeError), supervision.reloading():
        raise RuntimeError("a mistake of ours")
    ears.until(lambda line: line == "RELOADING=1")
    assert "READY=1" in ears.heard[1:]


async def test_signs_of_life_end_with_the_control_loop(ears: Ears) -> None:
    """The loop runs, the tick has not come round for a minute: the manager should start us anew."""
    service = FakeService()
    service.state = "serving"
    supervision = Supervision(Notifier(ears.address, watchdog_s=0.001), service)
    supervision._look()
    assert "WATCHDOG=1" in ears.listen(5)
    service.tick_age_s = 61.0
    supervision._alive_at_s = 0.0
    supervision._look()
    assert ears.listen(0) == []
    service.tick_age_s = 0.0
    supervision._look()
    assert ears.listen(5) == ["WATCHDOG=1"]


async def test_ready_is_said_until_it_is_heard(tmp_path: Path) -> None:
    """A manager that is being executed anew does not listen for a moment; a lost READY would end the service."""
    service = FakeService()
    service.state = "serving"
    supervision = Supervision(Notifier(str(tmp_path / "notify")), service)
    supervision.serving()
    ears = Ears(str(tmp_path / "notify"))
    supervision._look()
    assert "READY=1" in ears.listen(5)
    ears.close()


def test_abstract_sockets_are_spoken_to() -> None:
    """As in a user's manager and in containers."""
    ears = Ears(f"@hedgeserve-test-{os.getpid()}")
    assert Notifier(ears.address).status("a\nREADY=1")
    assert ears.listen(5) == ["STATUS=a READY=1"]
    ears.close()


@pytest.mark.parametrize(
    ("usec", "pid", "watchdog_s"),
    [("2000000", "7", 2.0), ("2000000", "8", None), ("0", "7", None), ("soon", "7", None), ("500000", None, 0.5)],
)
def test_a_watchdog_is_ours_or_none(usec: str, pid: str | None, watchdog_s: float | None) -> None:
    """It may be another process's, or no number."""
    environ = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": usec} | ({"WATCHDOG_PID": pid} if pid else {})
    assert Notifier.from_environ(environ, 7).watchdog_s == watchdog_s


def test_nobody_listens() -> None:
    """On a terminal there is no manager; and one may go away."""
    assert not Notifier.from_environ({}, 1)
    assert not Notifier("").ready()
    assert not Notifier("/nowhere/at/all").ready()


def test_a_real_service_tells_its_manager_how_it_is(model: str, tmp_path: Path, ears: Ears) -> None:
    """From its start over signs of life to its end; stopped as a whole process, it gives none."""
    environ = clean_environ(tmp_path) | {"NOTIFY_SOCKET": ears.address, "WATCHDOG_USEC": "400000"}
    process = launch("serve", model, "--listen", "127.0.0.1:0", environ=environ)
    try:
        ears.until(lambda line: line == "READY=1")
        ears.until(lambda line: line == "STATUS=1/1 replicas ready, 0.30 USD/h")
        process.send_signal(signal.SIGSTOP)
        while ears.listen(1.0):  # what was on its way
            pass
        process.send_signal(signal.SIGCONT)
        ears.heard.clear()
        ears.until(lambda line: line == "WATCHDOG=1")
        ears.heard.clear()
        signalled_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        process.send_signal(signal.SIGHUP)
        ears.until(lambda line: line == "RELOADING=1")
        stamp = ears.until(lambda line: line.startswith("MONOTONIC_USEC="))
        assert int(stamp.removeprefix("MONOTONIC_USEC=")) >= signalled_us
        ears.until(lambda line: line == "READY=1")
        process.send_signal(signal.SIGTERM)
        ears.until(lambda line: line == "STOPPING=1")
        assert process.wait(60) == 0
    finally:
        _end(process, model, environ)


BLOCKED = """
import asyncio, os, sys
from hedgeserve.console.supervised import Supervision
from hedgeserve.systemd.notify import take_notifier

class Service:
    state, headline, tick_age_s = "serving", "well", 0.0

def hang():
    print("hanging", flush=True)
    sys.stdin.readline()

async def main():
    async with Supervision(take_notifier(os.environ), Service()) as supervision:
        supervision.serving()
        asyncio.get_running_loop().call_later(0.3, hang)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_a_loop_that_hangs_gives_no_sign_of_life(tmp_path: Path, ears: Ears) -> None:
    """Something blocks the event loop: from then on nothing is said, and the manager would start us anew."""
    environ = clean_environ(tmp_path) | {"NOTIFY_SOCKET": ears.address, "WATCHDOG_USEC": "200000"}
    with subprocess.Popen(
        [sys.executable, "-c", BLOCKED], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        ears.listen(0)
        assert "WATCHDOG=1" in ears.heard
        assert ears.listen(1.0) == []
        process.stdin.write("go on\n")
        process.stdin.flush()
        ears.heard.clear()
        ears.until(lambda line: line == "WATCHDOG=1")
        process.kill()


class Clients:
    """Short requests without end, some over connections that are kept, some over new ones; and what went wrong."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.answered = 0
        self.wrong: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(keeps,)) for keeps in (True, False, False)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int) -> None:
        """Return when so many more have been answered."""
        wanted, deadline_s = self.answered + count, time.monotonic() + 60
        while self.answered < wanted:
            assert not self.wrong
            assert time.monotonic() < deadline_s, "nothing is answered any more"
            time.sleep(0.01)

    def _ask(self, keeps: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        headers = {"Connection": "keep-alive" if keeps else "close", "Content-Type": "application/json"}
        while not self._over.is_set():
            try:
                connection.request("POST", "/v1/chat/completions", BODY, headers)
                response = connection.getresponse()
                text = response.read()
                if response.status != 200:
                    self.wrong.append(f"{response.status} {text!r}")
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
            if not keeps:
                connection.close()
        connection.close()


def test_a_restart_refuses_nobody_and_keeps_the_fleet(
    model: str, tmp_path: Path, ears: Ears, listener: socket.socket
) -> None:
    """The manager holds the socket; requests go on all the time while one controller ends and another begins."""
    environ = clean_environ(tmp_path) | {"NOTIFY_SOCKET": ears.address}
    port = listener.getsockname()[1]
    process = launch("serve", model, environ=environ, listener=listener)
    try:
        ears.until(lambda line: line.startswith("STATUS=1/1 replicas ready"))
        with Clients(port) as clients:
            for _ in range(2):
                clients.more(20)
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, process.communicate()[1]
                process.communicate()
                time.sleep(0.2)  # nobody is there; clients connect all the same
                process = launch("serve", model, environ=environ, listener=listener)
                clients.more(20)
        assert clients.wrong == []
        status = json.loads(ask(environ, "status", "--json", model).stdout)
        assert [replica["id"] for replica in status["replicas"]] == ["held-1"]
        assert status["url"] == f"http://127.0.0.1:{port}"
        assert ask(environ, "down", "--yes", model).returncode == 0
        assert process.wait(60) == 4, "the manager should let go of the socket, or the next client starts it again"
    finally:
        _end(process, model, environ)


def test_sockets_that_cannot_be_served_are_a_sentence(model: str, tmp_path: Path) -> None:
    """One that does not listen, and one that others can reach though nobody would be asked for a key."""
    environ = clean_environ(tmp_path)
    with socket.socket() as idle:
        process = launch("serve", model, environ=environ, listener=idle)
        assert "descriptor 3 (hedgeserve.socket) is no listening TCP socket" in process.communicate(timeout=60)[1]
        assert process.returncode == 1
    with socket.create_server(("0.0.0.0", 0)) as public:
        process = launch("serve", model, environ=environ, listener=public)
        said = process.communicate(timeout=60)[1]
        assert (
            f"the socket 0.0.0.0:{public.getsockname()[1]} that was handed over can be reached by others" in said
        )
        assert process.returncode == 2


def test_the_admin_address_may_be_handed_over_too(tmp_path: Path, listener: socket.socket, ears: Ears) -> None:
    """At the address that model.toml names, and at no other: only that one was judged to be safe."""
    port = listener.getsockname()[1]
    model = tmp_path / "model.toml"
    model.write_text(MODEL + f'[admin]\nlisten = "127.0.0.1:{port}"\n')
    environ = clean_environ(tmp_path) | {"NOTIFY_SOCKET": ears.address, "TEST_FDNAME": "admin"}
    process = launch("serve", str(model), "--listen", "127.0.0.1:0", environ=environ, listener=listener)
    try:
        ears.until(lambda line: line == "READY=1")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/admin/v1/status")
        assert connection.getresponse().status == 401
        connection.close()
    finally:
        _end(process, str(model), environ)
    model.write_text(MODEL)
    process = launch("serve", str(model), environ=environ, listener=listener)
    assert (
        f"the socket 127.0.0.1:{port} was handed over for the admin address, which is none"
        in (process.communicate(timeout=60)[1])
    )
    assert process.returncode == 2


def test_keys_and_secrets_come_from_credentials(tmp_path: Path, listener: socket.socket, ears: Ears) -> None:
    """A directory of files named like variables: for the keys of clients and for what the engine is handed."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "HEDGESERVE_API_KEYS").write_text("from-a-file\n")
    (credentials / "HF_TOKEN").write_text("hush\n")
    (credentials / "gcp.json").write_bytes(b"\xff")
    model = tmp_path / "model.toml"
    model.write_text(MODEL.replace("args =", 'secret_env = ["HF_TOKEN"]\nargs ='))
    environ = clean_environ(tmp_path) | {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "HEDGESERVE_API_KEYS": "from-a-variable",
        "NOTIFY_SOCKET": ears.address,
    }
    process = launch("serve", str(model), environ=environ, listener=listener)
    try:
        ears.until(lambda line: line == "READY=1")
        for key, status in (("from-a-file", 200), ("from-a-variable", 401)):
            connection = http.client.HTTPConnection(*listener.getsockname(), timeout=30)
            connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        _end(process, str(model), environ)


def _end(process: "subprocess.Popen[str]", model: str, environ: dict[str, str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        ask(environ, "down", "--yes", model)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
    ask(environ, "down", "--yes", model)
    process.communicate(timeout=30)
