"""What the user sets of an upstream: refusals that name the remedy, the key, and what banner and status say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swarm.commands.status import upstream_line
from swarm.engines.upstream.address import parse_upstream
from swarm.errors import SetupError
from swarm.gateway.observing.view import UpstreamEntry
from swarm.node.settings import make_settings
from swarm.node.upstream import UpstreamSecrets, banner_lines, read_upstreams, take_secrets
from swarm.providers import PROVIDERS
from swarm.routing.upstream import UpstreamPlan

CLOUD = "https://api.openai.com/v1"


def plans(given: dict[str, object] | None = None, config: Path | None = None, **environment: str) -> list[UpstreamPlan]:
    return list(read_upstreams(make_settings(given or {}, config, environment)))


def test_nothing_is_set_unless_it_is_set() -> None:
    assert plans(OPENAI_API_KEY="sk", OPENAI_BASE_URL=CLOUD) == []


def test_the_command_line_wins_over_the_environment() -> None:
    (plan,) = plans(SWARM_UPSTREAM_URL=CLOUD)
    assert (plan.address.host, plan.mode, plan.model) == ("api.openai.com", "fallback", None)
    (plan,) = plans({"upstream": ["http://127.0.0.1:11434"]}, SWARM_UPSTREAM_URL=CLOUD)
    assert plan.address.host == "127.0.0.1:11434"
    assert [plan.name for plan in plans(SWARM_UPSTREAM_URL=f"{CLOUD}, groq")] == [CLOUD, "groq"]


def test_a_file_may_set_it_but_never_the_key(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'upstream = "{CLOUD}"\nupstream_mode = "voter"\nupstream_model = "big"\nupstream_slots = 2\n')
    (plan,) = plans(None, config)
    assert (plan.mode, plan.model, plan.slots) == ("voter", "big", 2)
    config.write_text('upstream_key = "sk-secret"\n')
    with pytest.raises(SetupError, match="unknown setting 'upstream_key'") as caught:
        make_settings({}, config)
    assert "sk-secret" not in str(caught.value)


TABLES = """
upstream_mode = "voter"
upstream_slots = 3

[upstream.groq]
model = "openai/gpt-oss-120b"
slots = 16

[upstream.box]
base = "http://box:11434"
mode = "fallback"
repair = "off"

