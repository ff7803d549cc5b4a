"""Plays the Dockerfile without a container engine, then runs what it makes as the container would run. Linux, as root.

This machine stands in for the base image: each stage is an overlay over it, in a mount namespace that ends with this
program, so nothing outside changes. The last stage is mounted read-only with a volume for /data, and its entry point
runs as the numeric user without capabilities. Asked are the image's own health check and one call with a key.

With `--offline` nothing is downloaded: this environment's packages stand in for those of the lock files.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dockerfile
from local import free_port

ROOT = Path(__file__).resolve().parents[1]
CHROOT = shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin:/bin") or "chroot"
PACKAGES = sysconfig.get_path("purelib")
"""Where this environment's packages are. What only points to this checkout (`.pth`) is not looked at from elsewhere."""
STAND_IN = Path("/mnt/packages")
"""Where they are inside: a checkout below /tmp is not seen there."""
HEALTHY_S = 60.0
STOP_S = 60.0
CALL = """
import sys, pathlib, os
import calendar_server
from calendar_client import CalendarClient
assert os.getuid() == 65532
assert calendar_server.__file__.startswith("/opt/calendar/"), calendar_server.__file__
with CalendarClient(sys.argv[1], api_key=sys.argv[2]) as client:
    assert list(client.list()) == []
for path in ("/opt/calendar/x", "/x", "/etc/x"):
    try:
        pathlib.Path(path).write_text("")
    except OSError:
        continue
    sys.exit(f"{path} could be written")
"""


