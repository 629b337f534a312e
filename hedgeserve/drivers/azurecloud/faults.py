"""What Azure's error codes mean to us; one table, with where each row is from.

Sources, all of learn.microsoft.com unless a row says otherwise: [spot] virtual-machines/error-codes-spot;
[alloc] troubleshoot/azure/virtual-machines/windows/allocation-failure; [vm] troubleshoot/azure/virtual-machines/
windows/error-messages; [arm] azure-resource-manager/troubleshooting/common-deployment-errors; [limit] azure-
resource-manager/management/request-limits-and-throttling; [net] virtual-network/ troubleshooting pages;
[seen] reported by users in public issue trackers, not documented.
"""

import json
import re
from collections.abc import Mapping, Sequence

import requests
from libcloud.common.types import LibcloudError

from hedgeserve.drivers.azurecloud.arm import ArmFault
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    PriceError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)

Row = tuple[type[CloudError], str]
"""The class, and what to do about it."""

_ROLE = "give the login a role that may (the smallest one is in docs/clouds/azure.md)"
_SUBSCRIPTION = "look at azure.subscription and AZURE_SUBSCRIPTION_ID; `az account list` shows what the login sees"
_IMAGE = "look at azure.image; `az vm image list --all --publisher ...` shows what a region has"
_TERMS = "accept its terms with `az vm image terms accept --urn ...`, or use an image that has none"
_QUOTA = "ask for more in the portal, under Quotas"
_SIZE = "take another size or zone; `az vm list-skus --location ... --size ...` shows what may be had where"

