"""Compute Engine's errors in our vocabulary, and every way in which a call may fail as a sentence. Pure.

An error comes as an HTTP status with *reasons* (``rateLimitExceeded``), or some seconds after a request was
accepted, in its operation, with a *code* (``ZONE_RESOURCE_POOL_EXHAUSTED``). What stands in no group goes by its
HTTP status.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import requests
from google.auth import exceptions as google_errors

from hedgeserve.drivers.codes import Group, NoAnswerError
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)

_CREATION = "https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-vm-creation"
_AVAILABILITY = "https://cloud.google.com/compute/docs/troubleshooting/troubleshooting-resource-availability"
_API = "https://cloud.google.com/compute/docs/reference/rest/v1/errors"
_RATES = "https://cloud.google.com/compute/api-quota"
_AUTH = "https://cloud.google.com/docs/authentication/troubleshoot-adc"
_SKYPILOT = "https://github.com/skypilot-org/skypilot, sky/backends/cloud_vm_ray_backend.py, _gcp_handler"
_AUTOSCALER = "https://github.com/kubernetes/autoscaler, cloudprovider/gce/autoscaling_gce_client.go"

LOGIN_HINT = "log in with `gcloud auth application-default login`, or name a key file in gcp.credentials_file"
_ROLE_HINT = "docs/clouds/gcp.md has a role with all that is needed"


class GceFault(Exception):
    """What Compute Engine has against a request: ``codes`` from the most telling to the most general."""

    def __init__(
        self,
        status: int,
        codes: Sequence[str],
        message: str,
        *,
        permission: str = "",
        retry_after_s: float = 0.0,
    ) -> None:
        self.status = status
        self.codes = tuple(codes)
        self.message = message
        self.permission = permission
        self.retry_after_s = retry_after_s
        super().__init__(f"{self.codes[0] if self.codes else status}: {message}")


GROUPS = (
    Group(
        CapacityError,
        frozenset(
            {
                "ZONE_RESOURCE_POOL_EXHAUSTED",
                "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
                "REGION_RESOURCE_POOL_EXHAUSTED",
                "RESOURCE_POOL_EXHAUSTED",
                "STOCKOUT",
                "resource_availability",
            }
        ),
        _AVAILABILITY,
    ),
    # A VM that is preempted while it is being created ends its operation with one of these.
    Group(
        CapacityError,
        frozenset({"insufficientCapacity", "UNSUPPORTED_OPERATION", "RESOURCE_NOT_FOUND"}),
        _SKYPILOT,
    ),
    Group(
        CapacityError,
        frozenset({"IP_SPACE_EXHAUSTED", "IP_SPACE_EXHAUSTED_WITH_DETAILS"}),
        _AUTOSCALER,
        "the subnetwork has no free address; name a larger one in gcp.subnetworks",
    ),
    Group(
        ThrottledError,
        frozenset(
            {
                "rateLimitExceeded",
                "userRateLimitExceeded",
                "RATE_LIMIT_EXCEEDED",
                "RESOURCE_OPERATION_RATE_EXCEEDED",
                "CONCURRENT_OPERATIONS_QUOTA_EXCEEDED",
            }
        ),
        _RATES,
    ),
    Group(
        QuotaError,
        frozenset({"QUOTA_EXCEEDED", "quotaExceeded", "limitExceeded"}),
        _CREATION,
        "ask for more under IAM & Admin, Quotas, in the Google Cloud console",
    ),
    Group(
        AuthError,
        frozenset({"SERVICE_DISABLED", "accessNotConfigured"}),
        _AUTH,
        "enable it with `gcloud services enable compute.googleapis.com`",
    ),
    Group(
        AuthError,
        frozenset({"BILLING_DISABLED", "UREQ_PROJECT_BILLING_NOT_FOUND", "UREQ_PROJECT_BILLING_NOT_OPEN"}),
        _AUTH,
        "link a billing account to the project",
    ),
    Group(
        AuthError,
        frozenset({"ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficientPermissions"}),
        _AUTH,
        "the credentials lack the scope cloud-platform: give it to the machine's service account, or log in again",
    ),
    Group(
        AuthError,
        frozenset({"ACCESS_TOKEN_EXPIRED", "CREDENTIALS_MISSING", "UNAUTHENTICATED", "authError"}),
        _AUTH,
        LOGIN_HINT,
    ),
    Group(AuthError, frozenset({"IAM_PERMISSION_DENIED", "forbidden", "PERMISSIONS_ERROR"}), _API, _ROLE_HINT),
    Group(
        CloudError,
        frozenset({"resourceNotReady", "RESOURCE_NOT_READY"}),
        _API,
        "it is still being made or taken away; try again in a moment",
    ),
    Group(
        CloudError,
        frozenset(
            {
                "resourceInUseByAnotherResource",
                "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE",
                "resourceInUse",
                "RESOURCE_IN_USE",
            }
        ),
        _API,
        "something still uses it; try again when the VMs are gone",
    ),
    Group(CloudError, frozenset({"alreadyExists", "RESOURCE_ALREADY_EXISTS", "ALREADY_EXISTS"}), _API),
    Group(
        UnsupportedError,
        frozenset({"conditionNotMet", "CONDITION_NOT_MET", "VM_EXTERNAL_IP_ACCESS_POLICY_CONSTRAINT"}),
        _AUTOSCALER,
        'a policy of the organisation forbids it; vm.address = "private" does without public addresses',
    ),
    Group(
        UnsupportedError,
        frozenset(
            {
                "INVALID_FIELD_VALUE",
                "INVALID_USAGE",
                "INVALID_ARGUMENT",
                "UNSUPPORTED",
                "badRequest",
                "invalid",
                "invalidParameter",
                "notFound",
                "NOT_FOUND",
            }
        ),
        _CREATION,
    ),
    Group(NoAnswerError, frozenset({"backendError", "internalError", "INTERNAL_ERROR", "UNAVAILABLE"}), _API),
)
"""What a code means to whoever plans launches."""

_GROUP_OF: Mapping[str, Group] = {code: group for group in GROUPS for code in group.codes}
_NEEDED = re.compile(r"'([a-z]+\.[A-Za-z.]+)' permission")
_PROJECT_ONLY = re.compile(r"'projects/([^/']+)'")
_AT_MOST = 400


def fault_of(status: int, body: object, retry_after: str = "") -> GceFault:
    """What an answer of this status says, whether its body is the API's JSON or anything else."""
    told = body.get("error") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        # A proxy's page, or the token endpoint's {"error": "invalid_grant"}.
        return GceFault(status, (told,) if isinstance(told, str) else (), str(body)[:_AT_MOST].strip())
    details = [one for one in _dicts(told.get("details")) if one.get("reason")]
    codes = [str(one["reason"]) for one in details]
    codes += [str(one["reason"]) for one in _dicts(told.get("errors")) if one.get("reason")]
    if isinstance(told.get("status"), str):
        codes.append(told["status"])
    message = str(told.get("message") or "")
    permission = next((str(one["metadata"]["permission"]) for one in details if _names_permission(one)), "")
    if not permission and (needed := _NEEDED.search(message)):
        permission = needed[1]
    seconds = float(retry_after) if re.fullmatch(r"\d{1,6}(\.\d+)?", retry_after) else 0.0
    return GceFault(status, codes, message, permission=permission, retry_after_s=seconds)


