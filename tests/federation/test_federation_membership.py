"""Whole memberships on real loopback sockets, with the intervals shortened twentyfold."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from federation import wire
from federation.advertisement import (
    MAX_LOADABLE_BYTES,
    LoadableModel,
    PeerHint,
    PeerHints,
    list_body,
    parse_loadable,
)
from federation.client import MAX_JSON_BYTES, PeerClient
from federation.hostport import Address
from federation.membership import Membership, useful_hints
from federation.peer import AddressRejected, Change, PeerChanged, PeerJoined, PeerLeft, PeerState, Why
from federation.peer_table import PeerTable
from federation.static_peers import load_peers, save_peers
from federation.timing import Timing
from swarm.node.banner import PeerNews
from tests.doubles.waiting import eventually

WAIT_S = 10.0


def names(membership: Membership) -> set[str]:
    return {peer.name for peer in membership.alive()}


async def test_one_peer_is_enough_to_learn_the_rest(fake_node: Any, joined: Any, until: Any) -> None:
    seed, second, third = fake_node("seed"), fake_node("second"), fake_node("third")
    no_later_exchange = Timing(exchange_interval_s=3600.0)
    async with (
        joined(seed, (), no_later_exchange) as a,
        joined(second, (seed.address,), no_later_exchange) as b,
        joined(third, (seed.address,), no_later_exchange) as c,
    ):
        await until(a, lambda: names(a) == {"second", "third"})
        await until(b, lambda: names(b) == {"seed", "third"})
        await until(c, lambda: names(c) == {"seed", "second"})
        assert {peer.source.word for peer in b.alive()} == {"static", "exchange"}


async def test_what_is_missed_on_joining_is_learned_later(fake_node: Any, joined: Any, until: Any, reply: Any) -> None:
    async with fake_node("seed") as seed, fake_node("late") as late, joined(fake_node("here"), (seed.address,)) as here:
        await until(here, here.alive)
        hint = PeerHint(id="id-late", name="late", host=late.address.host, port=late.address.port)
        seed.answers[wire.PEERS_PATH] = reply(PeerHints(peers=(hint,)).model_dump_json().encode())
        await until(here, lambda: names(here) == {"seed", "late"})


async def test_probes_go_on_while_nothing_changes(fake_node: Any, joined: Any, until: Any) -> None:
    enough = asyncio.Event()
    async with fake_node("kitchen") as kitchen:

        async def count(request: web.Request) -> web.Response:
            if sum(path == wire.NODE_PATH for path, *_ in kitchen.requests) >= 20:
                enough.set()
            return web.Response(body=kitchen.description.model_dump_json(), content_type="application/json")

        kitchen.answers[wire.NODE_PATH] = count
        async with joined(fake_node("here"), (kitchen.address,)):
            await asyncio.wait_for(enough.wait(), WAIT_S)  # at one a second, as without a wake-up, it would be 20 s


async def test_a_killed_peer_is_out_and_its_restart_is_noticed(fake_node: Any, joined: Any, until: Any) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        await until(here, here.alive)
        await kitchen.stop()
        await until(here, lambda: not here.alive())
        kitchen.claims["instance"] = "run-2"
        await kitchen.start()
        await until(here, here.alive)


async def test_a_subscriber_that_fails_ends_no_probing(
    fake_node: Any, joined: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a console whose terminal has gone."""

    def fails(change: Change) -> None:
        raise BrokenPipeError(f"nobody reads of {change}")

    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        changes: list[Change] = []
        here.subscribe(fails)
        here.subscribe(changes.append)
        await until(here, here.alive)
        await kitchen.stop()
        await until(here, lambda: not here.alive())
        kitchen.claims["instance"] = "run-2"
        await kitchen.start()
        await until(here, here.alive)
        assert [type(change) for change in changes if not isinstance(change, PeerChanged)] == [
            *(PeerJoined, PeerLeft, PeerJoined)
        ]
    assert "BrokenPipeError" in caplog.text


