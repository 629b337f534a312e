"""A local VM's record, for tests that need one and no VM."""

from datetime import UTC, datetime

from hedgeserve.drivers.base import Dialect
from hedgeserve.drivers.localcloud.record import VmRecord
from hedgeserve.replica import Market, ZoneId

NOON = datetime(2026, 11, 22, 12, 0, 0, 700_000, tzinfo=UTC)


def record(dialect: Dialect, market: Market = Market.SPOT) -> VmRecord:
    """A VM of no particular kind that speaks this dialect."""
    return VmRecord(
        name="s-7",
        service="s",
        token="t",
        tags={},
        zone=ZoneId("local/east/a"),
        market=market,
        instance_type="small",
        launched_at=NOON,
        address="127.64.0.9",
        ssh_port=2222,
        metadata_port=8169,
        control_port=8170,
        engine_port=8000,
        dialect=dialect,
        user="me",
        python="python3",
        sshd=None,
        boot_time_s=0.0,
        notice_s=25.0,
        lease_s=900.0,
        control_token="c",
    )
