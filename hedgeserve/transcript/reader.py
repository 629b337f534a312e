"""Reads a transcript back."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hedgeserve.errors import TranscriptError
from hedgeserve.transcript.entries import Decoder, Entry, Started


def read_transcript(path: Path) -> Iterator[Entry]:
    """The entries of a transcript in their order, read as they are asked for.

    A line that was cut short by a crash or a full disk is passed over where nothing of the same run follows it.

    Raises:
        TranscriptError: The file cannot be read, or is no transcript; the message names the line.
    """
    decoder, cut, begun = Decoder(), "", False
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}:{number}"
                document = _document(line)
                if document is None:
                    if cut:
                        raise TranscriptError(cut)
                    cut = f"{where}: this is no line of a transcript; was the file edited, or is it another one?"
                    continue
                try:
                    entry = decoder.entry(document)
                except (KeyError, TypeError, ValueError, AttributeError) as error:
                    raise TranscriptError(
                        f"{where}: this line cannot be read as one of a transcript ({error!r})"
                    ) from error
                if isinstance(entry, Started):
                    cut, begun = "", True
                elif cut:
                    raise TranscriptError(cut)
                elif not begun:
                    raise TranscriptError(f"{where}: a transcript begins with the start of a service")
                if entry is not None:
                    yield entry
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise TranscriptError(f"the transcript {path} cannot be read: {why}") from error
    if not begun:
        raise TranscriptError(cut or f"the transcript {path} is empty; was anything served since?")


def _document(line: str) -> dict[str, Any] | None:
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None
