"""`make release-check`: is what would be released whole? Version, changes, wheel, sdist; installed elsewhere, and called."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from packaging.metadata import Metadata

sys.path.insert(0, str(Path(__file__).parent))
from local import environment, free_port, running, wait_serving

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = frozenset({"calendar_client", "calendar_server", "calendars"})
SOURCES = frozenset(
    {"server", "clients", "gen", "protos", "README.md", "CHANGELOG.md", "SECURITY.md", "requirements.lock"}
    | {"pyproject.toml", "PKG-INFO", ".gitignore"}
)
"""What may stand in the sdist. hatchling adds the last two, and .gitignore for whoever builds from it."""
CALL = """
import sys, calendar_client, calendar_server
assert not calendar_server.__file__.startswith(sys.argv[3]), calendar_server.__file__
with calendar_client.CalendarClient(sys.argv[1], api_key=sys.argv[2]) as client:
    assert list(client.list()) == []
"""


def version() -> str:
    """The version, which stands in one place."""
    return str(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"])


def told(changes: str, version: str) -> bool:
    """Whether CHANGELOG.md has a dated chapter of this version."""
    return bool(re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changes, re.MULTILINE))


def build(kind: str, folder: Path, source: Path = ROOT) -> Path:
    """Build a ``wheel`` or ``sdist`` into a folder."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    return next(folder.glob("*.whl" if kind == "wheel" else "*.tar.gz"))


def names(archive: Path) -> list[str]:
    """The files in a wheel or sdist; those of an sdist without its own folder."""
    if archive.suffix == ".whl":
        return sorted(zipfile.ZipFile(archive).namelist())
    with tarfile.open(archive) as tar:
        return sorted(member.name.partition("/")[2] for member in tar if member.isfile())


def stray(files: list[str], allowed: frozenset[str]) -> list[str]:
    """Files that do not belong there: of other folders, made by tools, or secrets."""
    made = re.compile(r"(^|/)(__pycache__|var|\.venv|\.mypy_cache)/|\.(pyc|db|key|pem|log|env)$|/\.")
    return [name for name in files if name.partition("/")[0] not in allowed or made.search(name)]


def metadata(wheel: Path) -> Metadata:
    """A wheel's metadata, strictly read. Raises when the registry would refuse it."""
    files = zipfile.ZipFile(wheel)
    (name,) = (name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
    return Metadata.from_email(files.read(name), validate=True)


def try_out(wheel: Path, folder: Path) -> None:
    """Install from the lock and this wheel alone, outside the checkout, and make a call."""
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    python = str(venv / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "--no-deps", "-r", ROOT / "requirements.lock"], check=True, cwd=folder)
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True, cwd=folder)
    address = f"127.0.0.1:{free_port()}"
    given = {"CALENDAR_GRPC_ADDRESS": address, "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
    settings = {name: value for name, value in environment(given).items() if not name.startswith("PYTHON")}
    settings["CALENDAR_DATABASE_URL"] = f"sqlite:///{folder / 'calendar.db'}"

    def run(*words: str) -> str:
        done = subprocess.run(words, env=settings, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(words[:3])}: {done.stderr}")
        return done.stdout.strip()

    program = str(venv / "bin" / "calendar-server")
    run(program, "--help")
    run(str(venv / "bin" / "calendarctl"), "--help")
    log = folder / "service.log"
    os.chdir(folder)
    with running([program, "serve"], settings, log) as process:
        wait_serving(address, process, log)
        key = run(program, "create-api-key", "--organization", "acme")
        run(python, "-c", CALL, address, key, str(ROOT))


def main() -> int:
    """Look at everything; the first thing that is wrong ends it."""
    if not told((ROOT / "CHANGELOG.md").read_text(), version()):
        sys.exit(f"CHANGELOG.md has no chapter `## [{version()}] - YYYY-MM-DD`.")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        wheel, sdist = build("wheel", folder), build("sdist", folder)
        found = metadata(wheel)
        if str(found.version) != version():
            sys.exit(f"The wheel says version {found.version}, pyproject.toml {version()}.")
        info = f"calendar_service-{version()}.dist-info"
        for archive, allowed in ((wheel, PACKAGES | {info}), (sdist, SOURCES)):
            if wrong := stray(names(archive), allowed):
                sys.exit(f"{archive.name} holds what does not belong there: {', '.join(wrong[:10])}")
        try_out(wheel, folder)
        os.chdir(ROOT)
        print(f"{wheel.name}, {sdist.name}: whole, and the wheel serves outside the checkout.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
