"""`[mcp.servers.NAME]` of a configuration file: what is read, what is refused, and that no key is ever shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules
from swarm.node.settings import Settings, make_settings
from swarm.node.setup import settle
from swarm.node.tools import opened_servers, read_tool_plan, server_words
from swarm.tools.mcp_host import server_hosts
from swarm.tools.mcp_servers import McpServerSettings, expanded, keys_of, with_folders
from swarm.tools.plan import ToolPlan
from swarm.tools.sandboxed_process import NoSandbox

FULL = """
[mcp.servers.git]
command = ["uvx", "mcp-server-git", "--repository", "."]
env = {TOKEN = "${GIT_TOKEN}", PLAIN = "a $HOME {x}"}
network = true
tools = ["git_log", "git_diff"]
folders = ["~/.local/share/uv"]

[mcp.servers.my-notes]
url = "https://notes.example.org/mcp"
headers = {Authorization = "Bearer ${NOTES_KEY}"}

[mcp.servers.words]
command = "python3 -m 'a server' --x"
"""


def read(tmp_path: Path, text: str) -> Settings:
    config = tmp_path / "swarm.toml"
    config.write_text(text)
    return make_settings({}, config, {})


def test_servers_are_read(tmp_path: Path) -> None:
    servers = read(tmp_path, FULL).mcp.servers
    assert list(servers) == ["git", "my-notes", "words"]
    assert servers["git"] == McpServerSettings(
        command=("uvx", "mcp-server-git", "--repository", "."),
        env={"TOKEN": "${GIT_TOKEN}", "PLAIN": "a $HOME {x}"},
        network=True,
        tools=("git_log", "git_diff"),
        folders=(Path("~/.local/share/uv"),),
    )
    assert servers["my-notes"].url == "https://notes.example.org/mcp"
    assert servers["words"].command == ("python3", "-m", "a server", "--x")
    assert read(tmp_path, "").mcp.servers == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mcp = 1", "mcp = 1 is not a table"),
        ("[mcp.server.x]", "[mcp.server] is no setting; there are: servers"),
        ("[mcp]\nservers = 1", "[mcp.servers] is not a table"),
        ("[mcp.servers]\nx = 1", "[mcp.servers.x] is not a table"),
        ("[mcp.servers.x]", "[mcp.servers.x] needs a command or a url, and has neither: write command = ["),
        (
            "[mcp.servers.x]\ncommand = ['a']\nurl = 'http://e/'",
            "[mcp.servers.x] needs a command or a url, and has both",
        ),
        ("[mcp.servers.x]\ncomand = ['a']", "[mcp.servers.x] 'comand' is no setting; there are: command, url, env,"),
        ("[mcp.servers.x]\ncommand = [1]", "[mcp.servers.x] command = 1 is not text"),
        (
            '[mcp.servers.x]\ncommand = "a \'b"',
            '[mcp.servers.x] command = "a \'b" is no command line: No closing quotation',
        ),
        ("[mcp.servers.x]\nurl = 'ftp://e/'", "[mcp.servers.x] url = 'ftp://e/' is no http:// or https:// address"),
        ("[mcp.servers.x]\nurl = 'http://e:99999/'", "[mcp.servers.x] url = 'http://e:99999/' is no http:// or"),
        (
            "[mcp.servers.x]\nurl = 'http://e/'\nnetwork = true",
            "[mcp.servers.x] has network, which a server with a url",
        ),
        (
            "[mcp.servers.x]\ncommand = 'a'\nheaders = {a = 'b'}",
            "[mcp.servers.x] has headers, which a server with a command",
        ),
        (
            "[mcp.servers.x]\ncommand = 'a'\nnetwork = 'yes'",
            "[mcp.servers.x] network = 'yes' is neither true nor false",
        ),
        ("[mcp.servers.'a__b']\ncommand = 'a'", "[mcp.servers] 'a__b' is no name of a server: use 1 to 32 letters"),
        ("[mcp.servers.'a.b']\ncommand = 'a'", "[mcp.servers] 'a.b' is no name of a server"),
    ],
)
def test_what_cannot_be_is_refused_by_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(f"--config {tmp_path}/swarm.toml: {message}")


@pytest.mark.parametrize(
    "text",
    [
        "[mcp.servers.x]\nurl = 'http://e/'\nheaders = {Authorization = \"sk-secret\\n\"}",
        "[mcp.servers.x]\nurl = 'http://e/'\nheaders = {'A b' = 'sk-secret'}",
        "[mcp.servers.x]\nurl = 'http://e/'\nheaders = {Authorization = ['sk-secret']}",
        "[mcp.servers.x]\nurl = 'http://e/'\nheaders = 'sk-secret'",
        "[mcp.servers.x]\nurl = 'http://e/'\nheaders = {Host = 'sk-secret'}",
        "[mcp.servers.x]\ncommand = 'a'\nenv = {'A=B' = 'sk-secret'}",
        "[mcp.servers.x]\ncommand = 'a'\nenv = {A = \"sk-secret\\u0000\"}",
        "[mcp.servers.x]\ncommand = 'a'\nenv = ['sk-secret']",
        "[mcp.servers.x]\nenv = {A = 'sk-secret'}",
        "[mcp.servers.x]\nurl = 'http://me:sk-secret@e/'",
        "[mcp.servers.x]\nurl = 'ftp://me:sk-secret@e/'",
    ],
)
def test_what_may_be_a_key_is_not_shown(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError) as refused:
        read(tmp_path, text)
    assert "[mcp.servers.x]" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "secret" not in repr(McpServerSettings(command=("a",), env={"A": "sk-secret"}))


def test_variables_of_the_node_s_environment_are_filled_in(tmp_path: Path) -> None:
    servers = read(tmp_path, FULL).mcp.servers
    assert expanded("git", servers["git"], {"GIT_TOKEN": "t"}).env == {"TOKEN": "t", "PLAIN": "a $HOME {x}"}
    filled = expanded("my-notes", servers["my-notes"], {"NOTES_KEY": "k"})
    assert filled.headers == {"Authorization": "Bearer k"}
    with pytest.raises(SetupError, match=r"^\[mcp.servers.git\] env names the environment variable GIT_TOKEN, which"):
        expanded("git", servers["git"], {})
    with pytest.raises(SetupError, match="holds what cannot be sent") as refused:
        expanded("my-notes", servers["my-notes"], {"NOTES_KEY": "sk-secret\r\nX: y"})
    assert "secret" not in str(refused.value)


def test_servers_may_have_a_folder_without_tools(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    config = tmp_path / "swarm.toml"
    config.write_text(f'tools_root = "{project}"\ndata_dir = "{tmp_path}/data"\n' + FULL)
    assert read_tool_plan(make_settings({}, config, {})) == ToolPlan((), project)
    config.write_text(f'data_dir = "{tmp_path}/data"\n' + FULL)
    assert read_tool_plan(make_settings({}, config, {})) is None
    config.write_text(f'tools_root = "{project}"\n')
    with pytest.raises(SetupError, match="--tools-root is for the tools of --tools"):
        read_tool_plan(make_settings({}, config, {}))


def test_a_node_that_others_reach_needs_a_key_for_them(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text("[mcp.servers.x]\nurl = 'http://127.0.0.1:1/mcp'\n")
    given = {"host": "0.0.0.0", "port": 0, "data_dir": tmp_path / "data"}
    with pytest.raises(SetupError, match="tools are executed here, and this node listens on"):
        settle(make_settings(given, config, {}))


def test_folders_that_a_server_may_read_are_there_and_hold_no_keys(tmp_path: Path) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    (tmp_path / "link").symlink_to(other)

    def found(*folders: Path) -> tuple[Path, ...]:
        return with_folders("x", McpServerSettings(command=("a",), folders=folders), data).folders

    assert found(tmp_path / "link") == (other,)
    for folder, why in (
        (tmp_path / "none", "cannot be used (No such file or directory)"),
        (Path("/etc/passwd"), "is not a folder"),
        (Path("/"), "would show this node's keys"),
        (tmp_path, "would show this node's keys"),
    ):
        with pytest.raises(SetupError) as refused:
            found(folder)
        assert f"[mcp.servers.x] folders: {folder} {why}" in str(refused.value)


def test_a_program_may_be_named_below_one_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    server = McpServerSettings(command=("~/bin/server", "~/x"))
    assert with_folders("x", server, tmp_path / "data").command == (f"{tmp_path}/home/bin/server", "~/x")
    server = McpServerSettings(command=("uvx", "y"))
    assert with_folders("x", server, tmp_path / "data").command == ("uvx", "y")


async def test_servers_that_are_named_are_connected_to(tmp_path: Path) -> None:
    settings = read(tmp_path, "[mcp.servers.x]\nurl = 'http://127.0.0.1:1/mcp'\n")
    async with opened_servers(settings, None, None, print) as hosts:
        assert [host.name for host in hosts] == ["x"]
        assert not await hosts[0].settled(10)
        assert hosts[0].problem == "cannot be asked: Connection refused"
        assert server_words(hosts, AccessRules()) == (
            "of x, as each of them is there; for this machine, at /mcp and /v1/tools"
        )
    settings = read(tmp_path, "[mcp.servers.x]\ncommand = 'a'\n")
    with pytest.raises(SetupError, match=r"^\[mcp.servers.x\] is a command, and there is no sandbox to run it in: why"):
        async with opened_servers(settings, None, NoSandbox("why", "what to do"), print):
            pass
    assert server_hosts({}, None, {}) == ()


def test_what_is_no_key_is_shown_and_what_is_one_is_not() -> None:
    server = McpServerSettings(
        command=("x",), env={"MODE": "development", "TOKEN": "${TOKEN}", "PLACE": "${PLACE}", "LOGS": "${HOME}/logs"}
    )
    assert keys_of(server, {"TOKEN": "sk-of-the-server", "PLACE": "eu", "HOME": "/home/anna"}) == ("sk-of-the-server",)
    far = McpServerSettings(url="http://127.0.0.1:1/mcp", headers={"Authorization": "Bearer sk-in-the-file"})
    assert keys_of(far, {}) == ("sk-in-the-file",)