[upstream.work]
base = "https://llm.work.example/openai/v1"
key_variable = "WORK_KEY"
headers = { X-Team = "kitchen", api-key = "$WORK_HEADER" }
"""


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    config = tmp_path / "swarm.toml"
    config.write_text(TABLES)
    return config


def test_each_table_is_an_upstream_with_its_own_settings(tables: Path) -> None:
    groq, box, work = plans(None, tables)
    assert groq.address.bases == ("https://api.groq.com/openai/v1",)
    assert (groq.mode, groq.model, groq.slots, groq.repair) == ("voter", "openai/gpt-oss-120b", 16, "safe")
    assert groq.provider is PROVIDERS["groq"]
    assert (box.mode, box.model, box.slots, box.repair) == ("fallback", None, 3, "off")
    assert (box.address.host, box.address.reach) == ("box:11434", "network")
    assert work.address.bases == ("https://llm.work.example/openai/v1",)
    assert [plan.key_variables for plan in (groq, box, work)] == [("GROQ_API_KEY",), (), ("WORK_KEY",)]
    assert "kitchen" not in repr(work), "a header may be a secret"


def test_options_choose_among_tables_rows_and_addresses(tables: Path) -> None:
    chosen = plans({"upstream": ["box", "openrouter", CLOUD]}, tables)
    assert [plan.address.host for plan in chosen] == ["box:11434", "openrouter.ai", "api.openai.com"]
    assert [plan.repair for plan in chosen] == ["off", "safe", "safe"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[upstream.box]\nmode = "never"', r"\[upstream.box\] mode = 'never' is none of the choices"),
        ('[upstream.box]\nbas = "x"', r"\[upstream.box\] 'bas' is no setting; there are: base, provider, mode"),
        ("[upstream.box]\nslots = 0", r"\[upstream.box\] slots = 0 is out of range: use 1 to 256"),
        ('[upstream]\nmode = "only"', r"\[upstream\]: \"mode\" = 'only' is not a table"),
        ('[upstream.box]\nkey_variable = "sk-1234"', r"key_variable = 'sk-1234' is no name of an environment variable"),
        ('[upstream.box]\nheaders = { Authorization = "x" }', "is no header to be set here"),
        ('[upstream.box]\nheaders = { X = "a\\nb" }', "is no value of a header"),
        ("[upstream.box]", r"\[upstream.box\] needs base = its URL, or provider =: no provider is called 'box'"),
        ('[upstream.box]\nprovider = "grop"', r"provider = 'grop': no provider is called 'grop': did you mean groq"),
        ('[upstream.box]\nbase = "box"', r"\[upstream.box\] base = 'box' is no http or https URL"),
        ("[upstreams.box]", "unknown setting 'upstreams'"),
    ],
)
def test_a_table_that_cannot_be_is_told_where(tmp_path: Path, text: str, message: str) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(text)
    with pytest.raises(SetupError, match=message):
        plans(None, config)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"upstream_mode": "only"}, "--upstream-mode only needs --upstream URL"),
        ({"upstream_model": "big"}, "--upstream-model big needs --upstream URL"),
        ({"upstream": CLOUD, "upstream_mode": "only", "model": "demo"}, "--model demo asks for one"),
        ({"upstream": "api.openai.com"}, "no http or https URL"),
        ({"upstream": "box:11434"}, "no http or https URL"),
        ({"upstream": "grop"}, "--upstream grop: no provider is called 'grop': did you mean groq"),
        ({"upstream": "vertex"}, "no OpenAI-compatible API.*`swarm agent --provider vertex`"),
        ({"upstream": ["groq", "https://api.groq.com/v1"]}, "two upstreams are at api.groq.com"),
        ({"upstream": ["groq", "ollama"], "upstream_model": "big"}, "--upstream-model big is of one upstream"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        plans(given)


def test_slots_have_a_range() -> None:
    with pytest.raises(SetupError, match="--upstream-slots 0"):
        make_settings({"upstream_slots": 0})


def keys(given: list[str], config: Path | None = None, **environment: str) -> tuple[list[str | None], dict[str, str]]:
    secrets = take_secrets(plans({"upstream": given} if given else None, config), environment)
    return [one.key for one in secrets], environment


def test_the_key_is_taken_out_of_the_environment_and_no_other_key_is_read() -> None:
    found, left = keys([CLOUD], SWARM_UPSTREAM_KEY=" sk-1\n", OPENAI_API_KEY="sk-2")
    assert (found, left) == (["sk-1"], {"OPENAI_API_KEY": "sk-2"})
    assert keys([CLOUD]) == ([None], {})
    with pytest.raises(SetupError, match="is not a key") as caught:
        keys([CLOUD], SWARM_UPSTREAM_KEY="sk-sécret")
    assert "cret" not in str(caught.value)


def test_each_upstream_gets_its_own_key_and_no_other(tables: Path) -> None:
    around = {"GROQ_API_KEY": "gsk", "WORK_KEY": "wk", "WORK_HEADER": "wh", "SWARM_UPSTREAM_KEY": "lone", "HOME": "/"}
    secrets = take_secrets(plans(None, tables), around)
    assert secrets == (
        UpstreamSecrets("gsk", {}),
        UpstreamSecrets("lone", {}),
        UpstreamSecrets("wk", {"X-Team": "kitchen", "api-key": "wh"}),
    )
    assert around == {"HOME": "/"}, "processes that this one starts see none of them"


def test_a_row_s_only_upstream_takes_either_variable() -> None:
    assert keys(["groq"], SWARM_UPSTREAM_KEY="sk-1")[0] == ["sk-1"]
    assert keys(["groq"], GROQ_API_KEY="sk-1")[0] == ["sk-1"]
    assert keys(["ollama"])[0] == [None], "which needs none"


@pytest.mark.parametrize(
    ("given", "environment", "message"),
    [
        (["groq"], {}, "upstream groq .api.groq.com. needs a key: set GROQ_API_KEY"),
        (["groq", "ollama"], {"SWARM_UPSTREAM_KEY": "sk"}, "needs a key: set GROQ_API_KEY"),
        (
            ["http://a", "http://b"],
            {"SWARM_UPSTREAM_KEY": "sk"},
            r"one upstream, and 2 have no .*\(a, b\).*key_variable",
        ),
    ],
)
def test_a_key_that_is_missing_or_nobodys_is_refused(
    given: list[str], environment: dict[str, str], message: str
) -> None:
    with pytest.raises(SetupError, match=message):
        keys(given, **environment)


def test_what_a_table_names_must_be_set(tables: Path) -> None:
    around = {"GROQ_API_KEY": "gsk", "WORK_HEADER": "wh"}
    with pytest.raises(SetupError, match=r"upstream work .* needs a key: set WORK_KEY"):
        take_secrets(plans(None, tables), around)
    with pytest.raises(SetupError, match=r"\[upstream.work\] headers: api-key needs WORK_HEADER, which is not set"):
        keys([], tables, GROQ_API_KEY="gsk", WORK_KEY="wk")


def test_a_row_at_another_address_is_not_sent_the_row_s_key(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text('[upstream.groq]\nbase = "https://proxy.example/v1"\n')
    assert keys([], config, GROQ_API_KEY="gsk") == ([None], {"GROQ_API_KEY": "gsk"})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (CLOUD, "api.openai.com (fallback): gets what no node can answer; that LEAVES THIS NETWORK"),
        ("http://localhost:11434", "localhost:11434 (fallback): gets what no node can answer; it is on this machine"),
        ("http://192.168.1.9:8080", "it is another machine on this network"),
    ],
)
def test_the_banner_says_what_may_leave_and_where_to(url: str, words: str) -> None:
    assert words in banner_lines(UpstreamPlan(parse_upstream(url)), has_key=False)[0]


def test_a_key_in_the_clear_is_warned_of() -> None:
    assert "unencrypted" in banner_lines(UpstreamPlan(parse_upstream("http://nas.lan/v1")), has_key=True)[1]
    for quiet in ("http://127.0.0.1/v1", CLOUD):
        assert len(banner_lines(UpstreamPlan(parse_upstream(quiet)), has_key=True)) == 1


def test_status_says_it_too() -> None:
    entry = UpstreamEntry(
        host="api.openai.com", mode="voter", reach="internet", model="big", models=3, requests=7, problem=None
    )
    line = upstream_line(entry)
    assert "api.openai.com (voter): requests may LEAVE THIS NETWORK; 7 sent so far" in line
    assert "down" in upstream_line(replace(entry, problem="down"))
