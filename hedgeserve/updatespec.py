"""What a model.toml may say of updates: how a new version comes in, and when it is taken back."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from hedgeserve.spectable import Conflict, Duration, Share, Table


class UpdateSpec(Table):
    """How a new version of what replicas run takes the place of the old one."""

    strategy: Literal["rolling", "blue-green"] = "rolling"
    """`rolling`: replicas are replaced a few at a time; `blue-green`: a whole new set comes up beside the old one, and all requests change over at once."""
    max_surge: int = Field(1, ge=0, le=100)
    """For `rolling`: replicas that may run above what is wanted while others are replaced."""
    max_unavailable: int = Field(0, ge=0, le=100)
    """For `rolling`: ready replicas that an update may leave below what the load needs; 0 makes before it breaks, always."""
    ready_timeout: Duration = Field(1800.0, gt=0)
    """A replica of the new version that is not ready so long after its launch has the update rolled back."""
    bake_time: Duration = Field(30.0, ge=0)
    """A new replica must have been ready for so long before the next old one goes; for `blue-green`: how long the old set stays, ready to take over again."""
    max_failures: int = Field(3, ge=1, le=100)
    """Replicas of the new version that may fail, while they start or later, before the update is rolled back."""
    error_margin: Share = 0.02
    """By how much the share of failed or refused requests may be higher on the new version than on the old one; above that the update is rolled back."""

    def conflicts(self) -> Iterator[Conflict]:
        """An update that could not begin."""
        if self.strategy == "rolling" and self.max_surge == 0 and self.max_unavailable == 0:
            yield Conflict(
                ("max_surge",),
                "`max_surge` and `max_unavailable` are both 0: no replica could be replaced",
                "let one of them be 1",
            )
