"""The guard against vLLM's giving out a whole prompt as if it were generated. Pure.

It does so where a prompt's ids end inside a character. Boundaries are chosen so that this cannot be; should one
be wrong all the same, nothing of a system prompt may reach a client.
"""

from hedgeserve.proxy.boundary import SPECIAL, Boundary

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
        # With special tokens or without, and with the answer's own as it was told or should have been.
        plain = SPECIAL.sub("", at.prompt)
        given_out = [at.prompt + at.text, plain + at.text, plain + SPECIAL.sub("", at.text)]
        # The answer may stand there otherwise; more of the prompt than so many tokens could say is sign enough.
        given_out += [each for each in (at.prompt, plain) if len(each) - held_back > _SURE * max(1, tokens)]
    for submitted in given_out:
        size = len(submitted) - held_back
        if size >= _SURE and text[:size] == submitted[:size]:
            return True
    return False
