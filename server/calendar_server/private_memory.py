"""Keeps what is in this process's memory, master keys and passwords, from being written down or read by its neighbours."""

from __future__ import annotations

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4
"""`prctl(2)`."""


def keep_memory_private() -> None:
    """No core dumps, and nobody but root may look into this process. Each process has to ask for itself.

    The limit of zero alone does not stop a kernel that pipes cores into a program; a process that is not dumpable is
    left out there too. Besides, its `/proc/<pid>` (memory, environment) becomes root's, so that another process of the
    same user cannot attach to it. A new program begins dumpable again, so children do the same when they start.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "this process's memory cannot be kept private")
