"""The load: a process of its own that sends ready-made bytes and takes the time of every call.

It does not share the server's interpreter, and it neither makes nor reads messages, so that a call costs it the same
whatever is called. Run as a module it is that process, told by lines of JSON on standard input what to do.
"""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType

import grpc

from bench.figures import BenchError, percentile
from deploy import local

NUMBER = b"0000000000"
"""Stands in requests that are sent under a new number each time."""
_CALL_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What one run of calls gave. ``failed`` has the first words of what went wrong, and how often."""

    seconds: float
    latencies_s: list[float]
    answer_bytes: int
    failed: dict[str, int] = field(default_factory=dict)

    @property
    def p50_s(self) -> float:
        """The time that half of the calls do not exceed."""
        return percentile(self.latencies_s, 0.5)

    @property
    def p99_s(self) -> float:
        """The time that 99 in 100 calls do not exceed."""
        return percentile(self.latencies_s, 0.99)

    @property
    def per_s(self) -> float:
        """Calls in a second."""
        return len(self.latencies_s) / self.seconds


class Load:
    """Handle of one load process. One run at a time: ``begin`` it and ``end`` it, or ``run`` it whole."""

    def __init__(self, address: str, api_key: str):
        self._address = address
        self._api_key = api_key
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load", address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=local.environment({"CALENDAR_API_KEY": api_key}),
            text=True,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def prepare(self, name: str, path: str, requests: Sequence[bytes]) -> None:
        """Give a set of calls a name. They are sent in turn, from where the last run ended."""
        encoded = [base64.b64encode(request).decode() for request in requests]
        self._tell({"prepare": name, "path": path, "requests": encoded})
        self._answer()

    def begin(self, name: str, *, callers: int = 1, seconds: float = 0.0, calls: int = 0) -> None:
        """Start calling, each caller on a connection of its own, until ``seconds`` are over or ``calls`` are made."""
        self._tell({"run": name, "callers": callers, "seconds": seconds, "calls": calls})

    def end(self, *, failing: bool = False) -> Sample:
        """Wait for the run's end. Raises ``BenchError`` when calls failed, unless that is expected (``failing``)."""
        answer = self._answer()
        sample = Sample(**answer)  # type: ignore[arg-type]
        if sample.failed and not failing:
            raise BenchError(f"calls failed: {sample.failed}")
        return sample

    def run(self, name: str, *, callers: int = 1, seconds: float = 0.0, calls: int = 0) -> Sample:
        """``begin``, then ``end``."""
        self.begin(name, callers=callers, seconds=seconds, calls=calls)
        return self.end()

    def _tell(self, what: dict[str, object]) -> None:
        if self._process.stdin is None:
            raise BenchError("the load process has no standard input")
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, object]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise BenchError("the load process has died")
        found: dict[str, object] = json.loads(line)
        return found


@dataclass(slots=True)
class _Set:
    path: str
    requests: list[bytes]
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def next(self) -> bytes:
        number = next(self.numbers)
        return self.requests[number % len(self.requests)].replace(NUMBER, b"%010d" % number)


class _Caller:
    """One connection to the server, used by one thread at a time."""

    def __init__(self, address: str, metadata: tuple[tuple[str, str], ...]):
        # Without a pool of its own each channel would share the one connection of its address.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channel = grpc.insecure_channel(address, options=options)
        self._metadata = metadata
        self._calls: dict[str, Callable[..., bytes]] = {}

    def call(self, path: str, request: bytes) -> bytes:
        stub = self._calls.get(path)
        if stub is None:
            stub = self._calls[path] = self._channel.unary_unary(
                path, request_serializer=None, response_deserializer=None
            )
        return stub(request, metadata=self._metadata, timeout=_CALL_S)


def _run(kept: _Set, callers: Sequence[_Caller], seconds: float, calls: int) -> Sample:
    latencies: list[float] = []
    failed: dict[str, int] = {}
    sizes: list[int] = [0]
    tickets = itertools.count()
    started = threading.Barrier(len(callers) + 1)
    began = 0.0

    def work(caller: _Caller) -> None:
        started.wait()
        until = time.perf_counter() + seconds if seconds else float("inf")
        while not calls or next(tickets) < calls:
            request = kept.next()
            sent = time.perf_counter()
            if sent >= until:
                return
            try:
                answer = caller.call(kept.path, request)
            except grpc.RpcError as error:
                words = f"{error.code().name}: {error.details()}"[:200]
                failed[words] = failed.get(words, 0) + 1
                continue
            latencies.append(time.perf_counter() - sent)
            sizes[0] = len(answer)

    threads = [threading.Thread(target=work, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    started.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    return Sample(time.perf_counter() - began, latencies, sizes[0], failed)


def main() -> None:
    """Do what the lines say, a line of answer for each, until standard input ends."""
    import os

    metadata = (("authorization", f"Bearer {os.environ['CALENDAR_API_KEY']}"),)
    sets: dict[str, _Set] = {}
    callers: list[_Caller] = []
    for line in sys.stdin:
        told = json.loads(line)
        if "prepare" in told:
            sets[told["prepare"]] = _Set(told["path"], [base64.b64decode(request) for request in told["requests"]])
            print("{}", flush=True)
            continue
        while len(callers) < told["callers"]:
            callers.append(_Caller(sys.argv[1], metadata))
        sample = _run(sets[told["run"]], callers[: told["callers"]], told["seconds"], told["calls"])
        fields = {name: getattr(sample, name) for name in ("seconds", "latencies_s", "answer_bytes", "failed")}
        print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
