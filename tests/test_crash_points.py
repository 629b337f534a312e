"""kill -9 at every write of a replica's state, in front of clouds on paper: nothing doubled, nothing leaked."""

from pathlib import Path

import pytest

from tests.testbed.bench import model_toml
from tests.testbed.crashes import NeverBooting, crash_everywhere
from tests.testbed.worlds import world_of


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("cloud", ["aws", "gcp"])
async def test_kill_9_at_any_state_of_a_launch_and_of_a_termination(
    short_dir: Path, cloud: str, before: bool
) -> None:
    """After the write: the cloud was not asked yet. Before the next one: it was, and its answer is not known."""
    with world_of(cloud, short_dir / "cloud", NeverBooting()) as world:
        toml = model_toml(short_dir, world, count=1)
        points = await crash_everywhere(
            short_dir, world, toml, before=before, state="booting", count=1, table="replicas"
        )
    assert points >= 5, "planned, provisioning, booting, terminating, gone"
