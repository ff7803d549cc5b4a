"""One server for one SQLite file: a lock beside it that the kernel takes back when its holder dies, however it dies.

Beside the file and not on it: whoever closes any descriptor of a file loses all the POSIX locks that its process has on
it, and SQLite relies on those (https://sqlite.org/howtocorrupt.html#_posix_advisory_locks_canceled_by_a_separate_thread_doing_close_).
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

from calendar_server.store.errors import StoreError


class ServedAlready(StoreError):
    """Another process serves this file."""

    def __init__(self, path: Path, holder: str):
        who = f"the process {holder}" if holder else "another process"
        super().__init__(
            f"{path} is served by {who} already: stop that server first, or set CALENDAR_DATABASE_URL to Postgres, "
            "which more than one server can use."
        )


class SoleServer:
    """Holds the lock of a database file until ``release`` or the end of the process, also by a kill.

    Paths that lead to the same file, relative or through links, lead to the same lock. The lock file stays: to remove it
    would let a third process lock a new one while the second holds the old. Raises ``ServedAlready``.
    """

    def __init__(self, database: Path):
        real = database.resolve()
        self.path = real.with_name(f"{real.name}.lock")
        try:
            # Not inherited by children (PEP 446): the lock ends with this process, not with the last of its family.
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be written. Its operator must mend the folder's permissions."
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ServedAlready(real, holder if holder.isdigit() else "") from error
            raise StoreError(f"{self.path} cannot be locked. The folder must be on a disk of this machine.") from error
        self._note(f"{os.getpid()}\n")

    def release(self) -> None:
        """Let another server in."""
        self._note("")
        os.close(self._descriptor)

    def _note(self, text: str) -> None:
        """Say who holds it. The note helps people; the lock does not depend on it, not even on a disk that is full."""
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, text.encode(), 0)
        except OSError:
            return
