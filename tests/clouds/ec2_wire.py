"""EC2's wire as a server sees it: answers and errors in XML, numbered parameters, filters."""

import base64
import uuid
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STATUS = {
    "InsufficientInstanceCapacity": 500,
    "InternalError": 500,
    "RequestLimitExceeded": 503,
    "Unavailable": 503,
    "UnauthorizedOperation": 403,
    "AuthFailure": 401,
}
"""Statuses of EC2's answers that are not 400."""


class Refusal(Exception):
    """EC2 says no: its code, its message, and the status that goes with the code."""

    def __init__(self, code: str, message: str = "", status: int | None = None) -> None:
        super().__init__(code)
        self.code, self.message = code, message or code
        self.status = status or STATUS.get(code, 400)


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive as EC2 keeps it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Tests have their own words."""

    def reply(self, status: int, body: bytes) -> None:
        """Answer; whoever has gone meanwhile does not hear it."""
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: text/xml;charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self.wfile.write(head.encode() + body)
        except OSError:
            self.close_connection = True


def error_body(refusal: Refusal) -> bytes:
    """An error as EC2 writes it: without a namespace."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{refusal.code}</Code>'
        f"<Message>{escape(refusal.message)}</Message></Error></Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
    ).encode()


def xml(name: str, inner: str) -> bytes:
    """An answer with this root element."""
    return f'<{name} xmlns="{NAMESPACE}"><requestId>{uuid.uuid4()}</requestId>{inner}</{name}>'.encode()


def plain(body: bytes) -> ElementTree.Element:
    """An answer's root, without its namespace."""
    return ElementTree.fromstring(body.replace(f' xmlns="{NAMESPACE}"'.encode(), b""))


def wrapped(root: ElementTree.Element) -> bytes:
    """The answer of this root, with its namespace again."""
    root.set("xmlns", NAMESPACE)
    return ElementTree.tostring(root)


def show(item: ElementTree.Element, state: str, address: str | None) -> None:
    """Give an instance of an answer this state, and this address inside and out."""
    where = item.find("instanceState")
    if where is None:
        where = ElementTree.SubElement(item, "instanceState")
    where.clear()
    ElementTree.SubElement(where, "name").text = state
    for name in ("ipAddress", "privateIpAddress"):
        for known in item.findall(name):
            item.remove(known)
        if address is not None:
            ElementTree.SubElement(item, name).text = address


def numbered(parameters: Mapping[str, str], prefix: str) -> Iterator[str]:
    """The prefixes ``Filter.1``, ``Filter.2`` and so on that the parameters have."""
    index = 1
    while any(name.startswith(f"{prefix}.{index}.") or name == f"{prefix}.{index}" for name in parameters):
        yield f"{prefix}.{index}"
        index += 1


def tag_specifications(parameters: Mapping[str, str]) -> Iterator[tuple[str, Sequence[tuple[str, str]]]]:
    """The tags that a request gives, by kind of resource."""
    for spec in numbered(parameters, "TagSpecification"):
        tags = [
            (parameters[f"{tag}.Key"], parameters[f"{tag}.Value"]) for tag in numbered(parameters, f"{spec}.Tag")
        ]
        yield parameters[f"{spec}.ResourceType"], tags


def fits(parameters: Mapping[str, str], seen: Mapping[str, str], tags: Mapping[str, str]) -> bool:
    """Whether a thing fits all filters of a request."""
    for prefix in numbered(parameters, "Filter"):
        name = parameters[f"{prefix}.Name"]
        wanted = [parameters[value] for value in numbered(parameters, f"{prefix}.Value")]
        having = list(tags) if name == "tag-key" else [seen[name]]
        # EC2 knows * and ? but no brackets; names of images have parentheses only.
        if not any(fnmatchcase(value, pattern) for value in having for pattern in wanted):
            return False
    return True


def key_text(material: Any) -> str:
    """A public key as OpenSSH writes it."""
    text = material.decode() if isinstance(material, bytes) else str(material)
    return text if text.startswith("ssh-") else base64.b64decode(text).decode()
