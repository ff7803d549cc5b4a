"""What the doctor says: one finding per step, each failure with a code and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "failed", "skipped"]

REMEDIES: Mapping[str, str] = {
    # The installation
    "ALLOW_LIST": "Mend CALENDAR_EGRESS_ALLOW.",
    "ALLOW_LIST_WIDE": "Name only the networks and hosts that CalDAV servers of yours are in.",
    "DATABASE_MISSING": "Run `calendar-server migrate`, or check CALENDAR_DATABASE_URL.",
    "DATABASE": "Check CALENDAR_DATABASE_URL, and that the database runs and lets this machine in.",
    "MIGRATIONS": "Run `calendar-server migrate`.",
    "MASTER_KEYS": "Give CALENDAR_MASTER_KEYS the key that this database was written with.",
    "NO_MASTER_KEYS": "The first start makes them beside the database; keep a copy where its backups are not.",
    "DATABASE_CLOCK": "Have both machines set their clocks by NTP.",
    "DISK_SPACE": "Make room: SyncBooking is refused when the disk is full.",
    "TLS_FILES": "Check CALENDAR_TLS_CERT, CALENDAR_TLS_KEY and CALENDAR_TLS_CLIENT_CA.",
    "TLS_ENDED": "Renew the certificate; a running server takes the new files by itself.",
    "TLS_ENDS_SOON": "Renew the certificate; a running server takes the new files by itself.",
    "PORT_TAKEN": "Stop what listens there, or choose another address.",
    "PUBLIC_URL_PLAIN": "Put TLS in front and set CALENDAR_PUBLIC_URL to its https:// address.",
    "PUBLIC_URL_LOCAL": "Set CALENDAR_PUBLIC_URL to what browsers and providers reach; else changes are found by looking.",
    "PUBLIC_URL_NOT_REACHED": "Check name, route and proxy of CALENDAR_PUBLIC_URL, and that they lead to the sidecar.",
    "WEBHOOK_NOT_REACHED": "Have the proxy in front pass POST on /webhooks/… to the sidecar; until then changes are "
    "found by looking.",
    "NO_PROVIDER_CREDENTIALS": "Set its client id and secret, should people connect accounts of this provider.",
    "NO_REDIRECT_URIS": "Set CALENDAR_REDIRECT_URIS: without it nobody can connect by OAuth.",
    # One connection
    "NO_SUCH_CONNECTION": "Check the id; a disconnected connection is not there any more.",
    "GRANT_UNOPENABLE": "Give CALENDAR_MASTER_KEYS the key that sealed it, or have the account connected again.",
    "NEEDS_REAUTH": "Have the person connect the account again (Connect with this connection's id).",
    "APP_PASSWORD_APPLE": "Make an app-specific password at account.apple.com and connect with that: the password of the "
    "Apple ID itself does not work here.",
    "APP_PASSWORD_FASTMAIL": "Make an app password in Fastmail's settings (Privacy & Security) and connect with that.",
    "APP_PASSWORD_NEXTCLOUD": "Make an app password in Nextcloud's settings (Security) and connect with that: with two "
    "factors the account's own password does not work here.",
    "PASSWORD": "Check user name and password, and connect again.",
    "ADMIN_CONSENT_REQUIRED": "An administrator of the account's organization must approve this application first; the link "
    "is below.",
    "SCOPE_MISSING": "Have the person connect again and leave every permission ticked.",
    "NAME_UNKNOWN": "Check the server's name, and this machine's DNS.",
    "EGRESS_FORBIDDEN": "If this server is meant to be reached, add its host or network to CALENDAR_EGRESS_ALLOW.",
    "NOT_REACHED": "Check that the server runs, and that no firewall stands between.",
    "NO_TLS": "The port does not speak TLS that is accepted here (1.2 or later); check port and scheme.",
    "CERTIFICATE_ENDED": "The server's operator must renew its certificate.",
    "CERTIFICATE_ENDS_SOON": "The server's operator should renew its certificate.",
    "CERTIFICATE_NOT_YET": "Check the clocks of this machine and of the server.",
    "CERTIFICATE_OTHER_NAME": "The certificate is for another name; check the server's name.",
    "CERTIFICATE_UNTRUSTED": "The server's operator needs a certificate of a public authority, with its whole chain.",
    "PLAIN_HTTP": "The password travels in the clear; use https unless this network is yours.",
    "CLOCK_SKEW": "Set the clock of whichever is wrong by NTP: Digest log-ins and tokens depend on it.",
    "PROVIDER_UNAVAILABLE": "Try again later; if it lasts, ask the server's operator.",
    "PROVIDER_THROTTLED": "Wait; the provider asked for fewer requests.",
    "PROVIDER_REFUSED": "The provider does not take it; look at the account there.",
    "NO_CALENDARS": "Make a calendar in this account.",
    "CALENDAR_GONE": "Choose calendars that are there (UpdateConnection, `calendarctl choose`).",
    "CALENDAR_READ_ONLY": "Choose a calendar that can be written to (UpdateConnection), or have it shared for writing.",
    "NO_WRITABLE_CALENDAR": "Choose a calendar for bookings, if this account should receive them.",
    "EVENT_UNREADABLE": "Strict questions fail while such events are in their window: have the owner mend or delete them.",
    "PROBE_LEFT": "Delete the event of the write test in the calendar; it is in the past and blocks nothing.",
    "INTERNAL": "The log says more; this should not be.",
}
"""What to do, by code. Codes may be added and are never renamed: scripts read them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """How one step ended. ``code`` is empty where nothing is to be done."""

    step: str
    level: Level = "ok"
    code: str = ""
    message: str = ""
    link: str = ""

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return REMEDIES[self.code] if self.code else ""


def failed(step: str, code: str, message: str, link: str = "") -> Finding:
    """A step that must be mended."""
    return Finding(step, "failed", code, message, link)


def warning(step: str, code: str, message: str) -> Finding:
    """A step that works, and should be looked at."""
    return Finding(step, "warning", code, message)
