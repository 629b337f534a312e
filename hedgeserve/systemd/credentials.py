"""Credentials that the service manager hands over in a directory only for us (systemd.exec(5), Credentials)."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from hedgeserve.errors import StateDirectoryError

_LARGEST_BYTES = 2**16
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def with_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """``environ``, with each file in ``$CREDENTIALS_DIRECTORY`` that is named like a variable in that variable's
    place.

    So whatever may come from a variable (``api_keys_env``, ``secret_env``, the keys of a cloud) may come from a
    credential of the same name, which no other process can see. A credential stands above a variable: it is the
    one that somebody took the trouble to hide. Files of other names (``gcp.json``) are for whoever names their
    path. A closing line break is no part of a secret. Reads files at once: for start-up only.

    Raises:
        StateDirectoryError: A credential cannot be read, is no text, or is larger than 64 KiB.
    """
    merged = dict(environ)
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        return merged
    try:
        names = sorted(name for name in os.listdir(directory) if _VARIABLE.fullmatch(name))
    except OSError as error:
        raise StateDirectoryError(
            f"the directory of credentials {directory} cannot be read: {error.strerror}; "
            "look at `LoadCredential=` in the unit"
        ) from None
    for name in names:
        merged[name] = _text(Path(directory) / name)
    return merged


def _text(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            raw = opened.read(_LARGEST_BYTES + 1)
        text = raw.decode().rstrip("\r\n")
    except OSError as error:
        raise StateDirectoryError(f"the credential {path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise StateDirectoryError(f"the credential {path.name} is not UTF-8 text") from None
    if len(raw) > _LARGEST_BYTES or "\0" in text:
        raise StateDirectoryError(f"the credential {path.name} is no text of at most 64 KiB")
    return text
