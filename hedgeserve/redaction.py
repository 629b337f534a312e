"""Takes secrets out of text that leaves the process: log lines, tracebacks, the journal's sentences.

Two ways find them: values that this process holds as secrets and has told :func:`learn` of, and the looks of those
that it has only met, in a cloud's error or a URL. The text is judged as it is written at last, so that nothing
nested in a field or an exception passes by.
"""

import re
from collections.abc import Iterable, Mapping

HIDDEN = "[hidden]"

_SHORTEST = 8
_MOST_KNOWN = 256
# Where none of these is in a line, in lower case, no pattern can match it: nearly all lines end here.
_HINTS = (
    "key", "secret", "token", "passw", "authori", "cookie", "bearer", "basic ", "credential", "signature", "sig=", "://",
    "sk-", "hf_", "akia", "asia", "aiza", "ya29.", "eyj", "ghp_", "gho_", "ghs_", "github_pat_", "xox", "nvapi-",
    "hs-",
)  # fmt: skip
# Everything is bounded: a line that somebody made up to be hard must not take long.
_NAMES = (
    r"[\w-]{0,40}?(?:(?:api|access|account|private|shared|secret|subscription|engine|admin|storage)[_-]?key(?:[_-]?id)?"
    r"|secret|passw(?:or)?d|(?:session|access|refresh|auth|bearer|id|sas|api|hf|security|admin|github)[_-]?token)"
    r"|token|passphrase|(?:proxy-)?authorization|credentials?|(?:x-amz-)?signature"
)
_NO_SECRET = r"(?!\[hidden|(?:bearer|basic|none|null|true|false)\b)"
# A name, its mark (escaped, perhaps, as in JSON within JSON), what stands between, the value's mark, the value.
_NAMED = (
    rf"(?i)((?<![\w-])(?:{_NAMES})(?:\\{{0,8}}[\"'])?\s{{0,8}}(?:=>|[:=])\s{{0,8}}b?)"
    rf"(?:(\\{{0,8}}[\"']){_NO_SECRET}(?:(?!\2).){{4,4096}}?(?=\2)|{_NO_SECRET}[^\s\"'\\,;&<>(){{}}\[\]]{{6,4096}})"
)
_FORMATS = (
    r"sk-[A-Za-z0-9_-]{16,}", r"hf_[A-Za-z0-9]{16,}", r"(?:AKIA|ASIA)[A-Z0-9]{16}", r"AIza[\w-]{30,}",
    r"ya29\.[\w.-]{16,}", r"eyJ[\w-]{8,4096}\.[\w-]{8,4096}\.[\w-]*", r"gh[oprsu]_[A-Za-z0-9]{20,}",
    r"github_pat_\w{20,}", r"xox[abeprs]-[\w-]{10,}", r"nvapi-[\w-]{16,}",
    r"hs-[0-9a-f]{8}-[\w-]{16,}",
)  # fmt: skip
_PEM = r"PRIVATE KEY-----"
_BODY = r"(?:[^\"'\\-]{1,8192}|\\{1,8}[nr]|-(?!----)){0,512}"
_PATTERNS = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        # Whole, or cut off: to the end of the text that it stands in.
        (rf"-----BEGIN [A-Z ]{{0,30}}{_PEM}{_BODY}(?:-----END [A-Z ]{{0,30}}{_PEM})?", HIDDEN),
        (r"(?i)\b(bearer|basic)(\s{1,8})(?!\[hidden)[\w.~+/=:-]{6,}", rf"\1\2{HIDDEN}"),
        (r"((?<![\w+.-])[a-zA-Z][\w+.-]{1,20}://)(?!\[hidden)[^\s/@\"'<>\\]{1,512}@", rf"\1{HIDDEN}@"),
        (r"(?i)([?&](?:key|sig|code|x-amz-security-token)=)(?!\[hidden)[^\s&\"'\\]+", rf"\1{HIDDEN}"),
        (r"(?i)(\b(?:set-)?cookie\s{0,8}[:=](?!\s*\[hidden)\s{0,8})[^\n\"'\\]{6,4096}", rf"\1{HIDDEN}"),
        (_NAMED, rf"\1\2{HIDDEN}"),
        (rf"\b(?:{'|'.join(_FORMATS)})", HIDDEN),
    )
)


class Redactor:
    """Hides secrets; at most 64 values are known by heart, each of 8 characters or more."""

    def __init__(self) -> None:
        self._known: dict[str, None] = {}
        self._by_heart: re.Pattern[str] | None = None

    def learn(self, secrets: Iterable[str]) -> None:
        """Hide these values from now on, wherever they stand; of too many the newest are remembered.

        Shorter ones would hide what is no secret.
        """
        for secret in secrets:
            if len(secret) >= _SHORTEST:
                self._known.pop(secret, None)
                self._known[secret] = None
        while len(self._known) > _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        longest_first = sorted(self._known, key=len, reverse=True)
        self._by_heart = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """The text without its secrets."""
        if self._by_heart is not None:
            text = self._by_heart.sub(HIDDEN, text)
        lower = text.lower()
        if any(hint in lower for hint in _HINTS):
            for pattern, instead in _PATTERNS:
                text = pattern.sub(instead, text)
        return text


_LOOKS_SECRET = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)S?$")


redact = Redactor()
"""The process's own: secrets are a process's, as its log is."""


def learn(*secrets: str) -> None:
    """Have :data:`redact` hide these values."""
    redact.learn(secrets)


def learn_environment(environ: Mapping[str, str], also: Iterable[str] = ()) -> None:
    """Have it hide the values of variables whose names say that they are secret, and of those in ``also``."""
    named = {name for name in environ if _LOOKS_SECRET.search(name.upper())} | {*also}
    learn(*(environ[name].strip() for name in sorted(named) if name in environ))
