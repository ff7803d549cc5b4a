"""The main job, played in the terminal: a real CalDAV server with a lifelike week, connected, read, booked into.

Everything runs on loopback in a folder of its own that is removed at the end.
"""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from zoneinfo import ZoneInfo

import httpx

sys.path.insert(0, str(Path(__file__).parent))
from local import create_api_key, free_port, radicale, service

USER, PASSWORD = "anna@example.org", "correct horse battery staple"
ZONE = ZoneInfo("Europe/Berlin")
PLAIN = os.environ.get("NO_COLOR") is not None or not sys.stdout.isatty()


def say(text: str) -> None:
    """A line of the story."""
    print(f"\n{text}" if PLAIN else f"\n\033[1;36m{text}\033[0m", flush=True)


def monday() -> datetime.date:
    """The Monday of the week after this one: all of it lies ahead."""
    today = datetime.datetime.now(ZONE).date()
    return today + datetime.timedelta(days=7 - today.weekday())


def week(start: datetime.date) -> dict[str, str]:
    """A lifelike week as iCalendar events: series, an override, an exception, travel, free and declined ones."""

    def day(offset: int) -> str:
        return (start + datetime.timedelta(days=offset)).strftime("%Y%m%d")

    before = (start - datetime.timedelta(days=28)).strftime("%Y%m%d")
    zone = "TZID=Europe/Berlin"
    return {
        "standup": f"DTSTART;{zone}:{before}T091500\nDTEND;{zone}:{before}T093000\nSUMMARY:Stand-up\n"
        f"RRULE:FREQ=WEEKLY;BYDAY=MO,TU,WE,TH,FR\nEXDATE;{zone}:{day(4)}T091500",
        "planning": f"DTSTART;{zone}:{day(0)}T100000\nDTEND;{zone}:{day(0)}T113000\nSUMMARY:Planning",
        "gym": f"DTSTART;{zone}:{before}T180000\nDTEND;{zone}:{before}T190000\nSUMMARY:Gym\nRRULE:FREQ=WEEKLY;INTERVAL=2",
        "dentist": f"DTSTART;{zone}:{day(1)}T140000\nDTEND;{zone}:{day(1)}T144500\nSUMMARY:Dentist\n"
        "X-APPLE-TRAVEL-DURATION;VALUE=DURATION:PT30M",
        "lunch": f"DTSTART;{zone}:{day(2)}T120000\nDTEND;{zone}:{day(2)}T130000\nSUMMARY:Lunch\nTRANSP:TRANSPARENT",
        "review": f"DTSTART;{zone}:{day(2)}T150000\nDTEND;{zone}:{day(2)}T160000\nSUMMARY:Review\nSTATUS:TENTATIVE",
        "offsite": f"DTSTART;VALUE=DATE:{day(3)}\nDTEND;VALUE=DATE:{day(4)}\nSUMMARY:Off-site",
        "webinar": f"DTSTART;{zone}:{day(4)}T110000\nDTEND;{zone}:{day(4)}T120000\nSUMMARY:Webinar\n"
        f"ORGANIZER:mailto:host@example.com\nATTENDEE;PARTSTAT=DECLINED:mailto:{USER}",
        "one-on-one": f"DTSTART;{zone}:{day(4)}T133000\nDTEND;{zone}:{day(4)}T143000\nSUMMARY:One on one",
    }


def fill(url: str) -> str:
    """Make a calendar at Radicale and put the week into it; answers the calendar's address."""
    calendar = f"{url}anna%40example.org/work/"
    with httpx.Client(auth=(USER, PASSWORD), trust_env=False) as client:
        client.request("MKCALENDAR", calendar).raise_for_status()
        for name, lines in week(monday()).items():
            text = (
                "BEGIN:VCALENDAR\nVERSION:2.0\nPRODID:-//Example//Demo//EN\nBEGIN:VEVENT\n"
                f"UID:{name}@example.org\nDTSTAMP:20260101T000000Z\n{lines}\nEND:VEVENT\nEND:VCALENDAR\n"
            )
            client.put(f"{calendar}{name}.ics", content=text.replace("\n", "\r\n")).raise_for_status()
    return calendar


