"""`calendar-server serve` with one more method, Echo: what a call costs that has nothing to do.

Echo stands behind the same interceptors, key and threads as every method of the service. A request begins with four
bytes, big endian: how many bytes to answer. No message is parsed or made for it.
"""

from __future__ import annotations

import argparse

import grpc

from calendar_server import app
from calendar_server.config import Config
from calendar_server.telemetry import configure_logging

ECHO = "/calendars.v1.CalendarService/Echo"


def echo_request(answer_bytes: int, like: bytes) -> bytes:
    """A request of the size of ``like`` for so many bytes."""
    return answer_bytes.to_bytes(4, "big").ljust(len(like), b".")


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers as many bytes as it is asked for."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Our one method, or None."""
        if handler_call_details.method != ECHO:
            return None
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: bytes(int.from_bytes(request[:4], "big")),
            request_deserializer=bytes,
            response_serializer=bytes,
        )


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.server")
    parser.add_argument("--no-worker", action="store_true")
    options = parser.parse_args()
    config = Config.from_environment()
    configure_logging(config.log_level)
    app.serve(config, with_worker=not options.no_worker, extra_handlers=(Echo(),))


if __name__ == "__main__":
    main()
