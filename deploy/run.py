"""`make run`: serve on this machine with reflection and the HTTP API, and print how to call it.

The first start makes an API key.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from local import create_api_key, wait_serving

KEY_FILE = Path("var/api-key")


def main() -> int:
    """Serve until Ctrl-C. What the environment sets holds; reflection, the HTTP API and calendarctl's sign-in are on."""
    told = {name: value for name, value in os.environ.items() if name.startswith("CALENDAR_")}
    settings = {
        "CALENDAR_REFLECTION": "1",
        "CALENDAR_HTTP_API": "1",
        # Where `calendarctl connect google` and `… microsoft` wait for the browser.
        "CALENDAR_REDIRECT_URIS": "http://127.0.0.1:8085/connected",
        **told,
    }
    address = settings.setdefault("CALENDAR_GRPC_ADDRESS", "127.0.0.1:50051")
    http_address = settings.setdefault("CALENDAR_HTTP_ADDRESS", "127.0.0.1:8080")
    KEY_FILE.parent.mkdir(exist_ok=True)
    made = not KEY_FILE.exists()
    if made:
        key = create_api_key(settings, "local")
        descriptor = os.open(KEY_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(key + "\n")
    # Who ends this ends the server: it must not stay behind on its port.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    log = Path("var/service.log")
    with log.open("ab") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "calendar_server", "serve"], env={**os.environ, **settings}, stderr=output
        )
    try:
        wait_serving(address, server, log)
        print(banner(address, http_address, key if made else None, log), flush=True)
        server.wait()
    except KeyboardInterrupt:
        # The terminal sent the server its own SIGINT; it ends by itself when its calls have.
        threading.Event().wait(0.1)
    finally:
        if server.poll() is None:
            server.terminate()
        server.wait()
    return server.returncode


def banner(address: str, http_address: str, key: str | None, log: Path) -> str:
    """What to paste."""
    shown = f"API key (shown once, kept in {KEY_FILE}): {key}" if key else f"The API key is in {KEY_FILE}."
    header = f'-H "authorization: Bearer $(cat {KEY_FILE})"'
    service = "calendars.v1.CalendarService"
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    start, end = (f"{moment:%Y-%m-%dT%H:%M:%SZ}" for moment in (now, now + datetime.timedelta(days=7)))
    window = json.dumps({"start_time": start, "end_time": end})
    variables = f"export CALENDAR_API_KEY=$(cat {KEY_FILE}) PATH=$PWD/.venv/bin:$PATH"
    if address != "127.0.0.1:50051":
        variables += f" CALENDAR_ADDRESS={address}"
    return f"""
Serving gRPC on {address}, HTTP on {http_address}. Logs: {log}. Ctrl-C stops.
{shown}

Paste into another terminal, here. The first busy week (connect asks for a server, a name and an app password):

  {variables}
  calendarctl connect caldav
  calendarctl busy

The same service by grpcurl:

  grpcurl -plaintext {address} describe {service}
  grpcurl -plaintext {header} {address} {service}/List
  grpcurl -plaintext {header} -d '{window}' {address} {service}/GetBusy

The same as HTTP with JSON (docs/http-api.md):

  curl -sS {header} http://{http_address}/v1/calendars
"""


if __name__ == "__main__":
    sys.exit(main())