class Replay:
    """The stages of a Dockerfile as folders below ``folder``, a file system of our own."""

    def __init__(self, folder: Path, *, offline: bool = False):
        self._folder = folder
        self._offline = offline
        self._roots: dict[str, Path] = {}
        self._ignored = dockerfile.Ignored((ROOT / ".dockerignore").read_text())

    def build(self, stages: list[dockerfile.Stage]) -> Path:
        """Play all stages; answers the last one's root."""
        root = self._folder
        for number, stage in enumerate(stages):
            root = self._root(str(number))
            self._roots[stage.name] = root
            self._play(stage, root)
        return root

    def _root(self, name: str) -> Path:
        upper, work, root = (self._folder / f"{name}-{part}" for part in ("upper", "work", "root"))
        for folder in (upper, work, root):
            folder.mkdir()
        mount("-t", "overlay", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", root)
        mount("-t", "proc", "proc", root / "proc")
        mount("--bind", "/dev", root / "dev")
        mount("-t", "tmpfs", "-o", "mode=1777,size=64m", "tmpfs", root / "dev" / "shm")
        if self._offline:
            inside(root, STAND_IN).mkdir(parents=True, exist_ok=True)
            mount("--bind", PACKAGES, inside(root, STAND_IN))
        # Where Python itself lies in root's home, the image's user must be able to reach it, as in /usr/local.
        for parent in Path(sys.base_prefix).parents:
            inside(root, parent).chmod(0o755)
        return root

    def _play(self, stage: dockerfile.Stage, root: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CALENDAR_", "PYTHON"))}
        env = {**kept, "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin"}
        folder = Path("/")
        replaced: list[dockerfile.Instruction] = []
        for each in stage.instructions:
            if each.name == "ENV":
                env |= dict(word.split("=", 1) for word in each.words)
            elif each.name == "WORKDIR":
                folder = Path(each.words[0])
                inside(root, folder).mkdir(parents=True, exist_ok=True)
            elif each.name == "COPY":
                self._copy(each, root, folder)
            elif each.name == "RUN" and self._offline and "-r" in each.words:
                replaced.append(each)
            elif each.name == "RUN":
                print("RUN", *each.words, flush=True)
                chroot = [CHROOT, str(root), "/usr/bin/env", "-C", str(folder), *each.words]
                tools = {"PYTHONPATH": PACKAGES} if self._offline and "hatchling" in each.words else {}
                subprocess.run(chroot, env=env | tools, check=True, stdin=subprocess.DEVNULL)
        # At the end: among this environment's packages is ours as well, and pip would think that it is there already.
        for each in replaced:
            self._stand_in(each, root)

    def _stand_in(self, each: dockerfile.Instruction, root: Path) -> None:
        """This environment's packages for those that a step would download into another one."""
        if "--python" in each.words:
            prefix = Path(each.words[each.words.index("--python") + 1]).parents[1]
            (site,) = inside(root, prefix).glob("lib/python*/site-packages")
            (site / "stand_in.pth").write_text(f"{STAND_IN}\n")

    def _copy(self, each: dockerfile.Instruction, root: Path, folder: Path) -> None:
        *sources, target = each.words
        into = inside(root, folder / target)
        for source in sources:
            if "from" in each.flags:
                place, ignored = inside(self._roots[each.flags["from"]], Path(source)), ()
            else:
                place, ignored = ROOT / source, self._ignored
            if place.is_dir():
                leave = None if ignored == () else self._leave
                shutil.copytree(place, into, symlinks=True, dirs_exist_ok=True, ignore=leave)
            elif Path(source) in ignored:
                raise FileNotFoundError(f"{source} is kept out by .dockerignore")
            else:
                into.mkdir(parents=True, exist_ok=True)
                shutil.copy2(place, into)
            if owner := each.flags.get("chown"):
                os.chown(into, *(int(part) for part in owner.split(":")))

    def _leave(self, folder: str, names: list[str]) -> set[str]:
        return {name for name in names if (Path(folder) / name).relative_to(ROOT) in self._ignored}


class Container:
    """The last stage, as a container engine would run it."""

    def __init__(self, stage: dockerfile.Stage, root: Path):
        self._stage = stage
        self._root = root
        self._user = stage.last("USER").words[0].split(":")
        volume = inside(root, Path(stage.last("VOLUME").words[0]))
        owner = volume.stat()
        mount("-t", "tmpfs", "-o", f"mode=0700,uid={owner.st_uid},gid={owner.st_gid}", "tmpfs", volume)
        mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", root / "tmp")
        mount("-o", "remount,ro", root)

    def arguments(self, *words: str) -> list[str]:
        """How this machine runs a program inside: as the user, without capabilities, never to get any."""
        uid, gid = self._user
        folder = self._stage.last("WORKDIR").words[0]
        return [
            *(CHROOT, str(self._root)),
            *("/usr/bin/setpriv", "--reuid", uid, "--regid", gid, "--clear-groups"),
            *("--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"),
            *("/usr/bin/env", "-C", folder, *words),
        ]

    def run(self, *words: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a program inside to its end."""
        env = {**self._stage.environment(), **settings}
        return subprocess.run(self.arguments(*words), env=env, text=True, capture_output=True, check=False)

    @contextlib.contextmanager
    def running(self, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
        """The entry point with its default command; stopped by its stop signal, which must end it with 0."""
        words = [*self._stage.last("ENTRYPOINT").words, *self._stage.last("CMD").words]
        env = {**self._stage.environment(), **settings}
        process = subprocess.Popen(self.arguments(*words), env=env, text=True)
        try:
            yield process
            process.send_signal(signal.Signals[self._stage.last("STOPSIGNAL").words[0]])
            if code := process.wait(STOP_S):
                sys.exit(f"it ended with {code}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def mount(*words: object) -> None:
    """`mount` with these words."""
    subprocess.run(["mount", *(str(word) for word in words)], check=True)


def inside(root: Path, path: Path) -> Path:
    """An absolute path of the image, on this machine."""
    return root / path.relative_to("/")


def replay(folder: Path, *, offline: bool) -> None:
    """Build, run, ask; all in ``folder``, in a mount namespace that the caller made."""
    mount("-t", "tmpfs", "tmpfs", folder)
    stages = dockerfile.read((ROOT / "Dockerfile").read_text())
    container = Container(stages[-1], Replay(folder, offline=offline).build(stages))
    address = f"127.0.0.1:{free_port()}"
    settings = {"CALENDAR_GRPC_ADDRESS": address, "CALENDAR_HTTP_ADDRESS": f"127.0.0.1:{free_port()}"}
    check = stages[-1].last("HEALTHCHECK").words
    if not container.run(*check, settings=settings).returncode:
        sys.exit("The health check says that all is well where nothing runs.")
    with container.running(settings) as process:
        until = time.monotonic() + HEALTHY_S
        while (health := container.run(*check, settings=settings)).returncode:
            if process.poll() is not None or time.monotonic() > until:
                sys.exit(f"It did not become healthy: {health.stderr}")
            time.sleep(0.1)
        key = container.run("calendar-server", "create-api-key", "--organization", "acme", settings=settings)
        called = container.run("python", "-c", CALL, address, key.stdout.strip(), settings=settings)
        if key.returncode or called.returncode:
            sys.exit(f"{key.stderr}{called.stderr}")


def main() -> int:
    """Build, run and ask, where this machine allows it."""
    if os.geteuid() or sys.platform != "linux":
        print("The Dockerfile was NOT played: that needs root on Linux, for mounts of its own.")
        return 0
    offline = "--offline" in sys.argv
    if "--inside" not in sys.argv:
        folder = tempfile.mkdtemp(prefix="replay-")
        try:
            # In a mount namespace of its own: whatever it mounts on the folder goes when it ends.
            inner = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__, *sys.argv[1:]]
            return subprocess.run([*inner, "--inside", folder], check=False).returncode
        finally:
            # Never recursively: were anything still mounted there, this fails and harms nothing.
            Path(folder).rmdir()
    replay(Path(sys.argv[-1]), offline=offline)
    print("The Dockerfile's steps work, and what they make runs read-only, as its numeric user, and is healthy.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
