import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import AddressError
from federation.hostport import DEFAULT_PORT, Address, make_address, parse_address, worth_a_probe


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("kitchen:1234", Address("kitchen", 1234)),
        ("Kitchen.local", Address("kitchen.local", DEFAULT_PORT)),
        (" http://192.168.1.5:17615/ ", Address("192.168.1.5", 17615)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("2001:DB8:0::1", Address("2001:db8::1", DEFAULT_PORT)),
        ("[::1]", Address("::1", DEFAULT_PORT)),
        ("[::ffff:192.168.1.5]:80", Address("192.168.1.5", 80)),
        ("[::FFFF:7f00:1]:80", Address("127.0.0.1", 80)),
        ("node-1.swarm.svc", Address("node-1.swarm.svc", DEFAULT_PORT)),
        ("3com", Address("3com", DEFAULT_PORT)),
    ],
)
def test_an_address_is_read_as_people_write_it(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":80",
        "host:",
        "[::1]:",
        "host:0",
        "host:65536",
        "host:８０",
        "host:-1",
        "a b:80",
        "[::1:80",
        "[::1]x",
        "0.0.0.0:80",
        "::",
        "https://host:80",
        "host:80/path",
        "user@host",
        "a..b",
        "a" * 64,
        "x." * 127 + "toolong",
        "224.0.0.251",
        "host:1e3",
        "2130706433:80",  # 127.0.0.1 to inet_aton, and so to many a resolver
        "0x7f000001:80",
        "0x7f.1:80",
        "0177.0.0.1:80",
        "127.1:80",
        "metadata.0x",
        "1.2.3.4.5",
        "255.255.255.255",
        "[::ffff:255.255.255.255]:80",
        "[::ffff:0.0.0.0]:80",
        "[::ffff:224.0.0.251]:80",
        "[64:ff9b::224.0.0.1]:80",
        "[fe80::1%]:80",
        "[fe80::1%eth0@127.0.0.1]:80",
        "[fe80::1%eth0/../x]:80",
        "[fe80::1%\x1b]0;owned\x07]:80",
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_writing_an_address_and_reading_it_gives_it_back(ip: object, port: int) -> None:
    try:
        address = make_address(str(ip), port)
    except AddressError:
        return
    assert parse_address(str(address)) == address
    assert address.url == f"http://{address}"


@given(st.text(max_size=300))
def test_no_text_makes_parsing_fail_otherwise(text: str) -> None:
    try:
        address = parse_address(text)
    except AddressError:
        return
    assert 1 <= address.port <= 65535
    assert address.host


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("localhost.", True),
        ("LOCALHOST", True),
        ("db.localhost", True),
        ("ip6-localhost", True),
        ("localhost.example", False),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("10.0.0.1", False),
        ("nas", False),
    ],
)
def test_loopback_is_recognised(host: str, is_loopback: bool) -> None:
    assert make_address(host, 1).is_loopback is is_loopback


FROM_ANOTHER_MACHINE, FROM_THIS_ONE = Address("10.0.0.3", 1), Address("127.0.0.1", 2)


def every_form_of(ipv4: str) -> list[str]:
    """The ways to write an IPv4 address that lead, or may lead, to the same machine."""
    low = int(ipaddress.IPv4Address(ipv4))
    embedded = [
        *("::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::", "64:ff9b:1:2:3:4::", "::"),
    ]
    forms = [str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | low)) for prefix in embedded]
    forms.append(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("2002::")) | low << 80 | 1)))
    dotted = ipv4.split(".")
    names = [str(low), hex(low), oct(low).replace("o", ""), ".".join(f"0{int(part):o}" for part in dotted)]
    names += [".".join(hex(int(part)) for part in dotted), f"{dotted[0]}.{low & 0xFFFFFF}"]
    return [ipv4, *forms, *(form.upper() for form in forms), f"{forms[0]}%1", f"{forms[0]}%eth0", *names]


@pytest.mark.parametrize(
    "host",
    [
        *(
            form
            for ipv4 in ("127.0.0.1", "127.8.9.10", "169.254.169.254", "0.0.0.0", "255.255.255.255", "224.0.0.251")
            for form in every_form_of(ipv4)
        ),
        *("::1", "::1%1", "::", "fe80::1", "fe80::1%eth0", "FE80::1", "ff02::fb", "0:0:0:0:0:0:0:1"),
        *("localhost", "localhost.", "LocalHost", "a.localhost", "ip6-loopback", "metadata.google.internal", "nas"),
        *("127.0.0.1.nip.io", "localtest.me", "169.254.169.254.example"),
    ],
)
def test_a_peer_cannot_have_this_node_ask_its_own_machine(host: str) -> None:
    try:
        told = make_address(host, 80)
    except AddressError:
        return
    assert not worth_a_probe(told, FROM_ANOTHER_MACHINE)


@pytest.mark.parametrize(
    "host", ["10.0.0.2", "192.168.1.5", "::ffff:192.168.1.5", "100.64.0.1", "fd00::1", "2001:db8::5"]
)
def test_a_peer_may_name_machines_of_the_network(host: str) -> None:
    assert worth_a_probe(make_address(host, 80), FROM_ANOTHER_MACHINE)


def test_nodes_of_one_machine_may_name_each_other_by_loopback() -> None:
    for host in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert worth_a_probe(make_address(host, 80), FROM_THIS_ONE)
    assert not worth_a_probe(make_address("169.254.169.254", 80), FROM_THIS_ONE)
    assert not worth_a_probe(make_address("localhost", 80), FROM_THIS_ONE)


@given(st.one_of(*(st.ip_addresses(network=network) for network in ("127.0.0.0/8", "169.254.0.0/16"))))
def test_no_way_to_write_such_an_address_is_worth_a_probe(ip: ipaddress.IPv4Address) -> None:
    for host in every_form_of(str(ip)):
        try:
            told = make_address(host, 80)
        except AddressError:
            continue
        assert not worth_a_probe(told, FROM_ANOTHER_MACHINE), host
