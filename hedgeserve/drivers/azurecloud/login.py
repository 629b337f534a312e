"""Who we are to Azure: a token from the chain of azure-identity, kept until it is about to expire."""

import os
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from azure.core.credentials import TokenCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import AzureAuthorityHosts, ClientSecretCredential, DefaultAzureCredential

from hedgeserve.errors import AuthError

PUBLIC_ENDPOINT = "https://management.azure.com"

_AUTHORITIES: Mapping[str, str] = {
    "management.usgovcloudapi.net": AzureAuthorityHosts.AZURE_GOVERNMENT,
    "management.chinacloudapi.cn": AzureAuthorityHosts.AZURE_CHINA,
}
"""Who gives tokens for a Resource Manager that is not the public one. Source: azure-identity, "Authority"."""

_EARLY_S = 300.0
"""A token is renewed so long before it expires, as the Azure SDKs do."""
_CLI_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class _Kept:
    token: str
    expires_s: float


class Tokens:
    """Access tokens for one Resource Manager; may be asked from any thread, one of which gets a new one."""

    def __init__(self, credential: TokenCredential, scope: str) -> None:
        self._credential = credential
        self._scope = scope
        self._lock = threading.Lock()
        self._kept: _Kept | None = None

    def current(self) -> str:
        """A token that is good for some minutes; blocks while a new one is fetched.

        Raises:
            AuthError: Nobody is logged in, or the login is no longer good.
        """
        with self._lock:
            if self._kept is None or self._kept.expires_s - _EARLY_S < time.time():
                self._kept = self._fetch()
            return self._kept.token

    def forget(self, token: str) -> None:
        """The API refused this one: the next is fetched anew."""
        with self._lock:
            if self._kept is not None and self._kept.token == token:
                self._kept = None

    def _fetch(self) -> _Kept:
        try:
            got = self._credential.get_token(self._scope)
        except ClientAuthenticationError as error:  # that nothing is configured is one of these too
            raise AuthError(_refusal(str(error))) from None
        except (ValueError, OSError) as error:
            raise AuthError(f"Azure: the login cannot be used: {_line(str(error))}") from None
        return _Kept(got.token, float(got.expires_on))


def scope_of(endpoint: str) -> str:
    """The scope of a token for the Resource Manager at this base URL: it follows the host, in every cloud."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}/.default"


def find_credential(endpoint: str, environ: Mapping[str, str]) -> TokenCredential:
    """What azure-identity finds: environment, workload identity, managed identity, then the developer's tools.

    A tenant, client and secret in ``environ`` come before that: a service manager's credentials are there, and not
    in the process's own environment, which is all that azure-identity reads.

    Raises:
        AuthError: The environment names something that azure-identity does not know.
    """
    authority = (
        None if os.environ.get("AZURE_AUTHORITY_HOST") else _AUTHORITIES.get(urlsplit(endpoint).hostname or "")
    )
    who = [environ.get(f"AZURE_{name}", "") for name in ("TENANT_ID", "CLIENT_ID", "CLIENT_SECRET")]
    try:
        if all(who):
            return ClientSecretCredential(*who, **({"authority": authority} if authority else {}))
        # Left out where it is not needed: given as None, it would not be read from the environment.
        return DefaultAzureCredential(
            process_timeout=_CLI_TIMEOUT_S, **({"authority": authority} if authority else {})
        )
    except ValueError as error:
        raise AuthError(f"Azure: the environment's login settings cannot be used: {_line(str(error))}") from None


def _refusal(text: str) -> str:
    """The sentence for a person; of the chain's long story only what Entra ID itself said is kept."""
    hint = (
        "run `az login`, give this machine a managed identity, "
        "or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
    )
    if (
        said := re.search(r"AADSTS\d+:[^\n]*?(?=\s*(?:Trace ID|Correlation ID|Timestamp|\n|$))", text)
    ) is not None:
        return f"Azure refused the login: {_line(said[0])}; {hint}"
    return f"Azure: nobody is logged in; {hint}"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]
