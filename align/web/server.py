"""A page of ours served to one machine or a few people: who may reach it, what it may load, and how it fails.

    routes = [get("/api/next", next_one), post("/api/answer", answer)]
    serve(application(routes, page=Path(__file__).parent / "page", token=args.token, host=args.host), args, print)

On loopback no token is asked for, so a foreign page must not get in through the browser: the Host header has to be a
loopback name (against DNS rebinding), and what changes something has to be JSON with a header that no form can send
(against cross-site requests). Anywhere else a token is needed: it comes once in the address, then as a cookie.
"""

from __future__ import annotations

import importlib.util
import json
import mimetypes
import os
import re
import secrets
import socket
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.run.errors import ConfigError, RunError
from align.web.guard import HEADERS, Guard, Problem, answer, is_loopback

__all__ = ["Problem", "ServeArguments", "answer", "application", "get", "is_loopback", "post", "role", "serve"]

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    Handler = Callable[[Request, dict[str, Any]], "dict[str, Any] | Response"]

STATIC = Path(__file__).parent / "static"
TOKEN = re.compile(r"[A-Za-z0-9_.~-]{12,200}")
PORTS_TRIED = 50  # for the free port that is proposed


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
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise ValueError("token: 12 or more of the characters A-Z a-z 0-9 _ . ~ -, or leave it out: one is made")


def check_installed() -> None:
    """Are the packages here that serve a page?

    Raises:
        ConfigError: with the command that installs them.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the page needs {' and '.join(missing)}: pip install -e '.[label]'")


# ----------------------------------------------------------------------------------------------------------- answers


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
    routes: list[Route], *, page: Path, token: str | None, host: str, manager: bool = False, kept: Path | None = None
) -> Starlette:
    """The routes and a page's files behind the guard.

    Args:
        routes: of the API, made by `get` and `post`.
        page: folder of the page: `index.html` is `/`, `other.html` is `/other`, all else goes by its name.
        token: what visitors need; made here where `host` is not loopback and none is given.
        host: the address that will be listened on.
        manager: with a token, make a second one, of the manager's; see `role`.
        kept: a file for the tokens, so that pages that are open and addresses that were sent outlive a restart.

    Returns:
        The application; `state.token` and `state.manager_token` are what it asks for (None: nothing).

    Raises:
        RunError: `kept` cannot be read or written.
    """
    check_installed()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    tokens = _tokens(token, manager, kept) if token or not is_loopback(host) else {}
    app = Starlette(
        routes=[*routes, *_file_routes(page)],
        middleware=[Middleware(Guard, tokens=tokens, loopback=is_loopback(host))],
        exception_handlers={
            Problem: _problem, ConfigError: _wrong, RunError: _refused, 404: _missing, 405: _missing, 500: _broken,
        },
    )  # fmt: skip
    app.state.token, app.state.manager_token = tokens.get("visitor"), tokens.get("manager")
    return app


def _tokens(token: str | None, manager: bool, kept: Path | None) -> dict[str, str | None]:
    """The visitors' token and the manager's: given, else kept from the last start, else made."""
    before = {}
    if kept is not None and kept.exists():
        try:
            before = json.loads(kept.read_text())
            usable = isinstance(before, dict) and all(TOKEN.fullmatch(one) for one in before.values())
        except (OSError, ValueError, TypeError):  # a value that is no text is a TypeError
            usable = False
        if not usable:
            raise RunError(f"{kept} holds no tokens that can be read; delete it, and new ones are made")
    tokens = {"visitor": token or before.get("visitor") or secrets.token_urlsafe(24)}
    if manager:
        tokens["manager"] = before.get("manager") or secrets.token_urlsafe(24)
    if kept is not None and tokens != before:
        try:
            kept.unlink(missing_ok=True)  # whoever may read the file can enter, so it is made anew for its owner alone
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
                json.dump(tokens, stream)
        except OSError as error:
            raise RunError(f"{kept} cannot be written ({error.strerror}); the tokens are kept there") from error
    return dict(tokens)


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
    return answer({"error": error.sentence, **error.more}, error.status)


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

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(url)  # not before: from here on Ctrl-C is uvicorn's, and cannot get lost in an import
            if args.open_browser:
                webbrowser.open(url)

    try:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
        )
        Server(config).run(sockets=[bound])
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
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sends at once on such alone
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
