"""Settings: the command line over the file over the defaults, and a named reason for every bad value."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from swarm.errors import SetupError
from swarm.node.model_settings import ModelSettings, settings_for
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
        ('engine = "vllm"', "engine = 'vllm' is none of the choices: use 'auto', 'xllamacpp', "),
        ('strategy = "dictator"', "strategy = 'dictator' is none of the choices: use .*'majority'"),
        ('vote_stream = "loudly"', "vote_stream = 'loudly' is none .*'leader', 'words', 'buffer' or 'reasoning'"),
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
    assert make_settings({"data_dir": Path("~/swarm")}).own_models_dir == tmp_path / "swarm" / "models"
    assert Settings(data_dir=tmp_path).own_models_dir == tmp_path / "models"


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


FULL = """
model = ["demo", "qwen3:4b"]
models_dir = "/big/disk"
default_model = "qwen3:4b"
ttl = "1h30m"
max_models = 3
memory = "1.5G"
[aliases]
"gpt-4o-mini" = "qwen3:4b"
[models."qwen3:4b"]
ttl = "never"
pin = true
context = 4096
slots = 2
threads = 3
gpu_layers = 0
engine = "xllamacpp"
aliases = "house model"
kv_cache = "q8_0"
draft = "qwen3:0.6b"
speculate = true
[models."qwen3:4b".sampling]
temperature = 0.2
top_k = 40
[peers]
manage = true
"""


def test_what_is_decided_of_models_is_read_from_a_file(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(FULL)
    settings = make_settings({}, config, {})
    assert (settings.model, settings.models_dir) == (("demo", "qwen3:4b"), (Path("/big/disk"),))
    assert (settings.ttl, settings.memory, settings.max_models) == (5400.0, 3 * 2**29, 3)
    assert settings.all_aliases == {"gpt-4o-mini": "qwen3:4b", "house model": "qwen3:4b"}
    model = settings.models["qwen3:4b"]
    assert (model.ttl, model.pin, model.context, model.kv_cache) == (math.inf, True, 4096, "q8_0")
    assert (model.draft, model.speculate, model.guesses) == ("qwen3:0.6b", True, True)
    assert model.sampling.given() == {"temperature": 0.2, "top_k": 40}
    assert (settings.peers.manage, settings.peers.loads_a_minute) == (True, 1)
    given = make_settings({"model": ["demo"], "ttl": "30m", "memory": "8GiB", "max_models": 1}, config, {})
    assert (given.model, given.ttl, given.memory, given.max_models) == (("demo",), 1800.0, 8 * 2**30, 1)


@pytest.mark.parametrize(
    ("model_id", "also", "table"),
    [
        ("qwen3:4b:q4_k_m", (), "qwen3:4b:q4_k_m"),
        ("QWEN3:4B:Q4_K_M", (), "qwen3:4b:q4_k_m"),
        ("qwen3:4b:q8_0", (), "qwen3:4b"),
        ("qwen3:4b", (), "qwen3:4b"),
        ("qwen3:8b:q4_k_m", (), "qwen3"),
        ("qwen32", (), None),
        ("my-file-q4", ("llama3.2:3b", "hf:o/r/f.gguf"), "Llama3.2:3B"),
        ("qwen3-by-me", ("llama3.2:3b",), "Llama3.2:3B"),
        ("demo", (), None),
    ],
)
def test_the_closest_table_is_a_model_s(model_id: str, also: tuple[str, ...], table: str | None) -> None:
    names = ("qwen3", "qwen3:4b", "qwen3:4b:q4_k_m", "Llama3.2:3B")
    models = {name: ModelSettings(context=1000 + number) for number, name in enumerate(names)}
    expected = ModelSettings() if table is None else models[table]
    assert settings_for(models, model_id, also) == (table, expected)
    assert settings_for({}, model_id, also) == (None, ModelSettings())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = 3", "model = 3 is not a list"),
        ("ttl = 'x'", "ttl = 'x' is no time: write it like 30m, 1h, 2d or 1h30m, or never"),
        ("ttl = 0", "ttl = 0 is out of range: use 1s to 366d, or never"),
        ("ttl = true", "ttl = True is no time"),
        ("memory = '8'", "memory = '8' is no size: write it like 512M, 8G or 1.5G"),
        ("memory = 5", "memory = 5 is out of range: use 1M to 1024T"),
        ("pool = 3", 'pool = 3 is neither true nor names of nodes: use true, or ["attic"]'),
        ("pool = []", "pool = [] is neither true nor names"),
        ("max_models = 0", "max_models = 0 is out of range: use 1 to 64"),
        ("max_models = 1\nmodel = ['a', 'b']", "max_models = 1 is fewer than the 2 of --model, which stay loaded"),
        ("models_dir = 3", "models_dir = 3 is not a list"),
        (f"models_dir = {['x'] * 70}", "has 70 entries: use 64 at most"),
        ("default_model = ''", "default_model = '' is no name of a model"),
        ("aliases = 3", "aliases = 3 is not a table"),
        ("[aliases]\nSwarm = 'x'", "[aliases] 'Swarm' is the name of the swarm itself: choose another"),
        ("[aliases]\n'demo:b' = 'x'", "[aliases] 'demo:b' is the name of an embedded model: choose another"),
        ("[aliases]\na = 3", '[aliases] "a" = 3 is not text'),
        ("[aliases]\na = 'b'\nb = 'c'", "[aliases] 'a' means 'b', which is an alias itself: write the model"),
        ("[aliases]\na = 'b'\n[models.x]\naliases = ['A']", "[models] 'A' cannot mean both 'b' and 'x': leave one"),
        ("models = 3", "models = 3 is not a table"),
        ("[models]\nx = 3", '[models]: "x" = 3 is not a table'),
        ("[models.x]\ntll = 3", "[models.\"x\"] 'tll' is no setting; there are: ttl, pin, context, slots"),
        ("[models.x]\nttl = 'soon'", "[models.\"x\"] ttl = 'soon' is no time"),
        ("[models.x]\npin = 'yes'", "[models.\"x\"] pin = 'yes' is neither true nor false"),
        ("[models.x]\ncontext = 3", '[models."x"] context = 3 is out of range: use 256 to'),
        ("[models.x]\nengine = 'y'", "[models.\"x\"] engine = 'y' is none of the choices: use 'auto', 'xllamacpp'"),
        ("[models.x]\nkv_cache = 'q3'", "[models.\"x\"] kv_cache = 'q3' is none of the choices: use 'f32', 'f16'"),
        ("[models.x]\naliases = ['swarm']", "[models.\"x\"] aliases = 'swarm' is the name of the swarm itself"),
        ("[models.x.sampling]\ntop_p = 5", '[models."x".sampling] top_p = 5 is out of range: use 0 to 1'),
        ("[models.x.sampling]\ntemperature = nan", '[models."x".sampling] temperature = nan is out of range: use 0'),
        ("[models.x.sampling]\nheat = 5", "[models.\"x\".sampling] 'heat' is no setting; there are: temperature"),
        ("[models.'']\npin = true", "[models] '' is no name of a model: use 1 to 256 characters"),
        ("[peers]\nmanage = 'no'", "[peers] manage = 'no' is neither true nor false"),
        ("[peers]\nmange = true", "[peers] 'mange' is no setting; there are: manage, loads_a_minute"),
        ("peers = 1", "peers = 1 is not a table"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(text)
    with pytest.raises(SetupError) as caught:
        make_settings({}, config, {})
    assert str(caught.value).startswith(f"--config {config}: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_is_decided_of_models_on_the_command_line_is_refused_by_its_option() -> None:
    for given, message in (
        ({"ttl": "x"}, "--ttl x is no time: write it like 30m"),
        ({"memory": "lots"}, "--memory lots is no size: write it like 512M"),
        ({"max_models": 65}, "--max-models 65 is out of range: use 1 to 64"),
        ({"default_model": " "}, "--default-model ' ' is no name of a model"),
    ):
        with pytest.raises(SetupError, match=f"^{message}"):
            make_settings(given, None, {})


def test_a_text_stands_for_a_list_of_one_and_a_long_value_is_cut(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('peer = "10.0.0.1:17615"\n')
    assert make_settings({}, config, {}).peer == ("10.0.0.1:17615",)
    with pytest.raises(SetupError) as caught:
        make_settings({"engine": "x" * 10_000}, None, {})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "pool"), [("", False), ("pool = true", True), ("pool = ['attic', 'hall']", ("attic", "hall"))]
)
def test_a_file_may_name_lenders_that_are_taken_in_any_case(
    tmp_path: Path, text: str, pool: bool | tuple[str, ...]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    assert make_settings({}, config, {}).pool == pool
    assert make_settings({"pool": True}, config, {}).pool is True, "the option says that it may, and names nobody"
