"""Checks requests to Azure Resource Manager against azure-mgmt-compute's and azure-mgmt-network's descriptions.

Paths, methods, query parameters and API versions are read from the packages' request builders, bodies from their
TypedDicts, enums and read-only marks, all as text: importing the packages would take seconds. What they do not
describe (resource groups, operations, the conditions between fields, the retail prices) is written down below,
with its source. The packages describe their newest version, ours is an older one: a property that is younger than
that passes unseen.
"""

import ast
import base64
import binascii
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

_PACKAGES = {"microsoft.compute": "azure.mgmt.compute", "microsoft.network": "azure.mgmt.network"}
_BODIES = {
    "microsoft.compute/virtualmachines": "VirtualMachine",
    "microsoft.network/networksecuritygroups": "NetworkSecurityGroup",
    "microsoft.network/virtualnetworks": "VirtualNetwork",
    "microsoft.network/publicipaddresses": "PublicIPAddress",
    "microsoft.network/networkinterfaces": "NetworkInterface",
}
_OPEN_ENUMS = {"VirtualMachineSizeTypes"}
"""The generated list of sizes ends years ago; the API takes any string."""
_OTHER_VERSIONS = {
    # azure-rest-api-specs, specification/compute/resource-manager/Microsoft.Compute/DiskRP/stable
    "disks": {"2023-10-02", "2024-03-02", "2025-01-02"},
    # azure-rest-api-specs, specification/resources/resource-manager/Microsoft.Resources/stable
    "resources": {"2021-04-01", "2022-09-01", "2023-07-01", "2024-03-01", "2024-07-01"},
}
_GUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_PARSING = threading.Lock()


