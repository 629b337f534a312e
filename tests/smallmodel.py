"""A small deterministic model that speaks as vLLM does, without a wire: for cutting its answers anywhere.

Its tokens split characters, end one and begin another, are special (and not shown) or no UTF-8 at all; its text
runs behind its ids where a character is not whole or a stop string may have begun; and it gives its whole prompt
out where that ends inside a character.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

CONTEXT = 90
QUIET = 3
END = 1
TURN = 2
SPECIAL = [b"<|begin|>", b"<|end|>", b"<|turn|>", b"<|quiet|>"]
PIECES = [
    *(b'a b c d e . , : { } " \\ /'.split()),
    b"\n",
    b" ",
    b"\n\n",
    *(b" " + word for word in b"fox moon harbour stop the of und".split()),
    b"==",
    b"====",
    "é".encode(),
    "🚀".encode(),
    b"e\xcc\x81",  # a combining accent
    b"\xf0\x9f",
    b"\x9a",
    b"\x9a\x80",
    b"\x80",
    b"\x80\xe6",  # ends one character and begins another
    b" \xe6",
    b"\xb5",
    b"\xb5\xb7",
    b"\xb7 moon",
]
VOCABULARY = [*SPECIAL, *PIECES, b"\xff"]
RAW = len(VOCABULARY) - 1
BYTES = {bytes((value,)): len(VOCABULARY) + value for value in range(256)}
VOCABULARY += list(BYTES)


def encode(text: str) -> list[int]:
    """Ids of a text: one for each byte."""
    return [BYTES[bytes((value,))] for value in text.encode()]


def decode(ids: Sequence[int], *, skip_special: bool = False) -> str:
    """The text of ids."""
    return b"".join(VOCABULARY[number] for number in ids if not (skip_special and number < len(SPECIAL))).decode(
        "utf-8", "replace"
    )


def _open(data: bytes) -> bytes:
    """The bytes of an unfinished character at the end."""
    for size in range(1, min(3, len(data)) + 1):
        try:
            data[-size:].decode()
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.start == 0:
                return data[-size:]
    return b""


def _fits(start: bytes, piece: bytes) -> bool:
    try:
        (start + piece).decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return True


class SmallModel:
    """Answers requests with lists of events, each as bytes.

    ``sizes`` gives how many tokens each chunk holds. ``weird`` lets special tokens and bytes that are no UTF-8
    into the answers. ``dice`` samples where the temperature is above zero and no seed was given.
    """

    def __init__(self, *, sizes: Callable[[], int] = lambda: 1, weird: bool = False, salt: int = 0) -> None:
        self.sizes = sizes
        self.weird = weird
        self.dice = random.Random(salt)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._created = 1000

    def reply(self, path: str, body: bytes) -> bytes:
        """What ``/tokenize`` and ``/detokenize`` answer."""
        fields = json.loads(body)
        self.asked.append((path, fields))
        if path == "/tokenize":
            ids = encode(fields["prompt"])
            return json.dumps({"count": len(ids), "max_model_len": CONTEXT, "tokens": ids}).encode()
        assert path == "/detokenize"
        return json.dumps({"prompt": decode(fields["tokens"])}).encode()

    def answer(self, path: str, body: bytes) -> list[bytes]:
        """The events that answer a streamed request."""
        fields = json.loads(body)
        self.asked.append((path, fields))
        self._created += 1
        chat = path == "/v1/chat/completions"
        if chat:
            assert fields["messages"]
            prompt = [0]
            for message in fields["messages"]:
                prompt += [TURN, *encode(message["role"] + "\n" + message["content"]), END]
            prompt += [TURN, *encode("assistant\n")]
        else:
            prompt = fields["prompt"] if isinstance(fields["prompt"], list) else encode(fields["prompt"])
        if (keep := fields.get("truncate_prompt_tokens")) is not None:
            prompt = prompt[-keep:]
        most = fields.get("max_tokens")
        if chat:
            most = fields.get("max_completion_tokens", most)
        elif most is None:
            most = 16
        tokens = _Generation(self, fields, prompt, CONTEXT - len(prompt) if most is None else most)
        return list(self._events(fields, chat, prompt, tokens))

    def _events(
        self, fields: dict[str, Any], chat: bool, prompt: list[int], tokens: "_Generation"
    ) -> Iterator[bytes]:
        options = fields.get("stream_options") or {}
        with_ids = fields.get("return_token_ids") is True
        kind = "chat.completion.chunk" if chat else "text_completion"
        name = f"{'chatcmpl' if chat else 'cmpl'}-{self._created}"
        head = {"id": name, "object": kind, "created": self._created, "model": "small"}
        total = 0

        def usage() -> dict[str, int]:
            return {"prompt_tokens": len(prompt), "total_tokens": len(prompt) + total, "completion_tokens": total}

        def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
            if choices and options.get("continuous_usage_stats"):
                more["usage"] = usage()
            data = json.dumps({**head, "choices": choices, **more}, ensure_ascii=False, separators=(",", ":"))
            return b"data: " + data.encode() + b"\n\n"

        if chat:
            delta = {"role": "assistant", "content": ""}
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield event([choice], prompt_token_ids=prompt if with_ids else None, prompt_text=None)
        first, finish = True, None
        while finish is None:
            ids, text, finish, reason = tokens.step(max(1, self.sizes()))
            total += len(ids)
            choice = {"index": 0}
            if chat:
                choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": finish}
                if finish:
                    choice["stop_reason"] = reason
            else:
                choice |= {"text": text, "logprobs": None, "finish_reason": finish, "stop_reason": reason}
                choice["prompt_token_ids"] = prompt if first and with_ids else None
            choice["token_ids"] = ids if with_ids else None
            first = False
            more = {"system_fingerprint": "small-1"} if finish and not options.get("include_usage") else {}
            yield event([choice], **more)
        if options.get("include_usage"):
            yield event([], usage=usage(), system_fingerprint="small-1")
        yield b"data: [DONE]\n\n"


class _Generation:
    def __init__(self, model: SmallModel, fields: dict[str, Any], prompt: list[int], most: int) -> None:
        assert most > 0
        self._model = model
        self._fields = fields
        self._ids = list(prompt)
        self._prompt = len(prompt)
        self._most = most
        self._least = fields.get("min_tokens") or 0
        assert self._least <= most
        stop = fields.get("stop") or []
        self._stops = [stop] if isinstance(stop, str) else stop
        self._keep_stop = bool(fields.get("include_stop_str_in_output"))
        self._hold = 0 if self._keep_stop else max((len(each) - 1 for each in self._stops), default=0)
        before = decode(prompt, skip_special=True)
        self._held = self._bytes(prompt) if before.endswith("\ufffd") else b""
        self._text = ""
        self._given = 0

    @staticmethod
    def _bytes(ids: Sequence[int]) -> bytes:
        return b"".join(VOCABULARY[number] for number in ids if number >= len(SPECIAL))

    def step(self, size: int) -> tuple[list[int], str, str | None, Any]:
        ids: list[int] = []
        finish = reason = None
        while finish is None and len(ids) < size:
            finish, reason = self._one(ids)
        end = max(self._given, len(self._text) - (0 if finish else self._hold))
        text, self._given = self._text[self._given : end], end
        return ids, text, finish, reason

    def _one(self, ids: list[int]) -> tuple[str | None, Any]:
        number = self._next()
        self._ids.append(number)
        ids.append(number)
        count = len(self._ids) - self._prompt
        before = len(self._text)
        if number != END:
            self._held += self._bytes([number])
            text = self._held.decode("utf-8", "replace")
            if not text.endswith("\ufffd"):
                self._text += text
                self._held = b""
        if count > self._least:
            found = [
                (place, each)
                for each in self._stops
                if (place := self._text.find(each, max(0, before - len(each) + 1))) >= 0
                and len(self._text) > before
            ]
            if found:
                place, each = min(found, key=lambda pair: pair[0] + len(pair[1]))
                self._text = self._text[: place + len(each) * self._keep_stop]
                return "stop", each
        if number == END:
            return "stop", None
        return ("length", None) if count >= self._most else (None, None)

    def _next(self) -> int:
        fields = self._fields
        model = self._model
        count = len(self._ids) - self._prompt
        data = repr(self._ids).encode()
        if fields.get("temperature", 1) > 0:
            seed = fields.get("seed")
            data += repr((seed, count) if seed is not None else model.dice.random()).encode()
        roll = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())
        start = _open(self._bytes(self._ids[-8:]))
        if not start and roll % 40 == 7 and count >= self._least:
            return END
        if model.weird and roll % 11 == 3:
            return QUIET if roll % 2 else RAW
        allowed = [
            number
            for number in range(len(SPECIAL), len(SPECIAL) + len(PIECES))
            if _fits(start, VOCABULARY[number])
        ]
        return allowed[(roll >> 16) % len(allowed)] if allowed else RAW
