"""AWS credentials as people have them: whatever botocore's chain finds, fresh at every call, told to nobody."""

import threading
import time
from collections.abc import Mapping
from typing import Any

import botocore.exceptions as trouble  # type: ignore[import-untyped]
from botocore.config import Config  # type: ignore[import-untyped]
from botocore.configprovider import ConfigChainFactory  # type: ignore[import-untyped]
from botocore.credentials import ContainerProvider, EnvProvider  # type: ignore[import-untyped]
from botocore.loaders import Loader  # type: ignore[import-untyped]
from botocore.regions import EndpointResolver  # type: ignore[import-untyped]
from botocore.session import Session  # type: ignore[import-untyped]

from hedgeserve.drivers.awscloud.ec2 import Keys
from hedgeserve.errors import AuthError, CloudError

_FORGET_EVERY_S = 30.0
_CLIENT = Config(connect_timeout=10, read_timeout=30, retries={"mode": "standard", "total_max_attempts": 3})
_AT_MOST = 300


class Credentials:
    """One account's credentials and endpoints. For any number of threads at a time; may block to refresh.

    ``environ`` stands for the process's environment: keys, profile and file names in it count. Botocore itself
    renews what expires (SSO, roles, instance metadata) a quarter of an hour before.
    """

    def __init__(self, profile: str, environ: Mapping[str, str], endpoint: str = "") -> None:
        self._profile = profile
        self._environ = environ
        self._endpoint = endpoint
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._forgotten_at_s = 0.0

    def keys(self) -> Keys:
        """What to sign with now.

        Raises:
            AuthError: There are none, or they cannot be renewed; says what to do.
            CloudError: They cannot be renewed now; it may work later.
        """
        with self._lock:
            try:
                found = self._opened().get_credentials()
                frozen = found.get_frozen_credentials() if found is not None else None
            except (trouble.BotoCoreError, trouble.ClientError) as error:
                self._session = None
                raise self._explain(error) from None
            if frozen is None or not frozen.access_key or not frozen.secret_key:
                self._session = None
                raise AuthError(
                    "no AWS credentials were found; run `aws configure` or `aws sso login`, set AWS_PROFILE, or "
                    "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where an instance role gives them"
                )
            return Keys(frozen.access_key, frozen.secret_key, frozen.token or None)

    def forget(self) -> None:
        """AWS has refused them: look for others, as after a new login, though not all the time."""
        with self._lock:
            if time.monotonic() - self._forgotten_at_s > _FORGET_EVERY_S:
                self._forgotten_at_s = time.monotonic()
                self._session = None

    def url(self, region: str) -> str:
        """Base URL of EC2 in this region: the one of model.toml or of the environment, else the public one."""
        ignored = self._environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
        given = (
            "" if ignored else self._environ.get("AWS_ENDPOINT_URL_EC2") or self._environ.get("AWS_ENDPOINT_URL")
        )
        if self._endpoint or given:
            return (self._endpoint or given or "").rstrip("/")
        place = EndpointResolver(Loader().load_data("endpoints")).construct_endpoint("ec2", region)
        if place is None:
            raise CloudError(f"AWS has no region {region}; look at the pools' regions and zones")
        return f"https://{place['hostname']}"

    def client(self, service: str, region: str) -> Any:
        """Botocore's client of another service in this region, with the keys of now; to be closed by the caller.

        It asks three times where no answer comes, each time with the same token. At the endpoint that the
        environment names for this service, else that of model.toml, else the public one.
        """
        keys, named = self.keys(), f"AWS_ENDPOINT_URL_{service.upper()}"
        given = self._environ.get(named) or self._endpoint or self._environ.get("AWS_ENDPOINT_URL")
        if self._environ.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true":
            given = self._endpoint
        with self._lock:
            try:
                return self._opened().create_client(
                    service,
                    region_name=region,
                    aws_access_key_id=keys.access_key,
                    aws_secret_access_key=keys.secret_key,
                    aws_session_token=keys.token,
                    endpoint_url=given or None,
                    config=_CLIENT,
                )
            except (trouble.BotoCoreError, ValueError) as error:
                told = str(error).splitlines()[0][:_AT_MOST]
                raise CloudError(f"AWS's {service} in {region} cannot be asked: {told}") from None

    def _opened(self) -> Session:
        if self._session is None:
            self._session = _session(self._profile, self._environ)
        return self._session

    def _explain(self, error: Exception) -> CloudError:
        profile = (
            self._profile or self._environ.get("AWS_PROFILE") or self._environ.get("AWS_DEFAULT_PROFILE") or ""
        )
        option = f" --profile {profile}" if profile else ""
        told = str(error).splitlines()[0][:_AT_MOST] if str(error) else type(error).__name__
        if isinstance(error, trouble.ProfileNotFound):
            return AuthError(
                f'the AWS profile "{profile}" is in neither ~/.aws/config nor ~/.aws/credentials; '
                f"run `aws configure{option}`, or correct [aws] profile or AWS_PROFILE"
            )
        if isinstance(error, trouble.SSOError | trouble.TokenRetrievalError):
            return AuthError(f"the AWS SSO login has expired or was never made; run `aws sso login{option}`")
        if isinstance(error, trouble.LoginError):
            return AuthError(f"the AWS console login has expired or was never made; run `aws login{option}`")
        if isinstance(error, trouble.PartialCredentialsError):
            return AuthError(f"the AWS credentials are not complete: {told}")
        if isinstance(error, trouble.HTTPClientError):
            return CloudError(f"the AWS credentials could not be renewed: {told}")
        return AuthError(
            f"the AWS credentials could not be had: {told}; try `aws sts get-caller-identity{option}`"
        )


def _session(profile: str, environ: Mapping[str, str]) -> Session:
    """A botocore session that reads ``environ`` where it would read the process's environment."""
    session = Session(profile=profile or None)
    store = session.get_component("config_store")
    chains = ConfigChainFactory(session=session, environ=environ)
    for name, (keys, variables, default, convert) in session.session_var_map.items():
        store.set_config_provider(
            name,
            chains.create_config_chain(
                instance_name=name,
                env_var_names=variables,
                config_property_names=keys,
                default=default,
                conversion_func=convert,
            ),
        )
    providers = session.get_component("credential_provider").providers
    for index, provider in enumerate(providers):
        if isinstance(provider, EnvProvider):
            providers[index] = EnvProvider(environ=environ)
        elif isinstance(provider, ContainerProvider):
            providers[index] = ContainerProvider(environ=environ)
    if environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        providers[:] = [provider for provider in providers if provider.METHOD != "iam-role"]
    return session
