"""Tools of a node over HTTP: a real node that runs tools, and addresses that lead to something else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from swarm.agent import Agent
from swarm.agent.remote_tools import MAX_ANSWER_BYTES, RemoteToolHost
from swarm.cli import main
from swarm.errors import BadRequest, Forbidden, SetupError, SwarmError, Unauthorized, Unavailable
from swarm.tools.tool import MAX_OUTPUT_CHARS
from tests.agent.scripted_turns import calls, node_taking, run_it, seen
from tests.doubles.waiting import eventually
from tests.e2e.node_process import NodeProcess

TOOL = {"type": "function", "function": {"name": "look", "description": "Look", "parameters": {"type": "object"}}}
LISTED: dict[str, Any] = {"object": "list", "data": [TOOL], "reads_only": ["look"], "alone": []}
DONE: dict[str, Any] = {"output": "looked", "exit_code": 0, "truncated": False, "timed_out": False, "ms": 3}


@asynccontextmanager
async def host_saying(listed: Any, done: Any = None, status: int = 200) -> AsyncGenerator[tuple[str, list[Any]]]:
    """Something that answers `listed` and `done`, as JSON, or as they are."""
    asked: list[Any] = []

    async def tools(request: web.Request) -> web.Response:
        asked.append(dict(request.headers))
        return as_response(listed, status)

    async def execute(request: web.Request) -> web.Response:
        asked.append(await request.json())
        return done if isinstance(done, web.Response) else as_response(done, 200)

    application = web.Application()
    application.add_routes([web.get("/v1/tools", tools), web.post("/v1/tools/execute", execute)])
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/"), asked


def as_response(said: Any, status: int) -> web.Response:
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    return web.Response(body=body, status=status, content_type="application/json")


async def test_tools_are_listed_and_executed() -> None:
    async with host_saying(LISTED, DONE) as (url, asked):
        async with RemoteToolHost(f"{url}/", "sk-tools") as host:
            (tool,) = host.tools()
            assert (tool.name, tool.reads_only, tool.alone) == ("look", True, False)
            result = await host.execute("look", {"n": 1}, 5)
            assert (result.output, result.exit_code, result.ms) == ("looked", 0, 3)
        assert asked[0]["Authorization"] == "Bearer sk-tools"
        assert asked[1] == {"tool": "look", "arguments": {"n": 1}, "timeout_s": 5}


@pytest.mark.parametrize(
    "said",
    [
        b"<html>a router's page</html>", b"", b"[]", b"null", b'{"object": "list"}', b'{"object": "list", "data": [1]}',
        b'{"object": "list", "data": [{"type": "function", "function": {"name": ""}}]}', b"[" * 100_000,
        b'{"object": "list", "data": "' + b"x" * MAX_ANSWER_BYTES + b'"}', b'\xff\xfe{"object"',
    ],
    ids=range(10),
)  # fmt: skip
async def test_what_is_no_tool_host_is_said_to_be_none(said: bytes) -> None:
    async with host_saying(said) as (url, _):
        with pytest.raises(Unavailable, match=r"is none: .*--tool-host URL"):
            async with RemoteToolHost(url):
                pass


@pytest.mark.parametrize(
    "said",
    [b"oops", b"{}", b'{"output": 3, "exit_code": 0}', b'{"output": "x", "exit_code": 0, "ms": -1}', b"[]"],
)
async def test_rubbish_in_place_of_a_result_is_an_error_for_the_model_and_the_session_goes_on(said: bytes) -> None:
    async with host_saying(LISTED, said) as (url, _), node_taking(calls(("look", {})), ["Then not."]) as (node, engine):
        ended = await Agent(url=node.url, hosts=[RemoteToolHost(url)]).run("look")
        assert "not executed: the tool host" in str(seen(engine)[-1])
    assert (ended.reason, ended.output) == ("done", "Then not.")


@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, Unauthorized, "another API key"),
        (403, Forbidden, "refuses"),
        (404, SetupError, "runs no tools: start it with --tools"),
        (500, Unavailable, "could not do it"),
        (302, Unavailable, "could not do it"),
    ],
)
async def test_refusals_are_of_the_tree(status: int, error: type[SwarmError], told: str) -> None:
    said = {"error": {"message": "start it with --tools", "param": None, "code": "x"}}
    async with host_saying(said, status=status) as (url, _):
        with pytest.raises(error, match=told):
            async with RemoteToolHost(url):
                pass


async def test_nobody_there_is_said() -> None:
    with pytest.raises(Unavailable, match="cannot be asked"):
        async with RemoteToolHost("http://127.0.0.1:9"):
            pass


async def test_an_output_is_cleaned_and_bounded() -> None:
    long = {**DONE, "output": "\x1b[31mred\x1b[0m" + "x" * (2 * MAX_OUTPUT_CHARS)}
    async with host_saying(LISTED, long) as (url, _), RemoteToolHost(url) as host:
        result = await host.execute("look", {})
    assert result.truncated
    assert "\x1b" not in result.output
    assert len(result.output) < MAX_OUTPUT_CHARS + 300


async def test_arguments_that_the_host_refuses_name_the_place() -> None:
    refuse = as_response({"error": {"message": "no such path", "param": "arguments.path"}}, 400)
    async with host_saying(LISTED, refuse) as (url, _), RemoteToolHost(url) as host:
        with pytest.raises(BadRequest, match="no such path") as refused:
            await host.execute("look", {})
    assert refused.value.param == "arguments.path"


async def test_a_cancelled_call_closes_its_connection() -> None:
    running, left = asyncio.Event(), asyncio.Event()

    async def listed(_: web.Request) -> web.Response:
        return as_response(LISTED, 200)

    async def hang(_: web.Request) -> web.Response:
        running.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        raise AssertionError("never")

    application = web.Application()
    application.add_routes([web.get("/v1/tools", listed), web.post("/v1/tools/execute", hang)])
    runner = web.AppRunner(application, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with RemoteToolHost("http://{}:{}".format(*runner.addresses[0][:2])) as host:
            call = asyncio.create_task(host.execute("look", {}))
            await running.wait()
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            await eventually(left.is_set)
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("words", "variables", "sent"),
    [
        (["--api-key", "sk-node"], {}, None),
        (["--api-key", "sk-node"], {"SWARM_TOOL_KEY": "sk-tools"}, "Bearer sk-tools"),
        (["--tool-key", "sk-given"], {"SWARM_TOOL_KEY": "sk-tools"}, "Bearer sk-given"),
        ([], {"SWARM_API_KEY": "sk-node"}, None),
    ],
)
async def test_a_tool_host_is_sent_its_own_key_and_no_other(
    words: list[str], variables: dict[str, str], sent: str | None, tmp_path: Path
) -> None:
    async with host_saying(LISTED, DONE) as (url, asked):
        await asyncio.to_thread(
            run_it, "http://127.0.0.1:9", tmp_path, "--tool-host", url, *words, "go", variables=variables
        )
    assert asked[0].get("Authorization") == sent


async def test_the_node_that_is_asked_has_its_key_already_but_a_cloud_s_key_goes_nowhere_else(tmp_path: Path) -> None:
    async with host_saying(LISTED, DONE) as (url, asked):
        await asyncio.to_thread(run_it, url, tmp_path, "--tool-host", "--api-key", "sk-node", "--", "go")
        cloud = ["--provider", "http://127.0.0.1:9/v1", "--model", "m", "--api-key", "sk-cloud-0123456789"]
        await asyncio.to_thread(run_it, url, tmp_path, "--tool-host", url, *cloud, "go")
    assert [headers.get("Authorization") for headers in asked] == ["Bearer sk-node", None]


async def test_a_real_node_s_tools_are_used_by_the_agent(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "notes.txt").write_text("the word is banana\n")
    arguments = ("--no-model", "--tools", "read,write", "--tools-root", str(root))
    made: Mapping[str, Any] = {"path": "out.txt", "content": "hello"}
    turns = [calls(("read", {"path": "notes.txt"}), ("write", made)), ["Done."]]
    with NodeProcess("tools", tmp_path / "node", arguments=arguments, model=None) as tools:
        await tools.ready()
        async with node_taking(*turns) as (node, engine):
            ran = await asyncio.to_thread(
                run_it, node.url, tmp_path, "--tool-host", tools.url, "--yes", "write", "--json", "go"
            )
            assert ran.returncode == 0, ran.stderr
            told = [str(content) for role, content in seen(engine) if role == "tool"]
    assert "the word is banana" in told[0]
    assert (root / "out.txt").read_text() == "hello"
    assert json.loads(ran.stdout.splitlines()[0])["tools"] == ["read", "write"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--tool-host", "make the failing test pass"], "none, after the task"),
        (["--tool-host", "ftp://kitchen", "go"], "is no address of a node"),
        (["--tools", "", "go"], "no tool is named"),
        (["--root", "file", "go"], "is not a folder: name one\n"),
    ],
)
def test_tools_that_cannot_be_are_refused_before_anything_is_asked(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    (tmp_path / "file").touch()
    assert main(["agent", *words]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "data").exists()
