"""The test-bed's fixtures: a host for VMs, and the refusal to make any outside of namespaces of its own."""

from collections.abc import AsyncIterator

import pytest

from tests.testbed.bed import NamespaceHost
from tests.testbed.place import why_not_here


def pytest_runtest_setup(item: pytest.Item) -> None:
    """No VM, and no network, is made outside."""
    if reason := why_not_here():
        pytest.skip(reason)


@pytest.fixture
async def host() -> AsyncIterator[NamespaceHost]:
    """Boots VMs, and leaves none behind."""
    async with NamespaceHost() as host:
        yield host
