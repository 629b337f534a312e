"""The part of the fake Google Cloud that gives out tokens: OAuth's token endpoint and the metadata service."""

import json
import secrets
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt

_JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# google-auth signs for this one, whatever token_uri says.
_AUDIENCE = "https://oauth2.googleapis.com/token"
_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@cache
def _a_key() -> rsa.RSAPrivateKey:
    # One is enough: to make it takes longer than most tests.
    return rsa.generate_private_key(65537, 2048)


class Refused(Exception):
    """No token is given; the argument is OAuth's word for why."""


@dataclass(slots=True)
class Tokens:
    """Tokens that were given out, and to whom they may be given."""

    email: str = "controller@proj.iam.gserviceaccount.com"
    lifetime_s: float = 3600.0
    valid: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    refused: str = ""
    key: rsa.RSAPrivateKey = field(default_factory=_a_key)

    def give(self, grant: str) -> dict[str, Any]:
        """A new token, as OAuth's endpoint answers it."""
        self.asked.append(grant)
        if self.refused:
            raise Refused(self.refused)
        token = f"ya29.{secrets.token_hex(8)}"
        self.valid[token] = time.monotonic() + self.lifetime_s
        return {"access_token": token, "expires_in": int(self.lifetime_s), "token_type": "Bearer"}

    def accepts(self, authorization: str) -> bool:
        """Whether a request bears a token that was given out and has not expired."""
        return self.valid.get(authorization.removeprefix("Bearer "), 0.0) > time.monotonic()

    def exchange(self, form: dict[str, str]) -> dict[str, Any]:
        """The token endpoint: a signed assertion of a service account, a refresh token, or a foreign token."""
        grant = form.get("grant_type", "")
        if grant == _JWT_BEARER:
            public = self.key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            try:
                claims = jwt.decode(form["assertion"], certs=public, audience=_AUDIENCE)
            except ValueError:
                raise Refused("invalid_grant") from None
            if claims["iss"] != self.email or "cloud-platform" not in claims.get("scope", ""):
                raise Refused("invalid_scope")
        elif grant == "refresh_token":
            if (form.get("client_id"), form.get("refresh_token")) != ("client", "refresh"):
                raise Refused("invalid_grant")
        elif grant == _EXCHANGE:
            if form.get("subject_token") != "foreign":
                raise Refused("invalid_grant")
            return self.give(grant) | {"issued_token_type": "urn:ietf:params:oauth:token-type:access_token"}
        else:
            raise Refused("unsupported_grant_type")
        return self.give(grant)

    def write_key_file(self, path: Path, token_url: str, project: str = "proj") -> Path:
        """A service account's key file whose tokens come from this endpoint."""
        private = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        assert crypt.RSASigner.from_string(private)
        told = {
            "type": "service_account",
            "project_id": project,
            "private_key_id": "1",
            "private_key": private.decode(),
            "client_email": self.email,
            "token_uri": token_url,
        }
        path.write_text(json.dumps(told))
        path.chmod(0o600)
        return path
