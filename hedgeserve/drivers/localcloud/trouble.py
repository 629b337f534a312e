"""Trouble with this machine itself, told apart: what is not there, and what only cannot be looked at now."""

import errno

NOT_THERE = (FileNotFoundError, NotADirectoryError, ProcessLookupError)
"""The only errors that say that a file or a process is not there.

Every other one (too many open files, a disk that fails) says nothing about it: whoever took it for absence would
kill a healthy VM.
"""

_SPACE = "free disk space, or set service.state_dir to another disk"
_PLACE = "set service.state_dir to a directory that you may write to"
_ADVICE = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EACCES: _PLACE,
    errno.EROFS: _PLACE,
    errno.EAGAIN: "too many processes; raise the limit (ulimit -u) or use fewer replicas",
    errno.EMFILE: "raise the limit (ulimit -n) or use fewer replicas",
    errno.ENFILE: "all files that this machine can open are in use",
    errno.EIO: "look for a failing disk",
    errno.ENOMEM: "this machine is out of memory; use fewer replicas",
}


def explain(error: OSError) -> str:
    """The file, what is wrong, and what to do about it where that is known."""
    reason = error.strerror or str(error)
    place = f"{error.filename}: " if error.filename else ""
    advice = _ADVICE.get(error.errno or 0)
    return f"{place}{reason}" + (f"; {advice}" if advice else "")
