"""Checks of the machine itself: facts in, findings out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware.snapshot import HardwareSnapshot, Memory
from hardware.snapshot_text import unused_gpu
from swarm.doctor.finding import Finding, fail, ok, troubled, unknown, warn
from swarm.gateway.observing.findings import disk_trouble, gib, gpu_trouble, memory_trouble
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What happened when the embedded model was loaded and asked one question: tokens generated, seconds taken."""

    name: str
    tokens: int
    took_s: float
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The data directory, or the nearest folder above it that exists."""

    path: str
    free_bytes: int | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file with a key: `problem` says why it cannot be used, `exposed` that other users may read it."""

    path: str
    problem: str | None = None
    exposed: bool = False


def check_engine(facts: EngineFacts) -> Finding:
    if facts.problem is not None:
        return fail("engine", facts.problem, "reinstall it: pip install --force-reinstall xllamacpp")
    if facts.tokens == 0:
        return fail(
            "engine", f"{facts.name} loaded the embedded model and generated nothing", "report this with its output"
        )
    return ok("engine", f"{facts.name} loads the embedded model and generates ({facts.took_s:.1f} s)")


def check_models(defects: Mapping[str, str], whole: int) -> Finding:
    """`defects` are the model files that cannot be used, and why."""
    if defects:
        path, problem = next(iter(defects.items()))
        more = f" (and {len(defects) - 1} more)" if len(defects) > 1 else ""
        return fail("models", f"{problem}{more}", f"delete {path} and download it again: swarm models pull")
    return ok("models", f"{whole} downloaded model{'' if whole == 1 else 's'}, none damaged")


def check_memory(memory: Memory) -> Finding:
    if memory.free_bytes is None:
        return unknown("memory", "this system does not say how much memory is free")
    limit = "" if memory.limit_bytes is None else f"; the container's limit is {gib(memory.limit_bytes)}"
    trouble = memory_trouble(memory.free_bytes, limit)
    return ok("memory", f"{gib(memory.free_bytes)} free{limit}") if trouble is None else troubled("memory", trouble)


def check_gpu(snapshot: HardwareSnapshot, gpu_used: bool) -> Finding | None:
    """None where there is no GPU. One that shares the machine's memory brings less: that it is not used is no fault."""
    if not snapshot.has_gpu:
        return None
    if gpu_used:
        names = [gpu.name for gpu in snapshot.gpus] or ["Apple's"]
        return ok("GPU", f"{names[0]}: the engine computes on it")
    trouble = gpu_trouble(snapshot, gpu_used)
    return ok("GPU", unused_gpu(snapshot) or "") if trouble is None else troubled("GPU", trouble)


def check_engine_problems(problems: Sequence[str]) -> Sequence[Finding]:
    """`problems` are sentences on what was found of engines and cannot be used, each with its remedy."""
    return [warn("engines", problem, "`swarm engines` shows what can be used") for problem in problems]


def check_disk(folder: DataFolder) -> Finding:
    if folder.problem is not None:
        return fail("disk", f"{folder.path}: {folder.problem}", "make it writable, or choose another with --data-dir")
    if folder.free_bytes is None:
        return unknown("disk", f"{folder.path}: this system does not say how much space is free")
    trouble = disk_trouble(folder.path, folder.free_bytes)
    return ok("disk", f"{folder.path}: {gib(folder.free_bytes)} free") if trouble is None else troubled("disk", trouble)


def check_sandbox(found: Sandbox | NoSandbox, asked: bool) -> Finding:
    """`found` is what a command was tried in; `asked`: this node is to run `bash`, which it does not start without."""
    if isinstance(found, NoSandbox):
        if asked:
            return fail("sandbox", f"a node with `bash` among its tools does not start: {found.reason}", found.remedy)
        return unknown("sandbox", f"commands of an agent or a tool host cannot run: {found.reason}", found.remedy)
    if found.kind == "none":
        return warn(
            "sandbox",
            "none (--tools-unsandboxed): whoever calls `bash` may do what this user may",
            "leave the option out",
        )
    return ok("sandbox", f"a command ran in {found.title}: agents and tool hosts have `bash`")


@dataclass(frozen=True, slots=True)
class McpServerFacts:
    """An MCP server of others: how many tools it has, or its `problem`, which completes "NAME ..."."""

    name: str
    tools: int = 0
    problem: str | None = None


def check_mcp_server(server: McpServerFacts) -> Finding:
    if server.problem is not None:
        return warn(
            "MCP server",
            f"{server.name} {server.problem}",
            f"correct [mcp.servers.{server.name}] in the configuration, or start what it needs: docs/tools.md",
        )
    several = "" if server.tools == 1 else "s"
    return ok("MCP server", f"{server.name} was asked, and has {server.tools} tool{several}")


def check_keys(files: Sequence[SecretFile]) -> Finding:
    for file in files:
        if file.problem is not None:
            return fail("keys", file.problem, f"repair or remove {file.path}")
    exposed = [file.path for file in files if file.exposed]
    if exposed:
        return fail("keys", f"other users of this machine can read {exposed[0]}", f"chmod 600 {' '.join(exposed)}")
    if not files:
        return ok("keys", "none yet: this node gets its identity at its first start")
    return ok("keys", f"{len(files)} file{'' if len(files) == 1 else 's'} with this node's identity and keys, in order")


def check_requirements(program: str, python: str, unmet: Sequence[str]) -> Finding:
    """`unmet` are the requirements that the installed packages do not meet, in words."""
    if unmet:
        names = " ".join(words.partition(" ")[0] for words in unmet)
        remedy = (
            f"in a checkout ./scripts/run renews its environment; elsewhere: python -m pip install --upgrade {names}"
        )
        return fail("versions", "; ".join(unmet), remedy)
    return ok("versions", f"local-swarm {program} on Python {python}, and all required packages")
