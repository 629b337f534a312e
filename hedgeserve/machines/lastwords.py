"""What an engine said at last, put so that the end comes first. Pure.

What was wrong stands in the last line: below a traceback, behind the usage that a command line prints before it.
"""

LAST_WORDS = "; its last words: "
BETWEEN = " | "
_FEW = 160
"""Characters of last words that are told as they are."""
_TELLING = 24
"""A last line that is shorter, such as "Aborted", says too little: the line before it is told as well."""
_LONGEST = 300


def in_short(why: str) -> str:
    """The same sentence with the last line of the last words alone; unchanged where these are few or none."""
    head, found, words = why.partition(LAST_WORDS)
    if not found or len(words) <= _FEW:
        return why
    lines = words.split(BETWEEN)
    kept = BETWEEN.join(lines[-2:] if len(lines[-1]) < _TELLING else lines[-1:])
    return f"{head}{LAST_WORDS}{kept if len(kept) <= _LONGEST else f'… {kept[-_LONGEST:]}'}"
