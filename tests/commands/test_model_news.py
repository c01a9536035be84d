"""What a node's console says of its models, and how far a load is."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from swarm.engines.engine import Capabilities
from swarm.node.banner import ModelNews, life_words, others_words
from swarm.quantities import bytes_of, left_words, load_words, seconds_of
from swarm.workers.life import TRANSITIONS, LifeEvent, Phase
from swarm.workers.model_workers import LoadProgress, ModelState
from tests.commands.test_model_choice import Listener
from tests.doubles.machine import Machine
from tests.doubles.waiting import eventually


class Heard(Listener):
    """The console of a node, and how far it showed loads to be."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []

    def loading(self, line: str) -> None:
        self.loads.append(line)


def told(*lives: tuple[Phase, str, float]) -> list[str]:
    """What is said of a model that goes through these phases, each for a reason and at a time."""
    lines: list[str] = []
    began: float | None = None
    for (before, _, _), (after, reason, at) in pairwise([("available", "", 0.0), *lives]):
        words = life_words(LifeEvent("qwen3:4b", before, after, reason, at), None if began is None else at - began)
        began = at if after == "loading" else None
        lines += [] if words is None else [words]
    return lines


def test_a_model_comes_and_goes() -> None:
    assert told(
        ("loading", "it was asked for", 10.0),
        ("ready", "it is loaded", 13.4),
        ("draining", "its memory is wanted for demo", 20.0),
        ("unloading", "its memory is wanted for demo", 21.0),
        ("available", "its memory is wanted for demo", 22.0),
    ) == [
        "* loading qwen3:4b: it was asked for",
        "* qwen3:4b is ready after 3 s",
        "* qwen3:4b ends what it runs, and is unloaded then: its memory is wanted for demo",
        "* qwen3:4b is unloaded: its memory is wanted for demo",
    ]


def test_what_went_wrong_and_what_was_given_up_is_said() -> None:
    assert told(
        ("loading", "it was asked for", 0.0), ("failed", "the file is damaged", 1.0), ("available", "x", 2.0)
    ) == [
        "* loading qwen3:4b: it was asked for",
        "! qwen3:4b failed: the file is damaged",
        "* qwen3:4b is not loaded again by itself: x",
    ]
    assert told(("loading", "a", 0.0), ("unloading", "nobody waits for it", 1.0))[-1] == (
        "* the load of qwen3:4b is given up: nobody waits for it"
    )
    assert told(("loading", "a", 0.0), ("ready", "b", 0.2), ("draining", "c", 1.0), ("ready", "d", 2.0))[1:] == [
        "* qwen3:4b is ready",
        "* qwen3:4b ends what it runs, and is unloaded then: c",
        "* qwen3:4b stays: d",
    ]


def test_every_change_has_words_but_the_one_that_another_follows_at_once() -> None:
    silent = []
    for before, after in ((before, after) for before, following in TRANSITIONS.items() for after in following):
        words = life_words(LifeEvent("m", before, after, "why", 0.0))
        silent += [] if words else [(before, after)]
    assert set(silent) == {("ready", "unloading"), ("draining", "unloading")}


async def test_how_far_loads_are_is_shown_while_there_are_some() -> None:
    heard = Heard()
    loading = ModelState(
        model_id="qwen3:4b", engine="echo", slots=1, slots_free=0, context_tokens=2048, capabilities=Capabilities(),
        params=None, tokens_per_s=None, problem=None, phase="loading", load=LoadProgress(6.2, 10.0),
    )  # fmt: skip
    ready = replace(loading, model_id="demo", phase="ready", load=None)
    async with ModelNews(heard, lambda: (ready, loading), look_s=0.001) as news:
        news.show(LifeEvent("demo", "available", "loading", "given at the start", 0.0))
        news.show(LifeEvent("demo", "loading", "ready", "given at the start", 0.0))
        news.aloud = True
        news.show(LifeEvent("qwen3:4b", "available", "loading", "it was asked for", 1.0))
        await eventually(lambda: len(heard.loads) > 2)
        news.show(LifeEvent("qwen3:4b", "loading", "ready", "it is loaded", 4.0))
    assert set(heard.loads) == {"loading qwen3:4b 62 %, 4 s left"}
    assert heard.lines == ["* loading qwen3:4b: it was asked for", "* qwen3:4b is ready after 3 s"]


async def test_a_node_that_ends_shows_no_load_any_more() -> None:
    async with ModelNews(Heard(), lambda: (), look_s=60.0) as news:
        news.show(LifeEvent("qwen3:4b", "available", "loading", "it was asked for", 1.0))


def test_how_far_a_load_is_in_words() -> None:
    assert load_words("qwen3:4b", 0.62, 3.2) == "loading qwen3:4b 62 %, 3 s left"
    assert load_words("qwen3:4b", 0.97, 0.2) == "loading qwen3:4b 97 %, 1 s left"
    assert load_words("qwen3:4b", 0.62, None) == "loading qwen3:4b 62 %"
    assert load_words("qwen3:4b", None, 125.0) == "loading qwen3:4b 2 min 5 s left"
    assert load_words("qwen3:4b", 1.7, None) == "loading qwen3:4b 100 %"
    assert load_words("qwen3:4b", None, None) == "loading qwen3:4b"
    assert [left_words(seconds) for seconds in (-1.0, 59.4, 4800.0)] == ["0 s", "59 s", "1 h 20 min"]


def test_times_and_sizes_are_read_as_people_write_them() -> None:
    assert [seconds_of(text) for text in ("90s", "30m", "1h30m", " 2D ")] == [90.0, 1800.0, 5400.0, 172_800.0]
    assert [bytes_of(text) for text in ("512M", "8G", "8gb", "8 GiB", "1.5g", "1k")] == [
        512 << 20, 8 << 30, 8 << 30, 8 << 30, 3 << 29, 1 << 10,
    ]  # fmt: skip
    for text in ("", "30", "m", "-1m", "1.5h", "30 minutes", "9" * 9 + "s"):
        with pytest.raises(ValueError, match=r"is no time: write it like 30m"):
            seconds_of(text)
    for text in ("", "8", "G", "-8G", "8X", "1,5G", "inf"):
        with pytest.raises(ValueError, match=r"is no size: write it like 512M"):
            bytes_of(text)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ("", None),
        ("a", "* also on this disk, and loaded when asked for: a (`swarm models list`)"),
        ("fedcba", "* also on this disk, and loaded when asked for: a, b, c, d and 2 more (`swarm models list`)"),
    ],
)
def test_what_else_is_here_is_said_once_and_briefly(listed: str, words: str | None) -> None:
    machine = Machine()
    models = [machine.add(name, 100) for name in listed]
    assert others_words([*models, replace(machine.add("demo", 1), listed=False)]) == words
