"""mDNS with real multicast on the loopback interface."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceInfo

from federation.advertisement import NodeDescription
from federation.hostport import Address
from federation.identity import display_name
from federation.mdns import MAX_RESOLVING, MAX_SERVICES, MdnsDiscovery, _service_info, read_claim
from federation.wire import SERVICE_TYPE
from tests.doubles.waiting import eventually

LOOPBACK = ("127.0.0.1",)
WAIT_S = 10.0


class Heard:
    """What discovery reported, and waiting for it."""

    def __init__(self) -> None:
        self.proposals: list[tuple[Address, str]] = []
        self.goodbyes: list[str] = []
        self._changed = asyncio.Event()

    def proposed(self, address: Address, node_id: str) -> None:
        self.proposals.append((address, node_id))
        self._changed.set()

    def goodbye(self, node_id: str) -> None:
        self.goodbyes.append(node_id)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


def node(name: str) -> NodeDescription:
    """Ids differ between runs: another run's multicast on the same machine must not be taken for ours."""
    return NodeDescription(id=f"{secrets.token_hex(8)}", name=name, version="0", url="http://x:1")


def discovery(
    description: NodeDescription, heard: Heard, addresses: tuple[str, ...] = LOOPBACK, **options: Any
) -> MdnsDiscovery:
    return MdnsDiscovery(description, addresses, 17615, on_proposed=heard.proposed, on_goodbye=heard.goodbye, **options)


async def test_nodes_find_each_other_and_hear_goodbye() -> None:
    kitchen, attic = node("Küche.1 \x1b"), node("attic")
    in_kitchen, in_attic = Heard(), Heard()
    here = Address("127.0.0.1", 17615)
    async with discovery(kitchen, in_kitchen) as first:
        assert first.problem is None
        async with discovery(attic, in_attic):
            await in_kitchen.until(lambda: (here, attic.id) in in_kitchen.proposals)
            await in_attic.until(lambda: (here, kitchen.id) in in_attic.proposals)
        await in_kitchen.until(lambda: attic.id in in_kitchen.goodbyes)
    assert kitchen.id not in {node_id for _, node_id in in_kitchen.proposals}


async def test_a_visitor_finds_nodes_and_is_not_announced() -> None:
    kitchen, visitor, witness = node("kitchen"), node("visitor"), node("witness")
    in_kitchen, found = Heard(), Heard()
    browsing = MdnsDiscovery(
        visitor, LOOPBACK, 17615, on_proposed=found.proposed, on_goodbye=found.goodbye, announce=False
    )
    async with discovery(kitchen, in_kitchen), browsing:
        await found.until(lambda: kitchen.id in {node_id for _, node_id in found.proposals})
        async with discovery(witness, Heard()):  # announced after the visitor came: what was to be heard, is
            await in_kitchen.until(lambda: witness.id in {node_id for _, node_id in in_kitchen.proposals})
    assert visitor.id not in {node_id for _, node_id in in_kitchen.proposals}


async def test_a_name_conflict_is_resolved_by_renaming(caplog: pytest.LogCaptureFixture) -> None:
    original = node("kitchen")
    copy = original.model_copy(update={"id": original.id[:12] + "-copy"})  # same name, same beginning of the id
    heard = Heard()
    watcher = node("watcher")
    async with discovery(watcher, heard), discovery(original, Heard()) as first:
        await heard.until(lambda: original.id in {node_id for _, node_id in heard.proposals})
        async with discovery(copy, Heard()) as second:
            await heard.until(lambda: copy.id in {node_id for _, node_id in heard.proposals})
            assert second._info.name == first._info.name.replace(f".{SERVICE_TYPE}", f"-2.{SERVICE_TYPE}")
    assert "is taken: announcing as" in caplog.text


async def test_what_is_still_announced_is_proposed_again() -> None:
    kitchen, heard = node("kitchen"), Heard()
    async with discovery(kitchen, Heard()), discovery(node("here"), heard, repropose_s=0.05):
        await heard.until(lambda: [node_id for _, node_id in heard.proposals].count(kitchen.id) >= 3)


