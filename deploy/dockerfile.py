"""Reads our Dockerfile: stages of instructions. Only what ours uses is known; all else is an error, not a guess."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

KNOWN = frozenset(
    {"ARG", "FROM", "ENV", "WORKDIR", "RUN", "COPY", "LABEL"}
    | {"VOLUME", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """``flags`` are the leading ``--name=value`` words; ``words`` the rest, of the exec form the list itself."""

    name: str
    flags: dict[str, str]
    words: list[str]
    exec_form: bool


@dataclass(slots=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, name: str) -> list[Instruction]:
        """Its instructions of this name, in order."""
        return [each for each in self.instructions if each.name == name]

    def last(self, name: str) -> Instruction:
        """The one that counts of those that replace each other."""
        return self.all(name)[-1]

    def environment(self) -> dict[str, str]:
        """What its ENV instructions set."""
        return dict(word.split("=", 1) for each in self.all("ENV") for word in each.words)


def read(text: str) -> list[Stage]:
    """The stages of a Dockerfile. ARGs before the first FROM are put in with their defaults."""
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        each = _instruction(line.strip())
        if each.name == "ARG" and not stages:
            name, _, default = each.words[0].partition("=")
            arguments[name] = default
        elif each.name == "FROM":
            base = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], each.words[0])
            stages.append(Stage(base, each.words[2] if len(each.words) > 2 else ""))
        else:
            stages[-1].instructions.append(each)
    return stages


def _instruction(line: str) -> Instruction:
    name, _, rest = line.partition(" ")
    if name not in KNOWN:
        raise ValueError(f"{name} is not known here.")
    flags: dict[str, str] = {}
    while match := re.match(r"\s*--([a-z-]+)=(\S+)\s+", rest):
        flags[match[1]] = match[2]
        rest = rest[match.end() :]
    if name == "HEALTHCHECK":
        rest = rest.removeprefix("CMD").strip()
    exec_form = rest.lstrip().startswith("[")
    words = [str(word) for word in json.loads(rest)] if exec_form else shlex.split(rest)
    return Instruction(name, flags, words, exec_form)


class Ignored:
    """What `.dockerignore` keeps out of the build: the last pattern that fits decides."""

    def __init__(self, text: str):
        self._rules = [
            (line.lstrip("!"), not line.startswith("!"))
            for line in (line.strip() for line in text.splitlines())
            if line and not line.startswith("#")
        ]

    def __contains__(self, path: Path) -> bool:
        """Whether this path, relative to the build's folder, is kept out."""
        ignored = False
        for pattern, out in self._rules:
            if any(_fits(pattern, parent) for parent in (path, *path.parents) if parent != Path()):
                ignored = out
        return ignored


def _fits(pattern: str, path: Path) -> bool:
    if pattern.startswith("**/"):
        return fnmatchcase(path.name, pattern[3:])
    return len(path.parts) == len(Path(pattern).parts) and fnmatchcase(str(path), pattern)
