"""`calendar-server bookings` and `retry`: pushes that failed or wait for long, for people and scripts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from calendar_server.config import Config, ConfigError
from calendar_server.core.model import SECOND, BookingId, EventState, Instant
from calendar_server.store.parked import ParkedRow
from calendar_server.store.store import Store
from calendar_server.usecases.parked import ParkedPushes

HEAD = ("ORGANIZATION", "CONNECTION", "BOOKING", "STATE", "REASON", "ATTEMPTS", "WAITS", "NEXT ATTEMPT")


def bookings(config: Config, options: argparse.Namespace) -> int:
    """List them. No title, time or place of a booking is among what is told."""
    with _opened(config) as store:
        pushes = ParkedPushes(store).list(waiting_s=options.waiting_min * 60, organization=options.organization)
        rows = list(islice(pushes, options.limit + 1))
        now = store.now()
    shown, more = rows[: options.limit], len(rows) > options.limit
    if options.json:
        print(json.dumps({"data": [_json(row, now) for row in shown], "has_more": more}))
        return 0
    if not shown:
        print("Nothing is parked.")
        return 0
    lines = [HEAD, *(_cells(row, now) for row in shown)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if more:
        print(f"There are more than {options.limit}; raise --limit.")
    return 0


def retry(config: Config, options: argparse.Namespace) -> int:
    """Make them due again."""
    with _opened(config) as store:
        pushes = ParkedPushes(store)
        if options.all_failed:
            count = pushes.retry_failed(organization=options.organization)
        else:
            count = pushes.retry(BookingId(options.booking), organization=options.organization)
    print(f"{count} {'push is' if count == 1 else 'pushes are'} tried again now.")
    return 0


@contextmanager
def _opened(config: Config) -> Iterator[Store]:
    """The store. Raises ``ConfigError`` where there is none, or one of another form: these commands make nothing."""
    if config.database_url.startswith("sqlite:///") and not Path(config.database_url[10:]).exists():
        raise ConfigError(["CALENDAR_DATABASE_URL: there is no database yet; `calendar-server migrate` makes it."])
    store = Store.open(config.database_url)
    try:
        if store.pending_migrations():
            raise ConfigError(["CALENDAR_DATABASE_URL: is not up to date; run `calendar-server migrate` first."])
        yield store
    finally:
        store.close()


def _json(row: ParkedRow, now: Instant) -> dict[str, object]:
    return {
        "organization": row.organization,
        "connection_id": row.connection_id,
        "booking_id": row.booking_id,
        "state": str(row.state),
        "reason": row.reason,
        "attempts": row.attempts,
        "waits_s": round((now - row.accepted_at) / SECOND),
        "next_attempt_in_s": None if row.due_at is None else round((row.due_at - now) / SECOND),
    }


def _cells(row: ParkedRow, now: Instant) -> tuple[str, ...]:
    if row.due_at is not None:
        next_attempt = "now" if row.due_at <= now else f"in {_span(row.due_at - now)}"
    else:
        next_attempt = "-" if row.state is EventState.FAILED else "when connected again"
    return (
        _clean(row.organization),
        row.connection_id,
        _clean(row.booking_id),
        str(row.state),
        row.reason or "-",
        str(row.attempts),
        _span(now - row.accepted_at),
        next_attempt,
    )


def _span(microseconds: int) -> str:
    """A length of time in the unit that says most: `45s`, `12m`, `7h`, `3d`."""
    seconds = max(0, microseconds // SECOND)
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _clean(text: str) -> str:
    """A caller's own text, harmless to a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
