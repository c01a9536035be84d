"""Where keys and names come from: command line, environment, files; and that no key is ever shown."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from swarm.cli import main
from swarm.commands.node_client import NodeApi
from swarm.errors import SetupError
from swarm.gateway.http.access import AccessRules, KeyLimits, digest, holder_place
from swarm.node.access import MAX_KEYS, read_access
from swarm.node.banner import banner
from swarm.node.settings import make_settings
from swarm.node.setup import NodeSetup, settle
from tests.doubles.paired import paired_trusts

KEY = "sk-very-secret"


@pytest.fixture(autouse=True)
def logging_left_as_it_was() -> Iterator[None]:
    """`main` sets up logging for its process."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def rules(given: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> AccessRules:
    return read_access(make_settings(given or {}, None, environment or {}), "kitchen")


def digests(*keys: str) -> tuple[bytes, ...]:
    return tuple(map(digest, keys))


def key_file(folder: Path, text: str) -> Path:
    path = folder / "keys"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_by_default_there_is_no_key() -> None:
    assert not rules().wants_key


def test_keys_of_the_command_line_and_of_a_file_add_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = key_file(tmp_path, "# our keys\n\nsk-a\n  sk-b   # the garden's\nsk#c\nsk-a\n")
    given = {"api_key": ["sk-d"], "api_key_file": path}
    assert rules(given).key_digests == digests("sk-d", "sk-a", "sk-b", "sk#c")
    assert not caplog.records


@pytest.mark.parametrize("text", ["a,b", "a b", " a\n,b, ", "a,,b"])
def test_the_environment_may_hold_several(text: str) -> None:
    assert rules({}, {"SWARM_API_KEY": text}).key_digests == digests("a", "b")


@pytest.mark.parametrize("text", ["", "  ", ","])
def test_an_empty_variable_is_none(text: str) -> None:
    assert not rules({}, {"SWARM_API_KEY": text}).wants_key


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('api_key = "sk-file"\nallow_origin = ["http://a.example"]\nallow_host = "a.example"\n')
    config.chmod(0o600)
    in_file = read_access(make_settings({}, config, {}), "kitchen")
    assert in_file.key_digests == digests("sk-file")
    assert in_file.origins == {"http://a.example"}
    assert "a.example" in in_file.hosts
    environment = {"SWARM_API_KEY": "sk-variable", "SWARM_ALLOW_ORIGIN": "http://b.example,http://c.example"}
    in_variable = read_access(make_settings({}, config, environment), "kitchen")
    assert in_variable.key_digests == digests("sk-variable")
    assert in_variable.origins == {"http://b.example", "http://c.example"}
    given = make_settings({"api_key": ["sk-typed"]}, config, environment)
    assert read_access(given, "kitchen").key_digests == digests("sk-typed")


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o644, True)])
def test_a_file_that_others_can_read_is_warned_of(
    tmp_path: Path, mode: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = key_file(tmp_path, KEY)
    path.chmod(mode)
    config = tmp_path / "swarm.toml"
    config.write_text(f'api_key = ["{KEY}"]\n')
    config.chmod(mode)
    rules({"api_key_file": path})
    read_access(make_settings({}, config, {}), "kitchen")
    assert [f"chmod 600 {file}" in caplog.text for file in (path, config)] == [warned, warned]
    assert KEY not in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no key"), ("# none\n\n", "holds no key"), (f"{KEY}\n{KEY} again\n", "line 2 is not a key")],
)
def test_a_key_file_without_keys_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        rules({"api_key_file": key_file(tmp_path, text)})
    assert KEY not in str(caught.value)


