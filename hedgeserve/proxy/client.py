"""The answers that HedgeServe gives itself, on aiohttp's server."""

from aiohttp import web
from multidict import CIMultiDict

from hedgeserve.proxy.headers import Headers
from hedgeserve.proxy.replies import Refused

_JSON = ("Content-Type", "application/json")


class ClientGone(Exception):
    """The client has closed its connection: nobody is left to answer."""


class Client:
    """One request's answer, with ``x-request-id`` and our name as server; ``closing`` ends the connection."""

    def __init__(self, request: web.BaseRequest, request_id: str, *, closing: bool) -> None:
        self._request = request
        self.request_id = request_id
        self._closing = closing
        self._response: web.StreamResponse | None = None
        self.status = 0
        """Status that was sent; 0 while none was."""

    @property
    def begun(self) -> bool:
        """Whether anything has been sent."""
        return self._response is not None

    @property
    def response(self) -> web.StreamResponse:
        """What aiohttp wants back from a handler: the response, sent already."""
        assert self._response is not None, "a request was left without an answer"
        return self._response

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        named = CIMultiDict([*headers, ("X-Request-Id", self.request_id), ("Server", "hedgeserve")])
        response = web.Response(status=status, headers=named, body=body)
        self._response = response
        self.status = status
        if self._closing:
            response.force_close()
        try:
            await response.prepare(self._request)
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone from error

    async def refuse(self, refused: Refused, headers: Headers) -> None:
        """Send an error of ours."""
        self._closing = self._closing or refused.close
        await self.whole(refused.code.status, [_JSON, *refused.headers, *headers], refused.body())
