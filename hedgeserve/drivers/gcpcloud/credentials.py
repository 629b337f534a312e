"""Whose credentials are used: a key file's, application-default ones, or those of the machine that we run on.

Google's own look-up is not used, for it reads the process's environment and warns of files of any kind; Libcloud's
is not, for it keeps tokens in the home directory and knows no federation.
"""

import json
import threading
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import google.auth.transport.requests
import requests
from google.auth import (
    aws,
    compute_engine,
    external_account_authorized_user,
    identity_pool,
    impersonated_credentials,
    pluggable,
)
from google.auth.credentials import Credentials, CredentialsWithQuotaProject
from google.auth.exceptions import GoogleAuthError
from google.oauth2 import credentials as user_credentials
from google.oauth2 import service_account

from hedgeserve.drivers.gcpcloud.faults import LOGIN_HINT
from hedgeserve.errors import AuthError

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_TIMEOUT_S = 20.0
_PING_S = 1.0
_METADATA = "metadata.google.internal"


class _Request(google.auth.transport.requests.Request):
    """Google's transport, with a shorter patience than its two minutes."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        kwargs["timeout"] = min(kwargs.get("timeout") or _TIMEOUT_S, _TIMEOUT_S)
        return super().__call__(*args, **kwargs)  # type: ignore[no-untyped-call]


class Login:
    """The credentials of one driver; its methods may block and may be called from several threads.

    ``key_file`` comes before what ``environ`` names, that before what gcloud has left in the home directory, and
    that before the metadata service of the machine.
    """

    def __init__(self, key_file: str, project: str, environ: Mapping[str, str]) -> None:
        self._key_file = key_file
        self._project = project or environ.get("GOOGLE_CLOUD_PROJECT", "") or environ.get("GCLOUD_PROJECT", "")
        self._environ = environ
        self._lock = threading.Lock()
        self._request = _Request(requests.Session())
        self._stamp: Hashable = None
        self._credentials: Credentials | None = None
        self._told_project = ""

    def stamp(self) -> Hashable:
        """Changes whenever the credentials' file does."""
        file = self._file()
        try:
            return (str(file), file.stat().st_mtime_ns) if file else None
        except OSError:
            return (str(file), None)

    def project(self) -> str:
        """The project to work in.

        Raises:
            AuthError: Neither model.toml nor the environment nor the credentials name one, or there are none.
        """
        if self._project:
            return self._project
        with self._lock:
            self._present()
            if not self._told_project:
                raise AuthError("the credentials name no project; write gcp.project, or set GOOGLE_CLOUD_PROJECT")
            return self._told_project

    def sign(self, headers: dict[str, str]) -> None:
        """Put a token that is valid now, and the quota project where there is one, into these headers."""
        with self._lock:
            credentials = self._present()
            if not credentials.valid:
                credentials.refresh(self._request)  # type: ignore[no-untyped-call]
            credentials.apply(headers)  # type: ignore[no-untyped-call]

    def _present(self) -> Credentials:
        stamp = self.stamp()
        if self._credentials is None or stamp != self._stamp:
            file = self._file()
            found = self._from_file(file) if file else self._from_machine()
            quota_project = self._environ.get("GOOGLE_CLOUD_QUOTA_PROJECT")
            if quota_project and isinstance(found, CredentialsWithQuotaProject):
                found = found.with_quota_project(quota_project)  # type: ignore[no-untyped-call]
            self._credentials, self._stamp = found, stamp
        return self._credentials

    def _file(self) -> Path | None:
        """The file that holds the credentials; None: there is none, and the machine may have some."""
        named = self._key_file or self._environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        if named:
            return Path(named)
        home = self._environ.get("CLOUDSDK_CONFIG")
        if not home and self._environ.get("HOME"):
            home = f"{self._environ['HOME']}/.config/gcloud"
        file = Path(home) / "application_default_credentials.json" if home else None
        return file if file is not None and file.is_file() else None

    def _from_file(self, file: Path) -> Credentials:
        try:
            told = json.loads(file.read_bytes())
        except OSError as error:
            why = error.strerror or type(error).__name__
            raise AuthError(f"the credentials in {file} cannot be read: {why}; {LOGIN_HINT}") from None
        except ValueError:
            raise AuthError(f"{file} holds no credentials: it is not JSON") from None
        kind = told.get("type") if isinstance(told, dict) else None
        try:
            credentials = _of_kind(str(kind), told)
        except (GoogleAuthError, ValueError, KeyError, TypeError) as error:
            raise AuthError(f"{file} holds no usable credentials: {type(error).__name__}") from None
        if credentials is None:
            raise AuthError(f"{file} holds no credentials that are known here: its type is {kind!r}")
        self._told_project = str(told.get("project_id") or told.get("quota_project_id") or "")
        return credentials

    def _from_machine(self) -> Credentials:
        host = self._environ.get("GCE_METADATA_HOST")
        try:
            if self._environ.get("NO_GCE_CHECK") == "true":
                raise AuthError(f"there are no Google credentials; {LOGIN_HINT}")
            # By its number: looking up the name may take long where there is none.
            root = f"http://{host or self._environ.get('GCE_METADATA_IP', '169.254.169.254')}"
            with requests.Session() as session:
                session.trust_env = False
                answer = session.get(
                    f"{root}/computeMetadata/v1/project/project-id",
                    headers={"Metadata-Flavor": "Google"},
                    timeout=_PING_S,
                )
            if answer.headers.get("Metadata-Flavor") != "Google":
                raise AuthError(f"there are no Google credentials; {LOGIN_HINT}")
        except requests.RequestException:
            raise AuthError(f"there are no Google credentials; {LOGIN_HINT}") from None
        self._told_project = answer.text.strip() if answer.ok else ""
        return compute_engine.Credentials(scopes=_SCOPES)  # type: ignore[no-untyped-call]


def _of_kind(kind: str, told: dict[str, Any]) -> Credentials | None:
    """Credentials of a kind that is known to be harmless to load; None for any other."""
    found: Any
    match kind:
        case "service_account":
            found = service_account.Credentials.from_service_account_info(told, scopes=_SCOPES)  # type: ignore[no-untyped-call]
        case "authorized_user":
            found = user_credentials.Credentials.from_authorized_user_info(told)  # type: ignore[no-untyped-call]
            if told.get("quota_project_id"):
                found = found.with_quota_project(told["quota_project_id"])
        case "impersonated_service_account":
            found = impersonated_credentials.Credentials.from_impersonated_service_account_info(  # type: ignore[no-untyped-call]
                told, scopes=_SCOPES
            )
        case "external_account_authorized_user":
            found = external_account_authorized_user.Credentials.from_info(told)  # type: ignore[no-untyped-call]
        case "external_account":
            found = _federated(told)
        case _:
            return None
    assert isinstance(found, Credentials)
    return found


def _federated(told: dict[str, Any]) -> Credentials:
    """Workload identity federation: a token of another cloud, of a file or of a program is exchanged."""
    found: Any
    if told.get("subject_token_type") == "urn:ietf:params:aws:token-type:aws4_request":
        found = aws.Credentials.from_info(told, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    elif "executable" in (told.get("credential_source") or {}):
        found = pluggable.Credentials.from_info(told, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    else:
        found = identity_pool.Credentials.from_info(told, scopes=_SCOPES)  # type: ignore[no-untyped-call]
    assert isinstance(found, Credentials)
    return found
