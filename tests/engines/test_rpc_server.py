"""A real `ggml-rpc-server` in a real sandbox: what it reaches, what it may take, and that nothing of it stays.

Skipped where no build was made (SWARM_TEST_ENGINES), or bwrap is not there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from federation.lending import FROZEN, MEMORY_ENDED, SERVER_ENDED
from federation.tasks import cancel_and_wait
from swarm.engines.llama_cpp.rpc_cache import RpcCache, cache_for, pruned
from swarm.engines.llama_cpp.rpc_confinement import RpcPlan
from swarm.engines.llama_cpp.rpc_server import RpcServer, below, python_inside
from swarm.errors import EngineFailed
from swarm.node.lending import LendingParts
from swarm.registry.model_memory import MIB
from tests.doubles.lending_nodes import lending_build, listening_ports, parts_here, rpc_servers
from tests.doubles.rpc_messages import RpcTalk
from tests.doubles.waiting import eventually

LENT_BYTES = 64 * MIB
RESULT = "0000000000000001"  # a name as the server gives to files of its cache
LOOK_AROUND = """\
import ctypes, json, os, resource, socket
from pathlib import Path
asked = json.loads(Path(__file__).with_name("asked.json").read_text())
found = {}
def tried(name, do):
    try:
        found[name] = repr(do())
    except OSError as error:
        found[name] = type(error).__name__
