"""Placeholder until the provider lands."""
from __future__ import annotations
class GoogleProvider:
    def __init__(self, *a: object, **k: object) -> None: ...
