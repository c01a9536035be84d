"""The access rules as tables: which Host, Origin and key pass, and what is said to those that do not."""

from __future__ import annotations

import pytest

from swarm.errors import BadRequest, Forbidden, SetupError, Unauthorized
from swarm.gateway.access import (
    MAX_ALLOWED_HEADERS,
    AccessRules,
    Caller,
    allowed_host,
    allowed_origin,
    any_known,
    check_host,
    check_key,
    check_origin,
    digest,
    given_keys,
    machine_names,
    preflight_headers,
)

RULES = AccessRules(
    hosts=machine_names("study.example.net", "Kitchen") | {"swarm.example.com"},
    origins=frozenset({"http://localhost:3000", "app://obsidian.md"}),
    key_digests=(digest("first"), digest("second")),
)
CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "localhost:17615", "LocalHost.", "app.localhost:1", "127.0.0.1:17615", "127.9.9.9", "[::1]:17615",
        "[::1]", "192.168.1.20:17615", "0.0.0.0:17615", "[fe80::1]:80", "[fe80::1%2]:80",
        "study.example.net", "study", "study.local:1",
        "STUDY.lan", "kitchen.home.arpa", "kitchen", "swarm.example.com:443",
        "host.docker.internal:17615",
    ],
)  # fmt: skip
def test_hosts_that_are_this_machine(host: str) -> None:
    check_host(RULES, [host])


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "evil.example:17615", "localhost.evil.example", "127.0.0.1.nip.io", "studylocal",
        "study.evil.example", "evil.docker.internal", "kitchen.com", "xlocalhost", "example.com",
        "2130706433", "0x7f.1", "\udcff",
    ],
)  # fmt: skip
def test_hosts_that_are_not(host: str) -> None:
    with pytest.raises(Forbidden) as caught:
        check_host(RULES, [host])
    assert caught.value.code == "host_not_allowed"


@pytest.mark.parametrize(
    "host", ["", ":80", "a b", "user@localhost", "localhost:", "localhost:x", "[::1", "::1", "a/b"]
)
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(BadRequest, match="is no host name or address"):
        check_host(RULES, [host])


def test_one_host_is_enough_and_none_is_no_browser() -> None:
    check_host(RULES, [])
    with pytest.raises(BadRequest, match="several Host headers"):
        check_host(RULES, ["localhost", "localhost"])


@pytest.mark.parametrize(
    ("origin", "host", "named"),
    [
        ("http://localhost:17615", "localhost:17615", None),  # the node's own page
        ("https://swarm.example.com", "swarm.example.com", None),  # its own page behind a proxy that adds TLS
        ("http://LOCALHOST:17615", "LocalHost:17615", None),
        ("http://localhost:3000", "localhost:17615", "http://localhost:3000"),
        ("app://obsidian.md", "127.0.0.1:17615", "app://obsidian.md"),
    ],
)
def test_origins_that_pass(origin: str, host: str, named: str | None) -> None:
    assert check_origin(RULES, Caller("POST", CHAT, [host], [origin], fetch_site="cross-site")) == named


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "localhost:17615"),
        ("http://localhost:3001", "localhost:17615"),
        ("http://localhost", "localhost:17615"),
        ("http://127.0.0.1:17615", "localhost:17615"),
        ("https://localhost:3000", "localhost:17615"),
        ("chrome-extension://localhost:17615", "localhost:17615"),
        ("http://localhost:17615@evil.example", "localhost:17615"),
        ("http://localhost:3000.evil.example", "localhost:17615"),
        ("http://localhost:3000/", "localhost:17615"),
        ("null", "localhost:17615"),
        ("", "localhost:17615"),
        ("http://localhost:17615, http://evil.example", "localhost:17615"),
    ],
)
def test_origins_that_do_not(origin: str, host: str) -> None:
    with pytest.raises(Forbidden) as caught:
        check_origin(RULES, Caller("POST", CHAT, [host], [origin]))
    assert caught.value.code == "origin_not_allowed"


def test_an_origin_passes_once_and_without_a_host_none_is_the_nodes_own() -> None:
    with pytest.raises(BadRequest, match="several Origin"):
        check_origin(RULES, Caller("GET", CHAT, ["localhost"], ["http://localhost"] * 2))
    with pytest.raises(Forbidden):
        check_origin(RULES, Caller("GET", CHAT, [], ["http://localhost"]))


@pytest.mark.parametrize("path", ["/federation/v1", "/federation/v1/node", "/federation/v1/generate"])
@pytest.mark.parametrize("origin", ["http://localhost:17615", "http://localhost:3000", "http://evil.example"])
def test_no_page_asks_what_peers_ask(path: str, origin: str) -> None:
    with pytest.raises(Forbidden, match="only nodes"):
        check_origin(RULES, Caller("GET", path, ["localhost:17615"], [origin]))


@pytest.mark.parametrize(
    ("method", "path", "site", "mode", "passes"),
    [
        ("GET", "/docs", "cross-site", "navigate", True),  # a link that a person follows
        ("GET", "/v1/models", "same-site", "navigate", True),
        ("GET", "/v1/models", "none", "navigate", True),  # typed into the address bar
        ("GET", "/v1/models", "same-origin", "cors", True),
        ("GET", "/v1/models", "", "cors", True),  # Node's fetch
        ("GET", "/v1/models", "cross-site", "no-cors", False),  # an image, a script
        ("GET", "/v1/models", "same-site", "no-cors", False),  # a page of another port
        ("POST", CHAT, "cross-site", "navigate", False),  # a form
        ("GET", "/federation/v1/node", "cross-site", "navigate", False),
    ],
)
def test_what_browsers_say_of_requests_without_an_origin(
    method: str, path: str, site: str, mode: str, passes: bool
) -> None:
    caller = Caller(method, path, ["localhost"], fetch_site=site, fetch_mode=mode)
    if passes:
        assert check_origin(RULES, caller) is None
    else:
        with pytest.raises(Forbidden):
            check_origin(RULES, caller)


