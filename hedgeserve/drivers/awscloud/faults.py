"""EC2's error codes in our vocabulary, and every way in which a call may fail as a sentence. Pure.

Codes that stand in no group are a plain CloudError with EC2's own message.
"""

import re
from collections.abc import Mapping
from typing import Any

import requests
from botocore import exceptions as trouble  # type: ignore[import-untyped]

from hedgeserve.drivers.awscloud.ec2 import Ec2Fault
from hedgeserve.drivers.codes import Group, NoAnswerError
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    PriceError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)

_API = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html"
_COMMON = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonErrors.html"
_LAUNCH = "https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html"
_THROTTLING = "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html"
_FIS = "https://docs.aws.amazon.com/fis/latest/APIReference/API_StartExperiment.html"


GROUPS = (
    Group(
        CapacityError,
        # The first comes with HTTP status 500, as if it were a breakdown; to repeat it in place is of no use.
        frozenset(
            {
                "InsufficientInstanceCapacity",
                "InsufficientHostCapacity",
                "InsufficientReservedInstanceCapacity",
                "InsufficientCapacity",
                "InsufficientCapacityOnHost",
                "InsufficientVolumeCapacity",
                "UnfulfillableCapacity",
            }
        ),
        _LAUNCH,
    ),
    Group(
        CapacityError,
        frozenset({"InsufficientFreeAddressesInSubnet", "InsufficientAddressCapacity"}),
        _API,
        "the subnet has no free address; name a larger one in [aws] subnets",
    ),
    Group(
        QuotaError,
        frozenset({"VcpuLimitExceeded", "InstanceLimitExceeded"}),
        _LAUNCH,
        "ask for more in Service Quotas, Amazon EC2, such as 'Running On-Demand G and VT instances'",
    ),
    Group(
        QuotaError,
        frozenset({"MaxSpotInstanceCountExceeded", "SpotInstanceCountExceeded"}),
        _API,
        "ask for more in Service Quotas, Amazon EC2, such as 'All G and VT Spot Instance Requests'",
    ),
    Group(
        QuotaError,
        frozenset(
            {
                "AddressLimitExceeded",
                "MaxIOPSLimitExceeded",
                "NetworkInterfaceLimitExceeded",
                "PrivateIpAddressLimitExceeded",
                "ResourceLimitExceeded",
                "RulesPerSecurityGroupLimitExceeded",
                "SecurityGroupLimitExceeded",
                "SecurityGroupsPerInterfaceLimitExceeded",
                "SecurityGroupsPerInstanceLimitExceeded",
                "TagLimitExceeded",
                "VolumeLimitExceeded",
            }
        ),
        _API,
        "ask for more in Service Quotas, or remove what is not needed",
    ),
    Group(
        PriceError, frozenset({"SpotMaxPriceTooLow"}), _API, "the spot price is above the pool's max_usd_per_hour"
    ),
    Group(
        UnsupportedError,
        frozenset({"Unsupported", "UnsupportedOperation", "InvalidInstanceType", "UnsupportedInstanceAttribute"}),
        _LAUNCH,
    ),
    Group(
        UnsupportedError,
        frozenset(
            {
                "InvalidAMIID.Malformed",
                "InvalidAMIID.NotFound",
                "InvalidAMIID.Unavailable",
                "InvalidSubnetID.NotFound",
                "InvalidSubnet",
                "InvalidBlockDeviceMapping",
            }
        ),
        _API,
        "look at images and subnets in [aws], and at vm.disk",
    ),
    Group(
        ThrottledError,
        frozenset(
            {
                "BandwidthLimitExceeded",
                "EC2ThrottledException",
                "RequestLimitExceeded",
                "RequestThrottled",
                "RequestThrottledException",
                "Throttling",
                "ThrottlingException",
                "TooManyRequestsException",
                "SlowDown",
            }
        ),
        _THROTTLING,
    ),
    Group(
        AuthError,
        frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}),
        _COMMON,
        "add it to their IAM policy; docs/clouds/aws.md has one with all that is needed",
    ),
    Group(
        AuthError,
        frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"}),
        _COMMON,
        "log in again, such as with `aws sso login`, and see that this machine's clock is right",
    ),
    Group(
        AuthError,
        frozenset(
            {
                "AuthFailure",
                "IncompleteSignature",
                "InvalidAccessKeyId",
                "InvalidClientTokenId",
                "MissingAuthenticationToken",
                "NotAuthorized",
                "SignatureDoesNotMatch",
                "UnrecognizedClientException",
            }
        ),
        _COMMON,
        "check the access key, this machine's clock, and that the account has this region enabled",
    ),
    Group(
        AuthError,
        frozenset({"Blocked", "OptInRequired", "PendingVerification", "AccountDisabled"}),
        _API,
        "sign in to the AWS console and finish what the account or the image's subscription still needs",
    ),
    Group(
        CloudError,
        frozenset({"DependencyViolation", "VolumeInUse", "InvalidNetworkInterface.InUse", "IncorrectState"}),
        _API,
        "something still refers to it; try again when the VMs are gone",
    ),
    Group(
        CloudError,
        frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"}),
        "https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html",
        "a VM was asked for with this token before; it is found by its name",
    ),
    Group(
        CloudError,
        # Not QuotaError: that one rests pools, and nothing was to be launched.
        frozenset({"ServiceQuotaExceededException"}),
        _FIS,
        "wait until other experiments have ended, or ask for more in Service Quotas, AWS Fault Injection Service",
    ),
    Group(
        NoAnswerError,
        frozenset({"InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"}),
        _COMMON,
    ),
)
"""What a code means to whoever plans launches."""

