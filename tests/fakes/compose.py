"""What `deploy/compose.yaml` says, for tests that check it and for those that run it without containers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())


@dataclass(frozen=True, slots=True)
class Service:
    """One of our own services there."""

    command: list[str]
    replicas: int
    environment: dict[str, str]

    def settings(self, secrets: Path, **given: str) -> dict[str, str]:
        """Its variables: ``given`` or the defaults put in, and secrets looked for in a folder of this machine."""
        return {
            name: re.sub(r"\$\{(\w+):-(.*?)\}", lambda match: given.get(match[1], match[2]), value).replace(
                "/run/secrets/", f"{secrets}/"
            )
            for name, value in self.environment.items()
        }


def service(name: str) -> Service:
    """A service by its name."""
    found = COMPOSE["services"][name]
    environment = {key: str(value) for key, value in found["environment"].items()}
    return Service(found["command"], found.get("deploy", {}).get("replicas", 1), environment)
