"""One code for many machines: what is left of it, who used it, its end; and whoever guesses at codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from federation.errors import PairingError
from federation.hostport import network_of
from federation.invitation import (
    MAX_CODE_LIFE_S,
    MAX_CODE_USES,
    MAX_LIVE_CODES,
    MAX_WRONG_NETWORKS,
    MAX_WRONG_PROOFS,
    MIN_CODE_LIFE_S,
    WRONG_PROOFS_S,
    Invitations,
    ProofResult,
    WrongProofs,
    code_id,
    decode,
    joiner_proof,
)
from swarm.cli import main
from swarm.commands import member_arguments
from swarm.commands.members import code_lines, invite_text, revoke_text, span
from swarm.control_messages import Invited, KnownCode
from swarm.errors import SetupError, SwarmError
from tests.doubles.running_node import run_nodes
from tests.doubles.waiting import eventually
from tests.trust.conftest import MakeNode
from tests.trust.test_control_endpoint import command
from tests.trust.test_joining import all_alive, request_of, say

MINE = b"\x01" * 32
HERE, THERE = "192.0.2.1", "192.0.2.2"


def joiner(number: int) -> bytes:
    return number.to_bytes(32)


def redeem(codes: Invitations, secret: bytes, number: int, now: float, host: str = HERE) -> ProofResult:
    proof = joiner_proof(secret, MINE, joiner(number))
    return codes.redeem(joiner(number), f"node-{number}", proof, host, now).result


def guess(codes: Invitations, host: str, now: float) -> ProofResult:
    return codes.redeem(joiner(99), "rogue", "0" * 64, host, now).result


# The codes themselves


def test_a_code_ends_by_use_and_by_age_and_is_listed_until_its_time_is_over() -> None:
    codes = Invitations(MINE)
    secret = codes.issue(0.0)
    assert redeem(codes, b"x" * 16, 2, 1.0) is ProofResult.WRONG
    assert redeem(codes, secret, 2, 599.9) is ProofResult.RIGHT
    assert redeem(codes, secret, 2, 599.9) is ProofResult.WRONG, "good once, for the same machine, too"
    assert [(state.uses_left, state.joined) for state in codes.states(599.9)] == [(0, ("node-2",))]
    assert (codes.live(599.9), codes.next_end(599.9), codes.states(600.0)) == (0, None, ())
    old = codes.issue(1000.0)
    assert redeem(codes, old, 3, 1600.0) is ProofResult.WRONG


def test_a_code_for_many_counts_machines_and_not_attempts() -> None:
    codes = Invitations(MINE)
    secret = codes.issue(0.0, uses=3, life_s=3600.0)
    for number in (1, 1, 2):  # an answer was lost on the way, and it asks again
        assert redeem(codes, secret, number, 3599.0) is ProofResult.RIGHT
    (state,) = codes.states(3599.0)
    assert (state.uses_left, state.joined, state.ends_in_s) == (1, ("node-1", "node-2"), 1.0)
    codes.give_back(secret, joiner(2))  # it could not be let in
    assert codes.states(3599.0)[0].uses_left == 2
    assert redeem(codes, secret, 3, 3599.0) is ProofResult.RIGHT
    assert redeem(codes, secret, 4, 3599.0) is ProofResult.RIGHT
    assert redeem(codes, secret, 5, 3599.0) is ProofResult.WRONG


def test_of_too_many_codes_the_new_one_is_refused_and_none_ends_unasked() -> None:
    codes = Invitations(MINE)
    secrets = [codes.issue(0.0) for _ in range(MAX_LIVE_CODES)]
    with pytest.raises(PairingError, match=r"32 codes are good at the same time.*--withdraw ID.*--uses"):
        codes.issue(1.0)
    assert redeem(codes, secrets[0], 1, 1.0) is ProofResult.RIGHT
    codes.issue(1.0)
    codes.withdraw([code_id(secrets[1])])
    assert redeem(codes, secrets[1], 2, 1.0) is ProofResult.WRONG
    for _ in range(3 * MAX_LIVE_CODES):
        codes.withdraw_all()
        codes.issue(2.0)
    assert len(codes.states(2.0)) <= 2 * MAX_LIVE_CODES


def test_wrong_proofs_cost_their_own_address_and_no_code() -> None:
    codes = Invitations(MINE)
    secret = codes.issue(0.0, uses=5)
    outcomes = [guess(codes, HERE, 1.0) for _ in range(MAX_WRONG_PROOFS)]
    assert outcomes == [ProofResult.WRONG] * (MAX_WRONG_PROOFS - 1) + [ProofResult.TOO_MANY]
    assert redeem(codes, secret, 1, 1.0, HERE) is ProofResult.TOO_MANY
    assert redeem(codes, secret, 1, 1.0, THERE) is ProofResult.RIGHT
    told = codes.redeem(joiner(2), "node-2", "0" * 64, HERE, 2.0)
    assert (told.wait_s, told.is_news) == (WRONG_PROOFS_S - 1.0, False), "said aloud once"
    assert redeem(codes, secret, 2, 1.0 + WRONG_PROOFS_S, HERE) is ProofResult.RIGHT, "a minute later"


@pytest.mark.parametrize(
    ("host", "other", "same"),
    [
        ("10.0.0.1", "10.0.0.2", False),
        ("10.0.0.1", "::ffff:10.0.0.1", True),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("nonsense", "nonsense", True),
    ],
)
def test_whose_wrong_proofs_count_together(host: str, other: str, same: bool) -> None:
    assert (network_of(host) == network_of(other)) is same
    codes = Invitations(MINE)
    for _ in range(MAX_WRONG_PROOFS):
        guess(codes, host, 1.0)
    assert (guess(codes, other, 1.0) is ProofResult.TOO_MANY) is same


def test_what_is_remembered_of_guessers_is_bounded_and_slow_ones_never_wait() -> None:
    wrong = WrongProofs()
    for number in range(3 * MAX_WRONG_NETWORKS):
        wrong.note(str(number), 0.0)
    assert len(wrong._of) == MAX_WRONG_NETWORKS
    for number in range(5 * MAX_WRONG_PROOFS):
        now = number * WRONG_PROOFS_S / (MAX_WRONG_PROOFS - 1)
        wrong.note("slow", now)
        assert wrong.wait_s("slow", now) == 0.0


# What is typed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1h", 3600), ("30m", 1800), ("2d", 172_800), ("90s", 90), ("1h30m", 5400), (" 1H ", 3600), ("7d", 604_800)],
)
def test_how_long_a_code_is_good(text: str, seconds: int) -> None:
    assert member_arguments.life_of(text) == seconds


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--for", "1"), "'1' is no time: write it like 30m, 1h, 2d or 1h30m"),
        (("--for", "soon"), "'soon' is no time"),
        (("--for", "-1h"), "--for"),
        (("--for", "1.5h"), "is no time"),
        (("--for", "٣h"), "is no time"),
        (("--for", "59s"), "59s is not between 1m and 7d"),
        (("--for", "8d"), "8d is not between 1m and 7d"),
        (("--for", "9999999d9999999d"), "is not between 1m and 7d"),
        (("--uses", "0"), "'0' is not a number of machines from 1 to 127"),
        (("--uses", "128"), "is not a number of machines"),
        (("--uses", "many"), "is not a number of machines"),
        (("--uses", "²"), "is not a number of machines"),
        (("--uses", "2", "--list"), "leave them out beside --list and --withdraw"),
        (("--for", "1h", "--withdraw", "all"), "leave them out beside --list and --withdraw"),
        (("--list", "--withdraw", "all"), "not allowed with"),
    ],
)
def test_what_cannot_be_invited_for_is_said(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        exit_code = main(["invite", *words, "--data-dir", str(tmp_path)])
    except SystemExit as error:
        exit_code = int(error.code or 0)
    assert exit_code == 2
    assert said in capsys.readouterr().err


def test_the_bounds_of_the_command_line_are_those_of_the_node() -> None:
    bounds = (member_arguments.MIN_LIFE_S, member_arguments.MAX_LIFE_S, member_arguments.MAX_USES)
    assert bounds == (MIN_CODE_LIFE_S, MAX_CODE_LIFE_S, MAX_CODE_USES)


def test_a_code_is_described_for_people() -> None:
    assert [span(s) for s in (1, 59, 600, 3600, 5400, 172_800, 3599.6, 0)] == [
        "1 second", "59 seconds", "10 minutes", "1 hour", "1 hour 30 minutes", "2 days", "1 hour", "0 seconds",
    ]  # fmt: skip
    invited = Invited(
        code="swarm1x", addresses=("10.0.0.1:17615",), life_s=3600, node="kitchen", was_open=False, id="ab", uses=20
    )
    text = invite_text(invited)
    assert "On each machine that is to join kitchen" in text
    assert "Good for 20 machines, for 1 hour; whoever has it may join." in text
    assert "swarm invite --withdraw ab" in text
    known = KnownCode(id="ab", uses=3, joined=("a\x1b]0;x\x07", "b"), ends_in_s=60)
    assert code_lines([known]) == ["code ab: 1 of 3 uses left, ends in 1 minute; used by a, b"]
    assert code_lines([known.model_copy(update={"uses": 2})])[0].startswith("code ab: used up, ends in")


# Running nodes


async def test_one_code_takes_three_machines_at_once_and_no_fourth(make_node: MakeNode) -> None:
    kitchen, *others = (make_node(name) for name in ("kitchen", "study", "attic", "cellar", "shed"))
    async with run_nodes(kitchen, *others):
        invited = await kitchen.trust_service.invite(uses=3, life_s=3600)
        assert (invited.uses, invited.life_s) == (3, 3600)
        joined = await asyncio.gather(
            *(node.trust_service.join(invited.code) for node in others), return_exceptions=True
        )
        assert sorted(isinstance(each, SwarmError) for each in joined) == [False, False, False, True]
        assert len(kitchen.trust.others) == 3
        await eventually(lambda: not kitchen.trust_service.takes_joiners)
        (code,) = kitchen.trust_service.peers().codes
        assert (code.uses_left, sorted(code.joined)) == (0, sorted(entry.name for entry in kitchen.trust.others))


async def test_whoever_is_put_out_does_not_come_back_by_the_code_it_knows(make_node: MakeNode, tmp_path: Path) -> None:
    """It could make a new identity for it: so the code ends, wherever the revocation was given."""
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    async with run_nodes(kitchen, study, attic):
        code = (await kitchen.trust_service.invite(uses=20)).code
        await study.trust_service.join(code)
        await attic.trust_service.join(code)
        other = (await kitchen.trust_service.invite(uses=2)).code  # which it never saw
        await all_alive(kitchen, study, attic)
        await attic.trust_service.revoke("study")
        await eventually(lambda: len(kitchen.trust.others) == 1)
        assert any("is withdrawn, because study knows it" in line for line in kitchen.said)
        with pytest.raises(SwarmError, match="used already, is too old, or was withdrawn"):
            await study.trust_service.join(code)
        again = await say(decode(code), request_of(tmp_path, "study-two", decode(code)))
        assert again is not None
        assert again.answer is None
        assert not (await study.trust_service.join(other)).already, "somebody invites it again"
        done = await kitchen.trust_service.revoke("study")
        assert done.codes == (code_id(decode(other).secret),)
        assert f"Code {done.codes[0]} is withdrawn, because it knows that" in revoke_text(done)


async def test_a_withdrawn_code_lets_nobody_in_and_who_used_it_stays(
    make_node: MakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen, study, attic = (make_node(name) for name in ("kitchen", "study", "attic"))
    at_kitchen = ("--data-dir", tmp_path / "kitchen")
    async with run_nodes(kitchen, study, attic):
        assert await command("invite", "--uses", "20", "--for", "1h", *at_kitchen) == 0
        said = capsys.readouterr().out
        code = next(word for word in said.split() if word.startswith("swarm1"))
        await study.trust_service.join(code)
        assert await command("invite", "--list", *at_kitchen) == 0
        listed = capsys.readouterr().out
        assert "19 of 20 uses left, ends in 1 hour; used by study" in listed
        assert code not in listed, "who may see the list over a shoulder cannot join by it"
        assert await command("peers", *at_kitchen) == 0
        assert "19 of 20 uses left" in capsys.readouterr().out
        assert await command("invite", "--list", "--json", *at_kitchen) == 0
        (row,) = json.loads(capsys.readouterr().out)["codes"]
        assert (row["uses"], row["joined"]) == (20, ["study"])
        for nobody in ("swarm1aaaa", "nonesuch", "x", " "):
            assert await command("invite", "--withdraw", nobody, *at_kitchen) == 2
        capsys.readouterr()
        assert await command("invite", "--withdraw", row["id"][:4], *at_kitchen) == 0
        assert "study (`swarm revoke NAME`)" in capsys.readouterr().out
        await eventually(lambda: not kitchen.trust_service.takes_joiners)
        with pytest.raises(SwarmError, match="nobody takes this invitation any more"):
            await attic.trust_service.join(code)
        assert [entry.name for entry in kitchen.trust.others] == ["study"]
        text = (await kitchen.trust_service.invite()).code
        assert await command("invite", "--withdraw", text, *at_kitchen) == 0
        assert await command("invite", "--withdraw", "all", *at_kitchen) == 0
        assert await command("invite", "--list", *at_kitchen) == 0
        assert "no code is good now" in capsys.readouterr().out
    assert await command("invite", "--list", *at_kitchen) == 2
    assert await command("invite", "--withdraw", "all", *at_kitchen) == 2
    assert "its codes ended with it" in capsys.readouterr().err


async def test_guesses_are_refused_and_the_code_stays_good(make_node: MakeNode, tmp_path: Path) -> None:
    async with make_node("kitchen") as kitchen:
        invitation = decode((await kitchen.trust_service.invite()).code)
        guess = request_of(tmp_path, "rogue", invitation, proof="0" * 64)
        for _ in range(MAX_WRONG_PROOFS + 3):
            reply = await say(invitation, guess)
            assert reply is not None
            assert reply.answer is None
        assert "wait a minute" in (reply.refusal or "")
        assert sum("too many wrong codes" in line for line in kitchen.said) == 1
        assert kitchen.trust_service.takes_joiners
        assert [code.uses_left for code in kitchen.trust_service.peers().codes] == [1]


async def test_an_invitation_of_what_cannot_be_is_refused_by_the_node_too(make_node: MakeNode, tmp_path: Path) -> None:
    from swarm.commands.members import ask_node
    from swarm.control_messages import INVITE_PATH, InviteBody
    from tests.trust.test_control_endpoint import control_of

    async with make_node("kitchen") as kitchen:
        for wrong in ({"uses": 0}, {"uses": 128}, {"life_s": 59.0}, {"life_s": 604_801.0}):
            body = InviteBody.model_construct(**{"uses": 1, "life_s": None, **wrong})
            with pytest.raises(SetupError):
                await asyncio.to_thread(ask_node, control_of(kitchen), INVITE_PATH, Invited, body)
        assert kitchen.trust.mode == "open"
