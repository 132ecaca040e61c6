"""Who may enter a page: a token in a link, exchanged for a session that one browser keeps.

The token stands behind the `#` of a link, which browsers send to nobody. The page hands it in once and gets a session:
a random word of its own, kept by the browser for this host and port alone (a cookie would go to every port), and sent
as a header. Only the session's hash is kept here. New tokens end every session.

Tokens and sessions outlive a restart in a file of the user's own, not beside the data: folders are sent around.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from align.run.errors import RunError
from align.run.received import files

TOKEN = re.compile(r"[A-Za-z0-9_.~-]{12,200}")
LASTS = 30 * 24 * 3600.0  # seconds that a session lasts; then the link has to be opened again
MOST = 1000  # sessions of one role; of more, the oldest end


@dataclass
class Session:
    """One browser that came with a token of ours."""

    key: str  # hash of the word that the browser sends
    role: str  # whose token it was: `visitor` or `manager`
    made: float  # seconds since 1970


class Entry:
    """The tokens of one page and the sessions that they were exchanged for. Safe to use from several threads.

    Args:
        roles: who has a token; nobody: no token is asked for, and everyone is the manager.
        given: the visitors' token, where the user names one.
        kept: the file of tokens and sessions; None: they end with the process.
        renew: make new tokens, whatever is kept.

    Raises:
        RunError: `kept` is not ours alone, or cannot be read.
    """

    def __init__(self, roles: tuple[str, ...], *, given: str | None, kept: Path | None, renew: bool = False):
        self.kept, self.lock = kept if roles else None, threading.Lock()
        before = _read(self.kept) if self.kept else {}
        tokens = {} if renew else before.get("tokens", {})
        self.tokens = {role: tokens.get(role) or secrets.token_urlsafe(24) for role in roles}
        if given and roles:
            self.tokens["visitor"] = given
        found = [Session(**one) for one in before.get("sessions", [])]
        # of those whose token still holds
        self.sessions = {one.key: one for one in found if tokens.get(one.role) == self.tokens.get(one.role)}
        self._save()

    def role(self, token: str) -> str | None:
        """Whose token it is; None: nobody's. Every token is compared, in constant time."""
        if not self.tokens:
            return "manager"
        hashed = {role: _hash(one) for role, one in self.tokens.items()}
        fits = [role for role, one in hashed.items() if secrets.compare_digest(one, _hash(token))]
        return fits[0] if fits else None

    def enter(self, token: str, before: str = "") -> str | None:
        """A session for a token; None where it is nobody's.

        Args:
            token: as the link has it.
            before: the session that the browser has already: it goes on, unless it is another role's. Then it ends,
                and the new one is a new word, so that nobody who knew the old one rises with it.
        """
        role = self.role(token)
        if role is None:
            return None
        with self.lock:
            held = self._known(before)
            if held is not None and held.role == role:
                return before
            if held is not None:
                del self.sessions[held.key]
            word = secrets.token_urlsafe(32)
            self.sessions[_hash(word)] = Session(_hash(word), role, time.time())
            same = [key for key, one in self.sessions.items() if one.role == role]
            for key in same[:-MOST]:  # nobody ends the manager's by entering again and again as a visitor
                del self.sessions[key]
            self._save()
        return word

    def session(self, word: str) -> Session | None:
        """The session of a word, or None where there is none, or it ended."""
        with self.lock:
            return self._known(word)

    def holds(self, key: str) -> bool:
        """Has the session of this key not ended?"""
        return key in self.sessions

    def renew(self, keep: Session) -> None:
        """Make new tokens and end all sessions but `keep`: links that were sent no longer open the page."""
        with self.lock:
            self.tokens = {role: secrets.token_urlsafe(24) for role in self.tokens}
            self.sessions = {keep.key: keep}
            self._save()

    def _known(self, word: str) -> Session | None:
        found = self.sessions.get(_hash(word)) if word else None
        if found is not None and time.time() - found.made > LASTS:
            del self.sessions[found.key]
            return None
        return found

    def _save(self) -> None:
        """Write `kept` anew, for its owner alone. Where that cannot be, all ends with the process."""
        if self.kept is None:
            return
        value = {"tokens": self.tokens, "sessions": [asdict(one) for one in self.sessions.values()]}
        try:
            self.kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            files.replace(self.kept, json.dumps(value), 0o600)
        except OSError:
            self.kept = None


def kept_at(what: Path, port: int) -> Path | None:
    """The file of tokens and sessions for the page about `what` on `port`.

    None for a port that is another each time, and for a user without a home.
    It is in the user's state folder (https://specifications.freedesktop.org/basedir-spec/latest/).
    """
    state = os.path.expanduser(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    if port == 0 or not os.path.isabs(state):
        return None
    return Path(state) / "align" / "pages" / f"{_hash(f'{what.resolve()} {port}')[:24]}.json"


def _read(kept: Path) -> dict[str, Any]:
    """What was kept: `tokens` by role and `sessions`.

    Raises:
        RunError: not a file of this user's alone, or not in the form in which we write it.
    """
    wrong = f"{kept} cannot be used for the page's tokens ({{}}); delete it, and new ones are made"
    try:
        with files.opened(kept) as stream:
            found = os.fstat(stream.fileno())
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise RunError(wrong.format("others may read or write it"))
            value = files.parsed(stream.readall())
        tokens, sessions = value["tokens"], [Session(**one) for one in value["sessions"]]
        whole = all(TOKEN.fullmatch(one) for one in tokens.values())
        whole &= all(isinstance(one.key, str) and isinstance(one.made, (int, float)) for one in sessions)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(wrong.format(type(error).__name__)) from error
    if not whole:
        raise RunError(wrong.format("it is damaged"))
    return value


def _hash(word: str) -> str:
    return hashlib.sha256(word.encode("utf-8", "replace")).hexdigest()
