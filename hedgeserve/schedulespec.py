"""What a model.toml may say of the calendar: when the service sleeps, and how many replicas run at which hours."""

# ruff: noqa: RUF012 (pydantic copies mutable defaults for each instance)

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, Field

from hedgeserve.spectable import ONE_OR_MANY, Conflict, Duration, Table
from hedgeserve.weekly import fills_the_week, parse_window


def _check_window(text: str) -> str:
    parse_window(text)
    return text


def _check_timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        near = get_close_matches(name, available_timezones(), n=1)
        meant = f'did you mean "{near[0]}"?' if near else 'write one such as "Europe/Berlin" or "UTC"'
        raise ValueError(f'"{name}" is not a time zone; {meant}') from None
    return name


Window = Annotated[str, AfterValidator(_check_window)]
"""A time of the week, such as ``"Mon-Fri 22:00-07:00"``, as :func:`hedgeserve.weekly.parse_window` reads it."""


class ScheduleScaleSpec(Table):
    """Other bounds on the number of replicas for some hours of the week; what is left out is as in `[replicas]`."""

    when: Annotated[list[Window], ONE_OR_MANY] = Field(min_length=1)
    """Times of the week, such as `"Mon-Fri 09:00-18:00"`: in the time zone of `[schedule]`."""
    count: int | None = Field(None, ge=1, le=1000)
    """A fixed number of replicas in these hours."""
    min: int | None = Field(None, ge=0, le=1000)
    """Fewest replicas in these hours; where several windows hold at once, the highest."""
    max: int | None = Field(None, ge=1, le=1000)
    """Most replicas that the load may ask for in these hours; where several windows hold at once, the highest."""

    def conflicts(self) -> Iterator[Conflict]:
        """Bounds that contradict each other, or none at all."""
        if self.count is None and self.min is None and self.max is None:
            yield Conflict(("count",), "no bound is written for these hours", "write `count`, `min` or `max`")
        for key in ("min", "max"):
            if self.count is not None and getattr(self, key) is not None:
                yield Conflict((key,), "`count` fixes the number of replicas", f"remove `{key}` or `count`")
        if self.min is not None and self.max is not None and self.max < self.min:
            yield Conflict(("max",), f"`max` ({self.max}) is below `min` ({self.min})", "raise it")

    @property
    def lowest(self) -> int | None:
        """Fewest replicas that these hours ask for; None: they say nothing of it."""
        return self.min if self.count is None else self.count

    @property
    def highest(self) -> int | None:
        """Most replicas that these hours allow; None: they say nothing of it."""
        return self.max if self.count is None else self.count


class ScheduleSpec(Table):
    """When the service sleeps (no VMs, nothing to pay) and how its bounds follow the hours of the week."""

    timezone: Annotated[str, AfterValidator(_check_timezone)] = "UTC"
    """Time zone of all times of the week here, such as `Europe/Berlin`; changes of its clock are followed."""
    sleep: Annotated[list[Window], ONE_OR_MANY] = []
    """Times of the week without replicas, such as `["Mon-Fri 22:00-07:00", "Sat-Sun"]`; they stand above `scale`."""
    wake_on_request: bool = False
    """Whether a request in these times starts replicas and waits for them; otherwise it is answered 503 `service_asleep`."""
    awake_for: Duration = Field(1800.0, gt=0)
    """How long a service that a request (or `hedgeserve resume`) has woken stays awake after the last request."""
    lead: Duration | None = Field(None, ge=0, le=43200)
    """How long before more replicas are due they are started; unset: as long as boots have taken lately, 5 minutes where there were none."""
    scale: list[ScheduleScaleSpec] = []
    """Bounds for some hours of the week."""

    def conflicts(self) -> Iterator[Conflict]:
        """A service that never wakes."""
        if not self.wake_on_request and fills_the_week(map(parse_window, self.sleep)):
            yield Conflict(
                ("sleep",),
                "the service would never be awake",
                "leave some time out, or set `wake_on_request = true`",
            )
