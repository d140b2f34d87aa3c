"""The conversation: its tables are total, and what they say is what a session does."""

import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.wire import messages as m
from syncd.wire import session as s
from syncd.wire.codec import MSGPACK
from syncd.wire.errors import KINDS, MALFORMED, OVERLOADED, ProtocolError, error
from syncd.wire.limits import HELLO_MS_MAX, MESSAGES_BURST_MAX, PING_MS, PING_MS_MAX, PING_MS_MIN
from syncd.wire.session import Due, ServerSession, State
from tests.wire.strategies import raw_client_messages

ID, H = b"i" * 16, b"h" * 8
HELLO: list[Any] = [1, {"device": ID, "installation": ID, "time": 5}]
WELCOME = m.Welcome(ID, 5, "ann", False, {}, PING_MS, 1000, {}, "syncd")
CLIENT_EXAMPLES: dict[str, list[Any]] = {
    "hello": HELLO,
    "subscribe": [2, {"space": "s", "epoch": None, "complete": 0, "resume": 0, "settled": 0}],
    "unsubscribe": [3, {"space": "s"}],
    "push": [4, {"space": "s", "epoch": None, "changes": [[1, H, 0, 0, [["create", "c", "d"]]]]}],
    "ack": [5, {"space": "s", "epoch": ID, "applied": 0, "oldest_base": 0, "settled": 0}],
    "purged": [9, {"space": "s"}],
    "sums": [6, {"space": "s", "epoch": ID, "of": [], "documents": b""}],
    "signal": [7, {"space": "s", "key": "k", "value": 1}],
    "event": [8, {"events": [[ID, "screen", 5]]}],
    "refresh": [10, {"token": "t"}],
    "background": [11, {}],
    "foreground": [12, {}],
    "probe": [13, {}],
    "bye": [14, {}],
    "ping": [20, {}],
    "pong": [21, {}],
}
SERVER_EXAMPLES: dict[str, m.ServerMessage] = {
    "welcome": WELCOME,
    "subscribed": m.Subscribed("s", ID, 0, 0, "owner", "live"),
    "delta": m.Delta("s", ID, 0, 0, 1, 5, H, ()),
    "outcomes": m.Outcomes("s", ID, ()),
    "revoked": m.Revoked("s", "why"),
    "differ": m.Differ("s", ID, 0, 0, H, ()),
    "repair": m.Repair("s", ID, 0, 0, H, ()),
    "signal": m.Heard("s", H, "k", 1, 1_000, "u"),
    "presence": m.Presence("s", 0),
    "noted": m.Noted((m.EventResult(ID, "accepted", None),)),
    "expired": m.Expired("s", ID, 0, 0),
    "error": error(OVERLOADED, "later"),
    "closing error": error(MALFORMED, "byte 3"),
    "goaway": m.Goaway(1012, 0, 1000),
    "ping": m.Ping(),
    "pong": m.Pong(1),
}


def packed(*messages: Any) -> bytes:
    return b"".join(msgpack.packb(message, use_bin_type=True) for message in messages)


def in_state(state: State) -> ServerSession:
    """A session that came to this state by messages alone."""
    session = ServerSession(MSGPACK, 0)
    if state is State.AWAIT_HELLO:
        return session
    session.receive(packed(HELLO), 0)
    if state is not State.AUTHENTICATING:
        session.send(WELCOME)
    if state is State.DRAINING:
        session.send(m.Goaway(1012, 0, 1000))
    if state is State.CLOSED:
        session.close()
    assert session.state is state
    return session


def test_every_state_has_a_verdict_for_every_event() -> None:
    assert set(s.CONVERSATION) == set(State)
    assert all(set(row) == set(s.EVENTS) for row in s.CONVERSATION.values())
    assert set(s.SUBSCRIPTION) == set(s.Subscription)
    assert all(set(row) == set(s.Step) for row in s.SUBSCRIPTION.values())
    assert set(s.KEEPALIVE) == set(s.Life)
    assert all(set(row) == set(s.Beat) for row in s.KEEPALIVE.values())
    assert all(s.KEEPALIVE[life][s.TIMER[life]] is not None for life in s.TIMER), "the timer of a state can fire in it"


def test_the_tables_name_every_message() -> None:
    assert set(CLIENT_EXAMPLES) == set(s.RECEIVED)
    assert {*SERVER_EXAMPLES, "close"} == set(s.SENT)


