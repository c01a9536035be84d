"""MCP servers of others as tool hosts: real processes in the real sandbox, of both eras, and what they do wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from swarm.errors import BadRequest, SetupError, Unavailable
from swarm.tools.mcp_connections import ServerPlace, process_connection
from swarm.tools.mcp_host import McpPace, McpToolHost, retry_after_s, server_hosts
from swarm.tools.mcp_servers import McpServerSettings
from swarm.tools.plan import AUTO
from swarm.tools.sandbox import Sandbox
from swarm.tools.sandboxed_process import NoSandbox, find_sandbox
from swarm.tools.tool import MAX_OUTPUT_CHARS
from tests.doubles.waiting import eventually

PROGRAM = Path(__file__).parents[1] / "doubles" / "mcp_server_program.py"
BARE = Sandbox("none", bash=shutil.which("bash") or "/bin/bash")
QUICK = McpPace(discover_s=5, start_s=20, sign_of_life_s=0.2)


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def hosted(
    told: dict[str, Any] | None = None,
    *,
    sandbox: Sandbox = BARE,
    root: Path | None = None,
    clock: Callable[[], float] | None = None,
    pace: McpPace = QUICK,
    python: str = sys.executable,
    program: Path = PROGRAM,
    writable: bool = False,
    **settings: Any,
) -> AsyncIterator[McpToolHost]:
    """A host whose server is connected, or has failed."""
    server = McpServerSettings(command=(python, str(program), json.dumps(told or {})), **settings)
    connect = partial(process_connection, server, ServerPlace(sandbox, root, writable))
    host = McpToolHost("box", server, connect, pace=pace, clock=clock or Clock())
    async with host:
        await host.settled(20)
        yield host


async def called(host: McpToolHost, tool: str, text: str = "", timeout_s: float | None = None) -> str:
    result = await host.execute(f"box__{tool}", {"text": text}, timeout_s)
    assert result.exit_code == 0, result.output
    return result.output


# What works


@pytest.mark.parametrize("era", ["old", "new", "both"])
@pytest.mark.parametrize("page", [1000, 3])
async def test_servers_of_both_eras_are_asked_in_theirs(era: str, page: int) -> None:
    async with hosted({"era": era, "page": page}) as host:
        names = [tool.name for tool in host.tools()]
        assert names[:3] == ["box__echo", "box__see", "box__hang"]
        assert len(names) == 14
        assert not any(tool.reads_only for tool in host.tools())
        assert await called(host, "echo", "hello") == "hello"
        asked = json.loads(await called(host, "seen"))["asked"]
    assert asked[0] == "server/discover", "a server is asked for the new era first"
    assert ("initialize" in asked) is (era == "old")
    assert asked.count("tools/list") == (1 if page == 1000 else 5)


async def test_a_name_that_apis_refuse_is_the_server_s_own_again_when_it_is_asked() -> None:
    async with hosted() as host:
        (name,) = [tool.name for tool in host.tools() if "dotted" in tool.name]
        assert "." not in name
        assert (await host.execute(name, {"text": "x"})).output == "x"


async def test_calls_run_beside_each_other() -> None:
    async with hosted() as host, asyncio.TaskGroup() as group:
        hanging = group.create_task(host.execute("box__hang", {}, 60))
        assert await called(host, "echo", "meanwhile") == "meanwhile"
        hanging.cancel()


async def test_a_call_that_is_cancelled_is_told_to_the_server() -> None:
    async with hosted() as host:
        hanging = asyncio.create_task(host.execute("box__hang", {}, 60))
        await eventually(lambda: bool(host._running))
        assert "tools/call" in await called(host, "seen")
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        assert len(json.loads(await called(host, "seen"))["cancelled"]) == 1


async def test_a_list_that_changes_is_listed_again() -> None:
    async with hosted() as host:
        await called(host, "grow")
        await eventually(lambda: "box__another" in [tool.name for tool in host.tools()])
        assert await called(host, "another", "x") == "x"


async def test_what_a_tool_says_is_cleaned_and_cut() -> None:
    async with hosted() as host:
        result = await host.execute("box__large", {})
    assert result.truncated
    assert result.output.startswith("xxx")
    assert result.output.endswith("xend")
    assert len(result.output) < MAX_OUTPUT_CHARS + 100


async def test_a_tool_that_fails_is_a_result_and_bad_arguments_an_error() -> None:
    async with hosted() as host:
        result = await host.execute("box__fail", {})
        assert (result.output, result.exit_code) == ("it failed", 1)
        with pytest.raises(BadRequest, match=r"^box__refuse: `text` must be another$") as refused:
            await host.execute("box__refuse", {})
        assert refused.value.param == "arguments"
        with pytest.raises(BadRequest, match="MCP server box has no tool 'box__nothing'") as refused:
            await host.execute("box__nothing", {})
        assert refused.value.param == "tool"
        with pytest.raises(BadRequest, match="timeout_s is 0"):
            await host.execute("box__echo", {}, 0)


async def test_a_server_may_ask_for_a_sign_of_life_and_nothing_else() -> None:
    async with hosted() as host:
        heard = json.loads(await called(host, "ask"))
    assert heard[0] == {"id": "a", "jsonrpc": "2.0", "result": {}}
    assert heard[1]["error"]["code"] == -32601


async def test_only_tools_that_are_allowed_are_there(caplog: pytest.LogCaptureFixture) -> None:
    async with hosted(tools=("echo", "gone")) as host:
        assert [tool.name for tool in host.tools()] == ["box__echo"]
        with pytest.raises(BadRequest, match="has no tool 'box__die'"):
            await host.execute("box__die", {})
    assert "MCP server box: left out is gone: it has no such tool" in caplog.text


# What is wrong


async def test_a_server_that_ends_over_a_question_of_the_new_era_is_asked_in_the_old_way() -> None:
    async with hosted({"ends_over_discover": True}) as host:
        assert await called(host, "echo", "x") == "x"
        asked = json.loads(await called(host, "seen"))["asked"]
    assert asked[0] == "initialize"


async def test_a_server_that_passes_over_what_it_does_not_know_is_asked_in_the_old_way() -> None:
    async with hosted({"silent_over_discover": True}, pace=McpPace(discover_s=0.2)) as host:
        assert await called(host, "echo", "x") == "x"


async def test_a_server_that_does_not_start_says_why_and_is_left_alone_for_a_while(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    async with hosted({"does_not_start": True}, clock=clock) as host:
        assert host.tools() == ()
        reason = "ended with exit code 1; the last that it wrote is: ImportError: no module named left_pad"
        assert host.problem == reason
    assert f"MCP server box {reason}" in caplog.text


async def test_a_server_that_dies_is_started_again_when_it_is_asked_for_again() -> None:
    clock = Clock()
    async with hosted(clock=clock) as host:
        first = json.loads(await called(host, "see", "{}"))["pid"]
        result = await host.execute("box__die", {})
        assert result.exit_code == 1
        assert result.output == ("MCP server box ended with exit code 3; the last that it wrote is: it cannot go on")
        await eventually(lambda: host.problem is not None)
        assert "box__echo" in [tool.name for tool in host.tools()], "its tools are still told of"
        with pytest.raises(Unavailable, match=r"ended with exit code 3.*it is started again when .* in 1 s") as left:
            await host.execute("box__echo", {"text": "x"})
        assert left.value.retry_after_s == 1
        clock.now += 1
        assert json.loads(await called(host, "see", "{}"))["pid"] != first
        assert host.problem is None
        for _ in range(2):  # a call that was answered makes up for what came before
            await host.execute("box__die", {})
            await eventually(lambda: host.problem is not None)
            clock.now += 1
            assert await called(host, "echo", "x") == "x"


def test_it_is_left_alone_for_longer_each_time() -> None:
    assert [retry_after_s(failures) for failures in (0, 1, 2, 3, 4, 9, 10, 5000)] == [0, 1, 2, 4, 8, 256, 300, 300]


async def test_each_start_that_fails_doubles_the_time() -> None:
    clock = Clock()
    async with hosted({"does_not_start": True}, clock=clock) as host:
        for wait_s in (1, 2, 4):
            assert host._retry_at == clock.now + wait_s
            clock.now += wait_s
            problem = host._changed
            host.tools()  # which wants it
            await problem.wait()


async def test_a_server_that_answers_nothing_at_all_is_ended() -> None:
    clock = Clock()
    async with hosted(clock=clock) as host:
        result = await host.execute("box__hang", {"text": "all"}, 0.3)
        assert result.timed_out
        assert result.output == "MCP server box did not answer within 0.3 s"
        await eventually(lambda: host.problem is not None)
        assert host.problem == "does not answer any more, and was ended"
        clock.now += 1
        assert await called(host, "echo", "x") == "x"


async def test_a_call_that_is_not_answered_is_no_reason_to_end_a_server_that_answers_others() -> None:
    async with hosted(pace=McpPace(sign_of_life_s=20)) as host:
        pid = json.loads(await called(host, "see", "{}"))["pid"]
        assert (await host.execute("box__hang", {}, 0.2)).timed_out
        assert json.loads(await called(host, "see", "{}"))["pid"] == pid
        await eventually(lambda: not host._looking)
        assert host.problem is None


@pytest.mark.parametrize(
    ("tool", "why"),
    [
        ("flood", "sends more than anybody asked for"),
        ("long", "sent a message of more than 8 MiB"),
        ("rubbish", "sent what is no message: 'this is no message', and more of that kind"),
    ],
)
async def test_a_server_that_says_too_much_is_ended_and_the_node_goes_on(tool: str, why: str) -> None:
    clock = Clock()
    async with hosted(clock=clock) as host:
        pid = json.loads(await called(host, "see", "{}"))["pid"]
        result = await host.execute(f"box__{tool}", {}, 60)
        assert (result.output, result.exit_code) == (f"MCP server box {why}", 1)
        await eventually(lambda: host.problem is not None and not psutil.pid_exists(pid))
        clock.now += 1
        assert await called(host, "echo", "x") == "x"


async def test_a_greeting_on_its_output_is_passed_over() -> None:
    async with hosted({"greeting": "Server is listening on stdio"}) as host:
        assert await called(host, "echo", "x") == "x"


async def test_a_server_that_never_answers_is_told_with_what_it_wrote_instead() -> None:
    pace = McpPace(discover_s=0.1, start_s=0.3)
    async with hosted({"never_answers": True, "greeting": "hello"}, pace=pace) as host:
        assert host.problem == "did not start within 0.3 s"


async def test_a_revision_that_nobody_speaks_is_named() -> None:
    async with hosted({"revision": "1999-01-01"}) as host:
        assert host.problem is not None
        assert host.problem.startswith("speaks revision 1999-01-01 of the protocol; here 2024-11-05,")


async def test_a_program_that_is_not_there_is_named() -> None:
    async with hosted(python="/no/such/program") as host:
        assert host.problem is not None
        assert host.problem.startswith("ended with exit code 127 (in the sandbox there are the system's folders,")
        assert "/no/such/program" in host.problem


async def test_leaving_ends_the_server_and_what_it_runs() -> None:
    async with hosted() as host:
        pid = json.loads(await called(host, "see", "{}"))["pid"]
        hanging = asyncio.create_task(host.execute("box__hang", {}, 60))
        await eventually(lambda: bool(host._running))
    await eventually(lambda: not psutil.pid_exists(pid))
    with pytest.raises(Unavailable, match="MCP server box is shut down with this node"):
        await hanging


async def test_a_server_that_is_killed_from_outside_is_noticed() -> None:
    async with hosted() as host:
        os.kill(json.loads(await called(host, "see", "{}"))["pid"], signal.SIGKILL)
        await eventually(lambda: host.problem is not None)
        assert host.problem is not None
        assert host.problem.startswith("ended with exit code")


# In the sandbox


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    if not sys.platform.startswith("linux") or shutil.which("bwrap") is None:
        pytest.skip("bwrap is for Linux, where CI installs it")
    found = find_sandbox(AUTO, uid=65534)
    assert isinstance(found, Sandbox), found
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A root with the server's program in it. Not in /tmp, which is another one inside."""
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(PROGRAM, root / "server.py")
    (tmp_path / "secret.txt").write_text("secret")
    return root


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def seen(host: McpToolHost, **wanted: Any) -> dict[str, Any]:
    return json.loads(await called(host, "see", json.dumps(wanted)))


