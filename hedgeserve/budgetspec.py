"""What a model.toml may say of money: the caps that HedgeServe does not exceed."""

from collections.abc import Iterator

from pydantic import Field

from hedgeserve.spectable import Conflict, Duration, Table, UsdPerDay, UsdPerHour, UsdPerMonth


class BudgetSpec(Table):
    """Hard caps on what VMs may cost; without any, nothing is held back. Days and months are those of UTC."""

    usd_per_hour: UsdPerHour | None = Field(None, gt=0)
    """Most that all VMs together may cost an hour at their worst-case prices, at any moment."""
    usd_per_day: UsdPerDay | None = Field(None, gt=0)
    """Most that may be spent in a day; once it is, no VM is left until the next one."""
    usd_per_month: UsdPerMonth | None = Field(None, gt=0)
    """Most that may be spent in a calendar month; once it is, no VM is left until the next one."""
    horizon: Duration | None = Field(None, gt=0)
    """How long a VM must be paid for in advance, within the caps, for it to be launched; unset: until the end of the day or month."""

    def conflicts(self) -> Iterator[Conflict]:
        """A longer period that allows less than a shorter one, and a horizon for nothing."""
        day, month = self.usd_per_day, self.usd_per_month
        if day is not None and month is not None and month < day:
            what = "a month may cost less than a single day of it"
            yield Conflict(("usd_per_month",), what, "raise it, or lower `usd_per_day`")
        if self.horizon is not None and day is None and month is None:
            what = "there is no cap that it could be for"
            yield Conflict(("horizon",), what, "write `usd_per_day` or `usd_per_month`")

    @property
    def any(self) -> bool:
        """Whether there is a cap at all."""
        return not (self.usd_per_hour is None and self.usd_per_day is None and self.usd_per_month is None)
