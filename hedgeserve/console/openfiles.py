"""How many files this process may have open: as many as the system allows, since each request needs two."""

import resource
from contextlib import suppress


def raise_open_files_limit() -> int:
    """Raise the soft limit on open files to the hard one, where the system lets us; the limit that holds then.

    The usual soft limit of 1024 dates from ``select()``, which nothing here uses.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
