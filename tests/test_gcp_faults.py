"""What Compute Engine's errors mean, whatever form they come in."""

import google.auth.exceptions
import pytest
import requests

from hedgeserve.drivers.gcpcloud.bodies import (
    differs,
    firewall_bodies,
    gpus_of,
    machine_and_gpus,
    price_of,
    service_of,
)
from hedgeserve.drivers.gcpcloud.faults import GROUPS, GceFault, NoAnswerError, explain, fault_of, operation_fault
from hedgeserve.errors import (
    AuthError,
    CapacityError,
    CloudError,
    QuotaError,
    ThrottledError,
    UnsupportedError,
)


def answer(status: int, reason: str, message: str = "no", **info: str) -> GceFault:
    """An error as the API writes it; ``info`` is that of its ErrorInfo."""
    error: dict[str, object] = {
        "code": status,
        "message": message,
        "errors": [{"reason": reason, "domain": "global"}],
    }
    if info:
        error["details"] = [{"reason": info.pop("why"), "metadata": info}, {"locale": "en"}]
    return fault_of(status, {"error": error})


def test_no_code_stands_in_two_groups() -> None:
    codes = [code for group in GROUPS for code in group.codes]
    assert len(codes) == len(set(codes))
    assert all(group.source.startswith("https://") for group in GROUPS)


@pytest.mark.parametrize(
    ("fault", "error", "sentence"),
    [
        (answer(403, "quotaExceeded"), QuotaError, "Quotas"),
        (answer(403, "rateLimitExceeded"), ThrottledError, ""),
        (answer(403, "quotaExceeded", why="RATE_LIMIT_EXCEEDED"), ThrottledError, ""),
        (answer(429, "whatever"), ThrottledError, ""),
        (answer(401, "authError"), AuthError, "gcloud auth application-default login"),
        (answer(403, "accessNotConfigured", why="SERVICE_DISABLED"), AuthError, "gcloud services enable compute"),
        (answer(403, "forbidden", why="BILLING_DISABLED"), AuthError, "billing account"),
        (answer(403, "forbidden", why="ACCESS_TOKEN_SCOPE_INSUFFICIENT"), AuthError, "scope cloud-platform"),
        (answer(403, "new one"), AuthError, "new one"),
        (answer(412, "conditionNotMet", "Constraint violated"), UnsupportedError, 'vm.address = "private"'),
        (answer(400, "invalid"), UnsupportedError, ""),
        (answer(404, "notFound", "The resource 'projects/p/global/images/i' was not found"), UnsupportedError, ""),
        (answer(400, "resourceInUseByAnotherResource"), CloudError, "something still uses it"),
        (answer(503, "backendError"), NoAnswerError, ""),
        (answer(418, "new one"), CloudError, "new one"),
    ],
)
def test_answers(fault: GceFault, error: type[CloudError], sentence: str) -> None:
    told = explain(fault, "start a VM")
    assert type(told) is error
    assert str(told).startswith("could not start a VM: ")
    assert sentence in str(told)


@pytest.mark.parametrize(
    ("message", "info"),
    [
        ("Required 'compute.instances.create' permission for 'projects/p/zones/z/instances/i'", {}),
        ("Denied.", {"why": "IAM_PERMISSION_DENIED", "permission": "compute.instances.create"}),
    ],
)
def test_a_missing_permission_is_named(message: str, info: dict[str, str]) -> None:
    told = explain(answer(403, "forbidden", message, **info), "start a VM")
    assert isinstance(told, AuthError)
    assert "the credentials lack compute.instances.create; docs/clouds/gcp.md" in str(told)


def test_a_project_that_is_not_there_is_a_matter_of_credentials() -> None:
    told = explain(answer(404, "notFound", "The resource 'projects/typo' was not found"), "list the VMs")
    assert isinstance(told, AuthError)
    assert "no project typo" in str(told)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("ZONE_RESOURCE_POOL_EXHAUSTED", CapacityError),
        ("ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS", CapacityError),
        ("UNSUPPORTED_OPERATION", CapacityError),
        ("IP_SPACE_EXHAUSTED", CapacityError),
        ("QUOTA_EXCEEDED", QuotaError),
        ("CONDITION_NOT_MET", UnsupportedError),
        ("PERMISSIONS_ERROR", AuthError),
        ("INTERNAL_ERROR", NoAnswerError),
        ("NEW_ONE", CloudError),
    ],
)
def test_operations(code: str, error: type[CloudError]) -> None:
    operation = {"status": "DONE", "error": {"errors": [{"code": code, "message": "no"}]}}
    fault = operation_fault(operation)
    assert fault is not None
    assert type(explain(fault, "start a VM")) is error
    assert operation_fault({"status": "DONE"}) is None