def test_every_state_can_be_reached_and_left_but_the_last() -> None:
    reached = {after for row in s.CONVERSATION.values() for after in row.values() if isinstance(after, State)}
    assert reached == set(State) - {State.AWAIT_HELLO}
    assert all(s.CONVERSATION[state]["sent", "close"] is State.CLOSED for state in State if state is not State.CLOSED)


@pytest.mark.parametrize("name", s.RECEIVED)
@pytest.mark.parametrize("state", State)
def test_what_is_received_has_the_verdict_of_the_table(state: State, name: str) -> None:
    session = in_state(state)
    after = s.CONVERSATION[state]["received", name]
    if after is s.Verdict.UNEXPECTED:
        with pytest.raises(ProtocolError) as caught:
            session.receive(packed(CLIENT_EXAMPLES[name]), 1)
        assert caught.value.kind.name == "unexpected_message"
        assert caught.value.detail == f"{name} is not allowed here (state: {state.value})"
        assert session.send(caught.value.message())
        assert session.is_closed
        return
    messages = session.receive(packed(CLIENT_EXAMPLES[name]), 1)
    if after is s.Verdict.IGNORED:
        assert messages == []
        assert session.state is state
    else:
        assert [type(message).__name__.lower() for message in messages] == [name]
        assert session.state is after


@pytest.mark.parametrize("name", sorted(SERVER_EXAMPLES))
@pytest.mark.parametrize("state", State)
def test_what_is_sent_has_the_verdict_of_the_table(state: State, name: str) -> None:
    session = in_state(state)
    after = s.CONVERSATION[state]["sent", name]
    if after is s.Verdict.UNEXPECTED:
        with pytest.raises(AssertionError):
            session.send(SERVER_EXAMPLES[name])
    elif after is s.Verdict.IGNORED:
        assert session.send(SERVER_EXAMPLES[name]) == b""
    else:
        assert session.send(SERVER_EXAMPLES[name])
        assert session.state is after


def test_an_error_about_one_space_closes_nothing() -> None:
    session = in_state(State.OPEN)
    assert session.send(m.Error(15, "internal", "backoff", None, "x", "s"))
    assert session.state is State.OPEN


def test_nothing_after_a_bye_is_handed_out() -> None:
    session = in_state(State.OPEN)
    messages = session.receive(packed(CLIENT_EXAMPLES["push"], CLIENT_EXAMPLES["bye"], CLIENT_EXAMPLES["push"]), 1)
    assert [type(message) for message in messages] == [m.Push, m.Bye]
    assert session.is_closed


@pytest.mark.parametrize("space", ["", "a//b", "a/../b", "a b", "ä", "%2f", "x" * 201, "/".join("a" * 17)])
def test_a_bad_space_name_is_answered_and_the_rest_of_the_frame_is_taken(space: str) -> None:
    session = in_state(State.OPEN)
    bad = [3, {"space": space}]
    first, second = session.receive(packed(bad, CLIENT_EXAMPLES["push"]), 1)
    assert isinstance(first, m.Error)
    assert (first.name, first.space) == ("bad_space", space[:200])
    assert isinstance(second, m.Push)
    assert session.send(first)
    assert session.state is State.OPEN


@given(st.lists(st.lists(raw_client_messages, max_size=3), max_size=4))
def test_any_order_of_messages_is_taken_or_refused_with_a_protocol_error(frames: list[list[Any]]) -> None:
    session = ServerSession(MSGPACK, 0)
    for frame in frames:
        try:
            messages = session.receive(packed(*frame), 1)
        except ProtocolError as refusal:
            assert session.send(refusal.message())
            assert session.is_closed
            return
        if any(isinstance(message, m.Hello) for message in messages):
            session.send(WELCOME)


# -- rate -------------------------------------------------------------------------------------------------------------


def test_a_burst_is_taken_then_the_rate_holds() -> None:
    session = in_state(State.OPEN)
    for _ in range(MESSAGES_BURST_MAX - 1):
        session.receive(packed([12, {}]), 0)
    with pytest.raises(ProtocolError) as caught:
        session.receive(packed([12, {}]), 4)
    assert (caught.value.kind.name, caught.value.close_code) == ("rate_limited", 4100)


