"""A real vLLM as a process, started with the command of our own engine, for the tests that need one.

``HEDGESERVE_VLLM_PYTHON`` names the interpreter of an environment with vLLM; ``HEDGESERVE_VLLM_MODEL`` may name a
model's directory, else a tiny one with random weights is made.
"""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hedgeserve.engines import make_engine
from hedgeserve.engines.base import EngineContext
from hedgeserve.spec import EngineName, ModelSpec
from tests import tiny_model
from tests.demo_process import DemoProcess

NEEDS_VLLM = [
    pytest.mark.vllm,
    # Loading takes a minute or two on two cores, and the first test waits for it.
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        "HEDGESERVE_VLLM_PYTHON" not in os.environ,
        reason="set HEDGESERVE_VLLM_PYTHON to the interpreter of an environment with vLLM",
    ),
]

KEY = "key-of-this-test"
ARGS = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--max-num-seqs", "8"]
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
    """Where the model is that was named, or a tiny one made in this directory."""
    given = os.environ.get("HEDGESERVE_VLLM_MODEL")
    if given:
        return Path(given)
    python = os.environ["HEDGESERVE_VLLM_PYTHON"]
    subprocess.run(
        [python, str(tiny_model.__file__), str(directory)], check=True, capture_output=True, timeout=200
    )
    return directory


def free_address() -> tuple[str, int]:
    """A port of a loopback address of our own, free now."""
    host = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with socket.socket() as listener:
        listener.bind((host, 0))
        return host, int(listener.getsockname()[1])


@contextmanager
def vllm_process(model: Path, workdir: Path, *args: str) -> Iterator[DemoProcess]:
    """A vLLM with these further arguments, answering when the body runs."""
    spec = ModelSpec(
        id="tiny",
        aliases=["small"],
        engine=EngineName.VLLM,
        python=os.environ["HEDGESERVE_VLLM_PYTHON"],
        args=["--model", str(model), *ARGS, *args],
        env=ENV,
    )
    engine = make_engine(spec, {})
    host, port = free_address()
    command = engine.command(EngineContext(host, port, "python3", str(workdir)), KEY)
    environ = {**os.environ, **command.env, **command.secret_env}
    log = workdir / "engine.log"
    with log.open("wb") as sink:
        # A session of its own: vLLM's engine and workers outlive a server that is killed alone.
        process = subprocess.Popen(
            command.argv, env=environ, cwd=workdir, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        _wait_healthy(f"http://{host}:{port}{engine.health_path}", process, log)
        yield DemoProcess(f"http://{host}:{port}", process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 300
    while time.monotonic() < deadline_s:
        assert process.poll() is None, f"vLLM exited: {log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"vLLM is not healthy after 300 s: {log.read_text()[-3000:]}")
