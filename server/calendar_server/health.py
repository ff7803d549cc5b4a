"""`calendar-server health`: asks the server beside it whether it should get calls, for engines that run a command."""

from __future__ import annotations

import http.client
import json

ASK_S = 3.0
ANSWER_BYTES = 10_000


def ask(http_address: str) -> str:
    """Ask ``/readyz`` of the sidecar that listens on ``host:port``. Answers what is wrong, empty when nothing is."""
    host, _, port = http_address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104 — compared with
    connection = http.client.HTTPConnection(host, int(port), timeout=ASK_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read(ANSWER_BYTES).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException):
        return f"there is no answer on {http_address}"
    finally:
        connection.close()
    return "" if answer.status == 200 else _failed(text) or text or f"status {answer.status}"


def _failed(text: str) -> str:
    """What ``/readyz`` says that is wrong, on one line; empty when that is not what answered."""
    try:
        return "; ".join(f"{each['check']}: {each['problem']}" for each in json.loads(text)["failed"])
    except (ValueError, TypeError, LookupError):
        return ""
