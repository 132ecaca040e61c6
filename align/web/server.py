"""A page of ours served to one machine or a few people: who may reach it, what it may load, and how it fails.

    routes = [get("/api/next", next_one), post("/api/answer", answer)]
    serve(application(routes, page=Path(__file__).parent / "page", token=args.token, host=args.host), args, print)

On loopback no token is asked for, so a foreign page must not get in through the browser: the Host header has to be a
loopback name (against DNS rebinding), and what changes something has to be JSON with a header that no form can send
(against cross-site requests). Anywhere else a token is needed: it comes once in the address, then as a cookie.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import json
import mimetypes
import re
import secrets
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.config import ConfigError
from align.record import RunError

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    Handler = Callable[[Request, dict[str, Any]], "dict[str, Any] | Response"]

STATIC = Path(__file__).parent / "static"
BODY_LIMIT = 1 << 20  # bytes; a reason and a better answer are far below
PORTS_TRIED = 50  # for the free port that is proposed
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
CUSTOM_HEADER = "x-align"  # a page of another origin cannot send it without being asked first, and we never say yes


@dataclass
class ServeArguments:
    """Where a page is served."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 is every network."})
    port: int = field(default=7860, metadata={"help": "Port to listen on; 0 takes a free one."})
    token: str | None = field(
        default=None, metadata={"help": "What visitors need. Made where the host is not loopback and none is given."}
    )
    open_browser: bool = field(default=False, metadata={"help": "Open the page in this machine's browser."})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port={self.port}: a port is a number from 0 to 65535")
        if self.token is not None and not re.fullmatch(r"[A-Za-z0-9_.~-]{12,200}", self.token):
            raise ValueError("token: 12 or more of the characters A-Z a-z 0-9 _ . ~ -, or leave it out: one is made")


class Problem(Exception):
    """A handler's answer when a request cannot be served: an HTTP status and a sentence for the page to show."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


def is_loopback(host: str) -> bool:
    """Does only this machine reach `host`?"""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_installed() -> None:
    """Are the packages here that serve a page?

    Raises:
        ConfigError: with the command that installs them.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the page needs {' and '.join(missing)}: pip install -e '.[label]'")


# ----------------------------------------------------------------------------------------------------------- answers


def answer(value: Any, status: int = 200) -> Response:
    """A JSON response that no cache keeps."""
    from starlette.responses import Response

    return Response(json.dumps(value), status, {"cache-control": "no-store"}, "application/json")


def get(path: str, handler: Handler) -> Route:
    """A route that reads: `handler(request, {})` runs in a thread and returns what is answered as JSON."""
    return _route(path, handler, "GET")


def post(path: str, handler: Handler) -> Route:
    """A route that changes something: `handler(request, body)`, with the JSON object that was sent."""
    return _route(path, handler, "POST")


def _route(path: str, handler: Handler, method: str) -> Route:
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    async def endpoint(request: Request) -> Response:
        body: Any = {}
        if method == "POST":
            try:
                body = json.loads(await request.body() or b"{}")
            except ValueError:  # also bytes that are not UTF-8
                raise Problem(400, "the request is not valid JSON") from None
            if not isinstance(body, dict):
                raise Problem(400, "the request must be a JSON object")
        found = await run_in_threadpool(handler, request, body)
        return found if isinstance(found, Response) else answer(found)

    return Route(path, endpoint, methods=[method])


def role(request: Request) -> str:
    """`manager` or `visitor`: which token the request came with. Without tokens everyone is the manager."""
    return request.scope["align_role"]


# ------------------------------------------------------------------------------------------------------- application