def test_a_line_names_its_key_and_says_what_it_may_use(tmp_path: Path) -> None:
    text = f"sk-a  name=anna tokens_a_day=200000 requests_a_minute=60  # hers\nsk-b\nsk-c\tname=ünal\nsk-b\n{KEY}= \n"
    admins = tmp_path / "admins"
    admins.write_text("sk-x\nsk-y name=root\n")
    admins.chmod(0o600)
    given = {"api_key": ["sk-d"], "api_key_file": key_file(tmp_path, text), "admin_key_file": admins}
    found = rules(given)
    assert found.key_digests == digests("sk-d", "sk-a", "sk-b", "sk-c", f"{KEY}=")
    assert [holder.name for holder in found.holders()] == [
        "key 1", "anna", "key 3", "ünal", "key 5", "admin key 1", "root",
    ]  # fmt: skip
    assert [holder.limits for holder in found.holders() if holder.limits != KeyLimits()] == [KeyLimits(60, 200000)]
    for key, place in (("sk-d", 0), ("sk-a", 1), ("sk-c", 3), ("sk-y", 6), ("sk-none", None)):
        assert holder_place(found, [key]) == place
    assert holder_place(found, ["none", "sk-y", "sk-a"]) == 6, "the first that is known"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"sk-a {KEY}=", "line 2: its option 1 is none: there is name=NAME, requests_a_minute=NUMBER, tokens_a_day="),
        ("sk-a requests_per_minute=6", "its option 1 is none"),
        (f"sk-a name=anna {KEY}", "line 2 is not a key"),
        ("sk-a requests_a_minute=0", "requests_a_minute=0 is no whole number from 1 to 100000"),
        ("sk-a requests_a_minute=-1", "requests_a_minute=-1 is no whole"),
        ("sk-a requests_a_minute=1e3", "no whole number"),
        ("sk-a requests_a_minute=²", "no whole number"),
        ("sk-a requests_a_minute=100001", "no whole number"),
        ("sk-a tokens_a_day=" + "9" * 5000, "no whole number"),
        ("sk-a tokens_a_day=", "no whole number"),
        ("sk-a tokens_a_day=5 tokens_a_day=6", "has tokens_a_day= twice"),
        ("sk-a name=", "name= takes 1 to 64 characters that show"),
        ("sk-a name=" + "x" * 65, "name= takes 1 to 64"),
        ("sk-a name=a\x1b[31m", "name= takes 1 to 64"),
        ("sk-a name=a\u202eb", "name= takes 1 to 64"),
        ("sk-a name=ben", "line 2: name=ben is that of .*line 1"),
        (f"{KEY} requests_a_minute=5", "line 2 has the key of .*line 1, with another name or other limits"),
    ],
)
def test_a_line_that_says_what_cannot_be_is_refused(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        rules({"api_key_file": key_file(tmp_path, f"{KEY} name=ben\n{line}\n")})
    assert KEY not in str(caught.value)


def test_an_admin_key_has_a_name_that_no_client_has_and_no_limits(tmp_path: Path) -> None:
    clients = key_file(tmp_path, "sk-a name=anna\n")
    for text, message in (("sk-x name=anna", "name=anna is that of"), ("sk-x tokens_a_day=5", "has no limits")):
        (tmp_path / "admins").write_text(text)
        with pytest.raises(SetupError, match=message):
            rules({"api_key_file": clients, "admin_key_file": tmp_path / "admins"})


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read --api-key-file"):
        rules({"api_key_file": tmp_path / "none"})


@pytest.mark.parametrize("key", ["", " ", f"{KEY} {KEY}", f"{KEY}ü", KEY * 100])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key: str) -> None:
    with pytest.raises(SetupError, match="--api-key number 2 is not a key") as caught:
        rules({"api_key": ["fine", key]})
    assert KEY not in str(caught.value)


def test_there_is_a_limit_to_keys() -> None:
    with pytest.raises(SetupError, match=f"at most {MAX_KEYS}"):
        rules({"api_key": [str(number) for number in range(MAX_KEYS + 1)]})


def test_no_error_and_no_repr_shows_a_key(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'api_key = {{ mine = "{KEY}" }}\n')
    with pytest.raises(SetupError, match=r"swarm.toml: api_key: is not a list$") as caught:
        make_settings({}, config, {})
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__
    settings = make_settings({"api_key": [KEY]}, None, {})
    assert KEY not in repr(settings) + repr(read_access(settings, "kitchen")) + repr(NodeApi("http://a", KEY))
    managed = rules({"admin_key_file": admin_file(tmp_path, KEY)})
    assert managed.admin_digests
    assert KEY not in repr(managed)
    assert repr(digest(KEY)) not in repr(managed) + repr(read_access(settings, "kitchen"))