def test_the_second_error_of_an_operation_counts_where_the_first_says_nothing() -> None:
    errors = [{"code": "NEW_ONE", "message": "a"}, {"code": "QUOTA_EXCEEDED", "message": "b"}]
    fault = operation_fault({"error": {"errors": errors}})
    assert fault is not None
    assert isinstance(explain(fault, "start a VM"), QuotaError)


@pytest.mark.parametrize(
    "body",
    [{"error": {"code": 409, "message": "x"}}, {"error": "invalid_grant"}, "<html>", None, [], {"error": {}}],
)
def test_an_answer_of_no_known_form_is_an_error_like_any_other(body: object) -> None:
    """Libcloud trips over a 409 without a list of errors."""
    assert type(explain(fault_of(409, body), "try")) is CloudError


def test_a_pause_that_google_asks_for_is_handed_on() -> None:
    told = explain(fault_of(429, {"error": {"message": "slow"}}, "7"), "try")
    assert isinstance(told, ThrottledError)
    assert told.retry_after_s == 7
    soon = explain(fault_of(429, {"error": {"message": "slow"}}, "Wed, 21 Oct 2026 07:28:00 GMT"), "try")
    assert isinstance(soon, ThrottledError)
    assert soon.retry_after_s == 0


@pytest.mark.parametrize(
    ("error", "kind", "sentence"),
    [
        (requests.exceptions.ReadTimeout(), NoAnswerError, "did not answer in time"),
        (requests.exceptions.ProxyError(), NoAnswerError, "HTTPS_PROXY"),
        (requests.exceptions.SSLError(), NoAnswerError, "certificate"),
        (requests.exceptions.ConnectionError(), NoAnswerError, "cannot be reached"),
        (google.auth.exceptions.TransportError("no route"), NoAnswerError, "no route"),  # type: ignore[no-untyped-call]
        (google.auth.exceptions.RefreshError("gone", {"secret": 1}), AuthError, "gone; log in"),  # type: ignore[no-untyped-call]
        (RuntimeError("odd"), CloudError, "RuntimeError: odd"),
        (CapacityError("full"), CapacityError, "full"),
    ],
)
def test_all_that_a_call_may_raise(error: Exception, kind: type[CloudError], sentence: str) -> None:
    told = explain(error, "try")
    assert type(told) is kind
    assert sentence in str(told)
    assert "secret" not in str(told)


# What is said to it


def test_two_rules_let_only_the_networks_in() -> None:
    allow, deny = firewall_bodies(
        "s", "projects/p/global/networks/n", ["203.0.113.7/32", "2001:db8::/32"], (22, 8000)
    )
    assert (allow["name"], deny["name"]) == ("hedgeserve-s", "deny-hedgeserve-s")
    assert allow["sourceRanges"] == ["203.0.113.7/32"]
    assert allow["allowed"] == [{"IPProtocol": "tcp", "ports": ["22", "8000"]}]
    assert allow["priority"] < deny["priority"] < 1000
    assert (service_of(allow["description"]), service_of("by hand")) == ("s", "")
    with pytest.raises(UnsupportedError, match="IPv4"):
        firewall_bodies("s", "n", ["2001:db8::/32"], (22,))


def test_order_and_hosts_make_no_difference_between_rules() -> None:
    (rule, _) = firewall_bodies(
        "s", "projects/p/global/networks/n", ["203.0.113.7/32", "192.0.2.0/24"], (22, 8000)
    )
    there = {
        **rule,
        "network": "https://www.googleapis.com/compute/v1/projects/p/global/networks/n",
        "sourceRanges": rule["sourceRanges"][::-1],
        "id": "1",
    }
    assert not differs(there, rule)
    assert differs({**there, "priority": 1000}, rule)
    assert differs({**there, "disabled": True}, rule)
    assert differs({**there, "network": "projects/p/global/networks/other"}, rule)


def test_types_and_their_gpus() -> None:
    assert machine_and_gpus("g2-standard-4", "z") == ("g2-standard-4", [])
    machine, (accelerator,) = machine_and_gpus("n1-standard-8+V100", "us-east1-c")
    assert (machine, accelerator["acceleratorCount"]) == ("n1-standard-8", 1)
    assert accelerator["acceleratorType"] == "zones/us-east1-c/acceleratorTypes/nvidia-tesla-v100"
    assert (gpus_of("a2-highgpu-4g"), gpus_of("new-type", [{"acceleratorCount": 2}])) == (4, 2)


def test_only_prices_in_dollars_count_and_of_those_the_latest() -> None:
    def record(start: str, units: str, nanos: int, currency: str = "USD") -> dict[str, object]:
        money = {"units": units, "nanos": nanos, "currencyCode": currency}
        return {"interval": {"startTime": start}, "listPrice": money}

    history = [
        record("2026-11-02T00:00:00Z", "0", 500_000_000),
        record("2026-11-03T00:00:00Z", "9", 0, "EUR"),
        record("2026-11-01T00:00:00Z", "1", 0),
    ]
    assert price_of({"priceHistory": history}) == 0.5
    assert price_of({}) is None