def in_radicale(calendar: str) -> list[str]:
    """The lines of the booking's event as Radicale has them now."""
    report = (
        '<C:calendar-query xmlns:D="DAV:" xmlns:C="urn:ietf:params:xml:ns:caldav"><D:prop><C:calendar-data/></D:prop>'
        '<C:filter><C:comp-filter name="VCALENDAR"><C:comp-filter name="VEVENT"><C:prop-filter name="SUMMARY">'
        "<C:text-match>Interview</C:text-match></C:prop-filter></C:comp-filter></C:comp-filter></C:filter>"
        "</C:calendar-query>"
    )
    with httpx.Client(auth=(USER, PASSWORD), trust_env=False) as client:
        answer = client.request("REPORT", calendar, content=report, headers={"Depth": "1"})
    wanted = ("SUMMARY", "DTSTART", "DTEND", "LOCATION", "SEQUENCE")
    return [line for line in answer.text.splitlines() if line.startswith(wanted)]


def main() -> None:
    """Play it."""
    with tempfile.TemporaryDirectory(prefix="calendar-demo-") as name:
        folder = Path(name)
        with radicale(folder / "radicale", {USER: PASSWORD}) as url:
            say("A real CalDAV server (Radicale) runs, with a lifelike week in Anna's calendar.")
            calendar = fill(url)
            settings = {
                "CALENDAR_DATABASE_URL": f"sqlite:///{folder / 'calendar.db'}",
                "CALENDAR_GRPC_ADDRESS": f"127.0.0.1:{free_port()}",
                "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
                "CALENDAR_EGRESS_ALLOW": "127.0.0.1",
            }
            with service(settings, folder / "service.log"):
                say("The calendar service runs on SQLite.")
                play(Ctl(settings, create_api_key(settings, "demo")), url, calendar)
    say("Done. Both servers are stopped and nothing is left behind.")


class Ctl:
    """Runs `calendarctl` as a person would, and shows the line that was typed."""

    def __init__(self, settings: dict[str, str], api_key: str):
        self._env = {
            **os.environ,
            "CALENDAR_ADDRESS": settings["CALENDAR_GRPC_ADDRESS"],
            "CALENDAR_API_KEY": api_key,
            "TZ": "Europe/Berlin",
        }
        if not PLAIN:
            self._env["FORCE_COLOR"] = "1"

    def __call__(self, *arguments: str, stdin: str | None = None) -> None:
        shown = " ".join(f'"{part}"' if " " in part else part for part in arguments)
        print(f"$ calendarctl {shown}" if PLAIN else f"\033[2m$ calendarctl {shown}\033[0m", flush=True)
        done = subprocess.run(
            [sys.executable, "-m", "calendar_client.cli", *arguments],
            env=self._env,
            input=stdin,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"calendarctl ended with {done.returncode}")


def play(ctl: Ctl, url: str, calendar: str) -> None:
    """The main job, step by step."""
    start = monday()
    friday = start + datetime.timedelta(days=4)

    say("1. Connect Anna's account. The password comes from standard input, never from an argument.")
    connect = ("connect", "caldav", "--preset", "custom", "--server-url", url, "--username", USER)
    ctl(*connect, "--password-stdin", stdin=PASSWORD + "\n")
    ctl("list")

    say("2. When is she busy next week? Lunch is marked free and the webinar is declined: neither blocks.")
    ctl("busy", "--start", start.isoformat(), "--days", "7")

    say("3. Book an interview on Friday at ten.")
    ctl("book", "interview-1", "--title", "Interview", "--location", "Room 2",
        "--start", f"{friday}T10:00", "--minutes", "45")  # fmt: skip
    show(calendar)

    say("4. Move it to four in the afternoon. The event changes in place.")
    ctl("reschedule", "interview-1", "--start", f"{friday}T16:00", "--minutes", "45")
    show(calendar)
    ctl("busy", "--start", friday.isoformat(), "--days", "1", "--explain")

    say("5. Cancel it. The event leaves the calendar.")
    ctl("cancel", "interview-1")
    show(calendar)

    say("6. Disconnect. The secrets are gone.")
    ctl("disconnect", "--all", "--yes")


def show(calendar: str) -> None:
    """What Radicale itself has of the booking."""
    lines = in_radicale(calendar)
    print("In Radicale: " + ("; ".join(lines) if lines else "no such event."), flush=True)


if __name__ == "__main__":
    main()