async def test_a_frozen_peer_is_out_and_back_when_it_thaws(fake_node: Any, joined: Any, until: Any) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        changes: list[Change] = []
        here.subscribe(changes.append)
        await until(here, here.alive)
        kitchen.thawed.clear()
        await until(here, lambda: here.peers()[0].state is PeerState.SUSPECT)
        await until(here, lambda: not here.alive())
        kitchen.thawed.set()
        await until(here, here.alive)
        assert [type(change) for change in changes] == [PeerJoined, PeerChanged, PeerLeft, PeerJoined]
        assert changes[2].reason == f"{kitchen.address} did not answer in time"
        assert changes[3].returned


async def test_failed_traffic_finds_a_killed_peer_long_before_its_next_probe(
    fake_node: Any, joined: Any, until: Any
) -> None:
    hardly_ever = Timing(probe_interval_s=3600.0)
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,), hardly_ever) as here:
        await until(here, here.alive)
        await kitchen.stop()
        here.report_traffic("id-kitchen", ok=False)
        assert here.peers()[0].state is PeerState.SUSPECT
        await until(here, lambda: not here.alive())


async def test_leaving_is_said_and_believed_at_once(fake_node: Any, joined: Any, until: Any) -> None:
    here_node, kitchen = fake_node("here"), fake_node("kitchen")
    async with joined(here_node) as here:
        changes: list[Change] = []
        here.subscribe(changes.append)
        async with joined(kitchen, (here_node.address,)) as there:
            await until(here, here.alive)
            await until(there, there.alive)
            kitchen.thawed.clear()  # an answer to a probe would call it back
        await until(here, lambda: not here.alive())
    assert [change.reason for change in changes if isinstance(change, PeerLeft)] == ["said goodbye"]


async def test_leaving_does_not_wait_for_the_frozen(fake_node: Any, joined: Any, until: Any) -> None:
    loop = asyncio.get_running_loop()
    async with fake_node("kitchen") as kitchen:
        async with joined(fake_node("here"), (kitchen.address,)) as here:
            await until(here, here.alive)
            kitchen.thawed.clear()
            began = loop.time()
        assert loop.time() - began < 3.0


RUBBISH = [
    (b"not json", "does not describe a node"),
    (b'{"protocol": NaN}', "does not describe a node"),
    (b"[" * 5000, "does not describe a node"),
    (b" " * (MAX_JSON_BYTES + 1), "more than"),
    (b'{"protocol": 7}', "speaks federation protocol 7"),
]


@pytest.mark.parametrize(("body", "complaint"), RUBBISH)
async def test_a_stranger_that_answers_rubbish_is_named_and_does_no_harm(
    fake_node: Any, joined: Any, until: Any, reply: Any, body: bytes, complaint: str
) -> None:
    async with fake_node("liar") as liar, fake_node("kitchen") as kitchen:
        liar.answers[wire.NODE_PATH] = reply(body)
        changes: list[Change] = []
        async with joined(fake_node("here"), (liar.address, kitchen.address)) as here:
            here.subscribe(changes.append)
            await until(here, lambda: any(isinstance(change, AddressRejected) for change in changes))
            await until(here, here.alive)
            assert names(here) == {"kitchen"}
    (rejected,) = [change for change in changes if isinstance(change, AddressRejected)]
    assert rejected.address == liar.address
    assert complaint in rejected.reason


@pytest.mark.parametrize(("body", "complaint"), RUBBISH)
async def test_a_peer_that_turns_to_rubbish_is_charged_until_it_is_out(
    fake_node: Any, joined: Any, until: Any, reply: Any, body: bytes, complaint: str
) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        changes: list[Change] = []
        here.subscribe(changes.append)
        await until(here, here.alive)
        kitchen.answers[wire.NODE_PATH] = reply(body)
        await until(here, lambda: not here.alive())
        assert complaint in next(change.reason for change in changes if isinstance(change, PeerLeft))
        kitchen.answers.clear()
        await until(here, here.alive)


