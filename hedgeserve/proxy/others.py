"""aiohttp's server for what is not for replicas, taught to speak of broken requests as we do elsewhere."""

from aiohttp import web
from multidict import CIMultiDict

from hedgeserve.proxy.headers import request_id
from hedgeserve.proxy.replies import Code, Refused


class Protocol(web.RequestHandler):
    """One connection. What cannot even be parsed is answered with our error body, never with text or HTML."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be handled; the connection is closed after it."""
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer has been sent; there is no room for an error")
        if status >= 500:
            refused = Refused(Code.INTERNAL_ERROR, "HedgeServe failed to answer this request.")
        else:
            told = (message or "").strip().partition("\n")[0].rstrip(" :")[:200]
            refused = Refused(
                Code.BAD_REQUEST,
                f"The request is not valid HTTP: {told}." if told else "The request is not valid HTTP.",
            )
        headers = CIMultiDict(
            {"Content-Type": "application/json", "Server": "hedgeserve", "X-Request-Id": request_id(b"")}
        )
        response = web.Response(status=refused.code.status, headers=headers, body=refused.body())
        response.force_close()
        return response


class Others(web.Server):
    """Makes a :class:`Protocol` for each connection."""

    def __call__(self) -> web.RequestHandler:
        """One more connection."""
        return Protocol(self, loop=self._loop, **self._kwargs)
