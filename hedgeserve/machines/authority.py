"""The service's own certificate authority: who speaks for an engine proves it with a certificate from here."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class EngineTls:
    """A certificate for one VM's engine with its private key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)
