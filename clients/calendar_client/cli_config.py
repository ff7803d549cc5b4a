"""The configuration file of ``calendarctl``: profiles, each a service and how to reach it.

``calendarctl/config.toml`` below XDG_CONFIG_HOME (``~/.config``)::

    default = "work"

    [profiles.work]
    address = "calendars.example.org:443"
    api-key-file = "~/.config/calendarctl/work.key"
    tls = true

    [profiles.here]
    address = "127.0.0.1:50051"
    api-key-file = "/srv/calendar/var/api-key"
    zone = "Europe/Berlin"
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

FILE_BYTES = 100_000


class ConfigError(Exception):
    """The file, or the choice of a profile, is wrong; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A service and how to reach it. Paths are relative to the file's folder."""

    name: str = ""
    address: str = ""
    api_key_file: str = ""
    tls: bool = False
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    plaintext: bool = False
    zone: str = ""


_PATHS = ("api_key_file", "tls_ca", "tls_cert", "tls_key")
_KEYS = {each.name.replace("_", "-"): each.name for each in fields(Profile) if each.name != "name"}


@dataclass(frozen=True, slots=True)
class Config:
    """What the file says. No file: no profiles."""

    path: Path
    default: str = ""
    profiles: Mapping[str, Profile] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None = None) -> Config:
        """Read the file. Raises ``ConfigError`` that names the place."""
        path = path or config_path()
        try:
            with path.open("rb") as file:
                text = file.read(FILE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            return cls(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
        if len(text) > FILE_BYTES:
            raise ConfigError(f"{path} is larger than {FILE_BYTES} bytes, which no configuration is.")
        try:
            found = tomllib.loads(text.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not TOML: {error}.") from error
        unknown = set(found) - {"default", "profiles"}
        if unknown:
            raise ConfigError(f"{path}: {min(unknown)!r} is not known; there are default and [profiles.NAME].")
        default, profiles = found.get("default", ""), found.get("profiles", {})
        if not isinstance(default, str) or not isinstance(profiles, dict):
            raise ConfigError(f'{path}: write default = "NAME" and [profiles.NAME].')
        config = cls(path, default, {name: _profile(path, name, told) for name, told in profiles.items()})
        if default:
            config.profile(default)
        return config

    def profile(self, name: str) -> Profile:
        """The profile of that name. Raises ``ConfigError`` that names those there are."""
        if name in self.profiles:
            return self.profiles[name]
        there = f"there are {', '.join(self.profiles)}" if self.profiles else "it has none"
        raise ConfigError(f"There is no profile {name!r} in {self.path}; {there}.")


def config_path() -> Path:
    """Where the file is. A relative XDG_CONFIG_HOME does not count (XDG Base Directory Specification)."""
    base = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    return (base if base.is_absolute() else Path("~/.config").expanduser()) / "calendarctl" / "config.toml"


def _profile(path: Path, name: str, told: object) -> Profile:
    if not isinstance(told, dict):
        raise ConfigError(f"{path}: write [profiles.{name}] with keys below it.")
    values: dict[str, str | bool] = {}
    for key, value in told.items():
        if key in ("api-key", "api_key"):
            raise ConfigError(
                f"{path}: profiles.{name} holds an API key. Put it into a file and name that: api-key-file."
            )
        attribute = _KEYS.get(key)
        if attribute is None:
            raise ConfigError(f"{path}: profiles.{name}.{key} is not known; there are {', '.join(_KEYS)}.")
        wanted = type(getattr(Profile(), attribute))
        if not isinstance(value, wanted):
            raise ConfigError(
                f"{path}: profiles.{name}.{key} must be {'true or false' if wanted is bool else 'a text'}."
            )
        if attribute in _PATHS:
            value = str(path.parent / Path(value).expanduser())
        values[attribute] = value
    return Profile(name=name, **values)  # type: ignore[arg-type]
