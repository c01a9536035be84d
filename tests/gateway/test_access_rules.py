"""The access rules as tables: which Host, Origin and key pass, and what is said to those that do not."""

from __future__ import annotations

from typing import Any

import pytest

from swarm.errors import BadRequest, Forbidden, SetupError, Unauthorized
from swarm.gateway.http.access import (
    MAX_ALLOWED_HEADERS,
    AccessRules,
    Caller,
    allowed_host,
    allowed_origin,
    any_known,
    check_caller,
    check_host,
    check_key,
    check_management,
    check_member,
    check_origin,
    comes_from_loopback,
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
CANCEL = "/swarm/v1/requests/{id}/cancel"
ADMIN = AccessRules(admin_digests=(digest("admin"),))
LOCKED_ADMIN = AccessRules(key_digests=(digest("first"),), admin_digests=(digest("admin"), digest("other admin")))


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
    ("method", "path", "federated", "public"),
    [
        ("GET", "/livez", True, True), ("GET", "/readyz", True, True), ("GET", "/health", True, True),
        ("HEAD", "/v1/health", True, True), ("GET", "/docs", True, True), ("GET", "/docs/{name}", True, True),
        ("GET", "/openapi.json", True, True), ("GET", "/docsx", True, False),
        ("GET", "/metrics", True, False), ("GET", "/v1/federation/health", True, False),
        ("GET", "/v1/models", True, False), ("GET", "/models", True, False), ("POST", CHAT, True, False),
        ("GET", "/made/up", True, False), ("GET", "/healthx", True, False), ("POST", "/livez", True, False),
        ("POST", "/federation/v1/generate", True, True), ("GET", "/federation/v1/made-up", True, True),
        ("POST", "/federation/v1/generate", False, False), ("GET", "/federation/v10", True, False),
    ],
)  # fmt: skip
def test_what_is_public_once_there_is_a_key(method: str, path: str, federated: bool, public: bool) -> None:
    rules = AccessRules(key_digests=RULES.key_digests, federated=federated, open_federation=federated)
    if public:
        check_caller(rules, Caller(method, path))
    else:
        with pytest.raises(Unauthorized):
            check_caller(rules, Caller(method, path))


def test_without_a_key_any_key_is_taken() -> None:
    check_key(AccessRules(), Caller("GET", CHAT, keys=["whatever"]))
    check_key(AccessRules(), Caller("GET", CHAT))


@pytest.mark.parametrize(
    ("rules", "here", "keys", "code"),
    [
        # on this machine
        (AccessRules(), True, [], None),
        (AccessRules(), True, ["whatever"], None),
        (ADMIN, True, [], None),
        (RULES, True, ["first"], None),
        (RULES, True, [], 401),  # a reverse proxy on this machine makes everybody come from it
        (RULES, True, ["wrong"], 401),
        (LOCKED_ADMIN, True, ["other admin"], None),
        # from elsewhere
        (AccessRules(), False, [], 403),
        (AccessRules(), False, ["whatever"], 403),
        (RULES, False, ["first"], 403),
        (ADMIN, False, [], 401),
        (ADMIN, False, ["wrong"], 401),
        (ADMIN, False, ["admin"], None),
        (LOCKED_ADMIN, False, ["first"], 403),  # a client's key
        (LOCKED_ADMIN, False, ["wrong"], 401),
        (LOCKED_ADMIN, False, ["first", "admin"], None),
    ],
)
def test_who_may_manage(rules: AccessRules, here: bool, keys: list[str], code: int | None) -> None:
    caller = Caller("POST", CANCEL, keys=keys, from_loopback=here)
    if code is None:
        check_caller(rules, caller)
        return
    with pytest.raises(Unauthorized if code == 401 else Forbidden) as caught:
        check_caller(rules, caller)
    assert not [key for key in keys if key in str(caught.value)]


TOOL_ROUTES = [("GET", "/v1/tools"), ("POST", "/v1/tools/execute"), ("POST", "/mcp"), ("POST", "/tools/execute")]


