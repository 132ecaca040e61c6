"""Does the hub answer? Asked for a moment only, and not at all where the environment says that nothing may be asked."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping

from align.machine.findings import OK, WARN, Finding

SECONDS = 1.5  # for an answer
HUB = "https://huggingface.co"
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def offline(environment: Mapping[str, str]) -> str | None:
    """The variable that says that the hub is not to be asked."""
    on = ("1", "true", "yes", "on")
    return next((name for name in OFFLINE if environment.get(name, "").lower() in on), None)


def ask(environment: Mapping[str, str]) -> Callable[[], Finding]:
    """Ask the hub, beside what else is done; called, what is returned waits for the answer, `SECONDS` at most.

    A name that is looked up in vain can take longer than any time limit: the thread that does so ends with the program.
    """
    if name := offline(environment):
        return lambda: Finding(OK, "hub", f"offline by {name}: what is not in the cache is not found")
    address = environment.get("HF_ENDPOINT") or HUB
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_fault(address)), daemon=True)
    thread.start()

    def told() -> Finding:
        thread.join(SECONDS)
        fault = answers[0] if answers else f"no answer in {SECONDS} s"
        if fault is None:
            return Finding(OK, "hub", f"{address} answers")
        mend = "export HF_HUB_OFFLINE=1  # asks nobody, and waits for nobody"
        return Finding(WARN, "hub", f"{address}: {fault}; checkpoints have to be in the cache", mend)

    return told


def _fault(address: str) -> str | None:
    """What keeps the hub from answering; any answer is one, also a refusal."""
    try:
        request = urllib.request.Request(f"{address}/api/models?limit=1", method="HEAD")
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__
    return None
