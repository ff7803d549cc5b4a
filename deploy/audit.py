"""`make audit`: is every dependency locked by hash, and is one known to be vulnerable?

The lock files are checked here. Known vulnerabilities are asked for by pip-audit, where its database can be reached; what it
could not look up counts as not looked up, never as good. The last line says which of the two ran.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = "requirements.lock"
LOCKS = (RUNTIME, "requirements-build.lock", "requirements-dev.lock")
PIP_AUDIT = "pip-audit==2.10.1"
AUDIT_S = 300

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def requirements(text: str) -> list[str]:
    """The entries of a lock file, each on one line, without comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.strip().startswith("#"))
    return [line.strip() for line in lines.replace("\\\n", " ").splitlines() if line.strip()]


def problems(text: str) -> list[str]:
    """What is wrong with a lock file: entries that are not pinned, have no hash, or come from elsewhere."""
    found = []
    for entry in requirements(text):
        shown = entry[:60]
        if entry.startswith("-"):
            found.append(f"{shown}: an option; a lock holds packages alone")
        elif "://" in entry or " @ " in entry:
            found.append(f"{shown}: comes from an address, not from the registry")
        elif not re.match(rf"{_NAME.pattern}==[A-Za-z0-9.!+_-]+(\s|;|$)", entry):
            found.append(f"{shown}: is not pinned to one version")
        elif not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry):
            found.append(f"{shown}: has no hash")
    return found


def missing(text: str, wanted: list[str]) -> list[str]:
    """Which of the project's own dependencies the lock does not hold."""
    locked = {_plain(match[0]) for entry in requirements(text) if (match := _NAME.match(entry))}
    return sorted({_plain(match[0]) for entry in wanted if (match := _NAME.match(entry))} - locked)


def verdict(report: str) -> tuple[int, list[str], list[str]]:
    """Of pip-audit's JSON: how many packages were looked up, what is known to be vulnerable, what was not looked up."""
    looked_up, vulnerable, skipped = 0, [], []
    for each in json.loads(report)["dependencies"]:
        if "skip_reason" in each:
            skipped.append(each["name"])
            continue
        looked_up += 1
        for vulnerability in each["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            vulnerable.append(f"{each['name']} {each['version']}: {vulnerability['id']}, mended in {fixed}")
    return looked_up, vulnerable, skipped


def licences(text: str) -> dict[str, list[str]]:
    """The packages of a lock that are installed here, by what they say of their licence."""
    found: dict[str, list[str]] = {}
    for entry in requirements(text):
        name = entry.partition("==")[0]
        try:
            told = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        classifiers = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or [] if "License ::" in each]
        first = (told.get("License") or "").strip().splitlines()
        licence = told.get("License-Expression") or " / ".join(classifiers) or (first[0][:40] if first else "")
        if not licence:
            licence = f"as its file {told['License-File']} says" if told.get("License-File") else "not told"
        found.setdefault(licence, []).append(name)
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    """Check the locks, then ask. 1: something is wrong; with --strict also when nothing could be asked."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    runtime = (ROOT / RUNTIME).read_text()
    wrong = [f"{name}: {problem}" for name in LOCKS for problem in problems((ROOT / name).read_text())]
    wrong += [f"{RUNTIME}: {name} is not in it; run `make lock`" for name in missing(runtime, wanted)]
    for licence, names in sorted(licences(runtime).items()):
        print(f"{licence}: {', '.join(names)}")
    print("\n".join(wrong) or f"{', '.join(LOCKS)}: every package is pinned and has its hashes.")
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "tool", "run", "--quiet", "--from", PIP_AUDIT, "pip-audit", "--format", "json"]
    command += ["--progress-spinner", "off", "--require-hashes", "--disable-pip", "-r", str(ROOT / RUNTIME)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=AUDIT_S, check=False)
        looked_up, vulnerable, skipped = verdict(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError):
        looked_up, vulnerable, skipped = 0, [], []
    if vulnerable:
        print("\n".join(vulnerable))
    if looked_up and not skipped:
        print(f"AUDITED: {looked_up} packages of {RUNTIME} were looked up; known vulnerabilities: {len(vulnerable)}.")
    else:
        print(
            f"NOT AUDITED: the database of known vulnerabilities told of {looked_up} packages of {RUNTIME} and not of "
            f"{len(skipped) or 'any of the rest'}. Only the lock files themselves were checked."
        )
    return 1 if wrong or vulnerable or ("--strict" in sys.argv and (skipped or not looked_up)) else 0


if __name__ == "__main__":
    sys.exit(main())