@pytest.mark.parametrize(("method", "path"), TOOL_ROUTES)
@pytest.mark.parametrize(
    ("rules", "here", "keys", "code"),
    [
        # on this machine
        (AccessRules(), True, [], None),
        (ADMIN, True, [], None),
        (RULES, True, ["first"], None),
        (RULES, True, [], 401),
        (RULES, True, ["wrong"], 401),
        # from elsewhere: a key that clients need, and never without
        (AccessRules(), False, [], 403),
        (AccessRules(), False, ["whatever"], 403),
        (ADMIN, False, ["admin"], 403),
        (RULES, False, ["first"], None),
        (RULES, False, [], 401),
        (LOCKED_ADMIN, False, ["admin"], None),
    ],
)
def test_who_may_have_tools_executed(
    method: str, path: str, rules: AccessRules, here: bool, keys: list[str], code: int | None
) -> None:
    caller = Caller(method, path, keys=keys, from_loopback=here)
    if code is None:
        check_caller(rules, caller)
        return
    with pytest.raises(Unauthorized if code == 401 else Forbidden):
        check_caller(rules, caller)


@pytest.mark.parametrize("rules", [AccessRules(), ADMIN, RULES, LOCKED_ADMIN])
def test_neither_nodes_nor_pages_of_other_origins_have_tools_executed(rules: AccessRules) -> None:
    for method, path in TOOL_ROUTES:
        with pytest.raises(Forbidden, match="no node has another's tools executed"):
            check_caller(rules, Caller(method, path, keys=["first"], from_loopback=True, is_node=True))
        for origin in ("http://localhost:3000", "app://obsidian.md", "http://evil.example", "null"):
            with pytest.raises(Forbidden, match="none but its own may use its tools"):
                check_origin(rules, Caller(method, path, ["localhost:17615"], [origin], from_loopback=True))
        for mode in ("navigate", "no-cors", "cors"):
            with pytest.raises(Forbidden):
                check_origin(rules, Caller(method, path, fetch_site="cross-site", fetch_mode=mode, from_loopback=True))


@pytest.mark.parametrize("rules", [AccessRules(), ADMIN, LOCKED_ADMIN])
def test_no_node_manages_another_whatever_key_it_has(rules: AccessRules) -> None:
    with pytest.raises(Forbidden, match="no node manages another"):
        check_management(rules, Caller("POST", CANCEL, keys=["admin"], from_loopback=True, is_node=True))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://evil.example", "null"])
def test_pages_of_other_origins_manage_nothing_be_they_on_the_list_or_not(method: str, origin: str) -> None:
    path = CANCEL if method == "POST" else "/swarm/v1/requests"
    with pytest.raises(Forbidden):
        check_origin(RULES, Caller(method, path, ["localhost:17615"], [origin], keys=["admin"], from_loopback=True))
    for mode in ("navigate", "no-cors"):
        with pytest.raises(Forbidden):
            check_origin(RULES, Caller(method, path, ["localhost:17615"], fetch_site="cross-site", fetch_mode=mode))
    own = Caller(method, path, ["localhost:17615"], ["http://localhost:17615"], fetch_site="same-origin")
    assert check_origin(RULES, own) is None


@pytest.mark.parametrize(
    ("remote", "headers", "is_here"),
    [
        ("127.0.0.1", (), True), ("127.9.8.7", ("Host", "Accept"), True), ("::1", (), True),
        ("::ffff:127.0.0.1", (), True),  # a socket of both families
        ("192.168.1.20", (), False), ("::ffff:192.168.1.20", (), False), ("fe80::1%eth0", (), False),
        ("0.0.0.0", (), False), ("::", (), False), ("", (), False), (None, (), False), ("localhost", (), False),
        ("127.0.0.1", ("X-Forwarded-For",), False), ("127.0.0.1", ("x-forwarded-proto",), False),
        ("127.0.0.1", ("Forwarded",), False), ("::1", ("VIA",), False), ("::1", ("X-Real-IP",), False),
        ("127.0.0.1", ("CF-Connecting-IP",), False),
    ],
)  # fmt: skip
def test_who_is_taken_to_be_on_this_machine(remote: str | None, headers: tuple[str, ...], is_here: bool) -> None:
    assert comes_from_loopback(remote, headers) == is_here