GONE = re.compile(r"Invalid\w+\.NotFound")
"""Codes of things that are not there, or are not known yet."""

_GROUP_OF: Mapping[str, Group] = {code: group for group in GROUPS for code in group.codes}
_LACKING = re.compile(r"not authorized to perform: (\w+:\w+)")
_ENCODED = re.compile(r"\s*Encoded authorization failure message:.*", re.DOTALL)
_NEVER_HERE = re.compile(r"instance ?type|availability ?zone", re.IGNORECASE)
_AT_MOST = 400


def explain(error: Exception, what: str) -> CloudError:
    """The failure of ``what`` ("start a VM") as the error that the rest of HedgeServe knows."""
    if isinstance(error, CloudError):
        return error
    if isinstance(error, Ec2Fault):
        return _explain_fault(error, what)
    if isinstance(error, trouble.HTTPClientError | trouble.ConnectionError):  # botocore's; names the URL, no more
        return NoAnswerError(
            f"could not {what}: {str(error)[:_AT_MOST].rstrip('.')}; look at the network, DNS and proxies"
        )
    if isinstance(error, requests.RequestException):
        return NoAnswerError(f"could not {what}: {_explain_silence(error)}")
    return CloudError(f"could not {what}: {type(error).__name__}: {str(error)[:_AT_MOST]}")


def _explain_fault(fault: Ec2Fault, what: str) -> CloudError:
    message = _ENCODED.sub("", fault.message).strip()[:_AT_MOST].rstrip(".")
    group = _GROUP_OF.get(fault.code)
    if fault.code in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
        lacking = _LACKING.search(message)
        right = lacking[1] if lacking else "a permission"
        hint = _GROUP_OF[fault.code].hint
        return AuthError(f"could not {what}: AWS says that the credentials lack {right}; {hint}")
    if fault.code == "NotXml":
        return NoAnswerError(f"could not {what}: EC2's answer is not XML; is there a proxy in the way?")
    error: type[CloudError] = CloudError
    if group is not None:
        error = group.error
    elif fault.code == "InvalidParameterValue" and _NEVER_HERE.search(message):
        error = UnsupportedError  # how EC2 calls an instance type or a zone that does not exist
    elif fault.status in (429, 503):
        error = ThrottledError
    elif fault.status >= 500:
        error = NoAnswerError
    hint = f"; {group.hint}" if group is not None and group.hint else ""
    return error(
        f"could not {what}: {fault.service} says {fault.code}" + (f": {message}" if message else "") + hint
    )


def _explain_silence(error: requests.RequestException) -> str:
    host = _host(error)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy on the way to {host} does not work; look at HTTPS_PROXY"
    if isinstance(error, requests.exceptions.SSLError):
        return f"the certificate of {host} cannot be verified; is there a proxy in the way?"
    if isinstance(error, requests.exceptions.Timeout):
        return f"{host} did not answer in time"
    if isinstance(error, requests.exceptions.ConnectionError):
        return f"{host} cannot be reached, or has broken the connection off; look at the network and DNS"
    return f"{host} answered nothing that can be understood ({type(error).__name__})"


def _host(error: requests.RequestException) -> str:
    # Only the host: the rest of a request is nobody's business.
    url: Any = getattr(error.request, "url", None)
    found = re.match(r"https?://([^/?]+)", url or "")
    return found[1] if found else "EC2"
