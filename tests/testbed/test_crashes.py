"""kill -9 at every write of the journal, events and prices included; and on VMs that come up all the way."""

from pathlib import Path

import pytest

from tests.testbed.bed import NamespaceHost
from tests.testbed.bench import model_toml
from tests.testbed.crashes import NeverBooting, crash_everywhere
from tests.testbed.worlds import world_of

pytestmark = pytest.mark.testbed


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("cloud", "before"), [("aws", False), ("aws", True), ("gcp", True), ("azure", True)], ids=str
)
async def test_kill_9_at_every_write_of_two_launches_and_terminations(
    short_dir: Path, cloud: str, before: bool
) -> None:
    """Two VMs on paper, launched side by side and taken down: every point between two writes, from both sides."""
    with world_of(cloud, short_dir / "cloud", NeverBooting()) as world:
        toml = model_toml(short_dir, world)
        points = await crash_everywhere(short_dir, world, toml, before=before, state="booting", count=2)
    print(f"{cloud}: {points} crash points {'before' if before else 'after'} writes")
    assert points >= 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
async def test_kill_9_at_every_state_on_the_way_to_ready_and_back(
    host: NamespaceHost, short_dir: Path, before: bool
) -> None:
    """A VM that boots, is set up and serves: a controller that dies on the way finds it again, and loses none."""
    with world_of("aws", short_dir / "cloud", host) as world:
        host.ended = world.shut_down
        toml = model_toml(short_dir, world, count=1)

        def settled() -> None:
            assert sorted(host.running()) == sorted(world.vms())

        points = await crash_everywhere(
            short_dir, world, toml, before=before, state="ready", count=1, table="replicas", settled=settled
        )
    print(f"{points} crash points {'before' if before else 'after'} writes")
    assert points >= 7, "planned, provisioning, booting, loading, ready, terminating, gone"
