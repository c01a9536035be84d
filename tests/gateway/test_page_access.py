"""The page's token, links that open once, and the owner's sessions, on a clock of the test's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Forbidden
from swarm.gateway.http.page_access import (
    LINK_LIFE_S,
    MAX_LINKS,
    MAX_SESSIONS,
    SESSION_LIFE_S,
    OwnerSession,
    PageAccess,
)

HERE, AWAY = "127.0.0.1", "192.168.1.9"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(clock: Clock) -> PageAccess:
    return PageAccess(clock)


def redeemed(access: PageAccess, token: str, remote: str = HERE) -> OwnerSession | str:
    """The session, or the code of the refusal."""
    try:
        return access.redeem(token, remote, remote == HERE)
    except Forbidden as error:
        return error.code


def opened(access: PageAccess, lan: bool = False) -> str:
    session = redeemed(access, access.new_link(lan))
    assert isinstance(session, OwnerSession)
    return session.session


def test_secrets_are_long_new_with_each_start_and_of_no_other_use(access: PageAccess) -> None:
    link = access.new_link(lan=False)
    session = opened(access)
    drawn = {link, session, access.token, PageAccess().token, access.new_link(lan=False)}
    assert len(drawn) == 5
    assert all(len(secret) >= 43 for secret in drawn), "256 bits"
    assert access.is_token(access.token)
    assert not any(access.is_token(other) for other in ("", link, session, PageAccess().token))
    assert not any(access.is_session(other, True) for other in ("", link, access.token))
    assert redeemed(access, access.token) == redeemed(access, session) == "link_unknown"


def test_a_link_opens_once_and_a_second_use_is_said(access: PageAccess) -> None:
    link = access.new_link(lan=False)
    assert isinstance(redeemed(access, link), OwnerSession)
    assert redeemed(access, link) == "link_used"


def test_links_and_sessions_end_when_their_time_is_over(access: PageAccess, clock: Clock) -> None:
    link, session = access.new_link(lan=False), opened(access)
    clock.now += LINK_LIFE_S
    assert redeemed(access, link) == "link_unknown"
    clock.now += SESSION_LIFE_S - LINK_LIFE_S - 1
    assert access.is_session(session, True)
    clock.now += 1
    assert not access.is_session(session, True)


def test_a_link_for_this_machine_opens_nothing_elsewhere_and_is_still_good_here(access: PageAccess) -> None:
    link = access.new_link(lan=False)
    assert redeemed(access, link, AWAY) == "link_not_from_here"
    session = redeemed(access, link)
    assert isinstance(session, OwnerSession)
    assert access.is_session(session.session, from_loopback=True)
    assert not access.is_session(session.session, from_loopback=False)
    lan = redeemed(access, access.new_link(lan=True), AWAY)
    assert isinstance(lan, OwnerSession)
    assert access.is_session(lan.session, from_loopback=False)


def test_few_links_and_sessions_live_at_once_and_the_oldest_go(access: PageAccess) -> None:
    links = [access.new_link(lan=False) for _ in range(MAX_LINKS + 3)]
    alive = [redeemed(access, link) for link in links]
    assert [isinstance(one, OwnerSession) for one in alive] == [False] * 3 + [True] * MAX_LINKS
    sessions = [opened(access) for _ in range(MAX_SESSIONS + 2)]
    held = [access.is_session(session, True) for session in sessions]
    assert held == [False] * 2 + [True] * MAX_SESSIONS


def test_sessions_are_ended_one_or_all_with_the_links(access: PageAccess) -> None:
    first, second, third = (opened(access) for _ in range(3))
    link = access.new_link(lan=True)
    assert (access.end(first), access.end(first), access.end("x")) == (1, 0, 0)
    assert [access.is_session(one, True) for one in (first, second)] == [False, True]
    assert access.end_all() == 2
    assert not access.is_session(third, True)
    assert redeemed(access, link) == "link_unknown"


def test_who_tries_wrong_links_has_to_wait_and_others_need_not(access: PageAccess, clock: Clock) -> None:
    link = access.new_link(lan=True)
    tries = [redeemed(access, f"wrong-{number}", AWAY) for number in range(25)]
    assert tries == ["link_unknown"] * 20 + ["too_many_links"] * 5
    assert redeemed(access, link, AWAY) == "too_many_links", "nor is a right one heard"
    other = access.new_link(lan=True)
    assert isinstance(redeemed(access, other, "192.168.1.10"), OwnerSession)
    assert isinstance(redeemed(access, link, HERE), OwnerSession)
    clock.now += 60
    assert redeemed(access, "wrong", AWAY) == "link_unknown"


@dataclass
class Model:
    """What must hold, said plainly: secrets by when they end, and whether for the network."""

    links: dict[str, tuple[float, bool]] = field(default_factory=dict[str, tuple[float, bool]])
    sessions: dict[str, tuple[float, bool]] = field(default_factory=dict[str, tuple[float, bool]])


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("link"), st.booleans()),
        st.tuples(st.just("open"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("end"), st.integers(0, 9)),
        st.tuples(st.just("pass"), st.sampled_from([1.0, LINK_LIFE_S / 2, LINK_LIFE_S, SESSION_LIFE_S / 2])),
    ),
    max_size=30,
)


@settings(max_examples=100, deadline=None)
@given(STEPS)
def test_whatever_happens_only_what_was_opened_by_a_live_link_is_a_session(steps: list[tuple[object, ...]]) -> None:
    clock, model = Clock(), Model()
    access = PageAccess(clock)
    made: list[str] = []
    for step in steps:
        match step:
            case ("link", bool(lan)):
                made.append(access.new_link(lan))
                model.links[made[-1]] = (clock.now + LINK_LIFE_S, lan)
                alive = [link for link, (end, _) in model.links.items() if end > clock.now]
                model.links = {link: model.links[link] for link in alive[-MAX_LINKS:]}
            case ("open", int(number), bool(here)) if made:
                link = made[number % len(made)]
                end, lan = model.links.get(link, (0.0, False))
                got = redeemed(access, link, HERE if here else AWAY)
                good = end > clock.now and (lan or here)
                assert isinstance(got, OwnerSession) == good or got == "too_many_links"
                if isinstance(got, OwnerSession):
                    del model.links[link]
                    model.sessions[got.session] = (clock.now + SESSION_LIFE_S, lan)
            case ("end", int(number)) if model.sessions:
                session = list(model.sessions)[number % len(model.sessions)]
                access.end(session)
                del model.sessions[session]
            case ("pass", float(seconds)):
                clock.now += seconds
            case _:
                pass
        for session, (end, lan) in model.sessions.items():
            assert access.is_session(session, True) == (end > clock.now)
            assert access.is_session(session, False) == (end > clock.now and lan)
        assert not any(access.is_session(link, True) for link in made)
