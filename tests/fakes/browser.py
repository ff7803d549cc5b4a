"""A real Chromium without a window, driven over its DevTools protocol by what the standard library has.

    with Browser(tmp_path) as browser:
        browser.open(url)
        browser.click("button[value=approve]")
        browser.wait_for_url("http://127.0.0.1:8000/connected")

The WebSocket below is a client's part of RFC 6455, no more of it than DevTools needs. Every wait is bounded.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit

START_S = 60.0
"""Seconds for Chromium to come up, on a slow machine with a cold disk."""
ANSWER_S = 30.0
"""Seconds for one DevTools command, and for a page to come."""
_POLL_S = 0.05
_MESSAGE_BYTES_MOST = 32 << 20
_ACCEPT_SALT = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1000,700",
    "--remote-debugging-port=0",
)


def chromium() -> str | None:
    """Where Chromium is on this machine, if it is."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class PageError(Exception):
    """A page did not do what was asked of it, or DevTools refused a command."""


class WebSocket:
    """One client's connection for text messages (RFC 6455)."""

    def __init__(self, url: str, timeout_s: float = ANSWER_S):
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "", parts.port or 80), timeout_s)
        self._reader = self._socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        head = (
            f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        self._socket.sendall(head.encode())
        status = self._reader.readline()
        headers = http.client.parse_headers(self._reader)
        accept = base64.b64encode(hashlib.sha1((key + _ACCEPT_SALT).encode()).digest()).decode()
        if b" 101 " not in status or headers["Sec-WebSocket-Accept"] != accept:
            self.close()
            raise PageError(f"DevTools did not open a WebSocket: {status!r}")

    def send(self, text: str) -> None:
        self._send(0x1, text.encode())

    def receive(self) -> str:
        """The next message, put together from its frames. Raises ``TimeoutError`` when none comes in time."""
        message = b""
        while True:
            first, second = self._read(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self._read(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self._read(8))
            if len(message) + size > _MESSAGE_BYTES_MOST:
                raise PageError("DevTools sent too much.")
            data = self._read(size)
            opcode = first & 0x0F
            if opcode == 0x8:
                raise PageError("DevTools ended the connection.")
            if opcode == 0x9:
                self._send(0xA, data)
            elif opcode in (0x0, 0x1):
                message += data
                if first & 0x80:
                    return message.decode()

    def close(self) -> None:
        self._reader.close()
        self._socket.close()

    def _send(self, opcode: int, data: bytes) -> None:
        # A client masks what it sends (section 5.3).
        size = len(data)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 1 << 16:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))
        self._socket.sendall(head + mask + masked)

    def _read(self, size: int) -> bytes:
        data = self._reader.read(size)
        if len(data) != size:
            raise PageError("DevTools cut the connection.")
        return data


class Browser:
    """A Chromium with a fresh profile in ``folder`` and one page. Ended by its own process id."""

    def __init__(self, folder: Path):
        program = chromium()
        if program is None:
            raise FileNotFoundError("chromium")
        profile = folder / "profile"
        # The profile is its home too: nothing is read from or written to the person's own.
        environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
        self._log = folder / "chromium.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        self._line: WebSocket | None = None
        self._last = 0
        try:
            port_file = profile / "DevToolsActivePort"
            self._until(lambda: "\n" in _text_of(port_file), START_S, "Chromium did not start")
            port = int(_text_of(port_file).split("\n", 1)[0])
            self._until(lambda: bool(_pages(port)), START_S, "Chromium has no page")
            self._line = WebSocket(_pages(port)[0])
        except BaseException:
            self.close()
            raise

    def open(self, url: str, timeout_s: float = ANSWER_S) -> None:
        """Go to this address and wait for the page, wherever redirects lead."""
        answer = self._command("Page.navigate", url=url)
        if "errorText" in answer:
            raise PageError(f"{url}: {answer['errorText']}")
        self._until(lambda: self._value("document.readyState") == "complete", timeout_s, f"{url} was not loaded")

    def url(self) -> str:
        return str(self._value("location.href"))

    def text(self) -> str:
        """What a person reads on the page."""
        return str(self._value("document.body.innerText"))

    def style(self, selector: str, name: str) -> str:
        """A computed property of the first element that fits."""
        return str(self._value(f"getComputedStyle({_element(selector)}).getPropertyValue({json.dumps(name)})"))

    def click(self, selector: str) -> None:
        """Click the first element that fits."""
        self._value(f"{_element(selector)}.click()")

    def choose(self, selector: str, value: str) -> None:
        """Choose an entry of a select."""
        self._value(f"{_element(selector)}.value = {json.dumps(value)}")
        if self._value(f"{_element(selector)}.value") != value:
            raise PageError(f"{selector} has no entry {value}.")

    def wait_for_url(self, prefix: str, timeout_s: float = ANSWER_S) -> str:
        """Wait until a page whose address begins so has been loaded; answers the address."""
        seen: list[str] = []

        def there() -> bool:
            address, state = str(self._value("location.href + ' ' + document.readyState")).rsplit(" ", 1)
            seen[:] = [address]
            return address.startswith(prefix) and state == "complete"

        self._until(there, timeout_s, f"The browser did not come to {prefix}", seen)
        return seen[0]

    def screenshot(self, path: Path) -> bytes:
        """The page as a PNG, which is kept at ``path`` too."""
        image = base64.b64decode(str(self._command("Page.captureScreenshot", format="png")["data"]))
        path.write_bytes(image)
        return image

    def close(self) -> None:
        if self._line is not None:
            self._line.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _command(self, method: str, **parameters: object) -> dict[str, object]:
        assert self._line is not None
        self._last += 1
        self._line.send(json.dumps({"id": self._last, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._line.receive())
            if message.get("id") != self._last:
                continue
            if "error" in message:
                raise PageError(f"{method}: {message['error']}")
            result = message["result"]
            assert isinstance(result, dict)
            return result

    def _value(self, expression: str) -> object:
        answer = self._command("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise PageError(f"{expression}: {answer['exceptionDetails']}")
        result = answer["result"]
        assert isinstance(result, dict)
        return result.get("value")

    def _until(self, fits: Callable[[], bool], timeout_s: float, problem: str, seen: list[str] | None = None) -> None:
        end = time.monotonic() + timeout_s
        while True:
            try:
                if fits():
                    return
            except PageError:
                # Between two pages there is nothing to ask; the last word is the time's.
                pass
            if self._process.poll() is not None or time.monotonic() > end:
                raise PageError(f"{problem} {seen or ''}: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(_POLL_S)


def _element(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _pages(port: int) -> list[str]:
    """Where the DevTools of each page are."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/json/list")
        targets = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return [target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page"]