CODES: Mapping[str, Row] = {
    # There is none now.
    "SkuNotAvailable": (CapacityError, ""),  # [spot] [arm]
    "AllocationFailed": (CapacityError, ""),  # [alloc]
    "ZonalAllocationFailed": (CapacityError, ""),  # [alloc]
    "OverconstrainedAllocationRequest": (CapacityError, ""),  # [alloc]
    "OverconstrainedZonalAllocationRequest": (CapacityError, ""),  # [alloc]
    "AllocationTimeout": (CapacityError, ""),  # [seen]
    "InsufficientCapacity": (CapacityError, ""),  # [seen]
    # Taken back while it was still being made: to who waits for a VM the same news.
    "OperationPreempted": (CapacityError, ""),  # [vm]
    # The account may not have more.
    "QuotaExceeded": (QuotaError, _QUOTA),  # [arm]
    "ResourceQuotaExceeded": (QuotaError, _QUOTA),  # [arm]
    "PublicIPCountLimitReached": (QuotaError, f"the quota is that of public IP addresses: {_QUOTA}"),  # [net]
    "PublicIpCountLimitReached": (QuotaError, f"the quota is that of public IP addresses: {_QUOTA}"),  # [net]
    # The price.
    "SpotPriceGreaterThanProvidedMaxPrice": (PriceError, "raise max_usd_per_hour of the pool, or wait"),  # [spot]
    # Never here, or never so.
    "MaxPriceValueInvalid": (UnsupportedError, "look at max_usd_per_hour of the pool"),  # [spot]
    "AzureSpotFeatureNotEnabledForSubscription": (
        UnsupportedError,
        'this kind of subscription has no spot VMs; write markets = ["on_demand"]',
    ),  # [spot]
    "AzureSpotIsNotSupportedForThisVMSize": (UnsupportedError, _SIZE),  # [spot]
    "NotAvailableForSubscription": (UnsupportedError, _SIZE),  # [arm]
    "InvalidAvailabilityZone": (UnsupportedError, 'write another zone, or "none"'),  # [arm]
    "AvailabilityZoneNotSupported": (UnsupportedError, 'write the zone as "none"'),  # [seen]
    "ZonesNotAllowed": (UnsupportedError, 'write the zone as "none"'),  # [seen]
    "LocationNotAvailableForResourceType": (UnsupportedError, "look at the regions of the pool"),  # [arm]
    "NoRegisteredProviderFound": (UnsupportedError, "look at the regions of the pool"),  # [arm]
    "InvalidLocation": (UnsupportedError, "look at the regions of the pool"),  # [arm]
    "RequestDisallowedByPolicy": (UnsupportedError, "a policy of your organisation forbids it"),  # [arm]
    "RequestDisallowedByAzure": (UnsupportedError, "choose another region"),  # [arm]
    "VMSizeDoesntSupportPremiumStorage": (UnsupportedError, "take a size with premium storage"),  # [vm]
    "PlatformImageNotFound": (UnsupportedError, _IMAGE),  # [vm]
    "ImageNotFound": (UnsupportedError, _IMAGE),  # [vm]
    "GalleryImageNotFound": (UnsupportedError, _IMAGE),  # [vm]
    "ImageVersionDeprecated": (UnsupportedError, _IMAGE),  # [vm]
    "VMMarketplaceInvalidInput": (
        UnsupportedError,
        "the image needs a purchase plan: use one that has none",
    ),  # [vm]
    "MarketplacePurchaseEligibilityFailed": (UnsupportedError, _TERMS),  # [arm]
    "ResourcePurchaseValidationFailed": (UnsupportedError, _TERMS),  # [arm]
    "ResourcePurchaseCanceled": (UnsupportedError, _TERMS),  # [arm]
    # Who we are and what we may.
    "AuthorizationFailed": (AuthError, _ROLE),  # [arm]
    "LinkedAuthorizationFailed": (AuthError, _ROLE),  # [arm]
    "AuthenticationFailed": (AuthError, "run `az login` again"),  # [arm]
    "ExpiredAuthenticationToken": (AuthError, "run `az login` again; this machine's clock may be wrong"),  # [arm]
    "InvalidAuthenticationToken": (AuthError, "run `az login` again"),  # [arm]
    "InvalidAuthenticationTokenTenant": (
        AuthError,
        "log in to the subscription's tenant: `az login --tenant ...`",
    ),
    "SubscriptionNotFound": (AuthError, _SUBSCRIPTION),  # [arm]
    "InvalidSubscriptionId": (AuthError, _SUBSCRIPTION),  # [arm]
    "SubscriptionNotRegistered": (AuthError, _SUBSCRIPTION),  # [arm]
    "DisabledSubscription": (AuthError, "the subscription is disabled; see its billing"),  # [arm]
    "ReadOnlyDisabledSubscription": (AuthError, "the subscription is disabled; see its billing"),  # [arm]
    "ScopeLocked": (AuthError, "somebody has put a lock on it; `az lock list` shows it"),  # [arm]
    # Fewer calls, or later.
    "TooManyRequests": (ThrottledError, ""),  # [limit]
    "OperationNotAllowedTooManyRequests": (ThrottledError, ""),  # [seen]
    "SubscriptionRequestsThrottled": (ThrottledError, ""),  # [limit]
    "RetryableError": (ThrottledError, ""),  # [net]
    "RetryableErrorDueToAnotherOperation": (ThrottledError, ""),  # [net]
    "AnotherOperationInProgress": (ThrottledError, ""),  # [net]
    "ServerBusy": (ThrottledError, ""),  # [arm]
    "ServerTimeout": (ThrottledError, ""),  # [arm]
    "ServiceUnavailable": (ThrottledError, ""),  # [arm]
}

_PHRASES: Sequence[tuple[str, type[CloudError], str]] = (
    # OperationNotAllowed and Conflict have many meanings. [arm] error-resource-quota; [spot]
    (r"exceeding approved .*quota|quota.*exceeded|exceeds? .*quota", QuotaError, _QUOTA),
    (r"max price.*lower than the current spot price", PriceError, "raise max_usd_per_hour of the pool, or wait"),
    # InvalidParameter and BadRequest too. [vm]; troubleshoot/azure/virtual-machines/ "gen1 gen2"
    (
        r"hypervisor generation",
        UnsupportedError,
        "size and image are of different generations: most GPU sizes need an image of generation 2",
    ),
    (r"size .*(is not valid|not supported|invalid)|invalid .*vmsize", UnsupportedError, _SIZE),
    (r"does not support azure spot|spot.* not supported", UnsupportedError, _SIZE),
    (r"legal terms|terms of use|marketplace", UnsupportedError, _TERMS),
)


