"""`swarm lend`: what it asks of the node, and what it says of the answer; and `--lend` among the settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from swarm.commands.lend import body_of, lend, lending_text
from swarm.control_messages import LendBody, Lending, LentTo
from swarm.errors import SetupError
from swarm.node.settings import make_settings
from swarm.registry.model_memory import GIB, MIB

LENT = LentTo(node="study", model="large", bytes=2 * GIB, held_bytes=300 * MIB, since_s=300.0)


@pytest.mark.parametrize(
    ("what", "size", "body"),
    [
        (None, None, None),
        ("on", None, LendBody(on=True)),
        ("on", "8G", LendBody(on=True, size_bytes=8 * GIB)),
        ("off", None, LendBody(on=False)),
    ],
)
def test_what_the_node_is_asked(what: str | None, size: str | None, body: LendBody | None) -> None:
    assert body_of(what, size) == body


@pytest.mark.parametrize(
    ("what", "size", "told"),
    [
        ("on", "much", "'much' is no size: write it like 512M, 8G or 1.5G"),
        ("on", "0G", "'0G' is out of range"),
        ("on", "9999999T", "'9999999T' is out of range"),
        ("off", "8G", "takes no size"),
    ],
)
def test_sizes_that_are_none(what: str, size: str, told: str) -> None:
    with pytest.raises(SetupError, match=told):
        body_of(what, size)


def test_without_a_node_the_remedy_is_told(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="start one with `swarm --federation --lend`"):
        lend(tmp_path, None, None, json=False)


@pytest.mark.parametrize(
    ("lending", "told"),
    [
        (Lending(on=False), ["lends no memory", "`swarm lend on 8G`"]),
        (
            Lending(on=True, bytes_total=8 * GIB, bytes_free=6 * GIB, build="b11434", rpc="7.0.0", lent=(LENT,)),
            ["lends 8.0 GiB", "6.0 GiB of it are free", "2.0 GiB to study for large, for 5 minutes", "300 MiB in use"],
        ),
        (
            Lending(on=False, bytes_total=8 * GIB, draining="its owner wants the memory back", lent=(LENT,)),
            ["lends nothing more: its owner wants the memory back", "Still lent:", "2.0 GiB to study"],
        ),
    ],
)
def test_what_people_read(lending: Lending, told: list[str]) -> None:
    text = lending_text(lending)
    assert [words for words in told if words not in text] == []


def test_names_of_others_draw_nothing() -> None:
    evil = LENT.model_copy(update={"node": "a\x1b[2Jb", "model": "c\x1b]0;x\x07d"})
    assert "\x1b" not in lending_text(Lending(on=True, bytes_total=GIB, lent=(evil,)))


@pytest.mark.parametrize(
    ("given", "lend"), [("8G", 8 * GIB), ("half", "half"), (True, "half"), (False, None), (None, None), (GIB, GIB)]
)
def test_the_setting(given: object, lend: int | str | None) -> None:
    assert make_settings({"lend": given}).lend == lend


@pytest.mark.parametrize("given", ["much", "-1G", "1K", [1]])
def test_a_setting_that_is_no_size_names_the_option(given: object) -> None:
    with pytest.raises(SetupError, match="--lend"):
        make_settings({"lend": given})


def test_settings_that_do_not_lend_can_be_made_anew() -> None:
    settings = make_settings({})
    assert replace(settings, port=1) == replace(settings, port=1, lend=None)
