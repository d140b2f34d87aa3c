"""Many clients that lose their server come back spread out, whatever their seeds; and the diagrams are those of the
tables."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncd.wire.diagrams import CLIENT_KEEPALIVE
from syncd_client import diagrams
from syncd_client.errors import TransportClosed
from syncd_client.messages import Goaway, Reconnect, Welcome
from syncd_client.policy import ABSENT_MAX, AFTER_S_MAX, HASTE_MAX, HASTE_S, retry_after_s
from syncd_client.reconnect import Reconnecting
from syncd_client.session import Session

JITTER_S, BACKOFF_S, MAX_S = 20.0, 1.0, 30.0
WELCOME = Welcome(
    b"S" * 16, 0, "u", False, {}, 30_000, 1_000,
    {"first_jitter_ms": 20_000, "backoff_ms": 1_000, "backoff_max_ms": 30_000, "stable_ms": 60_000},
)  # fmt: skip


def session(goaway: Goaway | None = None) -> Session:
    made = Session(lambda: bytes(8))
    made.welcome, made.goaway = WELCOME, goaway
    made.parameters = type(made.parameters)(reconnect=Reconnect(20_000, 1_000, 30_000, 60_000))
    return made


def client() -> Reconnecting:
    made = Reconnecting("wss://host/v1/sync", renews=True)
    made.start()
    made.welcomed(session())
    return made


@settings(max_examples=25)  # of 500 clients each
@given(seed=st.integers(0, 2**32), code=st.sampled_from([1006, 1012, 4000, 4001]))
def test_a_server_that_dies_is_not_stormed(seed: int, code: int) -> None:
    """500 clients, a server that stays away for five minutes: no second brings more attempts than a spread over the
    jitter, then over the backoff, allows; and nobody gives up."""
    random, seconds, clients = Random(seed), Counter[int](), 500
    for _ in range(clients):
        one, now_s, attempts = client(), 0.0, 0
        one.ended(TransportClosed(code), session(), 1_000.0, random.random(), now_s)
        assert one.due_s <= JITTER_S
        while one.due_s < 300:
            now_s = one.due_s
            seconds[int(now_s)] += 1
            attempts += 1
            one.ended(TransportClosed(1006), None, 0.0, random.random(), now_s)
            assert now_s <= one.due_s <= now_s + MAX_S
        assert attempts >= 300 / MAX_S - 2
    # In the jitter 25 a second begin; their retries come 1, 2, 4 and 8 s apart on average: some 115, and chance.
    assert max(seconds[second] for second in range(21)) <= 200
    # Later each comes every 15 s on average: 33 a second.
    assert max(seconds[second] for second in range(120, 300)) <= 75


@given(seed=st.integers(0, 2**32))
def test_an_application_that_cries_wolf_is_bounded(seed: int) -> None:
    random, one, now_s, attempts_s = Random(seed), client(), 0.0, list[float]()
    one.ended(TransportClosed(1006), session(), 0.0, random.random(), now_s)
    granted = 0
    while now_s < 600:
        now_s += random.random()
        if random.random() < 0.7:
            granted += one.hasten(now_s)
        if one.due_s <= now_s:
            attempts_s.append(now_s)
            one.ended(TransportClosed(1006), None, 0.0, random.random(), now_s)
    assert granted <= HASTE_MAX + 600 / HASTE_S
    # Each word that is heard lets the backoff begin anew: log2(20 s) attempts until the next one, and chance.
    assert len(attempts_s) <= (granted + 1) * 12


@given(random=st.floats(0, 1, exclude_max=True), at_s=st.floats(0, 59))
def test_nobody_comes_back_before_the_server_said(random: float, at_s: float) -> None:
    one = client()
    one.ended(TransportClosed(1012), session(Goaway(1012, 60_000, 30_000)), 100.0, random, 0.0)
    assert 60 <= one.due_s <= 90
    assert not one.hasten(at_s)
    assert one.due_s >= 60


@given(seed=st.integers(0, 2**32))
def test_a_server_that_said_goodbye_and_is_late_is_tried_shortly_and_then_backed_off_from(seed: int) -> None:
    random, one, waits_s = Random(seed), client(), list[float]()
    one.ended(TransportClosed(1012), session(Goaway(1012, 3_000, 1_000)), 100.0, random.random(), 0.0)
    assert 3 <= one.due_s <= 4
    for _ in range(ABSENT_MAX + 10):
        now_s = one.due_s
        one.ended(TransportClosed(1006), None, 0.0, 0.999, now_s, is_absent=True)
        waits_s.append(one.due_s - now_s)
    assert max(waits_s[:ABSENT_MAX]) <= 2 * BACKOFF_S, "it is late"
    assert min(waits_s[ABSENT_MAX + 4 :]) > 0.9 * MAX_S, "it is down"


@pytest.mark.parametrize("goaway", [None, Goaway(1012, 0, 0)])
def test_only_a_goaway_and_only_nobody_is_waited_for_shortly(goaway: Goaway | None) -> None:
    """A server that answers 503 has a crowd before it; one that died may be down for long."""
    one = client()
    one.ended(TransportClosed(1012), session(goaway), 100.0, 0.999, 0.0)
    for _ in range(8):
        now_s = one.due_s
        one.ended(TransportClosed(1006), None, 0.0, 0.999, now_s, is_absent=goaway is None)
    assert one.due_s - now_s > 0.9 * MAX_S


@pytest.mark.parametrize(
    ("header", "after_s"),
    [("17", 17.0), (" 17 ", 17.0), ("0", 0.0), (None, 0.0), ("", 0.0), ("-5", 0.0), ("1e9", 0.0), ("٣", 0.0),
     ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0), ("99999999999", AFTER_S_MAX)],
)  # fmt: skip
def test_retry_after_is_a_number_of_seconds_within_reason(header: str | None, after_s: float) -> None:
    assert retry_after_s(header) == after_s


@given(after_s=st.floats(0.1, AFTER_S_MAX), random=st.floats(0, 0.999), failures=st.integers(0, 8))
def test_a_client_waits_as_told_and_at_least_its_backoff_and_nobody_cuts_it_short(
    after_s: float, random: float, failures: int
) -> None:
    told, untold = client(), client()
    for one in (told, untold):
        for _ in range(failures):
            one.ended(TransportClosed(1006), None, 0.0, random, 0.0)
    untold.ended(TransportClosed(1006), None, 0.0, random, 100.0)
    told.ended(TransportClosed(1006), None, 0.0, random, 100.0, after_s=after_s)
    assert told.due_s == max(untold.due_s, 100.0 + after_s)
    assert not told.hasten(100.0)
    assert untold.hasten(100.0)


@pytest.mark.parametrize(("url", "followed"), [("ws://plain", False), ("wss://other", True), ("https://odd", False)])
def test_a_token_is_not_taken_from_tls_to_plain_text(url: str, followed: bool) -> None:
    one = client()
    one.ended(TransportClosed(1012), session(Goaway(1012, 0, 0, url)), 0.0, 0.5, 0.0)
    assert (one.target() == url) is followed
    assert one.target() == "wss://host/v1/sync", "another host is tried once"


def test_the_diagrams_are_up_to_date() -> None:
    page = Path(__file__).resolve().parents[2] / "clients/python/states.md"
    assert page.read_text() == diagrams.document()


def test_the_client_runs_by_the_diagram_of_the_protocol() -> None:
    assert sorted(diagrams.keepalive_arrows()) == sorted(CLIENT_KEEPALIVE)
