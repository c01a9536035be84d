"""Settings: the command line over the file over the defaults, and a named reason for every bad value."""

from __future__ import annotations

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
        ("prot = 1", "unknown setting 'prot'"),
        ("port = 'x'", "--port"),
        ("port = 70000", "--port 70000 is out of range"),
        ("port = ", "not TOML"),
        ('engine = "vllm"', "--engine"),
        ('strategy = "dictator"', "--strategy: .*'majority'.*'dictator'"),
        ('vote_stream = "loudly"', "--vote-stream: .*'leader', 'buffer' or 'reasoning'"),
        ("votes = 1000", "--votes 1000 is out of range: use 1 to 32"),
        ('votes = 1\nstrategy = "judge"', "--strategy judge .* use 2 to 32"),
    ],
)
def test_a_bad_file_is_refused_by_its_value(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(text)
    with pytest.raises(SetupError, match=message):
        make_settings({}, config)


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
