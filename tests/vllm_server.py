"""Real vLLM servers with a tiny model, as their own processes: for tests that need ``HEDGESERVE_VLLM_PYTHON``.

That is the interpreter of an environment with vLLM (its CPU build will do); ``HEDGESERVE_VLLM_MODEL`` may name a
model's directory, else a tiny one with random weights is made.
"""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hedgeserve.engines import make_engine
from hedgeserve.engines.base import EngineContext
from hedgeserve.spec import EngineName, ModelSpec
from tests import tiny_model
from tests.demo_process import DemoProcess

ARGS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "16"]
ARGS += ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
# A gigabyte of cache and one thread are plenty for a tiny model, and spare the machine.
ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
}


def make_model(directory: Path) -> Path:
    """The directory of the model: the one that is given, else a new one."""
    given = os.environ.get("HEDGESERVE_VLLM_MODEL")
    if given:
        return Path(given)
    python = os.environ["HEDGESERVE_VLLM_PYTHON"]
    subprocess.run(
        [python, str(tiny_model.__file__), str(directory)], check=True, capture_output=True, timeout=200
    )
    return directory


@contextmanager
def vllm_servers(
    model: Path, workdir: Path, *options: Sequence[str], key: str = ""
) -> Iterator[list[DemoProcess]]:
    """One server for each list of further options, loaded side by side and healthy when this returns."""
    servers = list[DemoProcess]()
    try:
        for number, args in enumerate(options):
            servers.append(_start(model, workdir / f"server-{number}", args, key))
        for server in servers:
            _wait_healthy(server)
        yield servers
    finally:
        for server in servers:
            kill(server)


def kill(server: DemoProcess) -> None:
    """SIGKILL to all of its processes: engine and workers outlive a server that is killed alone."""
    if server.process.returncode is None:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


def _start(model: Path, workdir: Path, args: Sequence[str], key: str) -> DemoProcess:
    """Start it with the command of our engine, behind all else that the machine has to do."""
    workdir.mkdir()
    spec = ModelSpec(
        id="tiny",
        aliases=["small"],
        engine=EngineName.VLLM,
        python=os.environ["HEDGESERVE_VLLM_PYTHON"],
        args=["--model", str(model), *ARGS, *args],
        env=ENV,
    )
    host, port = _free_address()
    command = make_engine(spec, {}).command(EngineContext(host, port, "python3", str(workdir)), key)
    environ = {**os.environ, **command.env, **command.secret_env}
    log = workdir / "engine.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            ["nice", "-n", "15", *command.argv],
            env=environ,
            cwd=workdir,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    return DemoProcess(f"http://{host}:{port}", process, log)


def _free_address() -> tuple[str, int]:
    """A port of a loopback address of our own, free now."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with socket.socket() as listener:
        listener.bind((host, 0))
        return host, int(listener.getsockname()[1])


def _wait_healthy(server: DemoProcess) -> None:
    deadline_s = time.monotonic() + 400
    while time.monotonic() < deadline_s:
        assert server.process.poll() is None, f"vLLM exited: {server.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"{server.url}/health", timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM is not healthy after 400 s: {server.log.read_text()[-3000:]}")