async def test_rubbish_hints_are_charged_and_do_no_harm(fake_node: Any, joined: Any, until: Any, reply: Any) -> None:
    async with fake_node("kitchen") as kitchen:
        kitchen.answers[wire.PEERS_PATH] = reply(b'{"peers": [{"host": "0.0.0.0"}]}')
        async with joined(fake_node("here"), (kitchen.address,)) as here:
            changes: list[Change] = []
            here.subscribe(changes.append)
            await until(here, lambda: sum(isinstance(change, PeerChanged) for change in changes) >= 2)
            await until(here, lambda: here.peers()[0].state is PeerState.ALIVE)
            assert not any(isinstance(change, PeerLeft) for change in changes)


async def test_this_node_under_another_address_is_no_peer(fake_node: Any, joined: Any, until: Any) -> None:
    node = fake_node("here")
    async with joined(node) as here:
        changes: list[Change] = []
        here.subscribe(changes.append)
        here.listed([Address("localhost", node.address.port)])
        await until(here, lambda: bool(changes))
        assert here.peers() == ()
        (change,) = changes
        assert change.reason == "is this node itself"


async def test_its_own_address_given_as_a_peer_is_dropped_with_a_sentence(
    fake_node: Any, joined: Any, until: Any, tmp_path: Path
) -> None:
    said: list[str] = []
    async with fake_node("here") as node, PeerClient(node.description.id) as client:
        news = PeerNews(said.append, "here", lambda: True)
        save_peers(tmp_path, [node.address, Address("nas.invalid", 1)])  # as earlier versions kept it
        membership = Membership(node.description, client, static_peers=(node.address,), data_dir=tmp_path)
        membership.subscribe(news.show)
        async with membership:
            await until(membership, lambda: bool(said))
            await eventually(lambda: load_peers(tmp_path) == (Address("nas.invalid", 1),))
        assert said == [f"! --peer {node.address} is this node's own address: it is dropped; give another node's"]
        async with Membership(node.description, client, data_dir=tmp_path) as later:
            later.listed([node.address])  # one --peer-file for all machines may well name each of them
            later.subscribe(news.show)
            await until(later, lambda: bool(later.rejected()))
    assert len(said) == 1


async def test_mdns_reports_are_taken_up(fake_node: Any, joined: Any, until: Any) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here")) as here:
        here.mdns_proposed(kitchen.address, "id-here")
        here.mdns_proposed(kitchen.address, "id-kitchen")
        await until(here, here.alive)
        assert here.alive()[0].source.word == "mdns"
        here.mdns_goodbye("id-kitchen")
        assert here.alive(), "only a probe decides"
        await kitchen.stop()
        await until(here, lambda: not here.alive())


async def test_where_a_caller_says_it_is_may_be_nonsense(fake_node: Any, joined: Any) -> None:
    async with joined(fake_node("here")) as here:
        for host, port in (("", 1), ("x" * 300, 1), ("ok", 0), ("0.0.0.0", 1), ("a b", 1)):
            here.endpoint_reported(host, port)
        here.goodbye_received("nobody")
        assert here.peers() == ()


async def test_peers_given_once_are_remembered(fake_node: Any, until: Any, joined: Any, tmp_path: Path) -> None:
    async with fake_node("kitchen") as kitchen, PeerClient("id-here") as client:
        node = fake_node("here").description
        save_peers(tmp_path, [Address("nas.invalid", 1)])
        given = (kitchen.address, Address("attic.invalid", 2))
        async with Membership(node, client, static_peers=given, data_dir=tmp_path) as first:
            await until(first, first.alive)
        assert load_peers(tmp_path) == (Address("nas.invalid", 1), kitchen.address, Address("attic.invalid", 2))
        async with Membership(node, client, data_dir=tmp_path) as second:
            await until(second, second.alive)
            assert second.alive()[0].source.word == "static"


