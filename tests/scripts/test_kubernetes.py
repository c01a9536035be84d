"""The manifests under deploy/kubernetes/: Kubernetes takes them, and they do what docs/deploy.md says of them.

Every object is held against the schema of its kind, as `kubectl apply --validate=strict` would in a cluster. What the
schemas cannot say (that names lead to each other, that a node starts with these options) is tested beside it.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import yaml
from jsonschema import Draft202012Validator

from federation.hostport import DEFAULT_PORT
from swarm.cli import build_parser
from swarm.engines.upstream.address import parse_upstream
from swarm.node import leaving
from tests.doubles.upstream_server import UpstreamServer
from tests.e2e.node_process import PROGRAM, NodeProcess

FOLDER: Final = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
SCHEMAS: Final = Path(__file__).with_name("kubernetes_schemas.json")
ANSWER_S: Final = 30.0
# Of `vllm serve`: vllm/entrypoints/common/cli_args.py and vllm/engine/arg_utils.py of vLLM 0.33.0.
VLLM_OPTIONS: Final = frozenset(
    [
        "--served-model-name", "--host", "--port", "--max-model-len", "--gpu-memory-utilization",
        "--enable-auto-tool-choice", "--tool-call-parser", "--reasoning-parser", "--tensor-parallel-size",
    ]
)  # fmt: skip


def objects(file: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(file.read_text()))


def told_apart(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By kind and name."""
    return {f"{entry['kind']}/{entry['metadata']['name']}": entry for entry in found}


LARGE: Final = told_apart(objects(FOLDER / "large-model.yaml"))
EVERY: Final = [
    pytest.param(entry, id=f"{file.stem}-{entry['kind']}-{entry['metadata']['name']}")
    for file in sorted(FOLDER.glob("*.yaml"))
    for entry in objects(file)
]


@functools.cache
def schemas() -> dict[str, Any]:
    return json.loads(SCHEMAS.read_text())["$defs"]


def problems(entry: dict[str, Any]) -> list[str]:
    """What Kubernetes would refuse in an object, each with where it stands."""
    group, _, version = entry["apiVersion"].rpartition("/")
    kind = "-".join(filter(None, [entry["kind"].lower(), group.split(".")[0], version]))
    if kind not in schemas():
        return [f"no schema of {kind}: scripts/kubernetes-schemas writes those of all manifests"]
    validator: Any = Draft202012Validator({"$ref": f"#/$defs/{kind}", "$defs": schemas()})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(entry)]


@pytest.mark.parametrize("entry", EVERY)
def test_kubernetes_takes_every_object(entry: dict[str, Any]) -> None:
    assert problems(entry) == []


def changed(name: str, *path: str | int, to: object) -> dict[str, Any]:
    """An object with another value at a path, or one more."""
    entry = copy.deepcopy(LARGE[name])
    at: Any = entry
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = to
    return entry


POD: Final = ("spec", "template", "spec")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (changed("Deployment/large-model", *POD, "containers", 0, "readinesProbe", to={}), "'readinesProbe' was"),
        (changed("Deployment/large-model", *POD, "containers", 0, "args", 0, to=32), r"args\[0\]: 32 is not of type"),
        (changed("Deployment/swarm-front", "spec", "replicas", to="2"), "replicas: '2' is not of type"),
        (changed("Deployment/swarm-front", *POD, "containers", 0, "env", 0, to={"value": "key"}), "'name' is a req"),
        (changed("NetworkPolicy/large-model", "spec", "ingress", 0, "from", 0, to={"pods": {}}), "'pods' was"),
        (changed("PersistentVolumeClaim/large-model", "spec", "resources", "storage", to="1Gi"), "'storage' was"),
        (changed("Service/large-model", "spec", "ports", 0, "port", to="http"), "port: 'http' is not of type"),
        (changed("Service/large-model", "kind", to="Servise"), "no schema of servise-v1"),
    ],
)
def test_what_kubernetes_would_refuse_is_found(entry: dict[str, Any], said: str) -> None:
    (problem,) = problems(entry)
    assert re.search(said, problem)


# A large model behind nodes


def container_of(name: str) -> dict[str, Any]:
    (container,) = LARGE[f"Deployment/{name}"]["spec"]["template"]["spec"]["containers"]
    return container