def admin_file(folder: Path, text: str) -> Path:
    path = folder / "admins"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_admin_keys_come_from_their_file_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = admin_file(tmp_path, "# mine\nsk-me\nsk-you # yours\n")
    for given, environment in (({"admin_key_file": path}, {}), ({}, {"SWARM_ADMIN_KEY_FILE": str(path)})):
        found = rules(given, environment)
        assert found.admin_digests == digests("sk-me", "sk-you")
        assert not found.wants_key, "they lock nothing: clients need a key where there are clients' keys"
    config = tmp_path / "swarm.toml"
    config.write_text(f'admin_key_file = "{path}"\napi_key = "sk-client"\n')
    config.chmod(0o600)
    found = read_access(make_settings({}, config, {}), "kitchen")
    assert (found.key_digests, found.admin_digests) == (digests("sk-client"), digests("sk-me", "sk-you"))
    assert not caplog.records
    path.chmod(0o644)
    rules({"admin_key_file": path})
    assert f"chmod 600 {path}" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "--admin-key-file .* holds no key"),
        (f"{KEY} x\n", "--admin-key-file .*: line 1 is not a key"),
        (f"sk-a\n{KEY}\n", "key number 2 of --admin-key-file .* is a client's key, too"),
    ],
)
def test_admin_keys_that_cannot_be_are_refused_unseen(tmp_path: Path, text: str, message: str) -> None:
    given = {"admin_key_file": admin_file(tmp_path, text)}
    for clients in ({"api_key": [KEY]}, {"api_key_file": key_file(tmp_path, KEY)}):
        with pytest.raises(SetupError, match=message) as caught:
            rules(given | clients)
        assert KEY not in str(caught.value)