@pytest.mark.parametrize("addresses", [("203.0.113.9",), (), ("2001:db8::9",)])
async def test_without_multicast_it_says_so_once_and_goes_on(
    addresses: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    with caplog.at_level("INFO", logger="federation"):
        async with discovery(node("kitchen"), heard, addresses) as off:
            assert off.problem is not None
            assert "name other nodes with --peer HOST:PORT" in off.problem
    assert [record.levelname for record in caplog.records] == ["INFO"]


@pytest.mark.parametrize(
    "properties", [{}, {"id": ""}, {"id": "UPPER"}, {"id": "x" * 65}, {"id": b"\xff\xfe"}, {"id": None}]
)
def test_a_name_without_a_legal_id_claims_nothing(properties: dict[str, str | None]) -> None:
    info = AsyncServiceInfo(
        SERVICE_TYPE, f"x.{SERVICE_TYPE}", addresses=[b"\x0a\x00\x00\x01"], port=1, properties=properties
    )
    assert read_claim(info, allow_loopback=False) is None


def test_only_addresses_that_mean_something_here_are_proposed() -> None:
    packed = [bytes(ip) for ip in ((127, 0, 0, 1), (0, 0, 0, 0), (224, 0, 0, 1), *((10, 0, 0, n) for n in range(1, 9)))]
    info = AsyncServiceInfo(SERVICE_TYPE, f"x.{SERVICE_TYPE}", addresses=packed, port=80, properties={"id": "a"})
    node_id, addresses = read_claim(info, allow_loopback=False)
    assert node_id == "a"
    assert len(addresses) == 4
    assert all(address.host.startswith("10.0.0.") for address in addresses)
    assert Address("127.0.0.1", 80) in read_claim(info, allow_loopback=True)[1]


@pytest.mark.parametrize("on_bare_cable", [False, True])
def test_addresses_that_machines_give_themselves_count_where_this_one_has_such(on_bare_cable: bool) -> None:
    packed = [ipaddress.ip_address(ip).packed for ip in ("169.254.169.254", "::ffff:169.254.169.254", "10.0.0.1")]
    info = AsyncServiceInfo(SERVICE_TYPE, f"x.{SERVICE_TYPE}", addresses=packed, port=80, properties={"id": "a"})
    _, addresses = read_claim(info, allow_loopback=False, on_bare_cable=on_bare_cable)
    assert (Address("169.254.169.254", 80) in addresses) is on_bare_cable
    assert Address("10.0.0.1", 80) in addresses


def test_a_claim_without_a_port_or_address_is_none() -> None:
    for addresses, port in (([b"\x0a\x00\x00\x01"], 0), ([], 80)):
        info = AsyncServiceInfo(
            SERVICE_TYPE, f"x.{SERVICE_TYPE}", addresses=addresses, port=port, properties={"id": "a"}
        )
        assert read_claim(info, allow_loopback=True) is None


async def test_it_follows_to_an_address_that_works_and_is_heard_after_sleep() -> None:
    kitchen, watcher, heard = node("kitchen"), node("watcher"), Heard()
    async with discovery(watcher, heard), discovery(kitchen, Heard(), ("203.0.113.9",)) as moving:
        assert moving.problem is not None
        await moving.follow(LOOPBACK)
        assert moving.problem is None
        await heard.until(lambda: kitchen.id in {node_id for _, node_id in heard.proposals})
        await moving.follow(LOOPBACK)  # nothing changed: nothing is closed
        assert heard.goodbyes == []
        heard.proposals.clear()
        await moving.follow(LOOPBACK, anew=True)
        await heard.until(lambda: kitchen.id in {node_id for _, node_id in heard.proposals})


async def test_a_copy_of_its_own_identity_elsewhere_is_proposed() -> None:
    original, heard = node("kitchen"), Heard()
    elsewhere = MdnsDiscovery(original, LOOPBACK, 17616, on_proposed=Heard().proposed, on_goodbye=Heard().goodbye)
    async with discovery(original, heard), elsewhere:
        await heard.until(lambda: (Address("127.0.0.1", 17616), original.id) in heard.proposals)
    assert Address("127.0.0.1", 17615) not in {address for address, _ in heard.proposals}


class Questions:
    """Stands for asking the network for the addresses of names: each question waits until it is answered here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.gates: dict[str, asyncio.Future[bool]] = {}
        questions = self

        class Info(AsyncServiceInfo):
            async def async_request(self, zc: object, timeout: float, *_: object, **__: object) -> bool:  # noqa: ASYNC109 - zeroconf's
                questions.asked.append(self.name)
                gate = questions.gates[self.name] = asyncio.get_running_loop().create_future()
                return await gate

        monkeypatch.setattr("federation.mdns.AsyncServiceInfo", Info)
        monkeypatch.setattr(
            "federation.mdns.read_claim",
            lambda info, **_: (info.name.split(".")[0], (Address("10.0.0.1", 17615),)),
        )

    def answer(self, *names: str, known: bool = True) -> None:
        for name in names:
            if not self.gates[name].done():
                self.gates[name].set_result(known)


@asynccontextmanager
async def browsing(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Questions, Heard, Callable[..., None]]]:
    """What is asked of the network, what comes of it, and saying that a name was announced or removed."""
    heard, questions = Heard(), Questions(monkeypatch)
    visitor = MdnsDiscovery(
        node("visitor"), LOOPBACK, 17615, on_proposed=heard.proposed, on_goodbye=heard.goodbye, announce=False,
        repropose_s=0.02,
    )  # fmt: skip
    async with visitor as found:
        zeroconf = found._zeroconf
        assert zeroconf is not None

        def said(number: int, change: ServiceStateChange = ServiceStateChange.Added) -> None:
            found._on_change(zeroconf.zeroconf, SERVICE_TYPE, name_of(number), change)

        yield questions, heard, said


def name_of(number: int) -> str:
    return f"n{number}.{SERVICE_TYPE}"


async def turns(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_names_beyond_those_being_resolved_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    async with browsing(monkeypatch) as (questions, heard, said):
        for number in range(200):
            said(number)
        await turns()
        assert questions.asked == [name_of(number) for number in range(MAX_RESOLVING)]
        while len({node_id for _, node_id in heard.proposals}) < 200:  # names are proposed again now and then
            questions.answer(*questions.asked)
            await turns()
        assert {node_id for _, node_id in heard.proposals} == {f"n{number}" for number in range(200)}


async def test_a_name_that_did_not_answer_is_asked_for_again_until_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    async with browsing(monkeypatch) as (questions, heard, said):
        said(1)
        said(2)
        await turns()
        questions.answer(name_of(1), name_of(2), known=False)
        said(2, ServiceStateChange.Removed)  # in the same moment
        await eventually(lambda: questions.asked.count(name_of(1)) == 2)
        questions.answer(name_of(1))
        await heard.until(lambda: "n1" in {node_id for _, node_id in heard.proposals})
        assert questions.asked.count(name_of(2)) == 1
        said(2)  # it is back
        await turns()
        questions.answer(name_of(2))
        await heard.until(lambda: "n2" in {node_id for _, node_id in heard.proposals})


async def test_a_flood_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async with browsing(monkeypatch) as (questions, _, said):
        for number in range(5 * MAX_SERVICES):
            said(number)
            said(number)
            if number % 2:
                said(number, ServiceStateChange.Removed)
        await turns()
        assert len(questions.asked) == MAX_RESOLVING


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("kitchen", "kitchen"),
        ("Küche", "Kuche"),
        ("厨房", "node"),
        ("-", "node"),
        ("厨房-2", "2"),
        ("x" * 64, "x" * 50),
    ],
)
def test_what_is_announced_of_a_name(name: str, label: str) -> None:
    description = NodeDescription(id="abcdefghijklmnop", name=name, version="0", url="http://x:1")
    info = _service_info(description, LOOPBACK, 17615)
    assert info.name == f"{label} abcdefghijkl.{SERVICE_TYPE}"
    assert info.decoded_properties["n"] == name


def test_the_longest_name_fits_its_record() -> None:
    for longest in (display_name("\U00020000" * 99), display_name("厨" * 99)):
        assert len(f"n={longest}".encode()) <= 255
        _service_info(NodeDescription(id="a" * 52, name=longest, version="0", url="http://x:1"), LOOPBACK, 17615)
