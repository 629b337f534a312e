"""What a service loads: a process that runs for months should not carry libraries that it never calls."""

import json
import subprocess
import sys

import pytest

_UNUSED = [
    "aiohttp", "hedgeserve.web.site",
    "asyncssh", "cryptography", "rich", "pygments", "greenlet", "libcloud", "botocore", "boto3", "google.auth",
    "azure", "numpy", "highspy", "pandas", "matplotlib", "hedgeserve.machines.life", "hedgeserve.simulate",
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    """The modules of a process that has imported, as `hedgeserve serve` does, all that a static pool needs."""
    program = (
        "import json, sys\n"
        "from hedgeserve.console.lean import import_structlog\n"
        "import_structlog()\n"
        "import hedgeserve.cli, hedgeserve.specfile, hedgeserve.console.serve\n"
        "import hedgeserve.drivers.static, hedgeserve.engines.vllm\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


@pytest.mark.parametrize("name", _UNUSED)
def test_a_service_of_other_peoples_servers_does_without(loaded: list[str], name: str) -> None:
    """No VM, no terminal: then neither SSH nor certificates nor clouds nor pictures are in memory."""
    assert [module for module in loaded if module == name or module.startswith(f"{name}.")] == []


def test_what_draws_can_still_be_had_after_a_lean_start() -> None:
    """rich is held back from structlog alone: the live view imports it later."""
    program = (
        "from hedgeserve.console.lean import import_structlog\n"
        "import_structlog()\n"
        "import hedgeserve.console.live\n"
        "print(hedgeserve.console.live.Console.__module__)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "rich.console"