def test_the_bucket_fills_by_the_rate_and_no_higher_than_a_burst() -> None:
    session = in_state(State.OPEN)
    session.receive(packed([12, {}]) * (MESSAGES_BURST_MAX - 1), 0)
    for now_ms in range(5, 1005, 5):
        session.receive(packed([12, {}]), now_ms)
    session.receive(packed([12, {}]) * MESSAGES_BURST_MAX, 10_000_000)
    with pytest.raises(ProtocolError):
        session.receive(packed([12, {}]), 10_000_000)


def test_a_clock_that_is_set_back_gives_and_takes_nothing() -> None:
    session = in_state(State.OPEN)
    session.receive(packed([12, {}]) * 900, 1_000_000)
    session.receive(packed([12, {}]) * 90, 0)
    with pytest.raises(ProtocolError):
        session.receive(packed([12, {}]) * 20, 0)


# -- keep-alive -------------------------------------------------------------------------------------------------------


def test_a_connection_without_a_welcome_ends_at_the_hello_deadline_whatever_it_sends() -> None:
    session = ServerSession(MSGPACK, 100)
    session.heard(5_000)
    assert session.deadline_ms == 100 + HELLO_MS_MAX
    assert session.tick(HELLO_MS_MAX + 99) is Due.NOTHING
    assert session.tick(HELLO_MS_MAX + 100) is Due.CLOSE
    assert session.deadline_ms is None


def test_a_silent_client_is_pinged_once_and_then_given_up() -> None:
    session = in_state(State.OPEN)
    assert session.deadline_ms == PING_MS
    assert session.tick(PING_MS - 1) is Due.NOTHING
    assert session.tick(PING_MS) is Due.PING
    assert session.deadline_ms == 2 * PING_MS + 5_000
    assert session.tick(PING_MS + 1) is Due.NOTHING
    assert session.tick(2 * PING_MS + 5_000) is Due.CLOSE
    assert session.tick(10 * PING_MS) is Due.NOTHING


def test_any_byte_counts_as_life() -> None:
    session = in_state(State.OPEN)
    assert session.tick(PING_MS) is Due.PING
    session.heard(PING_MS + 10)
    assert session.deadline_ms == 2 * PING_MS + 10
    assert session.tick(2 * PING_MS + 10) is Due.PING


@pytest.mark.parametrize(("wish", "taken"), [(None, PING_MS), (1, PING_MS_MIN), (60_000, 60_000), (10**9, PING_MS_MAX)])
def test_the_client_proposes_the_interval_and_the_server_takes_the_nearest(wish: int | None, taken: int) -> None:
    session = ServerSession(MSGPACK, 0)
    session.receive(packed([1, {**HELLO[1], "keepalive_ms": wish}]), 0)
    assert session.ping_ms == taken


def test_background_lengthens_the_interval_until_foreground() -> None:
    session = in_state(State.OPEN)
    session.receive(packed([11, {"keepalive_ms": 300_000}]), 0)
    assert session.deadline_ms == 300_000
    session.receive(packed([11, {}]), 0)
    assert session.ping_ms == PING_MS_MAX
    session.receive(packed([12, {}]), 0)
    assert session.ping_ms == PING_MS


# -- subscriptions and size -------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(s.Step)))
def test_a_subscription_is_live_only_after_its_final_page(steps: list[s.Step]) -> None:
    state, has_final = s.Subscription.NONE, False
    for step in steps:
        after = s.SUBSCRIPTION[state][step]
        if after is None:
            with pytest.raises(AssertionError):
                s.subscription_after(state, step)
            continue
        state = s.subscription_after(state, step)
        has_final = step is s.Step.FINAL_PAGE or (has_final and state is s.Subscription.LIVE)
        assert (state is s.Subscription.LIVE) == has_final


def test_a_session_is_small() -> None:
    session = in_state(State.OPEN)
    assert not hasattr(session, "__dict__")
    own = sum(sys.getsizeof(getattr(session, name)) for name in ("_allowance", "_heard_ms", "_opened_ms", "_tokens_ms"))
    assert sys.getsizeof(session) + own < 400


def test_no_closing_kind_can_be_sent_twice() -> None:
    for kind in KINDS:
        session = in_state(State.OPEN)
        session.send(error(kind, "x"))
        assert session.is_closed == (kind.close is not None)
        if session.is_closed:
            assert session.send(error(kind, "x")) == b""
