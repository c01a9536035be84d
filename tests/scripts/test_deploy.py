"""The files under deploy/: they parse, name what exists, and give a node the time that it takes to leave."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.hostport import DEFAULT_PORT, parse_address
from swarm.cli import build_parser
from swarm.gateway.http.access import allowed_host
from swarm.gateway.observing.endpoints import routes
from swarm.node import leaving, node
from swarm.node.settings import ENVIRONMENT

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
GOODBYE_S = 1.0  # peers take note within it
MOST_S = GOODBYE_S + 2 * (leaving.DRAIN_S + leaving.CUT_S) + node.FLUSH_S + 2 * leaving.CUT_S


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """A unit file's settings; one that is given twice has two values."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (DEPLOY / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def test_the_service_gives_a_leaving_node_its_time_and_tells_only_the_node() -> None:
    service = unit("swarm.service")["Service"]
    assert float(service["TimeoutStopSec"][0]) > leaving.GONE_S > MOST_S
    assert service["KillSignal"] == ["SIGTERM"]
    assert service["KillMode"] == ["mixed"], "engines must not hear the signal"
    assert unit("swarm.service")["Unit"]["Requires"] == ["swarm.socket"]
    for hardening in ("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "CapabilityBoundingSet="):
        key, _, value = hardening.partition("=")
        assert service[key] == [value]


def test_the_service_starts_with_options_that_there_are() -> None:
    _, *options = unit("swarm.service")["Service"]["ExecStart"][0].split()
    given = build_parser().parse_args(options)
    assert given.federation
    assert given.auto


def test_the_socket_listens_where_the_node_would() -> None:
    socket = unit("swarm.socket")["Socket"]
    assert socket["ListenStream"] == [f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}"]
    assert socket["BindIPv6Only"] == ["ipv6-only"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_understands_the_units() -> None:
    paths = [str(DEPLOY / name) for name in ("swarm.service", "swarm.socket")]
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--recursive-errors=no", *paths], capture_output=True, text=True, check=False
    )
    complaints = [line for line in ran.stderr.splitlines() if "swarm." in line and "is not executable" not in line]
    assert complaints == []


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """The Kubernetes objects by kind and name."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes" / "swarm.yaml").read_text())
    return {f"{manifest['kind']}/{manifest['metadata']['name']}": manifest for manifest in found}


def test_there_is_what_a_swarm_in_a_cluster_needs(manifests: dict[str, dict[str, Any]]) -> None:
    assert set(manifests) == {
        "Service/swarm-headless", "Service/swarm", "PodDisruptionBudget/swarm", "StatefulSet/swarm",
    }  # fmt: skip
    pods = manifests["StatefulSet/swarm"]["spec"]["template"]["metadata"]["labels"]
    for service in ("Service/swarm-headless", "Service/swarm"):
        assert manifests[service]["spec"]["selector"] == pods
    for kind in ("PodDisruptionBudget/swarm", "StatefulSet/swarm"):
        assert manifests[kind]["spec"]["selector"]["matchLabels"] == pods
    assert manifests["Service/swarm-headless"]["spec"]["clusterIP"] == "None"
    assert manifests["Service/swarm-headless"]["spec"]["publishNotReadyAddresses"] is True
    assert manifests["StatefulSet/swarm"]["spec"]["serviceName"] == "swarm-headless"
    assert manifests["PodDisruptionBudget/swarm"]["spec"]["maxUnavailable"] == 1


def test_a_pod_is_started_with_options_that_there_are_and_finds_its_peers_by_the_headless_service(
    manifests: dict[str, dict[str, Any]],
) -> None:
    (container,) = manifests["StatefulSet/swarm"]["spec"]["template"]["spec"]["containers"]
    known = {entry["name"] for entry in container["env"]}
    assert {name for text in container["args"] for name in re.findall(r"\$\((\w+)\)", text)} <= known
    given = build_parser().parse_args([re.sub(r"\$\(\w+\)", "default", text) for text in container["args"]])
    (peer,) = map(parse_address, given.peer)
    assert (peer.host, peer.port) == ("swarm-headless", DEFAULT_PORT)
    assert peer.is_name
    assert next(allowed_host(name) for name in given.allow_host) == "swarm"


def test_a_pod_gets_the_time_to_leave_and_is_asked_where_a_node_answers(manifests: dict[str, dict[str, Any]]) -> None:
    pod = manifests["StatefulSet/swarm"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > leaving.GONE_S
    (container,) = pod["containers"]
    assert container["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT}]
    served = {route.path for route in routes()}
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        assert container[probe]["httpGet"] == {"path": path, "port": "http"}
        assert path in served
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < leaving.LINGER_S, "noticed while it lingers"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["enableServiceLinks"] is False, "a Service named swarm sets SWARM_PORT"
    assert container["image"] == "local-swarm:latest"
    assert "-t local-swarm ." in (DEPLOY / "Dockerfile").read_text()
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"/data", "/tmp"}


def test_the_image_runs_as_nobody_special_and_keeps_its_data() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert re.search(r"^ARG BASE=python:3\.\d+-slim-[a-z]+$", "\n".join(lines), re.MULTILINE), "a tag of one system"
    assert "FROM ${BASE}" in lines
    assert "USER 10001" in lines
    assert "VOLUME /data" in lines
    assert f"EXPOSE {DEFAULT_PORT}" in lines
    environment = next(line for line in lines if line.startswith("ENV "))
    assert f" {ENVIRONMENT['data_dir']}=/data " in environment, "so that `docker exec C swarm invite` finds the node"
    assert 'ENTRYPOINT ["swarm"]' in lines
    last_stage = lines[max(number for number, line in enumerate(lines) if line.startswith("FROM")) :]
    assert [line for line in last_stage if line.startswith("COPY")] == [
        "COPY --from=build /opt/local-swarm /opt/local-swarm"
    ], "no sources in the image"
    (command,) = (line for line in lines if line.startswith("CMD"))
    build_parser().parse_args(re.findall(r'"([^"]+)"', command))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What `docker build` sends: the tree without what .dockerignore names."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    patterns = [pattern.removeprefix("**/") for pattern in ignored]
    copied = tmp_path / "context"
    top = shutil.ignore_patterns(*patterns)
    shutil.copytree(ROOT, copied, ignore=lambda folder, names: top(folder, names) if Path(folder) == ROOT else ())
    return copied


def test_what_the_image_is_built_from_is_enough_to_install(context: Path, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "out")],
        cwd=context,
        check=True,
        capture_output=True,
    )
    (wheel,) = (tmp_path / "out").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "swarm/cli.py" in names
    assert any(name.startswith("swarm/embedded_models/") and name.endswith(".gguf") for name in names)
    entry_points = configparser.ConfigParser()
    (declared,) = (name for name in names if name.endswith("entry_points.txt"))
    entry_points.read_string(zipfile.ZipFile(wheel).read(declared).decode())
    assert entry_points["console_scripts"]["swarm"] == "swarm.cli:main"


# A key beside an open federation does not start: no example anywhere may show it, unless it pairs the node first


def shown_commands() -> list[tuple[str, list[str]]]:
    """Every command line of a node that people are shown, and where: texts, deployment files, `swarm --help`.

    Not those that come after `swarm invite` or `swarm join` in the same section: that node is paired.
    """
    pages = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").rglob("*.md"), *DEPLOY.rglob("*")]
    texts = {str(page.relative_to(ROOT)): page.read_text() for page in pages if page.is_file()}
    found: list[tuple[str, list[str]]] = []
    for where, text in (*texts.items(), ("swarm --help", build_parser().format_help())):
        for match in re.finditer(r"(?:\bswarm|scripts/run|local-swarm)((?: +(?:--[\w-]+|\[?--peer)[^`#|;&\n]*))", text):
            words = re.split(r" {2,}", match[1].strip())[0]  # in --help two spaces begin the explanation
            *_, section = re.split(r"^#+ ", text[: match.start()], flags=re.MULTILINE)
            if not re.search(r"swarm (invite|join)", section):
                found.append((where, words.split()))
    return found


def closes_half(words: list[str], environment: Collection[str] = ()) -> bool:
    """Whether a node would refuse these options because of its key."""
    names = {word.partition("=")[0] for word in words}
    keyed = bool(names & {"--api-key", "--api-key-file"}) or "SWARM_API_KEY" in environment
    return keyed and bool(names & {"--federation", "--peer", "--peer-file"}) and "--open-federation" not in names


def test_examples_of_a_key_in_a_federation_are_found() -> None:
    assert closes_half(["--federation", "--api-key-file", "keys"])
    assert closes_half(["--peer=a", "--api-key=k"])
    assert not closes_half(["--federation", "--api-key-file", "keys", "--open-federation"])
    assert len(shown_commands()) > 20
    places = {where for where, _ in shown_commands()}
    assert {"README.md", "docs/deploy.md", "deploy/swarm.service", "swarm --help"} <= places


def test_no_example_shows_a_key_beside_an_open_federation(manifests: dict[str, dict[str, Any]]) -> None:
    assert [(where, words) for where, words in shown_commands() if closes_half(words)] == []
    (container,) = manifests["StatefulSet/swarm"]["spec"]["template"]["spec"]["containers"]
    assert not closes_half(container["args"], {entry["name"] for entry in container["env"]})
