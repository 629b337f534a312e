"""The paths that clients may ask for; everything else is a 404. The table is also the metrics' list of routes."""

from dataclasses import dataclass, field

from hedgeserve.proxy.verdict import Dialect


@dataclass(frozen=True, slots=True)
class Forwarded:
    """A path whose requests go to a replica.

    ``generates`` says that an answer takes as long as its text: without `stream`, its first byte is its last.
    """

    path: str
    dialect: Dialect = Dialect.CHOICES
    generates: bool = False
    raw_path: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "raw_path", self.path.encode())


_FORWARDED = (
    Forwarded("/v1/chat/completions", generates=True),
    Forwarded("/v1/completions", generates=True),
    Forwarded("/v1/embeddings"),
    Forwarded("/v1/responses", Dialect.RESPONSES, generates=True),
    Forwarded("/v1/messages", Dialect.MESSAGES, generates=True),
    Forwarded("/v1/rerank"),
    Forwarded("/v1/score"),
    Forwarded("/tokenize"),
    Forwarded("/detokenize"),
)
FORWARDED = {route.path: route for route in _FORWARDED}
"""POSTed requests that replicas answer."""

MODELS = "/v1/models"
"""Answered from the specification, with ``/v1/models/<id>``."""

OWN = (MODELS, "/livez", "/readyz", "/health", "/metrics")
"""GETs that we answer."""

OTHER = "other"
"""What all paths that there are not are counted as."""

ROUTES = (*FORWARDED, *OWN, OTHER)
"""Every path as it is counted: a closed set."""