@dataclass(frozen=True, slots=True)
class ArmRequest:
    """A request as it left the driver; header names in small letters."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    query: frozenset[str]
    versions: frozenset[str]
    body: tuple[str, str] | None = None


def violations(request: ArmRequest) -> list[str]:
    """What is wrong with a request; empty where nothing is."""
    route = next(
        (route for route in _routes() if route.method == request.method and route.pattern.fullmatch(request.path)),
        None,
    )
    if route is None:
        return [f"no operation {request.method} {request.path}"]
    return [
        *_common(request),
        *(f"query parameter {key} is unknown" for key in request.query if key not in route.query),
        *_version(request, route),
        *_values(request),
        *_body(request, route),
    ]


def price_violations(query: Mapping[str, str]) -> list[str]:
    """The same for the retail prices. Source: learn.microsoft.com, rest/api/cost-management/retail-prices."""
    known = {"api-version", "currencyCode", "meterRegion", "$filter", "$skip", "$top"}
    bad = [f"query parameter {key} is unknown" for key in query if key not in known]
    fields = {
        *("armRegionName", "location", "meterId", "meterName", "productId", "skuId", "productName", "skuName"),
        *("serviceName", "serviceId", "serviceFamily", "priceType", "armSkuName"),
    }
    rest = query.get("$filter", "")
    for name, _ in re.findall(r"(\w+) eq ('[^']*')", rest):
        if name not in fields:
            bad.append(f"$filter: {name} is no field to filter by")
    rest = re.sub(r"\w+ eq '[^']*'", "x", rest)
    if rest and not re.fullmatch(r"[x()]( |x|and|or|[()])*", rest):
        bad.append(f"$filter is not a condition: {rest}")
    return bad


# What all requests have in common


def _common(request: ArmRequest) -> Iterator[str]:
    if not re.fullmatch(r"Bearer \S+", request.headers.get("authorization", "")):
        yield "there is no bearer token"
    if request.body is not None and "json" not in request.headers.get("content-type", ""):
        yield "the body is not said to be JSON"
    if request.method in ("GET", "DELETE") and request.body is not None:
        yield f"a {request.method} has a body"
    if request.headers.get("if-none-match", "*") != "*":
        yield "If-None-Match takes only *"  # the documentation of Virtual Machines - Create Or Update


def _version(request: ArmRequest, route: _Route) -> Iterator[str]:
    version = request.query.get("api-version")
    if version is None:
        yield "api-version is missing"
    elif route.versions and version not in route.versions:
        yield f"api-version {version} is not one of {', '.join(sorted(route.versions))}"


def _values(request: ArmRequest) -> Iterator[str]:
    """Query parameters whose values are known."""
    for key, pattern in (
        ("statusOnly", "true|false"),
        ("forceDeletion", "true|false"),
        ("$top", r"\d+"),
        # Resource Groups - List; Resource Skus - List
        ("$filter", r"tagName eq '[^']+'( and tagValue eq '[^']+')?|location eq '[a-z0-9]+'"),
    ):
        if not re.fullmatch(pattern, request.query.get(key, "")) and key in request.query:
            yield f"query parameter {key} cannot be {request.query[key]!r}"
    expand = request.query.get("$expand")
    if expand is not None and request.path.lower().endswith("/resources"):
        for word in expand.split(","):
            if word not in ("createdTime", "changedTime", "provisioningState"):
                yield f"$expand cannot be {word!r}"


def _body(request: ArmRequest, route: _Route) -> Iterator[str]:
    if route.body is None:
        return
    if not isinstance(request.body, dict):
        yield "the body is missing"
        return
    package, name = route.body
    if package == "resources":
        yield from _group_rules(request.body)
        return
    yield from _Shapes.of(package).check(request.body, ast.Name(name), "")
    yield from _tag_rules(request.body.get("tags", {}))
    if name == "VirtualMachine":
        yield from _vm_rules(request.path.rpartition("/")[2], request.body)
    if name == "NetworkSecurityGroup":
        yield from _rule_rules(request.body)


# What the packages describe


@cache
def _routes() -> tuple[_Route, ...]:
    return (*_written_routes(), *(route for package in _PACKAGES.values() for route in _built_routes(package)))


def _written_routes() -> Iterator[_Route]:
    # Source: learn.microsoft.com, rest/api/resources (Resource Groups, Resources) and "Track asynchronous
    # Azure operations".
    versions = frozenset(_OTHER_VERSIONS["resources"])
    top = rf"/subscriptions/{_GUID}"
    group = rf"{top}/resource[gG]roups/[-\w._()]{{1,89}}[-\w_()]"

    def route(method: str, pattern: str, *query: str, body: tuple[str, str] | None = None) -> _Route:
        return _Route(method, re.compile(pattern), frozenset({"api-version", *query}), versions, body)

    yield route("GET", f"{top}/resource[gG]roups", "$filter", "$top", "$skiptoken")
    yield route("GET", group)
    yield route("PUT", group, body=("resources", "ResourceGroup"))
    yield route("DELETE", group, "forceDeletionTypes")
    yield route("GET", f"{group}/resources", "$filter", "$expand", "$top", "$skiptoken")
    # rest/api/authorization/permissions (for a scope)
    authorization = frozenset({"2022-04-01", "2018-07-01", "2015-07-01"})
    held = re.compile(rf"{top}/providers/Microsoft\.Authorization/permissions")
    yield _Route("GET", held, frozenset({"api-version"}), authorization)
    operation = rf"{top}/(operationresults|providers/Microsoft\.(Compute|Network)/locations/\w+/operations)/[-\w]+"
    yield _Route("GET", re.compile(operation), frozenset({"api-version", "t", "c", "p", "h", "s"}), frozenset())


def _built_routes(package: str) -> Iterator[_Route]:
    text = _text(package, "operations/_operations.py")
    builders = text[: text.index("\nclass ")]
    versions = {
        v for found in re.findall(r"api_versions_list=\[([^\]]*)\]", text) for v in re.findall(r"[\d-]+", found)
    }
    for block in re.split(r"\n(?=def build_)", builders)[1:]:
        url, method = (
            re.search(r"_url = \(?\s*\"([^\"]+)\"", block),
            re.search(r"HttpRequest\(\s*method=\"(\w+)\"", block),
        )
        default = re.search(r"pop\(\"api-version\", \"([\d-]+)\"\)", block)
        if url is None or method is None or default is None:
            continue
        kind = "/".join(next(iter(re.findall(r"providers/(Microsoft\.\w+)/(\w+)", url[1])), ())).lower()
        query = frozenset({*re.findall(r"_params\[\"([^\"]+)\"\]", block), "$skiptoken", "$skipToken"})
        # The compute package holds services with versions of their own; disks are the only one of them in use.
        own = _OTHER_VERSIONS["disks"] if kind.endswith("/disks") else versions
        is_one = re.fullmatch(r".*/providers/[^/]+/\w+/\{\w+\}", url[1]) is not None
        body = (package, _BODIES[kind]) if method[1] == "PUT" and is_one and kind in _BODIES else None
        yield _Route(method[1], _pattern(url[1]), query, frozenset({default[1], *own}), body)


def _pattern(url: str) -> re.Pattern[str]:
    text = re.escape(url).replace(re.escape("{subscriptionId}"), _GUID)
    # ARM takes "resourcegroups" too.
    text = re.sub(r"\\\{\w+\\\}", r"[-\\w._()]+", text).replace("resourceGroups", "resource[gG]roups")
    return re.compile(text)


@cache
def _text(package: str, path: str) -> str:
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return (Path(found.origin).parent / path).read_text()


def _parse(source: str, mode: str = "exec") -> Any:
    """What a source says; by one thread at a time.

    CPython 3.11 counts the depth of a syntax tree for all threads together, and refuses trees that two of them
    make at once.
    """
    with _PARSING:
        return ast.parse(source, mode=mode)


class _Shapes:
    """The TypedDicts and enums of one package, read from their source."""

    def __init__(self, package: str) -> None:
        self._classes = {
            node.name: node for node in _parse(_text(package, "types.py")).body if isinstance(node, ast.ClassDef)
        }
        self._enums = {
            node.name: {
                statement.value.value
                for statement in node.body
                if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant)
            }
            for node in _parse(_text(package, "models/_enums.py")).body
            if isinstance(node, ast.ClassDef)
        }
        self._models = dict(
            re.findall(
                r"^class (\w+)\([^)]*\):(.*?)(?=^class |\Z)", _text(package, "models/_models.py"), re.M | re.S
            )
        )

    @staticmethod
    @cache
    def of(package: str) -> "_Shapes":
        """The ones of this package; read once."""
        return _Shapes(package)

    def check(self, value: Any, hint: ast.expr, path: str) -> Iterator[str]:
        """What is wrong with a value of this annotation."""
        match hint:
            case ast.Constant(value=str(text)):
                yield from self.check(value, _parse(text, mode="eval").body, path)
            case ast.Subscript(value=ast.Name("Required"), slice=inner):
                yield from self.check(value, inner, path)
            case ast.Subscript(value=ast.Name("Union" | "Optional"), slice=ast.Tuple(elts=choices)):
                yield from self._one_of(value, choices, path)
            case ast.Subscript(value=ast.Name("list"), slice=inner):
                if not isinstance(value, list):
                    yield f"{path}: a list is expected"
                    return
                for index, item in enumerate(value):
                    yield from self.check(item, inner, f"{path}/{index}")
            case ast.Subscript(value=ast.Name("dict"), slice=ast.Tuple(elts=[_, inner])):
                if not isinstance(value, dict):
                    yield f"{path}: an object is expected"
                    return
                for key, item in value.items():
                    yield from self.check(item, inner, f"{path}/{key}")
            case ast.Name("Any") | ast.Name("JSON"):
                return
            case ast.Name(name) if name in self._enums:
                yield from self._member(value, name, path)
            case ast.Name(name) if name in self._classes:
                yield from self._object(value, name, path)
            case ast.Name(name):
                yield from _plain(value, name, path)
            case _:
                raise AssertionError(f"an annotation that is not understood: {ast.unparse(hint)}")

    def _one_of(self, value: Any, choices: list[ast.expr], path: str) -> Iterator[str]:
        # Always Union[str, "Enum"] so far.
        names = [
            choice.value if isinstance(choice, ast.Constant) else getattr(choice, "id", "") for choice in choices
        ]
        enum = next((str(name) for name in names if name in self._enums), None)
        if enum is None:
            yield from self.check(value, choices[0], path)
        elif enum not in _OPEN_ENUMS:
            yield from self._member(value, enum, path)
        else:
            yield from _plain(value, "str", path)

    def _member(self, value: Any, enum: str, path: str) -> Iterator[str]:
        if value not in self._enums[enum]:
            yield f"{path}: {value!r} is not one of {enum}: {', '.join(sorted(map(str, self._enums[enum])))}"

    def _object(self, value: Any, name: str, path: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{path}: an object ({name}) is expected"
            return
        fields, read_only = self._fields(name)
        for key, item in value.items():
            if key not in fields:
                yield f"{path}/{key}: {name} has no such property"
            elif key in read_only:
                yield f"{path}/{key}: {name} has it only for reading"
            else:
                yield from self.check(item, fields[key], f"{path}/{key}")
        for key, hint in fields.items():
            if key not in value and isinstance(hint, ast.Subscript) and ast.unparse(hint.value) == "Required":
                yield f"{path}/{key}: {name} needs it"

    def _fields(self, name: str) -> tuple[dict[str, ast.expr], set[str]]:
        node = self._classes[name]
        fields: dict[str, ast.expr] = {}
        read_only: set[str] = set()
        for base in node.bases:
            if isinstance(base, ast.Name) and base.id in self._classes:
                more, reading = self._fields(base.id)
                fields |= more
                read_only |= reading
        fields |= {
            statement.target.id: statement.annotation
            for statement in node.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        }
        for own, options in re.findall(
            r"^    (\w+): .*?rest_field\((.*?)\)$", self._models.get(name, ""), re.M | re.S
        ):
            if 'visibility=["read"]' in options:
                wire = re.search(r"name=\"([^\"]+)\"", options)
                read_only.add(wire[1] if wire is not None else own)
        return fields, read_only


_PLAIN: Mapping[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "bool": lambda value: isinstance(value, bool),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
}


def _plain(value: Any, name: str, path: str) -> Iterator[str]:
    if name not in _PLAIN:
        raise AssertionError(f"a type that is not understood: {name}")
    if not _PLAIN[name](value):
        yield f"{path}: {value!r} is {type(value).__name__}, the API wants {name}"


# What is documented in prose


def _group_rules(body: Mapping[str, Any]) -> Iterator[str]:
    # Resource Groups - Create Or Update: location (required), managedBy, tags.
    for key in body:
        if key not in ("location", "managedBy", "tags"):
            yield f"/{key}: ResourceGroup has no such property"
    if not isinstance(body.get("location"), str):
        yield "/location: ResourceGroup needs it"
    yield from _tag_rules(body.get("tags", {}))


def _tag_rules(tags: Mapping[str, str]) -> Iterator[str]:
    # "Use tags to organize your Azure resources": limitations.
    if len(tags) > 50:
        yield "there are more than 50 tags"
    for key, value in tags.items():
        if not 0 < len(key) <= 512 or re.search(r"[<>%&\\?/]", key):
            yield f"the tag {key} has a name that is not allowed"
        if not isinstance(value, str) or len(value) > 256:
            yield f"the tag {key} has a value that is not allowed"


def _vm_rules(name: str, body: Mapping[str, Any]) -> Iterator[str]:
    properties = body.get("properties", {})
    # Naming rules for Azure resources: Linux virtual machines.
    if not re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9.]{0,62}[A-Za-z0-9])?", name):
        yield f"{name} cannot be a VM's name"
    # Virtual Machines - Create Or Update, and error-codes-spot.
    spot = properties.get("priority") == "Spot"
    for key in ("evictionPolicy", "billingProfile"):
        if key in properties and not spot:
            yield f"/properties/{key}: only for spot VMs"
    if spot:
        price = properties.get("billingProfile", {}).get("maxPrice", -1)
        if price != -1 and not (isinstance(price, int | float) and price > 0 and round(price, 5) == price):
            yield "/properties/billingProfile/maxPrice: -1, or above 0 with at most five decimals"
        if "scheduledEventsProfile" in properties:
            yield "/properties/scheduledEventsProfile: not for spot VMs"
        if "availabilitySet" in properties:
            yield "/properties/availabilitySet: not for spot VMs"
    zones = body.get("zones", [])
    if len(zones) > 1:
        yield "/zones: a VM has one zone"
    yield from _login_rules(properties.get("osProfile", {}))
    network = properties.get("networkProfile", {})
    inline = network.get("networkInterfaceConfigurations", [])
    if inline and "networkApiVersion" not in network:
        yield "/properties/networkProfile/networkApiVersion: needed with networkInterfaceConfigurations"
    for interface in inline:
        for ip in interface.get("properties", {}).get("ipConfigurations", []):
            public = ip.get("properties", {}).get("publicIPAddressConfiguration")
            if public is None:
                continue
            # Basic addresses were retired on 2025-09-30; a standard one is static.
            if public.get("sku", {}).get("name") != "Standard":
                yield "a public address must be of the sku Standard"
            elif public.get("properties", {}).get("publicIPAllocationMethod") != "Static":
                yield "a public address of the sku Standard must be static"


def _login_rules(profile: Mapping[str, Any]) -> Iterator[str]:
    linux = profile.get("linuxConfiguration", {})
    keys = linux.get("ssh", {}).get("publicKeys", [])
    if not keys and "adminPassword" not in profile:
        yield "/properties/osProfile: neither a key nor a password"
    if keys and "adminPassword" in profile:
        yield "/properties/osProfile/adminPassword: a password where a key is given"
    user = profile.get("adminUsername", "")
    if user in ("root", "admin", "administrator", "user", "guest", "test") or not 1 <= len(user) <= 64:
        yield f"/properties/osProfile/adminUsername: {user!r} is not allowed"
    for key in keys:
        if key.get("path") != f"/home/{user}/.ssh/authorized_keys":
            yield "/properties/osProfile: the key's path can only be that of the administrator"
        if not re.match(r"(ssh-rsa|ssh-ed25519) [A-Za-z0-9+/=]+( |$)", key.get("keyData", "")):
            yield "/properties/osProfile: only RSA and ED25519 keys are taken"
    try:
        if len(base64.b64decode(profile.get("customData", ""), validate=True)) > 65535:
            yield "/properties/osProfile/customData: more than 65535 bytes"
    except (binascii.Error, ValueError):
        yield "/properties/osProfile/customData: not in base64"


def _rule_rules(body: Mapping[str, Any]) -> Iterator[str]:
    # Network security groups: "Security rules".
    taken: set[tuple[str, int]] = set()
    for rule in body.get("properties", {}).get("securityRules", []):
        has, name = rule.get("properties", {}), rule.get("name")
        place = (has.get("direction"), has.get("priority"))
        if not 100 <= has.get("priority", 0) <= 4096:
            yield f"the rule {name} has a priority that is not allowed"
        if place in taken:
            yield f"the rule {name} has another's priority"
        taken.add(place)
        for one, many in (
            ("sourceAddressPrefix", "sourceAddressPrefixes"),
            ("destinationAddressPrefix", "destinationAddressPrefixes"),
            ("sourcePortRange", "sourcePortRanges"),
            ("destinationPortRange", "destinationPortRanges"),
        ):
            if (one in has) == (many in has):
                yield f"the rule {name} needs either {one} or {many}"
            if "*" in has.get(many, ()):
                yield f"the rule {name} has * among its {many}"