def application(
    routes: list[Route], *, page: Path, token: str | None, host: str, manager: bool = False
) -> Starlette:  # fmt: skip
    """The routes and a page's files behind the guard.

    Args:
        routes: of the API, made by `get` and `post`.
        page: folder of the page: `index.html` is `/`, `other.html` is `/other`, all else goes by its name.
        token: what visitors need; made here where `host` is not loopback and none is given.
        host: the address that will be listened on.
        manager: with a token, make a second one, of the manager's; see `role`.

    Returns:
        The application; `state.token` and `state.manager_token` are what it asks for (None: nothing).
    """
    check_installed()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(24)
    manager_token = secrets.token_urlsafe(24) if manager and token else None
    tokens = {"visitor": token, "manager": manager_token} if token else {}
    app = Starlette(
        routes=[*routes, *_file_routes(page)],
        middleware=[Middleware(_Guard, tokens=tokens, loopback=is_loopback(host))],
        exception_handlers={
            Problem: _problem, ConfigError: _wrong, RunError: _refused, 404: _missing, 405: _missing, 500: _broken,
        },
    )  # fmt: skip
    app.state.token, app.state.manager_token = token, manager_token
    return app


def _file_routes(page: Path) -> list[Route]:
    """One route for each file that is there now. No name is ever joined to a path, so none can lead out of it."""
    from starlette.responses import Response
    from starlette.routing import Route

    files = {f"/static/{path.name}": path for path in STATIC.iterdir() if path.is_file()}
    for path in page.iterdir():
        if path.suffix == ".html":
            files["/" if path.stem == "index" else f"/{path.stem}"] = path
        elif path.suffix in (".css", ".js", ".svg"):
            files[f"/{path.name}"] = path

    def route(url: str, path: Path) -> Route:
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        kind = "text/javascript" if path.suffix == ".js" else kind  # some systems' tables say text/plain

        async def endpoint(request: Request) -> Response:
            return Response(path.read_bytes(), 200, {"cache-control": "no-cache"}, kind)

        return Route(url, endpoint, methods=["GET"])

    return [route(url, path) for url, path in sorted(files.items())]


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem), error
    return answer({"error": error.sentence}, error.status)


async def _wrong(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 400)


async def _refused(request: Request, error: Exception) -> Response:
    return answer({"error": str(error)}, 409)


async def _missing(request: Request, error: Exception) -> Response:
    return answer({"error": "there is no such page"}, getattr(error, "status_code", 404))


async def _broken(request: Request, error: Exception) -> Response:
    response = answer({"error": "the server made a mistake; its terminal says more. Nothing was saved"}, 500)
    response.headers.update(HEADERS)  # this handler answers outside the guard
    return response


class _Guard:
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
                if given is not None and self._role(given):
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


# ----------------------------------------------------------------------------------------------------------- serving


def serve(app: Starlette, args: ServeArguments, say: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C. `say` gets the page's address, with the token, once the port is ours.

    Raises:
        RunError: the port is in use (with a free one proposed), or the address is not this machine's.
    """
    check_installed()
    import uvicorn

    bound = _bind(args.host, args.port)
    port = bound.getsockname()[1]
    url = address(args.host, port, app.state.token)
    try:
        say(url)
        if args.open_browser:
            webbrowser.open(url)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        uvicorn.Server(config).run(sockets=[bound])
    except KeyboardInterrupt:
        pass  # uvicorn has shut down in order, and then raises the signal again
    finally:
        bound.close()


def address(host: str, port: int, token: str | None, path: str = "/") -> str:
    """What to type into a browser."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{path}" + (f"?token={token}" if token else "")


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise RunError(
            f"--host {host}: no such address; 127.0.0.1 is this machine only, 0.0.0.0 every network"
        ) from error
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(where)
        bound.listen(128)
    except OSError as error:
        bound.close()
        if isinstance(error, PermissionError):
            raise RunError(f"port {port} is for the system's own services; try --port 7860") from error
        free = next((p for p in range(port + 1, min(port + PORTS_TRIED, 65536)) if _is_free(host, p)), 0)
        raise RunError(f"cannot listen on {host}:{port} ({error.strerror}); try --port {free}") from error
    return bound


def _is_free(host: str, port: int) -> bool:
    with socket.socket(socket.getaddrinfo(host, port)[0][0], socket.SOCK_STREAM) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError:
            return False
    return True
