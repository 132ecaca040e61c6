"""Who gets through to a page: host, origin, session and size of every request, and the headers of every response."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from align.web.sessions import Entry

BODY_LIMIT = 1 << 20  # bytes; a reason and a better answer are far below
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
ENTRANCE, ENTRANCE_LIMIT = "/api/enter", 1 << 12  # where a token is exchanged for a session, and bytes of that request
SESSION_HEADER = "x-align-session"
HOW = "use the whole one that was printed when the page was started (it ends in #token=…), or ask whoever started it"
CUSTOM_HEADER = "x-align"  # a page of another origin cannot send it without being asked first, and we never say yes


class Problem(Exception):
    """A handler's answer when a request cannot be served: an HTTP status and a sentence for the page to show.

    `more` goes with the sentence, for the page to tell one refusal from another.
    """

    def __init__(self, status: int, sentence: str, **more: Any):
        super().__init__(sentence)
        self.status, self.sentence, self.more = status, sentence, more


def is_loopback(host: str) -> bool:
    """Does only this machine reach `host`?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def answer(value: Any, status: int = 200) -> Response:
    """A JSON response that no cache keeps."""
    from starlette.responses import Response

    return Response(json.dumps(value), status, {"cache-control": "no-store"}, "application/json")


class Guard:
    """ASGI middleware: host, origin, session and size are checked, and every response gets the security headers.

    The files of a page hold nothing that is anybody's, so they need no session; everything under `/api/` does.
    """

    def __init__(self, app: Any, *, entry: Entry, loopback: bool):
        self.app, self.entry, self.loopback = app, entry, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                lines = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                names = {name for name, _ in lines}
                message["headers"] = [h for h in message.get("headers", []) if h[0].lower() not in names] + lines
            await send(message)

        entering = scope["path"] == ENTRANCE
        limit = ENTRANCE_LIMIT if entering else BODY_LIMIT
        refusal = self._refusal(request, limit)
        if refusal is not None:
            await _say(request, *refusal)(scope, receive, guarded)
            return
        scope["align_session"] = self.entry.session(request.headers.get(SESSION_HEADER, ""))
        if scope["align_session"] is None and scope["path"].startswith("/api/") and not entering:
            refused = answer({"error": f"This page opens by its link only: {HOW}.", "enter": True}, 401)
            await refused(scope, receive, guarded)
            return
        await self.app(scope, _limited(receive, limit), guarded)

    def _refusal(self, request: Request, limit: int) -> tuple[int, str] | None:
        """Status and sentence where the request cannot come from our own page; None where it can."""
        host = request.headers.get("host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.loopback and not is_loopback(name):
            return 421, "this page is served to this machine only; open it by the address that was printed"
        if request.headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and not _navigates(request):
            return 403, "requests from other pages are refused"
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return 403, "requests from other pages are refused"
        if CUSTOM_HEADER not in request.headers:
            return 403, f"requests need the header {CUSTOM_HEADER}"
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "requests must be application/json"
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 9 or int(length) > limit:
            return 413, f"the request is too long: at most {limit:,} bytes"
        return None


def _navigates(request: Request) -> bool:
    """Is this somebody who follows a link to the page itself? The API is never reached that way."""
    to_page = (
        request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
    )
    return request.method == "GET" and to_page and not request.url.path.startswith("/api/")


def _say(request: Request, status: int, sentence: str) -> Response:
    """A refusal: JSON for the page, plain text for a person."""
    from starlette.responses import PlainTextResponse

    if request.url.path.startswith("/api/"):
        return answer({"error": sentence}, status)
    return PlainTextResponse(sentence + "\n", status, {"cache-control": "no-store"})


def _limited(receive: Callable[[], Awaitable[Any]], limit: int) -> Callable[[], Awaitable[Any]]:
    """`receive` that stops at `limit` bytes, also where no length was announced."""
    seen = 0

    async def limited() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise Problem(413, f"the request is too long: at most {limit:,} bytes")
        return message

    return limited