def operation_fault(operation: Mapping[str, Any]) -> GceFault | None:
    """What a finished operation failed of; None where it did not."""
    errors = _dicts((operation.get("error") or {}).get("errors"))
    if not errors:
        return None
    codes = tuple(str(one["code"]) for one in errors if one.get("code"))
    message = "; ".join(str(one["message"]) for one in errors if one.get("message"))
    needed = _NEEDED.search(message)
    status = int(operation.get("httpErrorStatusCode") or 400)
    return GceFault(status, codes, message, permission=needed[1] if needed else "")


def explain(error: Exception, what: str) -> CloudError:
    """The failure of ``what`` ("start a VM") as the error that the rest of HedgeServe knows."""
    if isinstance(error, CloudError):
        return error
    if isinstance(error, GceFault):
        return _explain_fault(error, what)
    if isinstance(error, google_errors.TransportError):
        return NoAnswerError(f"could not {what}: no token could be had: {_short(error)}")
    if isinstance(error, google_errors.GoogleAuthError):
        return AuthError(f"could not {what}: no token could be had: {_short(error)}; {LOGIN_HINT}")
    if isinstance(error, requests.RequestException):
        return NoAnswerError(f"could not {what}: {_explain_silence(error)}")
    return CloudError(f"could not {what}: {type(error).__name__}: {_short(error)}")


def _explain_fault(fault: GceFault, what: str) -> CloudError:
    group = next((_GROUP_OF[code] for code in fault.codes if code in _GROUP_OF), None)
    code = next((code for code in fault.codes if code in _GROUP_OF), fault.codes[0] if fault.codes else "")
    message = " ".join(fault.message.split())[:_AT_MOST].rstrip(".")
    error = group.error if group is not None else _by_status(fault.status)
    project = _PROJECT_ONLY.search(message)
    if fault.status == 404 and project:
        return AuthError(
            f"could not {what}: there is no project {project[1]}, or the credentials may not see it; "
            "check gcp.project and the account that is logged in"
        )
    if error is AuthError and fault.permission:
        return AuthError(
            f"could not {what}: Google says that the credentials lack {fault.permission}; {_ROLE_HINT}"
        )
    said = f"Compute Engine says {code or fault.status}" + (f": {message}" if message else "")
    hint = f"; {group.hint}" if group is not None and group.hint else ""
    if error is ThrottledError:
        return ThrottledError(f"could not {what}: {said}{hint}", retry_after_s=fault.retry_after_s)
    return error(f"could not {what}: {said}{hint}")


def _by_status(status: int) -> type[CloudError]:
    if status in (401, 403):
        return AuthError
    if status == 429:
        return ThrottledError
    return NoAnswerError if status >= 500 else CloudError


def _explain_silence(error: requests.RequestException) -> str:
    # Only the host: the rest of a request is nobody's business.
    url = getattr(error.request, "url", None) or ""
    found = re.match(r"https?://([^/?]+)", url)
    host = found[1] if found else "Compute Engine"
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy on the way to {host} does not work; look at HTTPS_PROXY"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} cannot be verified; is there a proxy in the way?"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{host} did not answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return f"{host} cannot be reached, or has broken the connection off; look at the network and DNS"
    return f"{host} answered nothing that can be understood ({type(error).__name__})"


def _short(error: Exception) -> str:
    # Google's errors carry the whole answer as a second argument; the first is the sentence.
    said = str(error.args[0]) if error.args else type(error).__name__
    return " ".join(said.split())[:_AT_MOST].rstrip(".")


def _dicts(value: object) -> Sequence[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else ()


def _names_permission(detail: Mapping[str, Any]) -> bool:
    metadata = detail.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("permission"))
