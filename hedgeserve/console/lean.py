"""structlog for a service that runs for months: without rich, which it would import for tracebacks in colour."""

import sys
from typing import Any, cast


def import_structlog() -> None:
    """Import structlog without rich, once, before anything else does; rich itself can be imported as ever.

    structlog has no switch for it: it takes rich where it finds it, three megabytes, and plain tracebacks where it
    does not.
    """
    if "structlog" in sys.modules or "rich" in sys.modules:
        return
    modules = cast(dict[str, Any], sys.modules)
    modules["rich"] = None  # what Python itself calls a module that is not to be found
    try:
        import structlog  # noqa: F401
    finally:
        del modules["rich"]
