"""What runs the service for real is held against what is there: the image, the compose file, the Kubernetes manifests."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from calendar_server.config import SECRETS, Config
from deploy import dockerfile
from tests.fakes import compose
from tests.fakes.compose import COMPOSE

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STAGES = dockerfile.read((ROOT / "Dockerfile").read_text())
IMAGE = STAGES[-1]
MANIFESTS = [
    document
    for path in sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
NAMES = {field.metadata["name"] for field in dataclasses.fields(Config)}
SETTINGS = NAMES | {f"{name}_FILE" for name in SECRETS}
PORTS = {"grpc": 50051, "http": 8080}
PUSH_S = Config().push_s
"""Seconds that one push may take with the settings as they are."""
KUBERNETES = "1.34"
"""The release that the manifests are held against; `preStop.sleep` is stable from it on."""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def named(kind: str, name: str) -> dict[str, Any]:
    return next(each for each in MANIFESTS if each["kind"] == kind and each["metadata"]["name"] == name)


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod of everything that runs one, by name."""
    for each in MANIFESTS:
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


POD = pytest.mark.parametrize("pod", [pod for _, pod in pods()], ids=[name for name, _ in pods()])
OURS = {name: each for name, each in COMPOSE["services"].items() if each["image"].startswith("calendar-service")}
SERVICE = pytest.mark.parametrize("service", list(OURS.values()), ids=list(OURS))


class TestImage:
    def test_the_linter_has_nothing_to_say(self) -> None:
        done = run(str(Path(sys.executable).parent / "hadolint"), "Dockerfile")
        assert (done.returncode, done.stdout) == (0, "")

    def test_what_it_copies_is_there_and_not_ignored(self) -> None:
        ignored = dockerfile.Ignored((ROOT / ".dockerignore").read_text())
        copied = [word for each in STAGES[0].all("COPY") for word in each.words[:-1]]
        assert {"server", "clients", "gen", "requirements.lock"} <= set(copied)
        for source in copied:
            assert (ROOT / source).exists(), source
            assert Path(source) not in ignored, source

    @pytest.mark.parametrize(
        "path",
        ["var/calendar.db.key", ".git/config", "deploy/secrets/master_keys", ".env", "tests", "server/x/__pycache__"],
    )
    def test_what_is_secret_or_stray_never_comes_near_it(self, path: str) -> None:
        assert Path(path) in dockerfile.Ignored((ROOT / ".dockerignore").read_text())

    def test_it_runs_as_a_numeric_user_who_is_not_root(self) -> None:
        user, group = IMAGE.last("USER").words[0].split(":")
        assert int(user) > 0
        assert int(group) > 0

    def test_its_commands_are_in_the_wheel_and_need_no_shell(self) -> None:
        for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
            assert IMAGE.last(name).exec_form, name
        (entry,) = IMAGE.last("ENTRYPOINT").words
        assert entry in PROJECT["scripts"]
        for words in (IMAGE.last("CMD").words, IMAGE.last("HEALTHCHECK").words[1:]):
            assert run(sys.executable, "-m", "calendar_server", *words, "--help").returncode == 0, words
        assert IMAGE.last("HEALTHCHECK").words[0] == entry

    def test_everything_it_installs_is_locked_by_hash(self) -> None:
        installs = [each.words for each in STAGES[0].all("RUN") if "install" in each.words and "pip" in each.words]
        assert len(installs) == 3
        for words in installs:
            assert "--require-hashes" in words or "--no-index" in words, words

    def test_its_settings_are_real_and_no_secrets(self) -> None:
        given = {name for name in IMAGE.environment() if name.startswith("CALENDAR_")}
        assert given
        assert given <= NAMES
        # One that was set here could not be replaced by a file.
        assert not given & {*SECRETS}

    def test_its_ports_are_those_that_it_listens_on(self) -> None:
        environment = IMAGE.environment()
        listened = [environment[f"CALENDAR_{name}_ADDRESS"].rpartition(":")[2] for name in ("GRPC", "HTTP")]
        assert IMAGE.last("EXPOSE").words == listened == [str(port) for port in PORTS.values()]

    def test_it_writes_into_its_volume_alone(self) -> None:
        volume = IMAGE.last("VOLUME").words[0]
        assert re.match(r"sqlite:///[^/]", Config().database_url), "relative to where it runs"
        assert IMAGE.last("WORKDIR").words[0] == IMAGE.environment()["HOME"] == volume


