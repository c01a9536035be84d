import ipaddress

import pytest

from federation.addresses import AddressKind, choose_addresses, classify
from federation.errors import AddressError
from federation.interfaces import Interface, default_route_addresses, read_interfaces

LO = Interface("lo", ("127.0.0.1", "::1"))
DOCKER = Interface("docker0", ("172.17.0.1",))
BRIDGE = Interface("br-0a1b2c", ("172.18.0.1",))
VPN = Interface("tun0", ("10.8.0.2",))
TAILSCALE = Interface("tailscale0", ("100.100.1.2", "fd7a::2"))
WIRED = Interface("enp3s0", ("192.168.1.5", "fd00::5", "fe80::5"))
WIRELESS = Interface("wlan0", ("192.168.1.6",))
LINK_LOCAL = Interface("eth9", ("169.254.7.7",))


def test_the_home_network_is_chosen_among_bridges_and_tunnels() -> None:
    chosen = choose_addresses((LO, DOCKER, BRIDGE, VPN, TAILSCALE, WIRED), None, ("192.168.1.5",))
    assert (chosen.bind_host, chosen.announce, chosen.interface) == ("0.0.0.0", ("192.168.1.5", "fd00::5"), "enp3s0")
    assert chosen.reason.startswith("enp3s0: default route; passed over docker0 (container")
    assert "tun0 (VPN tunnel)" in chosen.reason


def test_a_vpn_that_takes_the_default_route_does_not_take_the_announcement() -> None:
    assert choose_addresses((LO, VPN, WIRED), None, ("10.8.0.2",)).announce == ("192.168.1.5", "fd00::5")


def test_the_default_route_comes_first_and_other_networks_are_announced_too() -> None:
    chosen = choose_addresses((LO, WIRED, WIRELESS), None, ("192.168.1.6",))
    assert chosen.announce == ("192.168.1.6", "192.168.1.5", "fd00::5")
    assert chosen.interface == "wlan0"


def test_a_private_address_is_preferred_to_the_public_default_route() -> None:
    public = Interface("eth0", ("8.8.4.4",))
    assert choose_addresses((public, Interface("eth1", ("10.0.0.9",))), None, ("8.8.4.4",)).announce[0] == "10.0.0.9"


@pytest.mark.parametrize("name", ["veth0", "eth0", "vethb1@if2"])
def test_a_namespace_with_one_interface_and_no_route_uses_it(name: str) -> None:
    chosen = choose_addresses((LO, Interface(name, ("10.77.0.3", "fe80::9"))), None, ())
    assert (chosen.announce, chosen.interface) == (("10.77.0.3",), name)


def test_ipv6_serves_where_there_is_no_ipv4() -> None:
    chosen = choose_addresses((LO, Interface("eth0", ("fd00::7", "fe80::7"))))
    assert (chosen.bind_hosts, chosen.announce) == (("::", "0.0.0.0"), ("fd00::7",))


@pytest.mark.parametrize(
    ("interfaces", "announced"),
    [((LO, LINK_LOCAL), "169.254.7.7"), ((LO, VPN, LINK_LOCAL), "10.8.0.2"), ((LO,), "127.0.0.1"), ((), "127.0.0.1")],
)
def test_something_is_announced_whatever_there_is(interfaces: tuple[Interface, ...], announced: str) -> None:
    assert choose_addresses(interfaces).announce == (announced,)


@pytest.mark.parametrize(
    ("host", "bind", "announce"),
    [
        ("192.168.1.6", "192.168.1.6", ("192.168.1.6",)),
        ("172.17.0.1", "172.17.0.1", ("172.17.0.1",)),
        ("[fd00::5]", "fd00::5", ("fd00::5",)),
        ("localhost", "127.0.0.1", ("127.0.0.1",)),
        ("127.0.0.5", "127.0.0.5", ("127.0.0.5",)),
        ("0.0.0.0", "0.0.0.0", ("192.168.1.5", "192.168.1.6")),
        ("::", "::", ("fd00::5",)),
    ],
)
def test_what_host_says_is_bound_and_announced(host: str, bind: str, announce: tuple[str, ...]) -> None:
    chosen = choose_addresses((LO, DOCKER, WIRED, WIRELESS), host)
    assert (chosen.bind_host, chosen.announce) == (bind, announce)


@pytest.mark.parametrize("host", ["10.1.2.3", "enp3s0", "example.org"])
def test_a_host_that_is_not_here_is_refused_with_what_is(host: str) -> None:
    with pytest.raises(AddressError, match=rf"--host {host} is not an .*192\.168\.1\.5 \(enp3s0\)"):
        choose_addresses((LO, WIRED), host)


@pytest.mark.parametrize(
    ("name", "ip", "kind"),
    [
        ("utun3", "10.0.0.1", AddressKind.TUNNEL),
        ("wg0", "10.0.0.1", AddressKind.TUNNEL),
        ("virbr0", "192.168.122.1", AddressKind.CONTAINER),
        ("vEthernet (WSL)", "172.20.0.1", AddressKind.CONTAINER),
        ("br0", "192.168.1.2", AddressKind.LAN),
        ("bridge0", "192.168.1.2", AddressKind.LAN),
        ("en0", "192.168.1.2", AddressKind.LAN),
        ("docker0", "169.254.1.1", AddressKind.LINK_LOCAL),
    ],
)
def test_kinds_of_address(name: str, ip: str, kind: AddressKind) -> None:
    assert classify(name, ipaddress.ip_address(ip)) is kind


def test_this_machine_can_be_read() -> None:
    interfaces = read_interfaces()
    everything = {ip for interface in interfaces for ip in interface.ips}
    assert "127.0.0.1" in everything
    assert {ip.split("%")[0] for ip in default_route_addresses()} <= everything
    assert set(choose_addresses(interfaces, None, default_route_addresses()).announce) <= everything


def test_a_vpn_that_is_asked_for_is_announced_and_nothing_else() -> None:
    chosen = choose_addresses((LO, WIRED, DOCKER, TAILSCALE), None, ("192.168.1.5",), only=("tailscale0",))
    assert (chosen.announce, chosen.kind) == (("100.100.1.2", "fd7a::2"), AddressKind.LAN)
    assert chosen.bind_hosts == ("0.0.0.0", "::")


def test_an_interface_that_is_not_here_is_refused_with_what_is() -> None:
    with pytest.raises(
        AddressError, match=r"--interface wg9 has no address now; .*enp3s0 \(192\.168\.1\.5, .* leave --interface out$"
    ):
        choose_addresses((LO, WIRED), only=("wg9",))


def test_one_ipv6_address_of_each_interface_is_announced() -> None:
    many = Interface("eth0", ("192.168.1.5", "2a02::1", "2a02::2", "fd00::5", "fe80::5"))
    assert choose_addresses((LO, many)).announce == ("192.168.1.5", "fd00::5")
