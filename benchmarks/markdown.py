"""Tables for a page, and the places in a page where they belong."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from platform import python_version

PASS, FAIL = "pass", "**FAIL**"


class PageError(Exception):
    """A page lacks the place that something is to be written to; says which."""


@dataclass(slots=True)
class Section:
    """One part of the page: its text, and every criterion that was tried with its verdict."""

    name: str
    blocks: list[str] = field(default_factory=list)
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, *blocks: str) -> None:
        """Append paragraphs or tables."""
        self.blocks += blocks

    def judge(self, what: str, misses: Sequence[str]) -> str:
        """A cell that says how a criterion came out, which is kept; ``misses`` says what it misses."""
        self.tried += 1
        if not misses:
            return PASS
        self.failures.append(f"{what}: {'; '.join(misses)}")
        return f"{FAIL}: {'; '.join(misses)}"

    def text(self) -> str:
        """All of it."""
        return "\n\n".join(self.blocks)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table whose first ``words`` columns are words, and the others figures, unless they are verdicts."""
    rule = ["---" if index < words or heading == "verdict" else "---:" for index, heading in enumerate(headings)]
    lines = [headings, rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def measured(section: str, how: str) -> str:
    """Which command measured this, when, and on what."""
    today = datetime.now(UTC).date().isoformat()
    return f"*{today}, `python -m benchmarks.policy --only {section}`, Python {python_version()}; {how}.*"


def put(page: str, name: str, text: str) -> str:
    """The page with what stands between the marks of this name replaced.

    Raises:
        PageError: It has no such marks.
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    found = re.search(f"{re.escape(begin)}\n.*?{re.escape(end)}", page, re.DOTALL)
    if found is None:
        raise PageError(f"the page has no {begin} … {end}; write both where the figures belong")
    return page[: found.start()] + f"{begin}\n\n{text}\n\n{end}" + page[found.end() :]
