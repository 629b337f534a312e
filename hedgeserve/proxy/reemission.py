"""The guard against vLLM's giving out a whole prompt as if it were generated. Pure.

It does so where a prompt's ids end inside a character. Boundaries are chosen so that this cannot be; should one
be wrong all the same, nothing of a system prompt may reach a client.
"""

import re

from hedgeserve.proxy.boundary import Boundary

_SPECIAL = re.compile(r"<[^<>\s]{1,40}>|\[/?[A-Z_]{2,20}\]")  # <s>, <|im_start|>, [INST]: not shown in an answer
_SURE = 16
_LONGEST_TOKEN = 512
"""Characters; no vocabulary has longer ones, but prompts are longer than that."""


def reemits(text: str, at: Boundary, *, tokens: int, held_back: int) -> bool:
    """Whether a continuation's first text begins with all that was submitted (``held_back`` may be missing)."""
    if len(text) > _LONGEST_TOKEN * max(1, tokens):
        return True
    if len(at.text) >= _SURE and text.find(at.text) > 0:
        return True
    if at.prompt.endswith("\ufffd"):  # then the prompt is a part of the answer already
        given_out = [at.text]
    else:
        given_out = [at.prompt + at.text, _SPECIAL.sub("", at.prompt) + at.text]
    for submitted in given_out:
        size = len(submitted) - held_back
        if size >= _SURE and text[:size] == submitted[:size]:
            return True
    return False
