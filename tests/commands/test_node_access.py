"""Where keys and names come from: command line, environment, files; and that no key is ever shown."""

from __future__ import annotations

import logging
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from swarm.cli import main
from swarm.commands.http import NodeDoor
from swarm.errors import SetupError
from swarm.gateway.access import AccessRules, digest
from swarm.node_access import MAX_KEYS, read_access
from swarm.settings import make_settings

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
    [("", "holds no key"), ("# none\n\n", "holds no key"), (f"{KEY}\n{KEY} again\n", "line 2 is no key")],
)
def test_a_key_file_without_keys_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SetupError, match=message) as caught:
        rules({"api_key_file": key_file(tmp_path, text)})
    assert KEY not in str(caught.value)


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="cannot read --api-key-file"):
        rules({"api_key_file": tmp_path / "none"})


@pytest.mark.parametrize("key", ["", " ", f"{KEY} {KEY}", f"{KEY}ü", KEY * 100])
def test_a_key_that_no_header_can_hold_is_refused_unseen(key: str) -> None:
    with pytest.raises(SetupError, match="--api-key number 2 is no key") as caught:
        rules({"api_key": ["fine", key]})
    assert KEY not in str(caught.value)


def test_there_is_a_limit_to_keys() -> None:
    with pytest.raises(SetupError, match=f"at most {MAX_KEYS}"):
        rules({"api_key": [str(number) for number in range(MAX_KEYS + 1)]})


def test_no_error_and_no_repr_shows_a_key(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'api_key = {{ mine = "{KEY}" }}\n')
    with pytest.raises(SetupError, match="--api-key: ") as caught:
        make_settings({}, config, {})
    assert KEY not in str(caught.value)
    assert caught.value.__suppress_context__
    settings = make_settings({"api_key": [KEY]}, None, {})
    assert KEY not in repr(settings) + repr(read_access(settings, "kitchen")) + repr(NodeDoor("http://a", KEY))


def test_a_federated_node_keeps_its_peers_endpoints_open() -> None:
    assert rules({"federation": True}).federated
    assert rules({"peer": ["10.0.0.1"]}).federated
    assert not rules().federated


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--api-key", ""], "--api-key number 1 is no key"),
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
