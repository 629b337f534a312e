"""What replicas run, as numbered versions: the words of model.toml that are built into them, and a hash of these.

Two specs with the same content are the same version, whatever else is in them. A content holds no secret: of
``model.secret_env`` the names, as in the file. What stands at its default is left out, so that a key that a later
HedgeServe adds makes no version new.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any

from pydantic import TypeAdapter

from hedgeserve.engines.vllm import VERSION
from hedgeserve.modelfile.effects import Effect, effect_of
from hedgeserve.modelfile.keys import tables
from hedgeserve.redaction import redact
from hedgeserve.spec import EngineName, ModelSpec, Spec

_ALWAYS = frozenset({"model.id", "model.engine"})
_DIGEST_CHARACTERS = 12

Content = Mapping[str, Mapping[str, Any]]
"""Table and key to value, as JSON."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version: its number (from 1, never used twice), what it is, and when it was first asked for.

    ``proven_at`` is when a replica of it had first been ready for as long as ``update.bake_time`` asks; None
    before, and then there is nothing in it to go back to.
    """

    number: int
    digest: str
    content: Content
    made_at: datetime
    who: str
    why: str
    proven_at: datetime | None = None

    @property
    def model(self) -> ModelSpec:
        """Its ``[model]``."""
        return TypeAdapter(ModelSpec).validate_python(dict(self.content["model"]))

    def document(self) -> dict[str, Any]:
        """For people, JSON-able; its shape is described in ``docs/cli.md``."""
        return {
            "version": self.number,
            "digest": self.digest,
            "model": self.model.id,
            "made_at": self.made_at.isoformat(timespec="seconds"),
            "who": self.who,
            "why": self.why,
            "proven_at": self.proven_at.isoformat(timespec="seconds") if self.proven_at else None,
            "content": _shown(self.content),
        }

    def spec(self, live: Spec) -> Spec:
        """These words for what replicas run, and those of ``live`` for all else."""
        changed: dict[str, Any] = {}
        for name, keys in _versioned().items():
            table = getattr(live, name)
            words = {key: value for key, value in _words(live, name).items() if key not in keys}
            words |= self.content.get(name, {})
            changed[name] = type(table).model_validate(words)
        return live.model_copy(update=changed)


def content_of(spec: Spec) -> dict[str, dict[str, Any]]:
    """What of this spec is built into replicas."""
    content: dict[str, dict[str, Any]] = {}
    defaults = {key.path: key.default for info in tables() for key in info.keys}
    for name, keys in _versioned().items():
        table, written = getattr(spec, name), getattr(spec, name).model_dump(mode="json")
        found = {
            key: written[key]
            for key in sorted(keys)
            if getattr(table, key) != defaults[f"{name}.{key}"] or f"{name}.{key}" in _ALWAYS
        }
        if found:
            content[name] = found
    model = spec.model
    if model.engine is EngineName.VLLM and not (model.version or model.container or model.python):
        content["model"]["version"] = VERSION  # what is installed, should a later HedgeServe install another one
    return content


def digest_of(content: Content) -> str:
    """A hash of it, short enough for people."""
    written = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(written.encode()).hexdigest()[:_DIGEST_CHARACTERS]


def _versioned() -> dict[str, frozenset[str]]:
    """The keys that are built into replicas, by table."""
    found = {
        info.path: frozenset(key.name for key in info.keys if effect_of(key.path) is Effect.VERSION)
        for info in tables()
        if not info.array
    }
    return {name: keys for name, keys in found.items() if keys}


def _words(spec: Spec, name: str) -> dict[str, Any]:
    """What the file says in this table."""
    words: dict[str, Any] = getattr(spec, name).model_dump(mode="json", exclude_unset=True)
    return words


def _shown(content: Any) -> Any:
    """A content for people: of variables only the names, and nothing that looks like a secret."""
    match content:
        case str():
            return redact(content)
        case Mapping():
            return {key: sorted(value) if key == "env" else _shown(value) for key, value in content.items()}
        case list():
            return [_shown(value) for value in content]
    return content
