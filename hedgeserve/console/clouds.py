"""The clouds of a model file, each asked apart: one that cannot be asked must not hide what the others say."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from hedgeserve.console.log import configure_logging
from hedgeserve.drivers import make_drivers
from hedgeserve.drivers.base import Driver
from hedgeserve.errors import CloudError
from hedgeserve.spec import Cloud, Spec


@asynccontextmanager
async def drivers_apart(
    spec: Spec, state_dir: Path, environ: Mapping[str, str]
) -> AsyncIterator[dict[str, Driver | CloudError]]:
    """The driver of each cloud, or why there is none; closed at the end. Static pools have none."""
    configure_logging(sys.stderr, as_json=False, level="warning")  # stdout is for data
    found: dict[str, Driver | CloudError] = {}
    try:
        for cloud in sorted(spec.clouds() - {Cloud.STATIC}):
            pools = [pool for pool in spec.pools if pool.cloud is cloud]
            alone = spec.model_copy(update={"pools": pools}).with_origin(spec.origin)
            try:
                found |= make_drivers(alone, state_dir / "local", environ)[0]
            except CloudError as error:
                found[cloud] = error
        yield found
    finally:
        for driver in found.values():
            if not isinstance(driver, CloudError):
                await driver.aclose()


def aligned(rows: list[list[str]], right: frozenset[int] = frozenset()) -> list[str]:
    """Rows of equal length as lines with their columns under each other; these columns to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]  # of no rows: none
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