async def test_each_change_is_one_line(
    fake_node: Any, joined: Any, until: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "federation.membership")
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        changes: list[Change] = []
        here.subscribe(changes.append)
        await until(here, here.alive)
        kitchen.claims["models"] = [{"id": "demo"}]
        await until(here, lambda: len(changes) == 2)
        await kitchen.stop()
        await until(here, lambda: not here.alive())
    assert [record.getMessage() for record in caplog.records] == [
        f"kitchen joined at {kitchen.address} (static)",
        "kitchen is alive: now serves demo",
        f"kitchen left: nobody listens at {kitchen.address}",
    ]


async def test_a_subscription_ends(fake_node: Any, joined: Any, until: Any) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here")) as here:
        changes: list[Change] = []
        unsubscribe = here.subscribe(changes.append)
        unsubscribe()
        here.mdns_proposed(kitchen.address, "id-kitchen")
        await until(here, here.alive)
        assert changes == []


async def test_reports_after_the_end_start_nothing(fake_node: Any, joined: Any, until: Any) -> None:
    async with fake_node("kitchen") as kitchen:
        async with joined(fake_node("here"), (kitchen.address,)) as here:
            await until(here, here.alive)
        here.mdns_proposed(Address("10.0.0.9", 1), "late")
        here.goodbye_received("id-kitchen")
        assert here.alive() == ()


class Alarm(logging.Handler):
    """Set by the first critical line."""

    def __init__(self) -> None:
        super().__init__(logging.CRITICAL)
        self.lines: list[str] = []
        self.rung = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self.rung.set()


