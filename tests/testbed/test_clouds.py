"""The whole path for each cloud: its API, VMs with SSH and metadata, engines, requests, and nothing left."""

import asyncio
from pathlib import Path

import pytest

from tests.conftest import eventually, messages
from tests.testbed.bed import NamespaceHost
from tests.testbed.bench import asked_all_the_while, bench
from tests.testbed.worlds import CLOUDS

# A TLS connection to a VM that has vanished takes leave of it for half a minute, which no test waits for.
pytestmark = [
    pytest.mark.testbed,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.parametrize("cloud", CLOUDS)
async def test_a_vm_with_notice_is_replaced_and_drained_and_one_without_is_missed_and_replaced(
    host: NamespaceHost, short_dir: Path, cloud: str
) -> None:
    """Launched, set up over SSH, served from; told of its end and left in time; then one that vanishes silently.

    All the while people ask, and each gets an answer; afterwards nothing is left in the cloud.
    """
    async with bench(short_dir, host, cloud) as made:
        noticed, _ = made.ids("ready")
        async with asked_all_the_while(made) as askers:
            preemption = asyncio.create_task(host.vms[noticed].preempt(12))
            await eventually(lambda: noticed in made.ids("noticed", "draining"), within_s=6, what="the notice")
            await preemption
            made.world.preempted(noticed)
            vanishing = (await made.ready(2, without=noticed))[0]
            assert askers.interrupted == 0, "the notice was enough for every answer"
            asked = askers.answered
            await host.vms[vanishing].vanish()  # the cloud does not say so, and lists it as running
            await made.ready(2, without=vanishing)
            await eventually(lambda: askers.answered > asked + 20)
            assert askers.interrupted <= 2, "streams of two people may have been under way"
        told = await messages(made.service, replica=noticed)
        assert any("preemption notice" in message for message in told), told
        assert any("noticed → draining" in message for message in told), told
        assert "preempted" in told[-1]
