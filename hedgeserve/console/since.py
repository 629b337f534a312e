"""When something begins, as a person says it."""

from datetime import UTC, datetime, timedelta

from hedgeserve.units import parse_duration_s


def parse_since(text: str) -> datetime | timedelta:
    """A time (UTC where it does not say), or how long ago it is.

    Raises ``ValueError`` with an example for anything else.
    """
    try:
        return timedelta(seconds=parse_duration_s(text))
    except ValueError:
        pass
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f'{text!r} is neither a time such as "2026-01-31T12:00" (UTC) nor a duration such as "7d"'
        ) from None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