def system_python() -> str:
    return shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or sys.executable


async def test_a_server_reaches_its_root_and_nothing_else(
    sandbox: Sandbox, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_API_KEY", "sk-of-the-node")
    secret, own = project.parent / "secret.txt", project / "server.py"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with hosted(
            sandbox=sandbox, root=project, python=system_python(), program=own, env={"TOKEN": "t"}
        ) as host:
            assert host.problem is None
            found = await seen(
                host,
                read=[str(secret), str(own), "/etc/shadow"],
                ports=[port],
                write=[str(project / "x"), "/tmp/x"],
                value="TOKEN",
            )
    assert found["read"] == {str(secret): False, str(own): True, "/etc/shadow": False}
    assert found["connected"] == {str(port): False}
    assert found["written"] == {str(project / "x"): False, "/tmp/x": True}
    assert found["folder"] == str(project)
    assert found["value"] == "t"
    assert not [name for name in found["variables"] if name.startswith(("SWARM", "PYTEST"))]


async def test_a_server_may_be_given_the_network_and_a_root_that_it_may_change(sandbox: Sandbox, project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        async with hosted(
            sandbox=sandbox,
            root=project,
            python=system_python(),
            program=project / "server.py",
            network=True,
            writable=True,
        ) as host:
            assert host.problem is None
            found = await seen(host, ports=[port], write=[str(project / "x")])
    assert found["connected"] == {str(port): True}
    assert found["written"] == {str(project / "x"): True}


async def test_a_server_changes_nothing_that_runs_by_itself(sandbox: Sandbox, project: Path) -> None:
    kept = [project / ".git" / "config", project / "sub" / ".git" / "config"]
    for path in kept:
        path.parent.mkdir(parents=True)
        path.write_text("as it was\n")
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
    async with hosted(
        sandbox=sandbox, root=project, python=system_python(), program=project / "server.py", writable=True
    ) as host:
        assert host.problem is None
        found = await seen(host, write=[*map(str, kept)])
    assert found["written"] == {str(path): not sandbox.takes_descriptors and path is kept[1] for path in kept}


async def test_a_server_may_read_the_folders_that_its_owner_names(
    sandbox: Sandbox, project: Path, tmp_path: Path
) -> None:
    installed = tmp_path / "installed"
    installed.mkdir()
    shutil.move(project / "server.py", installed / "server.py")
    secret = str(tmp_path / "secret.txt")
    async with hosted(
        sandbox=sandbox, root=project, python=system_python(), program=installed / "server.py", folders=(installed,)
    ) as host:
        assert host.problem is None
        found = await seen(host, read=[secret, str(installed / "server.py")], write=[str(installed / "x")])
    assert found["read"] == {secret: False, str(installed / "server.py"): True}
    assert found["written"] == {str(installed / "x"): False}


async def test_a_server_in_the_sandbox_is_gone_when_it_is_left(sandbox: Sandbox, project: Path) -> None:
    async with hosted(sandbox=sandbox, root=project, python=system_python(), program=project / "server.py") as host:
        assert host.problem is None
        running = psutil.Process().children(recursive=True)
        assert running
    await eventually(lambda: not any(is_alive(process) for process in running))


def test_a_command_without_a_sandbox_keeps_the_node_from_starting() -> None:
    servers = {"box": McpServerSettings(command=("x",)), "far": McpServerSettings(url="http://127.0.0.1:1/mcp")}
    with pytest.raises(SetupError, match=r"^\[mcp.servers.box\] is a command, .* no sandbox to run it in: why: what"):
        server_hosts(servers, NoSandbox("why", "what to do"), {})
    assert [host.name for host in server_hosts(servers, ServerPlace(BARE), {})] == ["box", "far"]
