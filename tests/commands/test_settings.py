"""Settings: the command line over the file over the defaults, and a named reason for every bad value."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.node.settings import Settings, make_settings


def test_defaults_are_a_node_for_this_machine_alone() -> None:
    settings = make_settings({})
    assert not settings.federated
    assert settings.port == 17615
    assert settings.data_path.is_absolute()


def test_a_peer_is_reason_enough_to_federate() -> None:
    assert make_settings({"peer": ["192.168.1.2:17615"]}).federated


def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('port = 18000\nname = "kitchen"\nfederation = true\npeer = ["10.0.0.1:17615"]\n')
    settings = make_settings({"port": 19000, "name": None}, config)
    assert (settings.port, settings.name, settings.federation) == (19000, "kitchen", True)
    assert settings.peer == ("10.0.0.1:17615",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1", "unknown setting 'prot'; there are: federation, peer,"),
        ("port = 'x'", "port = 'x' is not a whole number"),
        ("port = 70000", "port = 70000 is out of range: use 0 to 65535"),
        ("port = ", "not TOML"),
        ('engine = "vllm"', "engine = 'vllm' is none of the choices: use 'auto', 'xllamacpp' or 'echo'"),
        ('strategy = "dictator"', "strategy = 'dictator' is none of the choices: use .*'majority'"),
        ('vote_stream = "loudly"', "vote_stream = 'loudly' is none .*'leader', 'buffer' or 'reasoning'"),
        ("votes = 1000", "votes = 1000 is out of range: use 1 to 32"),
        ('votes = 1\nstrategy = "judge"', "strategy = 'judge' needs answers to choose from: use 2 to 32 votes"),
        ('auto = "perhaps"', "auto = 'perhaps' is neither true nor false"),
        ("peer = [1]", "peer = 1 is not text"),
        ("peer = 1", "peer = 1 is not a list"),
        ("peer_file = 1", "peer_file = 1 is not text"),
        ('log_level = "loud"', "log_level = 'loud' is no level: use debug, info, warning or error"),
    ],
)
def test_a_bad_file_is_refused_by_its_value(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(text)
    with pytest.raises(SetupError, match=message) as caught:
        make_settings({}, config)
    assert f"--config {config}" in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [{"votes": 0}, {"votes": 33}, {"workers": 0}, {"context": 10}, {"threads": 0}, {"port": -1}, {"queue": -1}],
)
def test_numbers_out_of_range_are_named_with_their_bounds(given: dict[str, int]) -> None:
    (name,) = given
    with pytest.raises(SetupError, match=rf"--{name} {given[name]} is out of range: use \d+ to \d+"):
        make_settings(given)


def test_the_data_dir_may_start_at_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_settings({"data_dir": Path("~/swarm")}).models_dir == tmp_path / "swarm" / "models"
    assert Settings(data_dir=tmp_path).models_dir == tmp_path / "models"


def test_the_environment_may_name_the_data_dir_and_the_command_line_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('data_dir = "/from/the/file"\n')
    monkeypatch.setenv("SWARM_DATA_DIR", str(tmp_path / "environment"))
    assert make_settings({"data_dir": None}, config).data_path == tmp_path / "environment"
    assert make_settings({"data_dir": tmp_path / "given"}, config).data_path == tmp_path / "given"
    monkeypatch.setenv("SWARM_DATA_DIR", "")
    assert make_settings({}, config).data_path == Path("/from/the/file")


def test_a_refusal_says_where_the_value_came_from(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('port = 70000\nstrategy = "judge"\n')
    with pytest.raises(SetupError, match=r"^--config .*swarm.toml: port = 70000 is out of range: use 0 to 65535$"):
        make_settings({}, config, {})
    with pytest.raises(SetupError, match=r"^--port 70001 is out of range: use 0 to 65535$"):
        make_settings({"port": 70001}, config, {})
    with pytest.raises(SetupError, match=r"^SWARM_OPEN_FEDERATION=perhaps is neither true nor false$"):
        make_settings({"port": 1}, config, {"SWARM_OPEN_FEDERATION": "perhaps"})
    with pytest.raises(
        SetupError, match=r"swarm.toml: strategy = 'judge' needs answers to choose from: use 2 to 32 vo"
    ):
        make_settings({"port": 1, "votes": 1}, config, {})


def test_no_setting_is_passed_over_or_changed_afterwards() -> None:
    with pytest.raises(SetupError, match="--prot 1 is no setting; there are: federation, peer"):
        make_settings({"prot": 1}, None, {})
    settings = make_settings({}, None, {})
    with pytest.raises(FrozenInstanceError):
        settings.port = 1  # type: ignore[misc]
    with pytest.raises(ValueError, match="out of range"):
        replace(settings, port=-1)


def test_a_text_stands_for_a_list_of_one_and_a_long_value_is_cut(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('peer = "10.0.0.1:17615"\n')
    assert make_settings({}, config, {}).peer == ("10.0.0.1:17615",)
    with pytest.raises(SetupError) as caught:
        make_settings({"engine": "x" * 10_000}, None, {})
    assert len(str(caught.value)) < 300
