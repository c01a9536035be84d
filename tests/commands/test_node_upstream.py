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
from swarm.node.upstream import banner_lines, read_upstream, take_key
from swarm.routing.upstream import UpstreamPlan

CLOUD = "https://api.openai.com/v1"


def test_nothing_is_set_unless_it_is_set() -> None:
    assert read_upstream(make_settings({}, None, {"OPENAI_API_KEY": "sk", "OPENAI_BASE_URL": CLOUD})) is None


def test_the_command_line_wins_over_the_environment() -> None:
    environment = {"SWARM_UPSTREAM_URL": CLOUD}
    plan = read_upstream(make_settings({}, None, environment))
    assert plan is not None
    assert (plan.address.host, plan.mode, plan.model) == ("api.openai.com", "fallback", None)
    plan = read_upstream(make_settings({"upstream": "http://127.0.0.1:11434"}, None, environment))
    assert plan is not None
    assert plan.address.host == "127.0.0.1:11434"


def test_a_file_may_set_it_but_never_the_key(tmp_path: Path) -> None:
    config = tmp_path / "swarm.toml"
    config.write_text(f'upstream = "{CLOUD}"\nupstream_mode = "voter"\nupstream_model = "big"\nupstream_slots = 2\n')
    plan = read_upstream(make_settings({}, config, {}))
    assert plan is not None
    assert (plan.mode, plan.model, plan.slots) == ("voter", "big", 2)
    config.write_text('upstream_key = "sk-secret"\n')
    with pytest.raises(SetupError, match="unknown setting 'upstream_key'") as caught:
        make_settings({}, config)
    assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"upstream_mode": "only"}, "--upstream-mode only needs --upstream URL"),
        ({"upstream_model": "big"}, "--upstream-model big needs --upstream URL"),
        ({"upstream": CLOUD, "upstream_mode": "only", "model": "demo"}, "--model demo asks for one"),
        ({"upstream": "api.openai.com"}, "no http or https URL"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(SetupError, match=message):
        read_upstream(make_settings(given, None, {}))


def test_slots_have_a_range() -> None:
    with pytest.raises(SetupError, match="--upstream-slots 0"):
        make_settings({"upstream_slots": 0})


def test_the_key_is_taken_out_of_the_environment_and_no_other_key_is_read() -> None:
    environment = {"SWARM_UPSTREAM_KEY": " sk-1\n", "OPENAI_API_KEY": "sk-2"}
    assert take_key(environment) == "sk-1"
    assert environment == {"OPENAI_API_KEY": "sk-2"}
    assert take_key(environment) is None
    with pytest.raises(SetupError, match="is not a key") as caught:
        take_key({"SWARM_UPSTREAM_KEY": "sk-sécret"})
    assert "cret" not in str(caught.value)


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
