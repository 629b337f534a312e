"""The client's side of an exchange, on aiohttp's server."""

from aiohttp import web
from multidict import CIMultiDict

from hedgeserve.proxy.headers import Headers
from hedgeserve.proxy.replies import Refused

_JSON = ("Content-Type", "application/json")


class ClientGone(Exception):
    """The client has closed its connection: nobody is left to answer."""


class Client:
    """One request's answer, sent as it comes; every answer carries ``x-request-id`` and our name as server.

    ``closing`` ends the connection after the answer.
    """

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

    async def begin(self, status: int, headers: Headers) -> None:
        """Send the head of an answer whose length is not known yet."""
        await self._start(web.StreamResponse(status=status, headers=self._all(headers)))

    async def send(self, data: bytes) -> None:
        """Send more; returns when the client keeps up."""
        try:
            await self.response.write(data)
        except ConnectionError as error:
            raise ClientGone from error

    async def end(self) -> None:
        """The answer is whole."""
        try:
            await self.response.write_eof()
        except ConnectionError as error:
            raise ClientGone from error

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Send a whole answer."""
        await self._start(web.Response(status=status, headers=self._all(headers), body=body))
        await self.end()

    async def refuse(self, refused: Refused, headers: Headers) -> None:
        """Send an error of ours."""
        self._closing = self._closing or refused.close
        await self.whole(refused.code.status, [_JSON, *refused.headers, *headers], refused.body())

    def abort(self) -> None:
        """Break the connection at once."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _start(self, response: web.StreamResponse) -> None:
        self._response = response
        self.status = response.status
        if self._closing:
            response.force_close()
        try:
            await response.prepare(self._request)
        except ConnectionError as error:
            raise ClientGone from error

    def _all(self, headers: Headers) -> CIMultiDict[str]:
        return CIMultiDict([*headers, ("X-Request-Id", self.request_id), ("Server", "hedgeserve")])
