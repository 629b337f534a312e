"""The clouds. Each driver acts on one of them, speaks the vocabulary of ``base.py`` and decides nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hedgeserve.drivers.base import Driver
    from hedgeserve.drivers.static import StaticServer
    from hedgeserve.spec import Spec


def make_drivers(
    spec: "Spec", local_dir: Path, environ: Mapping[str, str]
) -> tuple[dict[str, "Driver"], tuple["StaticServer", ...]]:
    """A driver for each cloud that the pools name, and the servers that need none.

    ``local_dir`` is where the local driver keeps its VMs; ``environ`` holds the keys of static servers.
    """
    # Only what is used is imported: a cloud's library may be large, or not installed, and a VM of the local
    # driver, which is a process of this package, needs none of it.
    from hedgeserve.spec import Cloud

    drivers: dict[str, Driver] = {}
    servers: tuple[StaticServer, ...] = ()
    pools = {cloud: [pool for pool in spec.pools if pool.cloud is cloud] for cloud in spec.clouds()}
    if Cloud.LOCAL in pools:
        from hedgeserve.drivers.local import LocalDriver

        drivers[Cloud.LOCAL] = LocalDriver(
            service=spec.service.name,
            pools=pools[Cloud.LOCAL],
            local=spec.local,
            directory=local_dir,
            lease_s=spec.timeouts.lease,
        )
    if Cloud.AWS in pools:
        from hedgeserve.drivers.aws import AwsDriver

        drivers[Cloud.AWS] = AwsDriver(spec, environ)
    if Cloud.GCP in pools:
        from hedgeserve.drivers.gcp import GcpDriver

        drivers[Cloud.GCP] = GcpDriver(spec, environ)
    if Cloud.AZURE in pools:
        from hedgeserve.drivers.azure import AzureDriver

        drivers[Cloud.AZURE] = AzureDriver(spec, environ)
    if Cloud.STATIC in pools:
        from hedgeserve.drivers.static import StaticDriver

        servers = StaticDriver(pools[Cloud.STATIC], environ).servers()
    return drivers, servers