@pytest.mark.parametrize(
    ("federated", "key", "aloud", "mode", "who"),
    [
        (False, False, False, "open", "none"), (False, True, False, "open", "none"),
        (True, False, False, "open", "anyone"), (True, False, True, "open", "anyone"),
        (True, True, False, "open", "nobody"), (True, True, True, "open", "anyone"),
        (True, False, False, "paired", "members"), (True, True, False, "paired", "members"),
        (True, True, True, "paired", "members"),
    ],
)  # fmt: skip
def test_who_may_ask_as_a_node(federated: bool, key: bool, aloud: bool, mode: Any, who: str) -> None:
    keys = RULES.key_digests if key else ()
    rules = AccessRules(key_digests=keys, federated=federated, open_federation=aloud)
    assert rules.peers(mode) == who
    caller = Caller("POST", "/federation/v1/generate", keys=["first"] if not federated else [])
    if rules.members_only:
        with pytest.raises(Forbidden) as caught:
            check_caller(rules, caller)
        assert caught.value.code == "members_only"
    else:  # where this node is paired, `PeerGate` has refused before whoever is not a member
        check_caller(rules, caller)


@pytest.mark.parametrize(
    ("method", "path", "passes"),
    [
        ("GET", "/federation/v1/node", True), ("GET", "/federation/v1/models/{sha256}", True),
        ("GET", "/federation/v1/made-up", True), ("POST", CANCEL, False), ("GET", "/v1/models", False),
        ("GET", "/livez", False), ("GET", "/metrics", False), ("POST", "/v1/models/load", False),
        ("POST", "/federation/v1/load", True), ("POST", "/federation/v1/unload", False),
    ],
)  # fmt: skip
def test_a_member_asks_what_nodes_ask(method: str, path: str, passes: bool) -> None:
    if passes:
        check_member(AccessRules(), Caller(method, path, is_node=True))
    else:
        with pytest.raises(Forbidden):
            check_member(AccessRules(), Caller(method, path, is_node=True))


@pytest.mark.parametrize("action", ["unload", "pin", "pull"])
def test_members_manage_models_where_the_owner_lets_them_and_nobody_else_does(action: str) -> None:
    path, allows = f"/federation/v1/{action}", AccessRules(members_manage=True)
    check_member(allows, Caller("POST", path, is_node=True))
    for rules in (allows, AccessRules(federated=False, members_manage=True), AccessRules(open_federation=True)):
        with pytest.raises(Forbidden, match="members of its paired swarm only"):
            check_caller(rules, Caller("POST", path, keys=["admin"], from_loopback=True))
    with pytest.raises(Forbidden, match="manage = true"):
        check_member(AccessRules(), Caller("POST", path, is_node=True))


INVITE = "/swarm/v1/trust/invite"
OWN = {"hosts": ["localhost:1"], "origins": ["http://localhost:1"], "fetch_site": "same-origin"}


def test_none_but_the_owner_decides_who_is_a_member() -> None:
    with pytest.raises(Forbidden, match="`swarm page`") as refused:
        check_caller(LOCKED_ADMIN, Caller("POST", INVITE, keys=["admin"], from_loopback=True, has_token=True))
    assert refused.value.code == "trust_not_here"
    check_caller(LOCKED_ADMIN, Caller("POST", INVITE, has_session=True))
    check_caller(LOCKED_ADMIN, Caller("POST", INVITE, **OWN, has_session=True, has_token=True))


