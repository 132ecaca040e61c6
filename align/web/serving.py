"""A page's port: taken, listened on until Ctrl-C, and given back; and the link that opens the page."""

from __future__ import annotations

import contextlib
import html
import socket
import tempfile
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from align.run.errors import RunError
from align.web.server import ServeArguments, check_installed

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette

PORTS_TRIED = 50  # for the free port that is proposed


def serve(app: Starlette, args: ServeArguments, say: Callable[[str], Any]) -> None:
    """Serve until Ctrl-C. `say` gets the page's link, with the visitors' token, once the port is ours.

    Raises:
        RunError: the port is in use (with a free one proposed), or the address is not this machine's.
    """
    check_installed()
    import uvicorn

    bound = _bind(args.host, args.port)
    url = link(args.host, bound.getsockname()[1], app.state.entry.tokens.get("visitor"))

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(url)  # not before: from here on Ctrl-C is uvicorn's, and cannot get lost in an import
            if args.open_browser:
                webbrowser.open(stack.enter_context(_hidden(url)))

    with contextlib.ExitStack() as stack:
        stack.callback(bound.close)
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn has shut down in order, and then raises the signal again
            Server(configuration(app)).run(sockets=[bound])


def configuration(app: Starlette) -> uvicorn.Config:
    """How uvicorn serves a page: nothing is logged of a request, and every connection has its time."""
    import uvicorn

    from align.web.connections import ACCEPTED, IDLE, Bounded

    return uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2, http=Bounded,
        ws="none", lifespan="off", backlog=ACCEPTED, timeout_keep_alive=IDLE,
    )  # fmt: skip


def check_port(args: ServeArguments) -> None:
    """Is the port there to be had? For programs that take long to come to `serve`.

    Raises:
        RunError: as `serve` does.
    """
    _bind(args.host, args.port).close()


def link(host: str, port: int, token: str | None, path: str = "/") -> str:
    """What to type into a browser. It sends nobody what stands behind the `#`: the page itself hands it in."""
    name = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}{path}" + (f"#token={token}" if token else "")


@contextlib.contextmanager
def _hidden(url: str) -> Iterator[str]:
    """The address of a file of this user's that leads to `url`: a browser's command line is for all to read."""
    with tempfile.TemporaryDirectory(prefix="align-") as folder:
        file = Path(folder) / "page.html"
        file.write_text(f'<!doctype html><meta http-equiv="refresh" content="0;url={html.escape(url)}">')
        yield file.as_uri()


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
