"""HedgeServe: serve large language models on spot GPUs without losing a request."""

from typing import TYPE_CHECKING, Any

from hedgeserve._version import __version__

if TYPE_CHECKING:
    from hedgeserve.core import Service
    from hedgeserve.errors import HedgeServeError, SpecError
    from hedgeserve.spec import Spec
    from hedgeserve.specfile import load_spec

__all__ = ["HedgeServeError", "Service", "Spec", "SpecError", "__version__", "load_spec"]

_HOMES = {
    "HedgeServeError": "hedgeserve.errors",
    "Service": "hedgeserve.core",
    "Spec": "hedgeserve.spec",
    "SpecError": "hedgeserve.errors",
    "load_spec": "hedgeserve.specfile",
}


def __getattr__(name: str) -> Any:
    # Imported at first use: `hedgeserve --help` must not wait for an HTTP stack.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
