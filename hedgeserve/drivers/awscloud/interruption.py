"""One spot VM interrupted by FIS, for a drill: begun, followed to its end, stopped where nobody waits for it."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from hedgeserve.drivers.awscloud.fis import Attempt, Standing, template_for
from hedgeserve.drivers.tags import tags_for
from hedgeserve.errors import CloudError

if TYPE_CHECKING:
    from hedgeserve.drivers.aws import AwsDriver

_USUAL_S = 120.0
"""From the question to the VM's end where nobody says: as long as EC2's own notice is."""
_BEGINS_S = 60.0
"""For so long an experiment may be about to begin."""
_LOOK_FIRST_S = 1.0
_LOOK_EVERY_S = 5.0
_LATE_S = 120.0
"""For so long after the VM's end an experiment is followed."""
_STOP_S = 10.0

_log = structlog.get_logger("hedgeserve.drivers")


async def interrupt(driver: "AwsDriver", region: str, instance: str, notice_s: float | None) -> None:
    """Have EC2 interrupt this VM; returns when FIS says that the experiment is over.

    Raises:
        CloudError: FIS does not do it, in its own words. Where the wait is given up, the experiment is stopped.
    """
    role, what = driver.spec.aws.fis_role, f"have {instance} in {region} interrupted"
    if not role:
        raise CloudError(f"could not {what}: model.toml names no [aws] fis_role")
    wait_s = _USUAL_S if notice_s is None else notice_s
    template = template_for(
        instance, region, role, notice_s=wait_s, tags=tags_for(driver.service, driver.spec.timeouts.lease)
    )
    attempt = Attempt()
    try:
        begun = await driver.ask_fis(region, lambda fis: fis.begin(template, attempt), what)
        follow = partial(_follow, driver, region, begun.experiment, what)
        # An experiment that runs needs its template no more; one that is about to may.
        await follow(lambda one: not one.starting, for_s=_BEGINS_S, every_s=_LOOK_FIRST_S)
        with suppress(CloudError):
            await driver.ask_fis(region, lambda fis: fis.tidy(begun.template), f"tidy up after {begun.experiment}")
        standing = await follow(lambda one: one.ended, for_s=wait_s + _LATE_S, every_s=_LOOK_EVERY_S)
    except asyncio.CancelledError:
        # Nobody looks any more: what has not befallen the VM by now is not to befall it unannounced.
        attempt.given_up.set()
        if (undone := attempt.begun) is not None:
            with suppress(CloudError, TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await driver.ask_fis(region, lambda fis: fis.give_up(undone), f"stop {undone.experiment}")
        raise
    if standing is not None and standing.status != "completed":
        raise CloudError(
            f"could not {what}: FIS says that the experiment {begun.experiment} {_verb(standing.status)}"
            f"{': ' + standing.reason if standing.reason else ''}; docs/clouds/aws.md says what [aws] fis_role "
            "must be allowed to do, and whom it must trust"
        )


async def _follow(
    driver: "AwsDriver",
    region: str,
    experiment: str,
    what: str,
    far_enough: Callable[[Standing], bool],
    *,
    for_s: float,
    every_s: float,
) -> Standing | None:
    """How far it is once that is enough; None where it is not by then, or cannot be looked at.

    That it cannot be looked at says nothing of what it does.
    """
    until_s = asyncio.get_running_loop().time() + for_s
    while asyncio.get_running_loop().time() < until_s:
        try:
            standing = await driver.ask_fis(region, lambda fis: fis.standing(experiment), what)
        except CloudError as error:
            _log.warning("an experiment cannot be looked at", cloud=driver.cloud, error=str(error))
            return None
        if far_enough(standing):
            return standing
        await asyncio.sleep(every_s)
    return None


def _verb(status: str) -> str:
    return "has failed" if status == "failed" else f"was {status}"
