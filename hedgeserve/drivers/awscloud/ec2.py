"""Libcloud's EC2 driver, mended where it falls short: all is POST, SigV4 and XML without namespaces.

Libcloud sends everything as GET (16 kB of user-data make a URL of 22 kB), signs with version 2 in ten regions,
refuses regions that are younger than itself, and fails on an error body with one element more than it knows.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

from libcloud.compute.drivers.ec2 import API_VERSION, EC2Connection, EC2NodeDriver, EC2Response

from hedgeserve._version import __version__

_TIMEOUT_S = (10.0, 60.0)
"""To connect, and between the bytes of an answer; RunInstances may take its time."""
_PAGE = 1000

Parameter = str | int | bool | Sequence["Parameter"] | Mapping[str, "Parameter"]
"""A parameter before it is flattened: lists become ``.1``, ``.2``; mappings become ``.Name``."""


class Action(StrEnum):
    """Every action that is asked of EC2; the IAM policy in docs/clouds/aws.md allows these."""

    AUTHORIZE_INGRESS = "AuthorizeSecurityGroupIngress"
    CANCEL_SPOT_REQUESTS = "CancelSpotInstanceRequests"
    CREATE_GROUP = "CreateSecurityGroup"
    DELETE_GROUP = "DeleteSecurityGroup"
    DELETE_INTERFACE = "DeleteNetworkInterface"
    DELETE_KEY = "DeleteKeyPair"
    DELETE_VOLUME = "DeleteVolume"
    GROUPS = "DescribeSecurityGroups"
    IMAGES = "DescribeImages"
    IMPORT_KEY = "ImportKeyPair"
    INSTANCES = "DescribeInstances"
    INTERFACES = "DescribeNetworkInterfaces"
    KEYS = "DescribeKeyPairs"
    PLACEMENT_SCORES = "GetSpotPlacementScores"
    REVOKE_INGRESS = "RevokeSecurityGroupIngress"
    RUN = "RunInstances"
    SPOT_PRICES = "DescribeSpotPriceHistory"
    SPOT_REQUESTS = "DescribeSpotInstanceRequests"
    SUBNETS = "DescribeSubnets"
    TERMINATE = "TerminateInstances"
    VOLUMES = "DescribeVolumes"
    ZONES = "DescribeAvailabilityZones"


class Look(StrEnum):
    """What only `hedgeserve doctor` asks besides; without the permission it says that it does not know."""

    OFFERINGS = "DescribeInstanceTypeOfferings"


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials as they are at a moment; they print as nothing."""

    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class Ec2Fault(Exception):
    """EC2 answered with an error; ``code`` is its own word for it."""

    service = "EC2"

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(f"{code}: {message}")


class Ec2Response(EC2Response):
    """An answer without namespaces, or the fault that it is."""

    def parse_body(self) -> ElementTree.Element:
        """The root element."""
        try:
            return _plain(self.body)
        except ElementTree.ParseError:
            raise Ec2Fault(self.status, "NotXml", "the answer is not XML") from None

    def parse_error(self) -> str:
        """Never returns.

        Raises:
            Ec2Fault: Always, whatever the body looks like.
        """
        code, message = f"Http{self.status}", ""
        try:
            error = _plain(self.body).find(".//Error")
        except ElementTree.ParseError:
            error = None
        if error is not None:
            code, message = error.findtext("Code") or code, error.findtext("Message") or ""
        raise Ec2Fault(self.status, code, message)


class Ec2Connection(EC2Connection):
    """Sends every request as a signed form."""

    responseCls = Ec2Response

    def request(self, action: str, params: Any = None, *args: Any, **options: Any) -> Any:
        """As Libcloud's, with the parameters in the body; asks once, whatever the environment says of retries."""
        form = {"Version": API_VERSION} | {name: _word(value) for name, value in (params or {}).items()}
        return super().request(  # type: ignore[no-untyped-call]
            action,
            data=urlencode(sorted(form.items())),
            headers={"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
            method="POST",
            retry_failed=False,
        )


class Ec2(EC2NodeDriver):
    """EC2 in one region with one set of keys. Not for two threads at a time."""

    connectionCls = Ec2Connection

    def __init__(self, keys: Keys, region: str, endpoint: str) -> None:
        place = urlsplit(endpoint)
        self.region_name = region
        self.token = keys.token
        self.signature_version = "4"
        # Past the constructor of EC2NodeDriver, which knows only the regions of its day.
        super(EC2NodeDriver, self).__init__(  # type: ignore[no-untyped-call]
            key=keys.access_key,
            secret=keys.secret_key,
            secure=place.scheme == "https",
            host=f"[{place.hostname}]" if ":" in (place.hostname or "") else place.hostname,
            port=place.port,
            timeout=_TIMEOUT_S,
        )
        self.connection.request_path = place.path
        self.connection.user_agent_append(f"hedgeserve/{__version__}")  # type: ignore[no-untyped-call]

    def ask(self, action: Action | Look, **parameters: Parameter) -> ElementTree.Element:
        """The answer's root element.

        Raises:
            Ec2Fault: EC2 says no.
            requests.RequestException: EC2 says nothing.
        """
        params = {"Action": action.value} | flatten(parameters)
        answer: Ec2Response = self.connection.request(self.path, params=params)  # type: ignore[no-untyped-call]
        root: ElementTree.Element = answer.object  # type: ignore[assignment]
        return root

    def each(self, action: Action | Look, items: str, **parameters: Parameter) -> Iterator[ElementTree.Element]:
        """All elements at the path ``items`` of an answer that may come in pages."""
        while True:
            root = self.ask(action, **parameters)
            yield from root.iterfind(items)
            token = root.findtext("nextToken")
            if not token:
                return
            parameters["NextToken"] = token

    def instances(self, filters: Mapping[str, Sequence[str]]) -> Iterator[ElementTree.Element]:
        """The instances that fit."""
        items = "reservationSet/item/instancesSet/item"
        return self.each(Action.INSTANCES, items, Filter=filtered(filters), MaxResults=_PAGE)


def filtered(filters: Mapping[str, Sequence[str]]) -> Parameter:
    """The value of a ``Filter`` parameter: all names must fit, with one of their values each."""
    return [{"Name": name, "Value": list(values)} for name, values in filters.items()]


def tagged(kind: str, tags: Mapping[str, str]) -> Parameter:
    """One element of a ``TagSpecification`` parameter: tags that a thing has from its first moment."""
    return {"ResourceType": kind, "Tag": [{"Key": key, "Value": value} for key, value in tags.items()]}


def tags_of(thing: ElementTree.Element) -> dict[str, str]:
    """The tags of an element that has a ``tagSet``."""
    return {tag.findtext("key", ""): tag.findtext("value", "") for tag in thing.iterfind("tagSet/item")}


def flatten(parameters: Mapping[str, Parameter], prefix: str = "") -> dict[str, str]:
    """Nested parameters in the form of EC2's query protocol."""
    flat: dict[str, str] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat |= flatten({str(index): item for index, item in enumerate(value, 1)}, f"{prefix}{name}.")
        else:
            flat[prefix + name] = _word(value)
    return flat


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(body: str | None) -> ElementTree.Element:
    return ElementTree.fromstring(re.sub(r'\sxmlns="[^"]*"', "", body or ""))
