"""What a refused launch is as news of its zone."""

from hedgeserve.errors import AuthError, CapacityError, CloudError, PriceError, QuotaError, UnsupportedError
from hedgeserve.hedge import NewsKind

_NEWS: dict[type[CloudError], NewsKind] = {
    CapacityError: NewsKind.NO_CAPACITY,
    PriceError: NewsKind.NO_CAPACITY,
    QuotaError: NewsKind.QUOTA,
    UnsupportedError: NewsKind.UNSUPPORTED,
}
_CERTAIN = (CapacityError, PriceError, QuotaError, UnsupportedError, AuthError)


def is_certain(error: CloudError) -> bool:
    """Whether there is no VM after this error; after any other nobody knows."""
    return isinstance(error, _CERTAIN)


def news_of(error: CloudError) -> NewsKind:
    """The news in a refusal; of one that no zone is to blame for, that launching failed."""
    return _NEWS.get(type(error), NewsKind.LAUNCH_ERROR)
