"""HedgeServe: serve large language models on spot GPUs without losing a request."""

from hedgeserve._version import __version__

__all__ = ["__version__"]
