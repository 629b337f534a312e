"""structlog for a service that runs for months: without what it takes where it finds it and never needs here."""

import sys
from typing import Any, cast

_LEFT_OUT = ("rich", "greenlet")
"""For tracebacks in colour, three megabytes; for threads of another kind, a megabyte with the C++ library."""


def import_structlog() -> None:
    """Import structlog without these, once, before anything else does; they can be imported afterwards as ever.

    structlog has no switch for it: it takes them where it finds them, and does without where it does not.
    """
    if "structlog" in sys.modules:
        return
    modules = cast(dict[str, Any], sys.modules)
    hidden = [name for name in _LEFT_OUT if name not in modules]
    modules.update(dict.fromkeys(hidden))  # None is what Python itself calls a module that is not to be found
    try:
        import structlog  # noqa: F401
    finally:
        for name in hidden:
            del modules[name]
