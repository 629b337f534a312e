"""What is shown to strangers has more taken out than what is logged: rather one word too many than one too few.

The log's own :mod:`hedgeserve.redaction` comes first. This adds known values of any number and from four
characters on, everything that goes by the name of a secret, and forms that would be too dear, or too often
wrong, for a log.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from hedgeserve import redaction
from hedgeserve.redaction import HIDDEN

_SHORTEST = 4
"""A known secret that is shorter would be found in ordinary words."""
_SECRET_NAME = re.compile(
    r"(?i)(key|token|secret|passw|passphrase|credential|cookie|authorization|signature|connection_?string|dsn)"
)
_HARMLESS_NAME = re.compile(
    r"(?i)(_env|_file|_tokens|tokens_|tokens|max_tokens|per_second|token_s|_seconds|keys_held|certificate)$"
)
_PREFIXES = "hf|sk|pk|rk|gh[pousr]|github_pat|glpat|xox[abeprs]|nvapi|dop|npm|pypi|ya29|AIza|whsec|hs"
_BASE64 = "[A-Za-z0-9/+]"
_SHAPES: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        (
            r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|basic|digest)\s+)?)(?!\[hidden)[^\s\"',}]+",
            rf"\1{HIDDEN}",
        ),
        (
            r"(?i)([?&][\w.-]*(?:token|key|sig|signature|secret|password|credential|code)[\w.-]*=)[^&\s\"']+",
            rf"\1{HIDDEN}",
        ),
        # --api-key VALUE, --hf-token=VALUE; "--api-key", "VALUE" as JSON has it.
        (
            r"(?i)(--[\w-]*(?:token|key|secret|password)(?:=|\s+|[\"']\s*,\s*[\"']))(?!-)[^\s\"',\]]+",
            rf"\1{HIDDEN}",
        ),
        (rf"\b(?:{_PREFIXES})[-_.][A-Za-z0-9_.-]{{8,}}", HIDDEN),
        (r"\bAIza[A-Za-z0-9_-]{20,}", HIDDEN),
        (r"\b(?:AKIA|ASIA|AROA|AIDA)[A-Z0-9]{12,}\b", HIDDEN),
        # An AWS secret key: 40 characters of base64, of all three kinds. A commit's id has no capitals.
        (
            rf"(?<![A-Za-z0-9/+])(?={_BASE64}*[a-z])(?={_BASE64}*[A-Z])(?={_BASE64}*\d){_BASE64}{{40}}"
            r"(?![A-Za-z0-9/+=])",
            HIDDEN,
        ),
    )
)
_PAIR = re.compile(
    r"(?P<name>[\"']?\b[A-Za-z][\w.-]*[\"']?)(?P<between>\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,;}\]\"'&]+)"
)
_ASKED = re.compile(
    r"(?i)(received request|prompt\s*[:=]|prompt_token_ids|\"(?:prompt|messages|content|input|prompt_text)\"\s*:"
    r"|generated (?:text|response)|engine_prompt|lora_request:)"
)
"""A line of an engine's log that may hold what somebody asked or was told."""


_logged = redaction.Redactor()
"""The patterns of the log, without the values that this process has learnt: those are given to us."""


class Discretion:
    """``secrets`` are known ones, wherever they stand; the shapes are always looked for."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        plain = {secret.strip() for secret in secrets}
        known = plain | {json.dumps(secret)[1:-1] for secret in plain}  # as it stands in JSON
        # The longest first: one may be the beginning of another.
        self._known = sorted((secret for secret in known if len(secret) >= _SHORTEST), key=len, reverse=True)

    def text(self, text: str) -> str:
        """The same without secrets."""
        for secret in self._known:
            text = text.replace(secret, HIDDEN)
        text = _logged(text)
        for shape, by in _SHAPES:
            text = shape.sub(by, text)
        return _PAIR.sub(_hide_value, text)

    def log(self, text: str) -> str:
        """An engine's log: without secrets, and without the lines that may hold a request or an answer."""
        kept = [
            "[a line that may hold a request was left out]" if _ASKED.search(line) else line
            for line in text.splitlines()
        ]
        return self.text("\n".join(kept)) + "\n"


def secrets_of(environ: Mapping[str, str]) -> set[str]:
    """The values of all variables whose names say that they are secret."""
    return {value for name, value in environ.items() if is_secret_name(name) and len(value) >= _SHORTEST}


def is_secret_name(name: str) -> bool:
    """Whether what goes by this name is a secret."""
    return bool(_SECRET_NAME.search(name)) and not _HARMLESS_NAME.search(name)


def _hide_value(found: re.Match[str]) -> str:
    name, value = found["name"].strip("\"'"), found["value"]
    if not is_secret_name(name) or value.strip("\"'") in ("", HIDDEN, "null", "true", "false", "None"):
        return found[0]
    if re.fullmatch(r"[\d.]+|[\[{].*", value):
        return found[0]
    quote = value[0] if value[0] in "\"'" else ""
    return f"{found['name']}{found['between']}{quote}{HIDDEN}{quote}"