def explain(error: Exception, what: str) -> CloudError:
    """Whatever the library raised while doing ``what`` ("list the VMs"), in our vocabulary and as a sentence."""
    if isinstance(error, ArmFault):
        return _explain_fault(error, what)
    if isinstance(error, requests.exceptions.Timeout):
        return CloudError(f"Azure could not {what}: it did not answer in time")
    if isinstance(error, requests.exceptions.RequestException):
        return CloudError(f"Azure could not {what}: it cannot be reached ({type(error).__name__})")
    if isinstance(error, LibcloudError | json.JSONDecodeError):
        return CloudError(f"Azure could not {what}: its answer could not be read ({type(error).__name__})")
    return CloudError(f"Azure could not {what}: {type(error).__name__}: {_short(str(error))}")


def _explain_fault(fault: ArmFault, what: str) -> CloudError:
    kind, advice = _row(fault)
    said = f"Azure could not {what}: {fault.code}"
    if kind is AuthError and (missing := _missing_permission(fault.message)):
        return AuthError(f"{said}: the login may not do {missing}; {advice}")
    if fault.code == "MissingSubscriptionRegistration":
        found = re.search(r"namespace '([^']+)'", fault.message)
        name = found[1] if found else "Microsoft.Compute"
        return AuthError(
            f"{said}: the subscription has not registered {name}; "
            f"run `az provider register --namespace {name}` once"
        )
    if kind is QuotaError:
        advice = f"{_quota_name(fault.message)}{advice}"
    sentence = f"{said}: {_short(fault.message)}" if fault.message else said
    sentence += f"; {advice}" if advice else ""
    if kind is ThrottledError:
        return ThrottledError(sentence, retry_after_s=fault.retry_after_s)
    return kind(sentence)


def _row(fault: ArmFault) -> Row:
    # A code that always means the same first; then the texts of those that do not; then the status.
    if (row := CODES.get(fault.code)) is not None:
        return row
    for pattern, kind, advice in _PHRASES:
        if re.search(pattern, fault.message, re.IGNORECASE | re.DOTALL):
            return kind, advice
    if fault.status == 429 or fault.status >= 500:
        return ThrottledError, ""
    if fault.status == 401:
        return AuthError, "run `az login` again"
    if fault.status == 403:
        return AuthError, _ROLE
    return CloudError, ""


def _missing_permission(message: str) -> str:
    """``'action' on 'scope'``, as the text of AuthorizationFailed or LinkedAuthorizationFailed names them."""
    actions = re.findall(r"perform action(?:\(s\))? '([^']+)'", message)
    scopes = re.findall(r"(?:over|on) (?:the linked )?scope(?:\(s\))? '([^']+)'", message)
    if not actions or not scopes:
        return ""
    return f"'{actions[-1]}' on '{scopes[-1]}'"  # the last ones: of a linked scope, what is missing comes last


def _quota_name(message: str) -> str:
    """Which quota it is, in the words of the portal; spot VMs have one of their own."""
    found = re.search(r"exceeding approved (.*?) quota", message, re.IGNORECASE | re.DOTALL)
    if found is None:
        return ""
    name = found[1].strip()
    if "lowpriority" in name.lower().replace(" ", ""):
        return f"the quota {name} is that of all spot vCPUs of the region (LowPriorityCores): "
    return f"the quota is {name}: "


def _short(message: str) -> str:
    line = " ".join(message.split())
    return (line if len(line) <= 300 else line[:297] + "...").rstrip(".")
