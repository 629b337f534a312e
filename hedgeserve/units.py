"""Quantities as people write them: durations, money per hour, sizes; parsed once, at the edge.

Inside the house a quantity is a plain number whose name carries the unit (``timeout_s``,
``usd_per_hour``, ``body_bytes``). These functions are the only way from text to such a number.
"""

import math
import re
from decimal import Decimal

_DURATION_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
_PRICE = re.compile(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:USD\s*/\s*h|USD/hour|/\s*h)", re.IGNORECASE)
_A_DAY = re.compile(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:USD)?\s*/\s*(?:d|day)", re.IGNORECASE)
_A_MONTH = re.compile(r"\$?\s*(\d+(?:\.\d+)?)\s*(?:USD)?\s*/\s*(?:mo|month)", re.IGNORECASE)


def parse_duration_s(text: str) -> float:
    """Seconds in a duration such as ``"90s"``, ``"1h30m"`` or ``"250ms"``.

    Raises ``ValueError`` with an example for anything else, a bare number included: the unit is the
    reader's only defence against minutes taken for seconds.
    """
    compact = text.strip()
    parts = list(_DURATION_PART.finditer(compact))
    if not parts or _DURATION_PART.sub("", compact).strip():
        raise ValueError(f'{text!r} is not a duration; write a number with a unit, such as "90s" or "1h30m"')
    return sum(float(part[1]) * _DURATION_UNITS_S[part[2]] for part in parts)


def parse_usd_per_hour(text: str) -> float:
    """US dollars per hour in a price such as ``"2.50 USD/h"``.

    Raises ``ValueError`` with an example for anything else.
    """
    match = _PRICE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a price; write it per hour, such as "2.50 USD/h"')
    return float(match[1])


def parse_usd_per_day(text: str) -> float:
    """US dollars per day in a sum such as ``"50 USD/day"``.

    Raises ``ValueError`` with an example for anything else.
    """
    match = _A_DAY.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a sum for a day; write it per day, such as "50 USD/day"')
    return float(match[1])


def parse_usd_per_month(text: str) -> float:
    """US dollars per month in a sum such as ``"900 USD/month"``.

    Raises ``ValueError`` with an example for anything else.
    """
    match = _A_MONTH.fullmatch(text.strip())
    if match is None:
        raise ValueError(f'{text!r} is not a sum for a month; write it per month, such as "900 USD/month"')
    return float(match[1])


def parse_bytes(text: str) -> int:
    """Bytes in a size such as ``"16 MiB"`` (powers of two) or ``"10 MB"`` (powers of ten).

    Raises ``ValueError`` with an example for anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2] not in _SIZE_UNITS:
        raise ValueError(f'{text!r} is not a size; write a number with a unit, such as "16 MiB" or "10 MB"')
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def format_duration(seconds: float) -> str:
    """A duration in one or two units, as ``parse_duration_s`` would read it: ``"1h30m"``, ``"250ms"``."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.3g}s"
    whole = round(seconds)
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest_s = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "m"), (rest_s, "s")]
    shown = [f"{count}{unit}" for count, unit in parts if count]
    return "".join(shown[:2])


def format_count(count: int, noun: str, *, verb: bool = False) -> str:
    """So many things, and with ``verb`` what they are: ``"1 replica is"``, ``"3 replicas are"``."""
    plural = "" if count == 1 else "s"
    return f"{count} {noun}{plural}" + ((" is" if count == 1 else " are") if verb else "")


def write_duration(seconds: float) -> str:
    """A duration as ``parse_duration_s`` reads it back, the very same number: for programs, not for people."""
    short = format_duration(seconds)
    return short if parse_duration_s(short or "0s") == seconds else f"{_decimal(seconds)}s"


def write_usd_per_hour(usd_per_hour: float) -> str:
    """A price as ``parse_usd_per_hour`` reads it back, the very same number: for programs, not for people."""
    short = format_usd_per_hour(usd_per_hour)
    return short if parse_usd_per_hour(short) == usd_per_hour else f"{_decimal(usd_per_hour)} USD/h"


def write_usd_per_day(usd: float) -> str:
    """A sum as ``parse_usd_per_day`` reads it back, the very same number."""
    return f"{_decimal(usd)} USD/day"


def write_usd_per_month(usd: float) -> str:
    """A sum as ``parse_usd_per_month`` reads it back, the very same number."""
    return f"{_decimal(usd)} USD/month"


def _decimal(number: float) -> str:
    """The shortest digits that are read as this number, without an exponent."""
    return f"{Decimal(repr(number)):f}".removesuffix(".0")


def format_usd_per_hour(usd_per_hour: float) -> str:
    """A price as ``parse_usd_per_hour`` would read it: ``"2.50 USD/h"``."""
    digits = 2 if usd_per_hour >= 0.1 or usd_per_hour == 0 else 4
    return f"{usd_per_hour:.{digits}f} USD/h"


def format_cap(usd: float, period: str) -> str:
    """A cap for an ``hour``, ``day`` or ``month`` as model.toml writes it: ``"0.5 USD/h"``, ``"50 USD/day"``."""
    return f"{usd:g} USD/{'h' if period == 'hour' else period}"


def format_usd(usd: float) -> str:
    """A sum with cents, or where it is smaller with as many digits as tell something: ``"12.50 USD"``,
    ``"0.0042 USD"``."""
    digits = 2
    if usd and abs(usd) < 1:
        digits = min(6, max(2, 1 - math.floor(math.log10(abs(usd)))))
    return f"{usd:,.{digits}f} USD"


def format_bytes(count: int) -> str:
    """A size as ``parse_bytes`` would read it, in the largest binary unit that keeps it whole."""
    for unit in ("GiB", "MiB", "KiB"):
        if count >= _SIZE_UNITS[unit] and count % _SIZE_UNITS[unit] == 0:
            return f"{count // _SIZE_UNITS[unit]} {unit}"
    return f"{count} B"