async def test_a_defect_is_loud_and_not_swallowed(
    fake_node: Any, joined: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a defect of the table")

    async def meet_the_defect(address: Address) -> None:
        async with joined(fake_node("here"), (address,)):
            monkeypatch.setattr(PeerTable, "probe_answered", broken)
            await asyncio.wait_for(alarm.rung.wait(), WAIT_S)

    alarm = Alarm()
    logging.getLogger("federation.membership").addHandler(alarm)
    try:
        async with fake_node("kitchen") as kitchen:
            with pytest.raises(ExceptionGroup, match="unhandled errors"):
                await meet_the_defect(kitchen.address)
    finally:
        logging.getLogger("federation.membership").removeHandler(alarm)
    assert alarm.lines == ["peers are not watched any more: restart this node and report this"]


def test_a_loopback_hint_means_the_informants_machine() -> None:
    def hint(node_id: str, host: str) -> PeerHint:
        return PeerHint(id=node_id, name="x", host=host, port=1)

    hints = PeerHints(peers=(hint("self", "10.0.0.1"), hint("a", "127.0.0.1"), hint("b", "10.0.0.2"))).peers
    assert useful_hints(hints, Address("10.0.0.3", 1), "self") == (Address("10.0.0.2", 1),)
    assert useful_hints(hints, Address("127.0.0.1", 2), "self") == (Address("127.0.0.1", 1), Address("10.0.0.2", 1))


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Real-IP", "Via"])
async def test_who_came_through_a_proxy_has_no_address_to_be_probed_at(
    fake_node: Any, joined: Any, header: str
) -> None:
    async with joined(fake_node("here")) as here:
        here.reply_to_probe(
            fake_node("here").description, "127.0.0.1", {wire.FROM_PARAM: "10.0.0.9:6379"}, {header: "x"}
        )
        assert not here.rejected()
        await asyncio.sleep(0)
        assert not here._table.due_probes(1e12)  # pyright: ignore[reportPrivateUsage]


async def test_where_somebody_is_is_no_name(fake_node: Any, joined: Any) -> None:
    async with joined(fake_node("here")) as here:
        for host in ("localhost", "metadata.google.internal", "2130706433"):
            here.endpoint_reported(host, 80)
        assert not here._table.due_probes(1e12)  # pyright: ignore[reportPrivateUsage]


async def test_why_an_address_is_no_peer_is_said_in_one_word(fake_node: Any, reply: Any, until: Any) -> None:
    async with fake_node("newer") as newer, fake_node("printer") as printer, PeerClient("id-here") as client:
        newer.claims["protocol"] = 2
        printer.answers[wire.NODE_PATH] = reply(b"<html>")
        here = fake_node("here").description
        async with Membership(here, client, static_peers=(newer.address, printer.address)) as membership:
            await until(membership, lambda: len(membership.rejected()) == 2)
            whys = {rejected.address: rejected.why for rejected in membership.rejected()}
            assert whys == {newer.address: Why.VERSION, printer.address: Why.NO_NODE}


async def test_what_a_list_names_is_asked_but_not_kept(fake_node: Any, until: Any, tmp_path: Path) -> None:
    async with fake_node("kitchen") as kitchen, PeerClient("id-here") as client:
        async with Membership(fake_node("here").description, client, data_dir=tmp_path) as membership:
            membership.listed((kitchen.address, Address("nobody.invalid", 1)))
            await until(membership, membership.alive)
            assert [held.name.host for held in membership.names()] == ["nobody.invalid"]
            membership.listed(())
            assert membership.names() == ()
        assert load_peers(tmp_path) == ()


async def test_what_a_peer_could_load_is_fetched_when_it_changes_and_only_then(
    fake_node: Any, joined: Any, reply: Any
) -> None:
    async with fake_node("kitchen") as kitchen, joined(fake_node("here"), (kitchen.address,)) as here:
        for names in (("qwen3:4b",), ("qwen3:4b", "llama3.2:3b"), ("tiny",)):
            body = list_body([LoadableModel(id=name) for name in names])
            kitchen.answers[wire.LOADABLE_PATH] = reply(body)
            kitchen.claims["loadable"] = parse_loadable(body).digest
            wanted = parse_loadable(body).models
            await eventually(lambda wanted=wanted: [peer.loadable for peer in here.alive()] == [wanted])
        probes = sum(path == wire.NODE_PATH for path, *_ in kitchen.requests)
        await eventually(lambda: sum(path == wire.NODE_PATH for path, *_ in kitchen.requests) > probes + 5)
        assert 3 <= sum(path == wire.LOADABLE_PATH for path, *_ in kitchen.requests) <= 6, "a race asks once more"
        del kitchen.claims["loadable"]
        await eventually(lambda: [peer.loadable for peer in here.alive()] == [()])


LISTS_THAT_ARE_NONE = {
    "gone": (404, b"{}"),
    "no JSON": (200, b"["),
    "no list": (200, b'{"models": 5}'),
    "too many": (200, b'{"models": [' + b",".join([b'{"id": "m"}'] * 257) + b"]}"),
    "too large": (200, b'{"models": []' + b" " * MAX_LOADABLE_BYTES + b"}"),
    "deep": (200, b'{"models": ' + b"[" * 100_000),
}


@pytest.mark.parametrize("kind", LISTS_THAT_ARE_NONE)
async def test_a_peer_whose_list_is_none_stays_a_peer(
    fake_node: Any, joined: Any, until: Any, reply: Any, kind: str
) -> None:
    status, body = LISTS_THAT_ARE_NONE[kind]
    async with fake_node("kitchen", loadable="digest") as kitchen:
        kitchen.answers[wire.LOADABLE_PATH] = reply(body, status=status)
        async with joined(fake_node("here"), (kitchen.address,)) as here:
            changes: list[Change] = []
            here.subscribe(changes.append)
            await eventually(lambda: sum(path == wire.LOADABLE_PATH for path, *_ in kitchen.requests) >= 3)
            assert [(peer.state, peer.loadable) for peer in here.alive()] == [(PeerState.ALIVE, ())]
            assert not any(isinstance(change, PeerLeft) for change in changes)
            body = list_body([LoadableModel(id="m")])
            kitchen.answers[wire.LOADABLE_PATH] = reply(body)
            kitchen.claims["loadable"] = parse_loadable(body).digest
            await eventually(lambda: len(here.alive()[0].loadable) == 1)
