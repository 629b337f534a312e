"""A driver of GCP in front of a fake of it, for tests: fixtures to import, and launches."""

from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from hedgeserve.drivers import gcp as gcp_module
from hedgeserve.drivers import remote
from hedgeserve.drivers.base import LaunchRequest
from hedgeserve.drivers.gcp import GcpDriver
from hedgeserve.drivers.tags import tags_for
from hedgeserve.replica import Market, Offer, ZoneId
from hedgeserve.spec import Spec
from hedgeserve.specfile import parse_spec
from tests.clouds.fake_gce import FakeGce

ZONE = "us-central1/us-central1-a"
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl service"
SPEC = """
[service]
name = "chat"
[model]
id = "demo"
engine = "demo"
[replicas]
count = 1
[timeouts]
lease = "900s"
[vm]
allow_from = {allow_from}
{vm}
[gcp]
endpoint = "{endpoint}"
{gcp}
[[pools]]
cloud = "gcp"
zones = ["us-central1/us-central1-a", "us-east4/us-east4-c"]
instance_types = {types}
"""

Make = Callable[..., GcpDriver]


def gcp_spec(endpoint: str, **changes: str) -> Spec:
    """A service on L4s in two regions, which lets in one address."""
    values = {"allow_from": '["203.0.113.7"]', "vm": "", "gcp": "", "types": '["g2-standard-8"]', **changes}
    return parse_spec(SPEC.format(endpoint=endpoint, **values), "model.toml", Path("/tmp"), {})


@pytest.fixture
def gce(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGce]:
    """The fake, with pauses to match; a request that breaks the contract fails the test."""
    monkeypatch.setattr(gcp_module, "_POLLS_S", (0.005,))
    monkeypatch.setattr(gcp_module, "_AGAIN_S", (0.005, 0.01))
    monkeypatch.setattr(remote, "_PATIENCE_S", (0.005, 0.01, 0.01))
    fake = FakeGce()
    yield fake
    fake.close()
    assert fake.violations == []


@pytest.fixture
async def make(gce: FakeGce, tmp_path: Path) -> AsyncIterator[Make]:
    """Builds drivers with a service account's key file for the fake, and closes them."""
    made: list[GcpDriver] = []
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(gce.key_file(tmp_path / "key.json"))}

    def build(*, environ: dict[str, str] = environ, **changes: str) -> GcpDriver:
        made.append(GcpDriver(gcp_spec(gce.url, **changes), environ))
        return made[-1]

    yield build
    for driver in made:
        await driver.aclose()


def launch_request(
    name: str = "chat-1", *, zone: str = ZONE, market: Market = Market.SPOT, instance_type: str = "g2-standard-8"
) -> LaunchRequest:
    """A launch as the fleet asks for it."""
    return LaunchRequest(
        name=name,
        token=f"token-{name}",
        offer=Offer(ZoneId(f"gcp/{zone}"), instance_type, market, 0.4, datetime.now(UTC)),
        tags=tags_for("chat", 900.0, name),
        authorized_key=PUBLIC_KEY,
        host_key="-----BEGIN OPENSSH PRIVATE KEY-----\nsecret\n-----END OPENSSH PRIVATE KEY-----\n",
    )


def inserted(gce: FakeGce) -> dict[str, Any]:
    """The body of the only ``instances.insert``."""
    (seen,) = gce.calls("instances.insert")
    assert seen.body is not None
    return seen.body