@pytest.mark.parametrize(
    "of",
    [
        {"is_node": True},
        {"hosts": ["localhost:1"], "origins": ["http://localhost:3000"]},
        {"hosts": ["localhost:1"], "origins": ["http://evil.example"]},
        {"hosts": ["localhost:1"], "origins": ["null"]},
        {"hosts": ["localhost:1"], "origins": ["http://localhost:1", "http://localhost:1"]},
        {"hosts": [], "origins": ["http://localhost:1"]},
    ],
)
@pytest.mark.parametrize("route", [("POST", INVITE), ("POST", CANCEL), ("GET", "/v1/models")])
def test_a_session_counts_neither_from_a_node_nor_from_another_origin(
    route: tuple[str, str], of: dict[str, Any]
) -> None:
    with pytest.raises((Forbidden, Unauthorized)):
        check_caller(RULES, Caller(*route, **of, has_session=True, has_token=True, from_loopback=True))


def test_a_session_is_as_good_as_an_admin_key_and_a_client_s() -> None:
    check_caller(LOCKED_ADMIN, Caller("POST", CANCEL, has_session=True))
    check_caller(LOCKED_ADMIN, Caller("POST", CHAT, has_session=True))
    check_caller(LOCKED_ADMIN, Caller("GET", "/metrics", **OWN, has_session=True))


BROWSERS = (
    {},
    {"hosts": ["h:1"], "origins": ["http://h:1"]},
    {"fetch_site": "same-origin"},
    {"fetch_site": "none"},
    OWN,
)


@pytest.mark.parametrize("browser", BROWSERS, ids=str)
@pytest.mark.parametrize("has_token", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "changes"),
    [
        ("GET", "/swarm/v1/requests", False), ("HEAD", "/swarm/v1/requests", False), ("POST", CANCEL, True),
        ("POST", "/v1/models/load", True), ("POST", "/models/load", True),
        ("GET", "/swarm/v1/trust/peers", False), ("POST", INVITE, True), ("POST", "/swarm/v1/trust/revoke", True),
        ("POST", CHAT, False), ("POST", "/swarm/v1/page/owner", False), ("GET", "/swarm/v1/page", False),
    ],
)  # fmt: skip
def test_what_a_browser_changes_carries_the_page_s_token(
    method: str, path: str, changes: bool, has_token: bool, browser: dict[str, Any]
) -> None:
    caller = Caller(method, path, **browser, has_session=True, has_token=has_token, from_loopback=True)
    if changes and browser and not has_token:
        with pytest.raises(Forbidden, match="load the page anew") as refused:
            check_caller(AccessRules(), caller)
        assert refused.value.code == "page_token_missing"
    else:
        check_caller(AccessRules(), caller)


def test_who_may_not_is_told_that_first_and_not_that_a_token_is_missing() -> None:
    with pytest.raises(Forbidden) as refused:
        check_caller(AccessRules(), Caller("POST", CANCEL, **OWN))
    assert refused.value.code == "management_not_allowed"


def test_an_admin_key_is_a_client_s_key_too() -> None:
    check_key(LOCKED_ADMIN, Caller("GET", CHAT, keys=["admin"]))
    with pytest.raises(Unauthorized):
        check_key(LOCKED_ADMIN, Caller("GET", CHAT, keys=["wrong"]))


def test_every_key_is_compared_whatever_the_first_comparison_says(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(wanted: bytes, given: bytes) -> bool:
        compared.append(wanted)
        return wanted == given

    monkeypatch.setattr("swarm.gateway.http.access.hmac.compare_digest", compare)
    assert any_known(RULES.key_digests, ["first"])
    assert compared == list(RULES.key_digests)
    compared.clear()
    check_caller(LOCKED_ADMIN, Caller("POST", CANCEL, keys=["admin"]))
    check_caller(LOCKED_ADMIN, Caller("POST", CHAT, keys=["first"]))
    assert compared == [*LOCKED_ADMIN.admin_digests, *LOCKED_ADMIN.key_digests, *LOCKED_ADMIN.admin_digests]


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
