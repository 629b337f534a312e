"""Looks for secrets in the files that git knows, and in all that its history ever held with --history.

Only formats that nothing else has: what it finds is one, or was made up to look like one. Values that were made up
for tests say so: they hold one of the words below, or too few different characters to be random. Prints file, line
and kind, never the value. Exit code 1 where anything was found.
"""

import argparse
import math
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

FORMATS = {
    "AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "AWS secret key": r"(?i)aws_secret_access_key\s{0,4}[:=]\s{0,4}[\"']?[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "Google API key": r"\bAIza[\w-]{35}\b",
    "Google OAuth token": r"\bya29\.[\w-]{20,}",
    "Azure client secret": r"\b[\w~.]{3}8Q~[\w~.-]{31,34}",
    "GitHub token": r"\bgh[oprsu]_[A-Za-z0-9]{36}\b|\bgithub_pat_\w{60,}",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "OpenAI or Anthropic key": r"\bsk-(?:ant-|proj-)?[A-Za-z0-9_-]{32,}\b",
    "Slack token": r"\bxox[abprs]-[A-Za-z0-9-]{20,}",
    "HedgeServe API key": r"\bhs-[0-9a-f]{8}-[\w-]{43}(?![\w-])",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s]{64,}",
    "password in a URL": r"\b[a-z][a-z0-9+.-]{2,15}://[^\s/:@\"'<>{}$]{1,64}:[^\s/:@\"'<>{}$]{6,64}@[\w.-]+\.[a-z]{2,}",
}
_MADE_UP = re.compile(
    r"(?i)example|fake|dummy|made.?up|hush|secret|not.?real|abcdef|0123|1234|xxxx|test|hunter2|dBjftJeZ4CVP"
)
"""The last is the signature in the example of RFC 7515, appendix A.1."""
_RANDOM_BITS = 3.0
_LARGEST_BYTES = 4 * 2**20


def findings(text: str) -> Iterator[tuple[int, str]]:
    """Line and kind of all in this text that looks like a secret and not like one that was made up."""
    for kind, pattern in FORMATS.items():
        for found in re.finditer(pattern, text):
            value = found[0]
            if _MADE_UP.search(value) or _bits(value[-32:]) < _RANDOM_BITS:
                continue
            yield text.count("\n", 0, found.start()) + 1, kind


def _bits(value: str) -> float:
    """How many bits a character of it carries: 2 for "abab…", 4.5 and more for what is random."""
    counts = Counter(value).values()
    return -sum(count / len(value) * math.log2(count / len(value)) for count in counts)


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], capture_output=True, check=True).stdout


def _now() -> Iterator[tuple[str, bytes]]:
    for name in _git("ls-files", "-z").decode().split("\0"):
        if name:
            try:
                with open(name, "rb") as file:
                    yield name, file.read(_LARGEST_BYTES)
            except OSError:
                continue


def _ever() -> Iterator[tuple[str, bytes]]:
    """Every content that any commit has added, under its name; each once."""
    seen: set[str] = set()
    for line in _git("rev-list", "--objects", "--all").decode(errors="replace").splitlines():
        identity, _, name = line.partition(" ")
        if name and identity not in seen:
            seen.add(identity)
            size = int(_git("cat-file", "-s", identity)) if _git("cat-file", "-t", identity) == b"blob\n" else None
            if size is not None and size <= _LARGEST_BYTES:
                yield f"{name} ({identity[:10]})", _git("cat-file", "blob", identity)


def main() -> int:
    """Look, tell, and say by the exit code whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--history", action="store_true", help="all that git's history ever held (minutes)")
    found = looked = 0
    for name, content in _ever() if parser.parse_args().history else _now():
        looked += 1
        if b"\0" in content[:8192]:
            continue
        for line, kind in findings(content.decode(errors="replace")):
            found += 1
            sys.stdout.write(f"{name}:{line}: looks like a secret: {kind}\n")
    sys.stderr.write(f"{looked} files were looked at for secrets; {found or 'none'} found\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
