"""A CalDAV server that attacks whoever asks it: bombs, drips, redirects, foreign places, log-in loops and lies.

It is an honest server with one account (``strange_dav``) until a mode is set. Then every answer of one stage comes from
the mode, which writes raw bytes:

    discovery   PROPFIND of depth 0 outside of the calendar: entrance, principal, inbox
    list        PROPFIND of depth 1 on the home
    report      whatever reads the calendar's events: REPORT, its list, GET
    put         whatever is asked about single events: PUT, GET, PROPFIND, and searches for them

``MODES`` has them all, from the modules beside `hostile.scene`; the first line of each says what it does. ``ends`` is how a
call must end that meets it:

    error   by an error, as soon as the limits for size or sense are reached
    slow    by an error, when the time for one exchange is over
    exact   well: the answer is the honest one, or names what it could not read
    login   by an error about the credentials

``dav.trap`` is another server at another address and port. Nobody may ever come there.
"""

from __future__ import annotations

from tests.fakes.hostile import answers, discovery, documents, events, logins
from tests.fakes.hostile.scene import BOMB, MODES, STAGES, Ends, HostileDav, Stage, basic, hostile_dav

__all__ = ["BOMB", "KINDS", "MODES", "STAGES", "Ends", "HostileDav", "Stage", "basic", "hostile_dav"]

KINDS = (answers, documents, logins, discovery, events)
"""The modules that register modes."""
