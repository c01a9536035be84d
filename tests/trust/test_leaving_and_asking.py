"""`swarm leave`, and the question before whatever puts a node out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from federation.roster_store import load_roster
from swarm.errors import SwarmError
from tests.doubles.paired import open_trust, paired_trusts
from tests.doubles.running_node import RunningNode, run_nodes
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode
from tests.trust.test_control_endpoint import command
from tests.trust.test_full_disks import failing
from tests.trust.test_joining import all_alive


class Typist:
    """A terminal at which somebody types `answer`; `reads` counts how often it was asked."""

    closed = False

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self.reads = 0

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self.reads += 1
        return self._answer


async def pair_of(make_node: MakeNode, tmp_path: Path) -> tuple[RunningNode, RunningNode]:
    trusts = paired_trusts(tmp_path, "kitchen", "study")
    return make_node("kitchen", trusts[0]), make_node("study", trusts[1])


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "nay\n", "yes please\n"])
async def test_whoever_does_not_say_yes_changes_nothing(
    make_node: MakeNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
) -> None:
    kitchen, study = await pair_of(make_node, tmp_path)
    async with run_nodes(kitchen, study):
        for words, asked in (
            (("revoke", "study"), f"Revoke study ({study.id[:12]}, "),
            (("revoke", "kitchen"), "Leave the swarm with study? kitchen needs a new code"),
            (("leave",), "Leave the swarm with study?"),
        ):
            typist = Typist(answer)
            monkeypatch.setattr(sys, "stdin", typist)
            assert await command(*words, "--data-dir", tmp_path / "kitchen") == 1
            told = capsys.readouterr()
            assert (asked in told.err, typist.reads, told.out) == (True, 1, ""), told
            assert "Nothing has changed." in told.err
        assert len(kitchen.trust.others) == len(study.trust.others) == 1


async def test_yes_at_the_terminal_revokes_whom_was_asked_about(
    make_node: MakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study = await pair_of(make_node, tmp_path)
    async with run_nodes(kitchen, study):
        monkeypatch.setattr(sys, "stdin", Typist("Y\n"))
        assert await command("revoke", "study", "--json", "--data-dir", tmp_path / "kitchen") == 0
        assert json.loads(capsys.readouterr().out)["id"] == study.id, "the question is not in the way of programs"
        assert kitchen.trust.others == ()


async def test_without_a_terminal_it_has_to_be_meant_aloud(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study = await pair_of(make_node, tmp_path)
    async with run_nodes(kitchen, study):
        for words in (("revoke", "study"), ("revoke", study.id[:8]), ("revoke", kitchen.id), ("leave",)):
            assert await command(*words, "--data-dir", tmp_path / "kitchen") == 2
            assert "no terminal to ask at: add --yes if it is meant" in capsys.readouterr().err
        assert await command("revoke", "nobody", "--data-dir", tmp_path / "kitchen") == 2
        assert "'nobody' is not a member; there are" in capsys.readouterr().err, "nothing to ask about"
        assert len(kitchen.trust.others) == 1


async def test_a_node_leaves_keeps_its_id_and_is_open_and_forgotten(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        await all_alive(kitchen, study)
        code = (await study.trust_service.invite()).code
        assert await command("leave", "--yes", "--data-dir", tmp_path / "study") == 0
        said = capsys.readouterr().out
        assert "study has left its swarm and is open again. It keeps its id." in said
        assert "Informed: kitchen." in said
        assert (study.trust.mode, study.trust.node_id) == ("open", study.id)
        await eventually(lambda: kitchen.trust.others == ())
        assert load_roster(tmp_path / "study") is None
        assert study.trust_service.peers().codes == (), "they were for the swarm that it left"
        assert await command("leave", "--yes", "--data-dir", tmp_path / "study") == 2
        assert "there is no swarm that it could leave" in capsys.readouterr().err
        with pytest.raises(SwarmError, match="nobody takes this invitation any more"):
            await kitchen.trust_service.join(code)
        assert not (await study.trust_service.join((await kitchen.trust_service.invite()).code)).already


async def test_a_node_at_rest_leaves_and_tells_whom_it_can_reach(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    at_rest = ("--data-dir", tmp_path / "study")
    async with kitchen:
        async with run_nodes(study, attic):
            code = (await kitchen.trust_service.invite(uses=2)).code
            await study.trust_service.join(code)
            await attic.trust_service.join(code)
            await all_alive(kitchen, study, attic)
            await eventually(lambda: all(entry.places for entry in study.trust.others))
        assert await command("leave", "-y", "--json", *at_rest) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["itself"], told["told"], told["untold"]) == (True, ["kitchen"], ["attic"])
        await eventually(lambda: [entry.name for entry in kitchen.trust.others] == ["attic"])
    back = open_trust(tmp_path, "study")
    assert (back.mode, back.node_id) == ("open", study.id)
    assert await command("leave", "-y", *at_rest) == 2
    assert await command("leave", "-y", "--data-dir", tmp_path / "attic") == 0
    assert "Not reached: kitchen, study" in (said := capsys.readouterr().out)
    assert "`swarm revoke attic` there" in said


async def test_who_cannot_keep_that_it_left_has_not_left_and_told_nobody(make_node: MakeNode, tmp_path: Path) -> None:
    kitchen, study = make_node("kitchen"), make_node("study")
    async with run_nodes(kitchen, study):
        await study.trust_service.join((await kitchen.trust_service.invite()).code)
        await all_alive(kitchen, study)
        with failing(tmp_path / "study", 0, "from then on"), pytest.raises(SwarmError, match="cannot write"):
            await study.trust_service.revoke(study.id)
        await all_alive(kitchen, study)
        assert [entry.name for entry in kitchen.trust.others] == ["study"]