def variable(container: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (entry for entry in container["env"] if entry["name"] == name)
    return found


def test_the_nodes_reach_the_model_and_nobody_else_does() -> None:
    assert set(LARGE) == {
        "PersistentVolumeClaim/large-model", "Service/large-model", "NetworkPolicy/large-model",
        "Deployment/large-model", "Service/swarm-front", "Deployment/swarm-front",
    }  # fmt: skip
    for name in ("large-model", "swarm-front"):
        pods = LARGE[f"Deployment/{name}"]["spec"]["template"]["metadata"]["labels"]
        assert LARGE[f"Service/{name}"]["spec"]["selector"] == pods
        assert LARGE[f"Deployment/{name}"]["spec"]["selector"]["matchLabels"] == pods
    policy = LARGE["NetworkPolicy/large-model"]["spec"]
    assert policy["podSelector"] == LARGE["Deployment/large-model"]["spec"]["selector"]
    (rule,) = policy["ingress"]
    (source,) = rule["from"]
    assert source["podSelector"] == LARGE["Deployment/swarm-front"]["spec"]["selector"]
    engine, node = container_of("large-model"), container_of("swarm-front")
    (port,) = LARGE["Service/large-model"]["spec"]["ports"]
    address = parse_upstream(given(node).upstream[0])
    assert (address.host, address.bases) == (f"large-model:{port['port']}", ("http://large-model:8000/v1",))
    assert address.reach == "network", "a name of the cluster, not of the internet: no proxy is asked for it"
    assert engine["ports"] == [{"name": port["targetPort"], "containerPort": 8000}]
    assert "--port=8000" in engine["args"]
    secrets = [variable(engine, "VLLM_API_KEY"), variable(node, "SWARM_UPSTREAM_KEY")]
    assert secrets[0]["valueFrom"] == secrets[1]["valueFrom"], "the key that one asks for is the key that others give"
    volumes = {entry["name"]: entry for entry in LARGE["Deployment/large-model"]["spec"]["template"]["spec"]["volumes"]}
    (models,) = (mount for mount in engine["volumeMounts"] if mount["name"] == "models")
    assert variable(engine, "HF_HOME")["value"] == models["mountPath"]
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert f"PersistentVolumeClaim/{claim}" in LARGE


def test_vllm_is_given_options_that_it_has_and_no_environment_of_services() -> None:
    engine = container_of("large-model")
    assert engine["image"] == "vllm/vllm-openai:v0.33.0", "whose options VLLM_OPTIONS are"
    model, *options = engine["args"]
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", model), "a repository of the hub, the only argument that is no option"
    assert {word.partition("=")[0] for word in options} <= VLLM_OPTIONS
    for name in ("large-model", "swarm-front"):
        assert LARGE[f"Deployment/{name}"]["spec"]["template"]["spec"]["enableServiceLinks"] is False
    assert not any(name.startswith(("Service/vllm", "Service/swarm_")) for name in LARGE)
    assert engine["resources"]["limits"]["nvidia.com/gpu"] == 1
    start = engine["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= 1800, "a download of 20 GB"


def given(container: dict[str, Any]) -> Any:
    """The options of a node, as its parser reads them."""
    known = {entry["name"] for entry in container["env"]}
    assert {name for text in container["args"] for name in re.findall(r"\$\((\w+)\)", text)} <= known
    return build_parser().parse_args([re.sub(r"\$\(\w+\)", "default", text) for text in container["args"]])


def test_the_nodes_get_the_time_to_leave_and_are_asked_where_nodes_answer() -> None:
    pod = LARGE["Deployment/swarm-front"]["spec"]["template"]["spec"]
    (node,) = pod["containers"]
    assert pod["terminationGracePeriodSeconds"] > leaving.GONE_S
    assert node["ports"] == [{"name": "http", "containerPort": DEFAULT_PORT}]
    assert {node[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe")} == {"/readyz", "/livez"}
    assert pod["securityContext"]["runAsNonRoot"] is True
    mounts = {mount["mountPath"]: mount["name"] for mount in node["volumeMounts"]}
    assert given(node).api_key_file == Path(next(path for path, name in mounts.items() if name == "keys")) / "keys"
    keys = next(volume for volume in pod["volumes"] if volume["name"] == "keys")
    assert keys["secret"]["defaultMode"] == 0o440, "for the node's group, and nobody else"
    written = (FOLDER / "large-model.yaml").read_text()
    made = set(re.findall(r"kubectl create secret generic (\S+) --from-literal=(\w+)=", written))
    assert made == {("large-model", "key"), (keys["secret"]["secretName"], "keys")}


async def test_a_node_that_is_started_like_this_passes_everything_on_to_the_model(tmp_path: Path) -> None:
    """With the manifest's own options, but for the two names that are a cluster's."""
    said = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": "qwen3-32b", "choices": [said],
             "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}  # fmt: skip
    listing = {"object": "list", "data": [{"id": "qwen3-32b", "object": "model"}]}
    keys = tmp_path / "keys"
    (line,) = re.findall(
        r'--from-literal=keys="\$\(openssl rand -hex 24\)([^"]*)"', (FOLDER / "large-model.yaml").read_text()
    )
    keys.write_text(f"0123456789abcdef{line}\n")
    async with UpstreamServer(whole=whole, listing=listing) as vllm:
        replaced = {
            "--upstream=": f"{vllm.url}/v1",
            "--host=": "127.0.0.1",
            "--api-key-file=": str(keys),
            "--name=": "a",
        }
        words = [re.sub(r"\$\(\w+\)", "default", text) for text in container_of("swarm-front")["args"]]
        for option, value in replaced.items():
            words = [option + value if word.startswith(option) else word for word in words]
        program = ("env", "SWARM_UPSTREAM_KEY=of-vllm", *PROGRAM)
        with NodeProcess("front", tmp_path / "node", arguments=words, program=program, model=None) as node:
            await node.ready()
            timeout = aiohttp.ClientTimeout(total=ANSWER_S)
            headers = {"Host": "swarm-front.default.svc", "Authorization": "Bearer 0123456789abcdef"}
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as client:
                async with client.get(f"{node.url}/readyz") as answer:
                    assert answer.status == 200
                body = {"model": "swarm", "messages": [{"role": "user", "content": "hi"}]}
                async with client.post(f"{node.url}/v1/chat/completions", json=body) as answer:
                    assert answer.status == 200, await answer.text()
                    assert (await answer.json())["choices"][0]["message"]["content"] == "hello"
                async with client.get(f"{node.url}/v1/models", headers={"Authorization": "Bearer x"}) as answer:
                    assert answer.status == 401
                async with client.get(f"{node.url}/v1/models", headers={"Host": "elsewhere"}) as answer:
                    assert answer.status == 403
        (asked,) = vllm.asked
        assert (asked.body["model"], asked.headers["Authorization"]) == ("qwen3-32b", "Bearer of-vllm")
