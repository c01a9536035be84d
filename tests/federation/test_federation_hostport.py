import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import AddressError
from federation.hostport import DEFAULT_PORT, Address, make_address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("kitchen:1234", Address("kitchen", 1234)),
        ("Kitchen.local", Address("kitchen.local", DEFAULT_PORT)),
        (" http://192.168.1.5:17615/ ", Address("192.168.1.5", 17615)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("2001:DB8:0::1", Address("2001:db8::1", DEFAULT_PORT)),
        ("[::1]", Address("::1", DEFAULT_PORT)),
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
    ],
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(AddressError):
        parse_address(text)


@given(st.ip_addresses().filter(lambda ip: not (ip.is_unspecified or ip.is_multicast)), st.integers(1, 65535))
def test_writing_an_address_and_reading_it_gives_it_back(ip: object, port: int) -> None:
    address = make_address(str(ip), port)
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
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("10.0.0.1", False), ("nas", False)],
)
def test_loopback_is_recognised(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback is is_loopback
