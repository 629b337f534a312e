"""How an explanation looks: a headline, what it is so because of, and what would change it."""

import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click

_WIDEST = 110
_NARROWEST = 40


def print_explanation(found: Mapping[str, Any]) -> None:
    """Write an answer to stdout, folded to the terminal, or one line a sentence where there is none."""
    width = None
    if sys.stdout.isatty():
        width = max(_NARROWEST, min(_WIDEST, shutil.get_terminal_size().columns - 1))
    for line in lines_of(found, width=width):
        click.echo(line)


def lines_of(found: Mapping[str, Any], *, width: int | None = None) -> Iterator[str]:
    """The answer as lines, none wider than ``width``; None: one a sentence."""
    yield from _folded(_sentence(found["headline"]), "", "", width)
    for heading, sentences in (("because", found["because"]), ("what would change it", found["would_change"])):
        if sentences:
            yield ""
            yield heading
            for sentence in sentences:
                yield from _folded(_sentence(sentence), "  - ", "    ", width)


def _folded(text: str, first: str, others: str, width: int | None) -> list[str]:
    if width is None:
        return [f"{first}{text}"]
    return textwrap.wrap(text, width, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def _sentence(text: str) -> str:
    """The text without characters that would do something to a terminal, ended by a full stop."""
    plain = "".join(character if character.isprintable() else " " for character in text).strip()
    return plain if plain.endswith((".", "?", "!")) else f"{plain}."
