"""A CalDAV server that thinks for a set time before every answer: one calendar for any user, with a fixed week in it."""

from __future__ import annotations

import base64
import datetime
import http.server
import sys
import time

MULTISTATUS = (
    '<?xml version="1.0" encoding="utf-8"?>'
    '<d:multistatus xmlns:d="DAV:" xmlns:c="urn:ietf:params:xml:ns:caldav">{}</d:multistatus>'
)
OK = "<d:status>HTTP/1.1 200 OK</d:status>"


def response(href: str, properties: str) -> str:
    return f"<d:response><d:href>{href}</d:href><d:propstat><d:prop>{properties}</d:prop>{OK}</d:propstat></d:response>"


def events(calendar: str, count: int = 20) -> str:
    """A week of hour-long events, as the answer of a REPORT."""
    start = datetime.datetime.now(datetime.UTC).replace(minute=0, second=0, microsecond=0)
    parts = []
    for number in range(count):
        begins = start + datetime.timedelta(hours=8 * number)
        text = (
            "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//bench//EN\r\nBEGIN:VEVENT\r\n"
            f"UID:{number}\r\nDTSTAMP:20260101T000000Z\r\nDTSTART:{begins:%Y%m%dT%H%M%SZ}\r\nDURATION:PT1H\r\n"
            "END:VEVENT\r\nEND:VCALENDAR\r\n"
        )
        parts.append(
            response(
                f"{calendar}{number}.ics", f'<d:getetag>"{number}"</d:getetag><c:calendar-data>{text}</c:calendar-data>'
            )
        )
    return MULTISTATUS.format("".join(parts))


class Slow(http.server.BaseHTTPRequestHandler):
    """Answers by path: `/USER/` is principal and home, `/USER/work/` the calendar."""

    protocol_version = "HTTP/1.1"
    delay_s = 0.0

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(self.delay_s)
        user = self.user()
        home, calendar = f"/{user}/", f"/{user}/work/"
        if self.command == "REPORT":
            self.send(events(calendar))
            return
        found = [
            response(
                home,
                f"<d:current-user-principal><d:href>{home}</d:href></d:current-user-principal>"
                "<d:resourcetype><d:collection/><d:principal/></d:resourcetype>"
                f"<c:calendar-home-set><d:href>{home}</d:href></c:calendar-home-set>",
            )
        ]
        of_calendar = response(
            calendar,
            "<d:resourcetype><d:collection/><c:calendar/></d:resourcetype><d:displayname>Work</d:displayname>"
            f"<d:current-user-principal><d:href>{home}</d:href></d:current-user-principal>",
        )
        if self.path.startswith(calendar):
            found = [of_calendar]
        elif self.headers.get("Depth") == "1":
            found.append(of_calendar)
        self.send(MULTISTATUS.format("".join(found)))

    do_PROPFIND = do_REPORT = do_OPTIONS = answer

    def user(self) -> str:
        scheme, _, value = self.headers.get("Authorization", "").partition(" ")
        return base64.b64decode(value).decode().split(":")[0] if scheme == "Basic" else "nobody"

    def send(self, body: str) -> None:
        data = body.encode()
        self.send_response(207)
        self.send_header("Content-Type", "application/xml; charset=utf-8")
        self.send_header("DAV", "1, calendar-access")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


if __name__ == "__main__":
    Slow.delay_s = float(sys.argv[2])
    with http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Slow) as server:
        server.daemon_threads = True
        server.serve_forever()
