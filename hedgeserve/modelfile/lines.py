"""On which line of a TOML text each key stands, for messages that an editor can jump to.

``tomllib`` gives values without positions, and the libraries that keep the layout of a file (tomlkit and its
like) do not tell line numbers either, hence this small scanner. It runs on text that ``tomllib`` has already
accepted: it never judges, it only follows brackets, quotes and dots.
"""

import json
import re

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r]*")
_BETWEEN = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)
_SCALAR = re.compile(r"[^,\]}#\n]+")


def key_lines(text: str) -> dict[Path, int]:
    """The line (from 1) of every table header, key and array element of a valid TOML text.

    Elements of arrays have their index in the path: ``("pools", 1, "zones", 0)``. A table that is only implied
    (``[a.b]`` implies ``a``) has the line where it is first mentioned. Never raises: where it loses its way, the
    rest of the text has no lines, and a message says the file alone.
    """
    scanner = _Scanner(text)
    try:
        scanner.run()
    except (IndexError, ValueError, RecursionError):
        return scanner.lines
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.counted_to = 0
        self.line = 1
        self.lines: dict[Path, int] = {}
        self.last_index: dict[Path, int] = {}

    def run(self) -> None:
        table: Path = ()
        while True:
            self.skip(_BETWEEN)
            if self.at >= len(self.text):
                return
            if self.text.startswith("[[", self.at):
                table = self.header(brackets=2)
            elif self.text[self.at] == "[":
                table = self.header(brackets=1)
            else:
                self.pair(table)

    def header(self, *, brackets: int) -> Path:
        self.at += brackets
        parts = self.dotted_key()
        path: Path = ()
        for number, part in enumerate(parts):
            path = (*path, part)
            last = number == len(parts) - 1
            if last and brackets == 1:
                self.lines.pop(path, None)  # its own header counts for more than an earlier mention
            self.mark(path)
            if last and brackets == 2:
                self.last_index[path] = self.last_index.get(path, -1) + 1
            if path in self.last_index:  # a header inside an array of tables belongs to the latest element
                path = (*path, self.last_index[path])
                self.mark(path)
        self.at = self.text.index("]", self.at) + brackets
        return path

    def pair(self, table: Path) -> None:
        path = table
        for part in self.dotted_key():
            path = (*path, part)
            self.mark(path)
        self.at = self.text.index("=", self.at) + 1
        self.value(path)

    def value(self, path: Path) -> None:
        self.skip(_BLANK)
        start = self.text[self.at]
        if start == "[":
            self.at += 1
            index = 0
            while self.skip(_BETWEEN) != "]":
                self.mark((*path, index))
                self.value((*path, index))
                index += 1
                if self.skip(_BETWEEN) == ",":
                    self.at += 1
            self.at += 1
        elif start == "{":
            self.at += 1
            while self.skip(_BETWEEN) != "}":
                self.pair(path)
                if self.skip(_BETWEEN) == ",":
                    self.at += 1
            self.at += 1
        elif start in "\"'":
            self.string()
        else:
            self.skip(_SCALAR)

    def dotted_key(self) -> list[str]:
        parts = []
        while True:
            self.skip(_BLANK)
            start = self.at
            if self.text[start] in "\"'":
                self.string()
                quoted = self.text[start : self.at]
                parts.append(quoted[1:-1] if quoted[0] == "'" else _unescaped(quoted))
            else:
                self.skip(_BARE_KEY)
                parts.append(self.text[start : self.at])
            if self.skip(_BLANK) != ".":
                return parts
            self.at += 1

    def string(self) -> None:
        for form in _STRINGS:
            if found := form.match(self.text, self.at):
                self.at = found.end()
                return

    def skip(self, form: re.Pattern[str]) -> str:
        """Go past what matches here; the character that follows, or nothing at the end."""
        if found := form.match(self.text, self.at):
            self.at = found.end()
        return self.text[self.at : self.at + 1]

    def mark(self, path: Path) -> None:
        self.line += self.text.count("\n", self.counted_to, self.at)
        self.counted_to = self.at
        self.lines.setdefault(path, self.line)


def _unescaped(quoted: str) -> str:
    try:
        # TOML's escapes are JSON's, save \U, which nobody needs in a key; such a key only loses its line.
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]
