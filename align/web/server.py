"""A page of ours served to one machine or a few people: who may reach it, what it may load, and how it fails.

    routes = [get("/api/next", next_one), post("/api/answer", answer)]
    serving.serve(application(routes, args, page=Path(__file__).parent / "page"), args, print)

Every account of a machine reaches its loopback addresses, so a token is asked for there too (see `sessions`). Foreign
pages must not get in through the browser either: on loopback the Host header has to be a loopback name (against DNS
rebinding), and what changes something has to be JSON with a header that no form can send (against cross-site requests).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import mimetypes
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.run.errors import ConfigError, RunError
from align.web.guard import ENTRANCE, HEADERS, HOW, SESSION_HEADER, Guard, Problem, answer, is_loopback
from align.web.sessions import TOKEN, Entry, Session, kept_at

__all__ = ["Problem", "ServeArguments", "answer", "application", "get", "is_loopback", "post", "session"]

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    Handler = Callable[[Request, dict[str, Any]], "dict[str, Any] | Response"]

STATIC = Path(__file__).parent / "static"
TOKEN_VARIABLE = "ALIGN_TOKEN"
WRONG = 0.5  # seconds that a wrong token waits for its answer: a word that somebody chose can be guessed


@dataclass
class ServeArguments:
    """Where a page is served."""

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 is every network."})
    port: int = field(default=7860, metadata={"help": "Port to listen on; 0 takes a free one."})
    token: str | None = field(
        default=None,
        metadata={
            "help": "The token in the visitors' link; one is made where none is given. Every account of the machine "
            f"reads a command line, but not --token_file or the environment variable {TOKEN_VARIABLE}."
        },
    )
    token_file: str | None = field(default=None, metadata={"help": "A file whose first line is the token."})
    no_token: bool = field(
        default=False, metadata={"help": "Let in every account and program of this machine, as manager."}
    )
    new_tokens: bool = field(
        default=False, metadata={"help": "Make new tokens: links of before no longer open the page, sessions end."}
    )
    open_browser: bool = field(default=False, metadata={"help": "Open the page in this machine's browser."})

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port={self.port}: a port is a number from 0 to 65535")
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file were both given: name one of them")
        if self.no_token:
            if self.token or self.token_file:
                raise ValueError("no_token and a token were both given: leave one of them out")
            if not is_loopback(self.host):
                raise ValueError(f"no_token: on {self.host} others reach the page, so it needs a token; leave it out")
            return
        source = "token"
        if self.token_file is not None:
            self.token, source = _first_line(self.token_file), f"token_file {self.token_file}"
        elif self.token is None and TOKEN_VARIABLE in os.environ:
            self.token, source = os.environ[TOKEN_VARIABLE], TOKEN_VARIABLE
        if self.token is not None and not TOKEN.fullmatch(self.token):
            raise ValueError(f"{source}: 12 to 200 of the characters A-Z a-z 0-9 _ . ~ -, or none: then one is made")


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.readline(1000).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"token_file {path} cannot be read ({error}); name a file whose first line is the token"
        ) from None


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
        body = await _object(request) if method == "POST" else {}
        found = await run_in_threadpool(handler, request, body)
        return found if isinstance(found, Response) else answer(found)

    return Route(path, endpoint, methods=[method])


async def _object(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except (ValueError, RecursionError):  # also bytes that are not UTF-8; brackets in brackets in brackets
        raise Problem(400, "the request is not valid JSON") from None
    if not isinstance(body, dict):
        raise Problem(400, "the request must be a JSON object")
    return body


def session(request: Request) -> Session:
    """The session that a request came with; its `role` is `manager` or `visitor`. Without tokens all are managers."""
    return request.scope["align_session"]


# ------------------------------------------------------------------------------------------------------- application


def application(
    routes: list[Route], args: ServeArguments, *, page: Path, manager: bool = False, what: Path | None = None
) -> Starlette:
    """The routes and a page's files behind the guard.

    Args:
        routes: of the API, made by `get` and `post`.
        args: where it is served, and with which token.
        page: folder of the page: `index.html` is `/`, `other.html` is `/other`, all else goes by its name.
        manager: make a second token, the manager's; see `session`.
        what: the file that the page is about. Links and sessions for it outlive a restart on the same port.

    Returns:
        The application; `state.entry` has its tokens (none where none is asked for) and sessions.

    Raises:
        RunError: the tokens of the last start cannot be read.
    """
    check_installed()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Route

    roles = () if args.no_token else ("visitor", "manager") if manager else ("visitor",)
    kept = kept_at(what, args.port) if what else None
    entry = Entry(roles, given=args.token, kept=kept, renew=args.new_tokens)
    app = Starlette(
        routes=[*routes, Route(ENTRANCE, _entrance(entry), methods=["POST"]), *_file_routes(page)],
        middleware=[Middleware(Guard, entry=entry, loopback=is_loopback(args.host))],
        exception_handlers={
            Problem: _problem, ConfigError: _wrong, RunError: _refused, 404: _missing, 405: _missing, 500: _broken,
        },
    )  # fmt: skip
    app.state.entry = entry
    return app


def _entrance(entry: Entry) -> Callable[[Request], Any]:
    """A token for a session. The browser keeps what comes back, and sends it with everything else."""

    async def enter(request: Request) -> Response:
        token = (await _object(request)).get("token", "")
        if not isinstance(token, str):
            raise Problem(400, "token: text is needed")
        word = entry.enter(token, request.headers.get(SESSION_HEADER, ""))
        if word is None:
            await asyncio.sleep(WRONG if token else 0)
            why = "This link is not whole, or no longer holds" if token else "This page opens by its link only"
            raise Problem(403, f"{why}: {HOW}.")
        return answer({"session": word})

    return enter


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
