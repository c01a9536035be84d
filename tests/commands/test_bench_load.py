"""`swarm bench load`: its sums, and the command as a person runs it against a real node, a busy one and none."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.cli import main
from swarm.commands.bench_options import MAX_CLIENTS, read_clients
from swarm.errors import SetupError
from swarm.evaluation.load import LoadAnswer, LoadLevel, knee, percentile, prompt_of, sum_up, verdict
from tests.commands.benches import bench, demo_node


async def test_a_real_node_is_measured_level_by_level(
    demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path / "load.svg"
    async with demo_node(demo_model, context=512, slots=2) as node:
        options = ("--clients", "1,3", "--seconds", "0.3", "--max-tokens", "8", "--plot", plot)
        assert await bench("load", "--url", node.url, *options, "--json") == 0
    shown = capsys.readouterr()
    report = json.loads(shown.out)
    assert [level["clients"] for level in report["levels"]] == [1, 3]
    for level in report["levels"]:
        assert level["answers"] > 0
        assert level["failed"] == {}
        assert 0 < level["first_token_ms_p50"] <= level["answer_ms_p50"] <= level["answer_ms_p95"]
    assert len(shown.err.splitlines()) == 4, "a header, a line for each level, where the plot is"
    assert ET.parse(plot).getroot().tag.endswith("svg")


async def test_a_refused_first_request_says_why_and_nothing_is_measured(
    demo_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with demo_node(demo_model, context=512, slots=2) as node:
        assert await bench("load", "--url", node.url, "--model", "nobody", "--no-plot") == 1
    assert "model 'nobody' is not served here" in capsys.readouterr().err


def test_no_endpoint_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "load", "--url", "http://127.0.0.1:9"]) == 1
    assert "no endpoint answers at http://127.0.0.1:9/v1/chat/completions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--clients", "0"], "use 1 to 1024"),
        (["--clients", "1,x"], "give up to 16 numbers"),
        (["--clients", ","], "give up to 16 numbers"),
        (["--clients", ",".join(map(str, range(1, 18)))], "give up to 16 numbers"),
        (["--seconds", "0"], "--seconds 0.0 is out of range"),
        (["--max-tokens", "0"], "--max-tokens 0 is out of range"),
        (["--votes", "33"], "--votes 33 is out of range"),
        (["--plot", "x.svg", "--no-plot"], "not allowed with"),
    ],
)
def test_what_cannot_be_is_wrong_usage(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["bench", "load", *words])
    except SystemExit as ended:
        code = int(str(ended.code))
    assert code == 2
    assert told in capsys.readouterr().err


def test_levels_are_sorted_and_counted_once() -> None:
    assert read_clients("8, 1,4,4") == (1, 4, 8)
    with pytest.raises(SetupError):
        read_clients(str(MAX_CLIENTS + 1))


def test_prompts_are_all_different_from_their_beginning_on() -> None:
    begun = {prompt_of(number, 40)[:12] for number in range(1000)}
    assert len(begun) == 1000


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0.01, 1.0))
def test_a_percentile_is_one_of_the_values_and_covers_its_share(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9


def test_a_level_counts_whole_answers_and_says_what_failed() -> None:
    level = sum_up(
        2,
        2.0,
        [
            LoadAnswer(0.0, 0.1, 1.1, 11),
            LoadAnswer(0.0, 0.3, 1.3, 21),
            LoadAnswer(0.5, None, 0.1, 0, "503"),
            LoadAnswer(0.6, None, 0.1, 0, "503"),
            LoadAnswer(1.0, 0.1, 0.5, 4, "unreachable"),
        ],
    )
    assert level == LoadLevel(
        clients=2, seconds=2.0, answers=2, failed={"503": 2, "unreachable": 1}, tokens_per_s=16.0,
        tokens_per_s_each=10.0, first_token_ms_p50=100.0, first_token_ms_p95=300.0, answer_ms_p50=1100.0,
        answer_ms_p95=1300.0,
    )  # fmt: skip


def test_the_knee_is_where_more_clients_bring_next_to_nothing() -> None:
    levels = [
        sum_up(clients, 1.0, [LoadAnswer(0, 0.1, 1.0, tokens)]) for clients, tokens in ((1, 50), (2, 98), (4, 100))
    ]
    found = knee(levels)
    assert found is not None
    assert found.clients == 2
    assert verdict(levels) == "It carries 98 tokens/s: 2 clients have them, the first token after 100 ms."
    assert "See --clients" not in verdict(levels)


def test_nothing_is_claimed_where_no_answer_came() -> None:
    levels = [sum_up(1, 1.0, [LoadAnswer(0, None, 1.0, 0, "503")])]
    assert knee(levels) is None
    assert verdict(levels).startswith("No answer came")