def reach(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as made:
        made.settimeout(2)
        made.connect(address)
for path in (*asked["read"], "/root", "/home", "/etc/shadow", "/etc/passwd", "/var", "/run", "/sys", "/proc/1/mem"):
    tried(f"read {path}", lambda: os.listdir(path) if os.path.isdir(path) else open(path, "rb").read(1))
for path in (*asked["write"], "/", "/usr", "/dev", "/proc/sys/kernel", os.path.dirname(__file__)):
    tried(f"write {path}", lambda: open(os.path.join(path, "made"), "w").close())
for port in asked["ports"]:
    tried(f"tcp {port}", lambda: reach(socket.AF_INET, ("127.0.0.1", port)))
for host in asked["hosts"]:
    tried(f"host {host}", lambda: reach(socket.AF_INET, (host, asked["ports"][0])))
tried("abstract", lambda: reach(socket.AF_UNIX, "\\0" + asked["abstract"]))
tried("trace", lambda: open("/proc/1/environ").read())
libc = ctypes.CDLL(None, use_errno=True)
found["unshare"] = libc.unshare(0x10000000)
found["keyctl"] = libc.syscall(250 if os.uname().machine == "x86_64" else 219, 0, -3)
found["environment"] = sorted(os.environ)
found["processes"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
found["descriptors"] = []
for number in range(3, 64):
    try:
        found["descriptors"].append(os.readlink(f"/proc/self/fd/{number}"))
    except OSError:
        pass
found["interfaces"] = [name for _, name in socket.if_nameindex()]
found["data"] = resource.getrlimit(resource.RLIMIT_DATA)[0]
Path("/cache/rpc/0000000000000001").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> LendingParts:
    return parts_here(tmp_path_factory.mktemp("lender"), lending_build())


def plan_of(parts: LendingParts, cache: Path | None = None) -> RpcPlan:
    return RpcPlan(parts.program, LENT_BYTES, 1, cache)


@asynccontextmanager
async def running(parts: LendingParts, cache: Path | None = None) -> AsyncGenerator[RpcServer]:
    server = await RpcServer.start(parts.sandbox, plan_of(parts, cache))
    try:
        yield server
    finally:
        await server.aclose()


async def test_it_serves_through_descriptors_and_has_no_port_on_this_machine(parts: LendingParts) -> None:
    before = listening_ports()
    async with running(parts) as server:
        assert server.rpc == "7.0.0"
        assert 50052 not in listening_ports() - before
        with socket.socket() as tried:
            assert tried.connect_ex(("127.0.0.1", 50052)) != 0
        for _ in range(3):  # one after another, as llama.cpp connects
            async with RpcTalk(await server.connect()) as talk:
                assert await talk.hello() == (7, 0, 0)
    assert rpc_servers() == []


async def look_around(parts: LendingParts, folder: Path, **asked: object) -> dict[str, object]:
    """What a program finds that stands where the RPC server does."""
    (folder / "bin").mkdir()
    program = folder / "bin" / "ggml-rpc-server"
    program.write_text(f"#!{python_inside().program}\n{LOOK_AROUND}")
    program.chmod(0o755)
    (folder / "bin" / "asked.json").write_text(json.dumps(asked))
    plan = replace(plan_of(parts, folder / "kept"), program=replace(parts.program, path=program))
    with pytest.raises(EngineFailed, match="exit code 0"):
        await RpcServer.start(parts.sandbox, plan)
    return dict(json.loads((folder / "kept" / RESULT).read_text()))


async def test_inside_there_is_nothing_to_read_or_reach(parts: LendingParts, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("of the node")
    own_address = next(iter(socket.gethostbyname_ex(socket.gethostname())[2]), "127.0.0.1")
    with socket.socket() as listener, socket.socket(socket.AF_UNIX) as abstract:
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        abstract.bind("\0swarm-rpc-test-" + secret.parent.name)
        abstract.listen()
        os.environ["SWARM_TEST_SECRET"] = "of the node"
        try:
            found = await look_around(
                parts,
                tmp_path,
                read=[str(secret), str(Path.home()), str(Path(__file__))],
                write=[str(tmp_path)],
                ports=[listener.getsockname()[1]],
                hosts=[own_address, "192.0.2.1"],
                abstract="swarm-rpc-test-" + secret.parent.name,
            )
        finally:
            del os.environ["SWARM_TEST_SECRET"]
    reached = {name: what for name, what in found.items() if " " in name or name in ("abstract", "trace")}
    # A system folder may be there and empty of everything but what was shown, such as the way to the program.
    read = {name for name, what in reached.items() if not str(what).endswith("Error")}
    shown = {f"read {folder}" for folder in ("/root", "/home", "/var", "/run")} | {f"read {Path.home()}"}
    assert read <= shown, reached
    for name in read:
        assert not {"secret", ".ssh", ".bashrc", ".cache/local-swarm"} & set(str(reached[name]).split("'")), reached
    assert found["unshare"] == -1
    assert found["keyctl"] == -1
    assert found["environment"] == ["HOME", "LANG", "LC_CTYPE", "LLAMA_CACHE", "PATH", "PWD"] or (
        set(map(str, found["environment"])) <= {"HOME", "LANG", "LC_CTYPE", "LLAMA_CACHE", "PATH", "PWD"}  # type: ignore[call-overload]
    )
    assert len(found["processes"]) == 2, found["processes"]  # type: ignore[arg-type]
    assert found["descriptors"] == []
    assert found["interfaces"] == ["lo"]
    assert found["data"] == plan_of(parts).data_bytes


async def test_it_gets_no_more_memory_than_was_lent(parts: LendingParts) -> None:
    async with running(parts) as server, RpcTalk(await server.connect()) as talk:
        await talk.hello()
        assert await talk.alloc(LENT_BYTES) != 0
        assert await talk.alloc(8 * server.plan.most_bytes) == 0, "the system has it, and does not give it"


async def test_one_that_takes_more_is_ended_and_its_memory_is_back(parts: LendingParts) -> None:
    async with running(parts) as server, RpcTalk(await server.connect()) as talk:
        await talk.hello()
        pointer = await talk.alloc(server.plan.data_bytes - 64 * MIB)
        assert pointer != 0
        await talk.touch(pointer)
        end = await asyncio.wait_for(asyncio.shield(server.over), 60)
        assert end.code == MEMORY_ENDED
        assert "64 MiB were lent" in end.words
        await eventually(lambda: rpc_servers() == [])


async def test_rubbish_ends_a_connection_and_perhaps_the_server_but_nothing_else(parts: LendingParts) -> None:
    async with running(parts) as server:
        for number in range(20):
            if server.over.done():
                break
            with suppress(EngineFailed, OSError, asyncio.IncompleteReadError):
                async with RpcTalk(await server.connect()) as talk:
                    await talk.hello()
                    async with asyncio.timeout(2):
                        await talk.ask(number, bytes([number * 13 & 255]) * (number * 7))
    assert rpc_servers() == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_is_killed_or_stopped_is_over(parts: LendingParts, how: signal.Signals) -> None:
    async with running(parts) as server:
        (pid,) = rpc_servers()
        os.kill(pid, how)
        end = await asyncio.wait_for(asyncio.shield(server.over), 60)
        assert end.code == {signal.SIGKILL: SERVER_ENDED, signal.SIGSTOP: FROZEN}[how]
        assert how is signal.SIGSTOP or "SIGKILL" in end.words
        with pytest.raises(EngineFailed):
            await server.connect()
        await eventually(lambda: rpc_servers() == [])


async def test_a_start_that_is_cancelled_leaves_nothing(parts: LendingParts) -> None:
    for turns in (0, 1, 5, 50):
        starting = asyncio.create_task(RpcServer.start(parts.sandbox, plan_of(parts)))
        for _ in range(turns):
            await asyncio.sleep(0)
        await cancel_and_wait(starting)
    assert rpc_servers() == []
    assert [pid for pid in below(os.getpid())[1:] if "bwrap" in name_of(pid)] == []


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


async def test_a_program_that_is_no_server_says_why(parts: LendingParts, tmp_path: Path) -> None:
    program = tmp_path / "ggml-rpc-server"
    program.write_text("#!/bin/sh\necho the driver is too old >&2\nexit 3\n")
    program.chmod(0o755)
    with pytest.raises(EngineFailed, match=r"exit code 3.*the driver is too old"):
        await RpcServer.start(parts.sandbox, replace(plan_of(parts), program=replace(parts.program, path=program)))


NODE = """\
import asyncio, sys
from pathlib import Path
from tests.doubles.lending_nodes import lending_build, parts_here
from swarm.engines.llama_cpp.rpc_confinement import RpcPlan
from swarm.engines.llama_cpp.rpc_server import RpcServer
async def main():
    parts = parts_here(Path(sys.argv[1]), lending_build())
    if sys.argv[2] == "early":
        asyncio.create_task(RpcServer.start(parts.sandbox, RpcPlan(parts.program, 1 << 26, 1)))
        await asyncio.sleep(float(sys.argv[3]))
    else:
        server = await RpcServer.start(parts.sandbox, RpcPlan(parts.program, 1 << 26, 1))
    print("there", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.parametrize("when", ["running", "early 0.003", "early 0.02"])
async def test_a_node_that_is_killed_leaves_nothing(parts: LendingParts, tmp_path: Path, when: str) -> None:
    del parts
    marker = f"SWARM_RPC_TEST={tmp_path.name}"
    node = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        NODE,
        str(tmp_path),
        *when.split(),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
    )
    assert node.stdout is not None, marker
    await node.stdout.readline()
    started = below(node.pid)[1:]
    node.kill()
    await node.wait()
    await eventually(lambda: not any(is_ours(pid) for pid in started))


def is_ours(pid: int) -> bool:
    return name_of(pid).strip() in ("bwrap", "ggml-rpc-server") or "rpc_sandbox" in command_of(pid)


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def test_a_file_that_was_half_written_is_not_believed(tmp_path: Path) -> None:
    cache = RpcCache(tmp_path / "a")
    cache.opened()
    for name in ("0" * 16, "1" * 16):
        (tmp_path / "a" / name).write_bytes(b"weights")
    (tmp_path / "a" / "no-hash").write_bytes(b"x")
    cache.closed(("1" * 16,))
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["0" * 16]
    RpcCache(tmp_path / "a").opened()
    assert (tmp_path / "a" / ("0" * 16)).exists(), "what was whole stays"


def test_what_was_written_when_all_was_killed_is_not_believed(tmp_path: Path) -> None:
    cache = RpcCache(tmp_path / "a")
    cache.opened()
    old, new = (tmp_path / "a" / (digit * 16) for digit in "01")
    old.write_bytes(b"whole")
    cache.closed(())
    os.utime(old, (time.time() - 100, time.time() - 100))
    cache.opened()
    new.write_bytes(b"half")  # ... and no `closed`
    RpcCache(tmp_path / "a").opened()
    assert (old.exists(), new.exists()) == (True, False)


def test_a_guest_has_a_folder_of_its_own_and_the_oldest_goes_first(tmp_path: Path) -> None:
    folders = [cache_for(tmp_path / "kept", guest, MIB) for guest in ("a" * 52, "b" * 52)]
    assert None not in folders
    assert folders[0] != folders[1]
    for age_s, folder in zip((200, 100), folders, strict=True):
        assert folder is not None
        RpcCache(folder).opened()
        file = folder / ("0" * 16)
        file.write_bytes(bytes(1000))
        os.utime(file, (time.time() - age_s, time.time() - age_s))
    assert pruned(tmp_path / "kept", 1500) == 1000
    assert [(folder / ("0" * 16)).exists() for folder in folders if folder] == [False, True]
    assert cache_for(tmp_path / "kept", "a" * 52, 1 << 60) is None, "the disk has no room for that"


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    cache = RpcCache(tmp_path / "a")
    cache.opened()
    (tmp_path / "a" / ("0" * 16)).write_bytes(bytes(2 * MIB))
    end = cache.overfull(MIB)
    assert end is not None
    assert end.code == MEMORY_ENDED
    assert cache.overfull(4 * MIB) is None


def test_an_owner_may_delete_what_is_kept_while_a_server_runs(tmp_path: Path) -> None:
    cache = RpcCache(tmp_path / "all" / "a")
    cache.opened()
    shutil.rmtree(tmp_path / "all")
    assert cache.overfull(1) is None
    cache.closed(("0123456789abcdef",))