def test_the_limit_is_on_keys_of_both_kinds_together(tmp_path: Path) -> None:
    half = [str(number) for number in range(MAX_KEYS // 2 + 1)]
    admins = admin_file(tmp_path, "\n".join(f"admin-{number}" for number in half))
    with pytest.raises(SetupError, match=f"at most {MAX_KEYS}"):
        rules({"admin_key_file": admins, "api_key": half})


def goes_on(*_: object) -> NoReturn:
    """Fails a test of a refusal at once, where a node would start and run for ever."""
    pytest.fail("nothing was refused")


REFUSED = "an API key closes half of an open federation"
JOIN_OTHERS: list[list[str]] = [["--federation"], ["--peer", "10.0.0.1"], ["--peer-file", "/dev/null"]]


@pytest.mark.parametrize("federated", JOIN_OTHERS, ids=lambda words: words[0])
@pytest.mark.parametrize("how", ["option", "file", "variable", "config"])
def test_a_key_with_an_open_federation_ends_the_start_with_2(
    federated: list[str],
    how: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'api_key = ["{KEY}"]\n')
    config.chmod(0o600)
    words = {
        "option": ["--api-key", KEY], "file": ["--api-key-file", str(key_file(tmp_path, KEY))], "variable": [],
        "config": ["--config", str(config)],
    }[how]  # fmt: skip
    if how == "variable":
        monkeypatch.setenv("SWARM_API_KEY", KEY)
    monkeypatch.setattr("swarm.node.setup.open_listeners", goes_on)
    assert main([*federated, *words, "--host", "127.0.0.1", "--port", "0", "--data-dir", str(tmp_path / "node")]) == 2
    told = capsys.readouterr().err
    assert REFUSED in told
    for part in ("/federation/v1", "candidates", "swarm join CODE", "swarm invite", "--open-federation"):
        assert part in told
    assert KEY not in told


def settled(folder: Path, **given: Any) -> NodeSetup:
    """Who and where a node with these settings is; its sockets are closed."""
    base = {"federation": True, "host": "127.0.0.1", "port": 0, "data_dir": folder, "api_key": [KEY]}
    place, listeners = settle(make_settings(base | given, None, {}))
    for listener in listeners:
        listener.close()
    return place


def access_line(place: NodeSetup, federated: bool = True) -> str:
    (line,) = (line for line in banner(place, federated, ()) if line.startswith("  access"))
    return line


@pytest.mark.parametrize("how", [{}, {"SWARM_OPEN_FEDERATION": "1"}, {"SWARM_OPEN_FEDERATION": "true"}])
def test_said_aloud_it_starts_and_the_banner_says_so(tmp_path: Path, how: dict[str, str]) -> None:
    given = {"open_federation": make_settings({}, None, how).open_federation or not how}
    place = settled(tmp_path, **given)
    assert place.access.open_federation
    assert "OPEN TO NODES WITHOUT ONE (--open-federation)" in access_line(place)
    assert "/federation/v1" in access_line(place)


@pytest.mark.parametrize("text", ["", "0", "false"])
def test_a_variable_may_also_say_no(text: str) -> None:
    assert not make_settings({}, None, {"SWARM_OPEN_FEDERATION": text}).open_federation


def test_a_config_file_may_say_it_aloud(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text("federation = true\nopen_federation = true\n")
    assert read_access(make_settings({"api_key": [KEY]}, config, {}), "kitchen").open_federation


def test_a_paired_node_starts_with_a_key_and_its_members_need_none(tmp_path: Path) -> None:
    paired_trusts(tmp_path, "kitchen", "study")
    assert access_line(settled(tmp_path / "kitchen")).endswith("with an API key; members need none")
    unused = access_line(settled(tmp_path / "kitchen", open_federation=True))
    assert unused.endswith("members need none (--open-federation opens nothing while paired)")


def test_keys_of_a_node_that_is_alone_and_none_in_a_federation_start_as_before(tmp_path: Path) -> None:
    assert access_line(settled(tmp_path, federation=False), False).endswith("with an API key")
    assert "OPEN" not in access_line(settled(tmp_path, api_key=[]))
    managed = settled(tmp_path, api_key=[], admin_key_file=admin_file(tmp_path, "sk-me"))
    assert access_line(managed).endswith("open to this machine; an admin key manages this node from elsewhere")


def test_an_open_federation_needs_a_federation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("swarm.node.setup.open_listeners", goes_on)
    assert main(["--open-federation", "--port", "0", "--data-dir", str(tmp_path)]) == 2
    assert "--open-federation opens nothing without a federation: add --federation" in capsys.readouterr().err


def test_a_federated_node_keeps_its_peers_endpoints_open() -> None:
    assert rules({"federation": True}).federated
    assert rules({"peer": ["10.0.0.1"]}).federated
    assert not rules().federated


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--api-key", ""], "--api-key number 1 is not a key"),
        (["--api-key-file", "/does/not/exist"], "cannot read --api-key-file"),
        (["--allow-origin", "*"], "name each origin"),
        (["--allow-host", "http://kitchen"], "is not a host name"),
    ],
)
def test_impossible_access_ends_the_start_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--port", "0", "--data-dir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err


def test_no_process_that_a_node_starts_inherits_its_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SWARM_API_KEY", KEY)
    assert main(["--api-key-file", "/does/not/exist", "--port", "0", "--data-dir", str(tmp_path)]) == 2
    assert "SWARM_API_KEY" not in os.environ


@pytest.mark.parametrize(
    ("arguments", "variable", "sent"),
    [([], "", None), ([], "sk-a,sk-b", "Bearer sk-a"), (["--api-key", "sk-c"], "sk-a", "Bearer sk-c")],
)
def test_commands_send_the_key_given_or_the_first_of_the_environment(
    arguments: list[str], variable: str, sent: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[urllib.request.Request] = []

    def refuse(_: object, request: urllib.request.Request, timeout: float) -> None:
        asked.append(request)
        raise ConnectionRefusedError

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuse)
    monkeypatch.setenv("SWARM_API_KEY", variable)
    assert main(["status", *arguments]) == 1
    assert [request.get_header("Authorization") for request in asked] == [sent]
