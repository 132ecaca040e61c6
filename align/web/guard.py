"""Who gets through to a page: host, origin, token and size of every request, and the headers of every response."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

BODY_LIMIT = 1 << 20  # bytes; a reason and a better answer are far below
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
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
    """ASGI middleware: host, origin, token and size are checked, and every response gets the security headers."""

    def __init__(self, app: Any, *, tokens: dict[str, str | None], loopback: bool):
        self.app, self.tokens, self.loopback = app, tokens, loopback

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.requests import Request

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        cookie = _cookie_name(request)
        given = request.query_params.get("token") if request.method == "GET" else None

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                extra = dict(HEADERS)
                if given is not None and self.tokens and self._role(given):  # a token of ours, and nothing else
                    # no redirect: a Strict cookie would not be sent with one that began on another site
                    extra["set-cookie"] = f"{cookie}={given}; HttpOnly; SameSite=Strict; Path=/"
                    extra["cache-control"] = "no-store"
                lines = [(k.encode(), v.encode()) for k, v in extra.items()]
                names = {name for name, _ in lines} - {b"set-cookie"}
                message["headers"] = [h for h in message.get("headers", []) if h[0].lower() not in names] + lines
            await send(message)

        refusal = self._refusal(request)
        if refusal is None:
            scope["align_role"] = self._role(given or request.cookies.get(cookie, ""))
            if scope["align_role"] is None:
                refusal = (
                    403,
                    "this page needs its address with the token, as it was printed where the page was started",
                )
        if refusal is not None:
            await _say(request, *refusal)(scope, receive, guarded)
            return
        await self.app(scope, _limited(receive), guarded)

    def _role(self, given: str) -> str | None:
        """Whose token it is; None: nobody's. Every token is compared, in constant time."""
        if not self.tokens:
            return "manager"
        other = given.encode("utf-8", "replace")
        fits = [name for name, token in self.tokens.items() if token and secrets.compare_digest(token.encode(), other)]
        return fits[0] if fits else None

    def _refusal(self, request: Request) -> tuple[int, str] | None:
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
        if not length.isdigit() or int(length) > BODY_LIMIT:
            return 413, f"the request is too long: at most {BODY_LIMIT:,} bytes"
        return None


def _navigates(request: Request) -> bool:
    """Is this somebody who follows a link to the page itself? The API is never reached that way."""
    to_page = (
        request.headers.get("sec-fetch-mode") == "navigate" and request.headers.get("sec-fetch-dest") == "document"
    )
    return request.method == "GET" and to_page and not request.url.path.startswith("/api/")


def _cookie_name(request: Request) -> str:
    """Cookies know no ports, so the name carries it: two pages on one machine do not log each other out."""
    return f"align_token_{request.url.port or 80}"


def _say(request: Request, status: int, sentence: str) -> Response:
    """A refusal: JSON for the page, plain text for a person."""
    from starlette.responses import PlainTextResponse

    if request.url.path.startswith("/api/"):
        return answer({"error": sentence}, status)
    return PlainTextResponse(sentence + "\n", status, {"cache-control": "no-store"})


def _limited(receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
    """`receive` that stops at BODY_LIMIT, also where no length was announced."""
    seen = 0

    async def limited() -> Any:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > BODY_LIMIT:
            raise Problem(413, f"the request is too long: at most {BODY_LIMIT:,} bytes")
        return message

    return limited
