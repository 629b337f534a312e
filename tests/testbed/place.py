"""Whether this process runs where the test-bed may make networks: only there does it touch any."""

import os

INSIDE = "HEDGESERVE_TESTBED"
"""Set by ``python -m tests.testbed`` for the processes that it runs in namespaces of their own."""


def why_not_here() -> str:
    """A sentence on why no VM can be made in this process; empty where one can."""
    if os.environ.get(INSIDE) == "1":
        return ""
    return "it needs network namespaces of its own: run `make test-bed`"
