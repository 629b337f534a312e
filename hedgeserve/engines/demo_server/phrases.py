"""Text that hurts: phrases of a fixed split into tokens that begin and end inside characters."""

from __future__ import annotations

import itertools
import unicodedata

# The words in a prompt that steer the story to a kind of text, and the templates of its sentences then; the
# letters are kinds of words, as in the story's own templates.
TOPICS = {
    "emoji": ("GNVG", "NVGAG", "GGN", "NGVANG"),
    "Chinese": ("ZVZ", "ZZ", "NVZN", "Z,Z"),
    "Hindi": ("HVH", "HH", "AHVN", "H,HG"),
    "accents": ("MVM", "NVMM", "M,ANM"),
    "poem": ("NVL", "SNVSL", "ANSVDN", "NSVSL", "NVSAN"),
    "chorus": ("NQ", "QANQ", "Q,Q"),
}
# A prompt with this word is answered in words though there are tools that could be called.
TALK = "talk"


def _cut(text: str, sizes: tuple[int, ...]) -> tuple[bytes, ...]:
    """The text's bytes in pieces of these sizes, over and over; characters are no reason to cut elsewhere."""
    data, pieces = text.encode(), list[bytes]()
    for size in itertools.cycle(sizes):
        if not data:
            return tuple(pieces)
        pieces.append(data[:size])
        data = data[size:]
    return tuple(pieces)


# By kind. No phrase is the beginning of another one of its kind.
PHRASES = {
    # A family held together by joiners, skin tones, a flag of two letters, a sign with its presentation selector.
    "G": tuple(
        _cut(text, (4, 3, 2, 5, 1)) for text in (" 👩‍👩‍👧‍👦", " 👍🏽", " 👩🏿‍🚀", " 🇮🇳🎉", " ❤️‍🔥", " 🧑🏻‍🤝‍🧑🏾")
    ),
    "Z": tuple(_cut(text, (4, 2, 3)) for text in ("汉字很有意思", "我们去看大海，", "灯塔看守人", "𠮷野家在港口")),
    "H": tuple(_cut(text, (5, 3, 4, 2)) for text in (" नमस्ते दुनिया", " क्षत्रिय", " हिन्दी में", " श्रीः ज्ञान")),
    "M": tuple(
        _cut(unicodedata.normalize("NFD", text), (3, 2, 1, 4))
        for text in (" Việt Nam", " Zürich", " Åse", " naïveté", " Z̷̧͓a̸l͘g̵o")
    ),
    "L": ((b"\n\n",), (b"\n    ",), (b"\r\n",)),
    "S": ((b"  ",), (b"\t",), (b"    ",)),
    "Q": ((b" la",) * 6, (b" tick", b" tock") * 3),
}
LINE_ENDS = tuple(phrase[0] for phrase in PHRASES["L"])
