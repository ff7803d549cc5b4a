"""Notifications on their way: posted over real HTTP, in order, from a thread of their own; tests lose or repeat them."""

from __future__ import annotations

import http.client
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Post:
    """One request to an address of ours."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    body: bytes


def send(post: Post, timeout_s: float = 10) -> Answer:
    """Post it now. Raises ``OSError`` when nobody answers."""
    parts = urlsplit(post.url)
    assert parts.hostname is not None
    line = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        line.request(
            "POST", f"{parts.path}?{parts.query}" if parts.query else parts.path, post.body, dict(post.headers)
        )
        answer = line.getresponse()
        return Answer(answer.status, answer.getheader("Content-Type", ""), answer.read())
    except http.client.HTTPException as error:
        raise OSError("no answer that is HTTP") from error
    finally:
        line.close()


class Deliveries:
    """What a provider sends. ``lose`` and ``repeat`` hold for what is sent from then on; ``hold`` delays it."""

    def __init__(self) -> None:
        self.sent: list[tuple[Post, int]] = []
        """What was delivered, and how it was answered; 0: not at all."""
        self.lose = False
        self.repeat = 1
        self._open = threading.Event()
        self._open.set()
        self._waiting: queue.Queue[Post | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def post(self, post: Post) -> None:
        """Send it as soon as what went before it is there."""
        for _ in range(0 if self.lose else self.repeat):
            self._waiting.put(post)

    def hold(self) -> None:
        """Deliver nothing until ``release``."""
        self._open.clear()

    def release(self) -> None:
        self._open.set()

    def drain(self) -> None:
        """Return when everything that was posted has been answered."""
        self._waiting.join()

    def close(self) -> None:
        self._open.set()
        self._waiting.put(None)
        self._thread.join(15)

    def _run(self) -> None:
        while (post := self._waiting.get()) is not None:
            self._open.wait()
            try:
                status = send(post).status
            except OSError:
                status = 0
            self.sent.append((post, status))
            self._waiting.task_done()
