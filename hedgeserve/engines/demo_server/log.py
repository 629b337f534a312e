"""The one place that writes to the log."""

import sys
import time


def log(line: str) -> None:
    """Write a line with the time of day to standard error; where nobody reads it, serving goes on."""
    try:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()
    except OSError:
        pass