class TestCompose:
    def test_every_setting_is_real(self) -> None:
        given = set(re.findall(r"\bCALENDAR_[A-Z_]+", (ROOT / "deploy" / "compose.yaml").read_text()))
        assert given - SETTINGS == set()

    def test_three_servers_and_two_workers(self) -> None:
        started = {name: (each["command"], each.get("deploy", {}).get("replicas", 1)) for name, each in OURS.items()}
        assert started == {
            "migrate": (["migrate"], 1),
            "server": (["serve", "--no-worker"], 3),
            "worker": (["worker"], 2),
        }

    @SERVICE
    def test_our_containers_are_closed(self, service: dict[str, Any]) -> None:
        assert service["image"] == f"{PROJECT['name']}:{PROJECT['version']}"
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert "volumes" not in service, "nothing is shared but the database"

    @SERVICE
    def test_secrets_come_as_files_that_are_there(self, service: dict[str, Any]) -> None:
        for name in SECRETS:
            assert name not in service["environment"]
        paths = {value for name, value in service["environment"].items() if name.endswith("_FILE")}
        assert paths == {f"/run/secrets/{name}" for name in service["secrets"]}
        assert set(service["secrets"]) <= COMPOSE["secrets"].keys()

    @pytest.mark.parametrize("name", list(OURS))
    def test_the_settings_are_accepted(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "database_url").write_text("postgresql://calendar:secret@postgres/calendar\n")
        (tmp_path / "master_keys").write_text(f"k1:{'C' * 43}=\n")
        environ = {**IMAGE.environment(), **compose.service(name).settings(tmp_path)}
        config = Config.from_environment(environ)
        assert config.database_url == "postgresql://calendar:secret@postgres/calendar"

    def test_the_order_is_database_then_migrations_then_the_rest(self) -> None:
        assert OURS["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
        for name in ("server", "worker"):
            assert OURS[name]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
        assert "pg_isready" in COMPOSE["services"]["postgres"]["healthcheck"]["test"]

    def test_what_serves_is_asked_for_its_health_and_what_does_not_is_not(self) -> None:
        assert "healthcheck" not in OURS["server"], "the image's own"
        for name in ("migrate", "worker"):
            assert OURS[name]["healthcheck"] == {"disable": True}

    def test_ports_are_published_on_loopback_one_for_each_server(self) -> None:
        for port, inner in zip(OURS["server"]["ports"], PORTS.values(), strict=True):
            host, range_, target = port.split(":")
            first, last = (int(number) for number in range_.split("-"))
            assert (host, int(target), last - first + 1) == ("127.0.0.1", inner, 3)

    @SERVICE
    def test_nobody_is_killed_while_calls_are_in_flight(self, service: dict[str, Any]) -> None:
        assert int(service["stop_grace_period"].removesuffix("s")) >= max(Config().drain_s, PUSH_S) + 15

    def test_postgres_takes_all_connections_that_ours_may_open(self) -> None:
        from calendar_server.store.database import POSTGRES_CONNECTIONS

        most = int(COMPOSE["services"]["postgres"]["command"][-1].removeprefix("max_connections="))
        # A pool each, one line that listens and one that tells.
        assert most >= 5 * (POSTGRES_CONNECTIONS + 2) + 10

    def test_the_database_is_not_reached_from_outside(self) -> None:
        assert COMPOSE["services"]["postgres"]["networks"] == ["database"]
        assert COMPOSE["networks"]["database"] == {"internal": True}
        assert "ports" not in COMPOSE["services"]["postgres"]


class TestKubernetes:
    @pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}")
    def test_the_schema_is_kept(self, manifest: dict[str, Any]) -> None:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)

    def test_kustomize_takes_all_but_the_example(self) -> None:
        folder = ROOT / "deploy" / "kubernetes"
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        others = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml", "secret.example.yaml"}
        assert set(kustomization["resources"]) == others
        assert kustomization["images"][0]["name"] == PROJECT["name"]
        assert kustomization["images"][0]["newTag"] == PROJECT["version"]

    @POD
    def test_every_setting_is_real(self, pod: dict[str, Any]) -> None:
        (container,) = pod["containers"]
        given = {each["name"] for each in container["env"]}
        assert given <= SETTINGS
        assert set(named("ConfigMap", "calendar-settings")["data"]) <= NAMES - {*SECRETS}
        assert container["envFrom"] == [{"configMapRef": {"name": "calendar-settings"}}]

    @POD
    def test_the_settings_are_accepted(self, pod: dict[str, Any], tmp_path: Path) -> None:
        (container,) = pod["containers"]
        (mount,) = [each for each in container["volumeMounts"] if each["name"] == "secrets"]
        (volume,) = [each for each in pod["volumes"] if each["name"] == "secrets"]
        example = named("Secret", volume["secret"]["secretName"])["stringData"]
        for key, value in example.items():
            (tmp_path / key).write_text(value)
        given = {each["name"]: each["value"].replace(mount["mountPath"], str(tmp_path)) for each in container["env"]}
        environ = {**IMAGE.environment(), **named("ConfigMap", "calendar-settings")["data"], **given}
        assert Config.from_environment(environ).database_url == example["database-url"]

    @POD
    def test_the_image_and_its_command(self, pod: dict[str, Any]) -> None:
        (container,) = pod["containers"]
        assert container["image"] == f"{PROJECT['name']}:{PROJECT['version']}"
        assert "command" not in container, "the image's entry point"
        assert run(sys.executable, "-m", "calendar_server", *container["args"], "--help").returncode == 0

    @POD
    def test_pods_have_no_rights(self, pod: dict[str, Any]) -> None:
        (container,) = pod["containers"]
        user, group = (int(part) for part in IMAGE.last("USER").words[0].split(":"))
        closed = pod["securityContext"]
        assert closed["runAsNonRoot"] is True
        assert (closed["runAsUser"], closed["runAsGroup"]) == (user, group)
        assert closed["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert container["resources"]["limits"]["memory"]

    def test_three_servers_and_two_workers(self) -> None:
        server, worker = named("Deployment", "calendar-server"), named("Deployment", "calendar-worker")
        assert (server["spec"]["replicas"], worker["spec"]["replicas"]) == (3, 2)

    def test_probes_and_services_name_the_ports_that_are_listened_on(self) -> None:
        spec = named("Deployment", "calendar-server")["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert {each["name"]: each["containerPort"] for each in container["ports"]} == PORTS
        data = named("ConfigMap", "calendar-settings")["data"]
        for name, port in PORTS.items():
            assert data[f"CALENDAR_{name.upper()}_ADDRESS"] == f"0.0.0.0:{port}"
        assert container["startupProbe"]["grpc"]["port"] == PORTS["grpc"]
        assert container["readinessProbe"]["grpc"] == {
            "port": PORTS["grpc"],
            "service": "calendars.v1.CalendarService",
        }
        assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
        (worker,) = named("Deployment", "calendar-worker")["spec"]["template"]["spec"]["containers"]
        (own,) = worker["ports"]
        given = {each["name"]: each["value"] for each in worker["env"]}
        assert given["CALENDAR_WORKER_HTTP_ADDRESS"] == f"0.0.0.0:{own['containerPort']}"
        assert worker["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": own["name"]}
        for name in ("calendar", "calendar-http"):
            (port,) = named("Service", name)["spec"]["ports"]
            assert port["targetPort"] in PORTS

    def test_whoever_reads_metrics_is_told_where_and_let_in(self) -> None:
        for part, port in (("server", "http"), ("worker", "metrics")):
            template = named("Deployment", f"calendar-{part}")["spec"]["template"]
            ports = {each["name"]: str(each["containerPort"]) for each in template["spec"]["containers"][0]["ports"]}
            told = template["metadata"]["annotations"]
            assert (told["prometheus.io/port"], told["prometheus.io/path"]) == (ports[port], "/metrics")
            rules = named("NetworkPolicy", f"calendar-{part}-in")["spec"]["ingress"]
            assert any(
                {"port": port} in rule["ports"]
                and {"kubernetes.io/metadata.name": "monitoring"}
                in [each["namespaceSelector"].get("matchLabels") for each in rule["from"]]
                for rule in rules
            )

    def test_what_selects_pods_selects_some(self) -> None:
        labels = [
            each["spec"]["template"]["metadata"]["labels"] for each in MANIFESTS if "template" in each.get("spec", {})
        ]
        for each in MANIFESTS:
            spec = each.get("spec", {})
            wanted = (
                spec.get("selector", {}) if each["kind"] == "Service" else spec.get("selector", {}).get("matchLabels")
            )
            if each["kind"] == "NetworkPolicy":
                wanted = spec["podSelector"].get("matchLabels", {})
            if wanted:
                assert any(wanted.items() <= some.items() for some in labels), each["metadata"]["name"]

    def test_nobody_is_killed_while_calls_are_in_flight(self) -> None:
        data = named("ConfigMap", "calendar-settings")["data"]
        server = named("Deployment", "calendar-server")["spec"]["template"]["spec"]
        before = server["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert server["terminationGracePeriodSeconds"] >= before + int(data["CALENDAR_DRAIN_S"]) + 15
        worker = named("Deployment", "calendar-worker")["spec"]["template"]["spec"]
        assert worker["terminationGracePeriodSeconds"] >= PUSH_S + 15


class TestLocks:
    def test_the_build_installs_what_development_does(self) -> None:
        everything = dict(locked("requirements-dev.lock"))
        build = dict(locked("requirements-build.lock"))
        assert "hatchling" in build
        for name, version in build.items():
            assert everything.get(name, version) == version, name


def locked(name: str) -> list[tuple[str, str]]:
    """Names and versions of a lock file."""
    return re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE)
