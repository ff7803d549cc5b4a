"""Make ``calendar_client/aio.py`` from ``calendar_client/client.py``: the same calls, for asyncio.

``python clients/generate_aio.py`` writes it, with ``--check`` it only compares and fails when they differ.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent / "calendar_client"

HEAD = '''"""The client for asyncio: the calls of ``client.py``, to be awaited.

Made by ``generate_aio.py`` from ``client.py``; change that one.
"""
'''

# Pattern, replacement, how often it must be there: a change of client.py that this does not know of fails here.
RULES: tuple[tuple[str, str, int], ...] = (
    (r'\A""".*?"""\n', HEAD, 1),
    (r"\nimport grpc\n", "\nimport grpc\nimport grpc.aio\n", 1),
    (r"import requests, watching\n", "import requests, watching, watching_aio\n", 1),
    (r"import Generator, Iterable, Iterator\n", "import AsyncGenerator, AsyncIterator, Iterable\n", 1),
    (r"import closing\n", "import aclosing\n", 1),
    (r"grpc\.((?:in)?secure_channel)\(", r"grpc.aio.\1(", 2),
    # Who calls the service, waits.
    (r"return self\._connect\((.*?)\)\.", r"return (await self._connect(\1)).", 3),
    (r"(return|answer =) self\._call\(", r"\1 await self._call(", 8),
    (r"AnswerT = send\(", "AnswerT = await send(", 1),
    (r"    def _call\(", "    async def _call(", 1),
    # Pages.
    (r"    def list\(", "    async def list(", 1),
    (r"page = self\.list_page\(", "page = await self.list_page(", 1),
    (r"yield from page\.data\n", "for each in page.data:\n                yield each\n", 1),
    (r"-> Iterator\[", "-> AsyncIterator[", 1),
    # Streams.
    (r"-> Generator\[", "-> AsyncGenerator[", 2),
    (r"answers: Generator\[", "answers: AsyncGenerator[", 1),
    (r"watching\.Call\[", "watching_aio.Call[", 2),
    (r"watching\.follow\(", "watching_aio.follow(", 1),
    (r"def _each_asked\(", "async def _each_asked(", 1),
    (r"    with closing\(", "    async with aclosing(", 1),
    (r"        for answer in answers:", "        async for answer in answers:", 1),
    # The beginning and the end.
    (r"def __enter__\(", "async def __aenter__(", 1),
    (r"def __exit__\(", "async def __aexit__(", 1),
    (r"def close\(", "async def close(", 1),
    (r"        self\.close\(\)\n", "        await self.close()\n", 1),
    (r"        self\._channel\.close\(\)\n", "        await self._channel.close()\n", 1),
    # Words.
    (r"        with CalendarClient\(", "        async with CalendarClient(", 1),
    (r"            for connection in client\.list\(", "            async for connection in client.list(", 1),
    (r"            for answer in client\.watch_busy\(", "            async for answer in client.watch_busy(", 1),
    (r"Safe to share between threads; use it", "For one event loop; use it", 1),
    (r"``close\(\)`` of the generator", "``aclose()`` of the generator", 1),
)


def generate(source: str) -> str:
    """The text of aio.py. Raises ``SystemExit`` when client.py has a form that the rules do not know."""
    for pattern, replacement, count in RULES:
        source, found = re.subn(pattern, replacement, source, flags=re.DOTALL)
        if found != count:
            sys.exit(f"client.py has {pattern!r} {found} times, and generate_aio.py knows of {count}.")
    return _formatted(_asynchronous(source))


def _formatted(source: str) -> str:
    """Lines have grown: in the form that `ruff format` gives everything here."""
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(HERE / "aio.py"), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603


def _asynchronous(source: str) -> str:
    """Every method that awaits is a coroutine."""
    parts = re.split(r"(?m)^(?=    (?:async )?def |    @|\S)", source)
    return "".join(
        re.sub(r"\A    def ", "    async def ", part) if re.search(r"\bawait ", part) else part for part in parts
    )


def main() -> int:
    made = generate((HERE / "client.py").read_text())
    path = HERE / "aio.py"
    if "--check" not in sys.argv[1:]:
        path.write_text(made)
        return 0
    if path.read_text() == made:
        return 0
    sys.stderr.write("clients/calendar_client/aio.py is not what client.py makes: run `make gen`.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