@pytest.mark.parametrize("keys", [["first"], ["second"], ["wrong", "second"], ["first", "wrong"]])
def test_any_of_the_keys_opens(keys: list[str]) -> None:
    check_key(RULES, Caller("GET", CHAT, keys=keys))


@pytest.mark.parametrize("keys", [["first "], ["FIRST"], ["firs"], ["first,second"], ["\udcff"], ["x" * 10_000]])
def test_a_wrong_key_is_refused_and_not_repeated(keys: list[str]) -> None:
    with pytest.raises(Unauthorized) as caught:
        check_key(RULES, Caller("GET", CHAT, keys=keys))
    assert caught.value.given
    assert keys[0] not in str(caught.value)


def test_a_missing_key_is_told_apart_from_a_wrong_one() -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer") as caught:
        check_key(RULES, Caller("GET", CHAT))
    assert not caught.value.given


@pytest.mark.parametrize(
    ("path", "federated", "public"),
    [
        ("/livez", True, True), ("/readyz", True, True), ("/health", True, True), ("/v1/health", True, True),
        ("/docs", True, True), ("/docs/{name}", True, True), ("/openapi.json", True, True), ("/docsx", True, False),
        ("/metrics", True, False), ("/v1/federation/health", True, False), ("/v1/models", True, False),
        ("/made/up", True, False), ("/healthx", True, False), ("/federation/v1/generate", True, True),
        ("/federation/v1/generate", False, False), ("/federation/v10", True, False),
    ],
)  # fmt: skip
def test_what_is_public_once_there_is_a_key(path: str, federated: bool, public: bool) -> None:
    rules = AccessRules(key_digests=RULES.key_digests, federated=federated)
    if public:
        check_key(rules, Caller("GET", path))
    else:
        with pytest.raises(Unauthorized):
            check_key(rules, Caller("GET", path))


def test_without_a_key_any_key_is_taken() -> None:
    check_key(AccessRules(), Caller("GET", CHAT, keys=["whatever"]))
    check_key(AccessRules(), Caller("GET", CHAT))


def test_every_key_is_compared_whatever_the_first_comparison_says(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(wanted: bytes, given: bytes) -> bool:
        compared.append(wanted)
        return wanted == given

    monkeypatch.setattr("swarm.gateway.access.hmac.compare_digest", compare)
    assert any_known(RULES.key_digests, ["first"])
    assert compared == list(RULES.key_digests)


@pytest.mark.parametrize(
    ("authorizations", "api_keys", "keys"),
    [
        (["Bearer abc"], [], ("abc",)),
        (["bearer   abc "], [], ("abc",)),
        ([], ["abc"], ("abc",)),
        (["Bearer a"], ["b"], ("a", "b")),
        (["Basic YTpi"], [], ()),
        (["Bearer"], [""], ()),
        (["Bearer "], [" "], ()),
        (["abc"], [], ()),
    ],
)
def test_where_keys_are_found(authorizations: list[str], api_keys: list[str], keys: tuple[str, ...]) -> None:
    assert given_keys(authorizations, api_keys) == keys


def test_a_preflight_allows_what_was_asked_within_bounds() -> None:
    asked = {
        "Access-Control-Request-Headers": "authorization, X-Stainless-OS, bad name, x\r\nSet-Cookie: a, ,x-api-key",
        "Access-Control-Request-Private-Network": "true",
    }
    allowed = preflight_headers(["OPTIONS", "POST"], asked)
    assert allowed == {
        "Access-Control-Allow-Methods": "OPTIONS, POST",
        "Access-Control-Allow-Headers": "authorization, X-Stainless-OS, x-api-key",
        "Access-Control-Max-Age": "600",
        "Access-Control-Allow-Private-Network": "true",
    }
    many = ",".join(f"x-{number}" for number in range(1000))
    allowed = preflight_headers(["GET"], {"Access-Control-Request-Headers": many})
    assert allowed["Access-Control-Allow-Headers"].count(",") == MAX_ALLOWED_HEADERS - 1
    assert "Access-Control-Allow-Headers" not in preflight_headers(["GET"], {})


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://localhost:3000", "http://localhost:3000"),
        (" HTTP://LocalHost:3000/ ", "http://localhost:3000"),
        ("http://a.example:80", "http://a.example"),
        ("https://a.example:443", "https://a.example"),
        ("http://a.example:443", "http://a.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_kept_as_browsers_write_them(text: str, origin: str) -> None:
    assert allowed_origin(text) == origin


@pytest.mark.parametrize(
    "text", ["*", "null", "localhost:3000", "http://", "http://a/b", "http://*.a", "http://a@b", ""]
)
def test_origins_that_match_nothing_or_everything_are_refused(text: str) -> None:
    with pytest.raises(SetupError, match="--allow-origin"):
        allowed_origin(text)


def test_names_to_answer_to() -> None:
    assert allowed_host(" Swarm.Example.COM. ") == "swarm.example.com"
    for text in ("*", "*.example.com", "http://a", "a:80", "", "a b"):
        with pytest.raises(SetupError, match="--allow-host"):
            allowed_host(text)
