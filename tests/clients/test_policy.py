"""When the client reconnects, what it makes of a close code, and how it notices silence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd_client.keepalive import Does, KeepAlive
from syncd_client.messages import Reconnect
from syncd_client.policy import TRANSITIONS, Disposition, Event, Retry, State, disposition, next_state

PARAMETERS = Reconnect(first_jitter_ms=2_000, backoff_ms=500, backoff_max_ms=8_000, stable_ms=60_000)


def test_the_first_wait_is_jitter_and_the_next_ones_double_up_to_the_bound() -> None:
    retry, ceilings = Retry(), []
    for _ in range(7):
        ceilings.append(retry.delay_ms(PARAMETERS, 1.0))
        retry = retry.failed()
    assert ceilings == [2_000, 1_000, 2_000, 4_000, 8_000, 8_000, 8_000]


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_negative_and_never_above_the_bound(attempt: int, random: float) -> None:
    assert 0 <= Retry(attempt).delay_ms(PARAMETERS, random) <= 8_000


def test_only_a_stable_connection_ends_the_backing_off() -> None:
    assert Retry(5).after(Disposition.BACK_OFF, 59_999, PARAMETERS) == Retry(5)
    assert Retry(5).after(Disposition.BACK_OFF, 60_000, PARAMETERS) == Retry(0)
    assert Retry(5).after(Disposition.SLOW_DOWN, 60_000, PARAMETERS) == Retry(1)


@pytest.mark.parametrize(
    ("codes", "what"),
    [
        ((1000, 1001, 1005, 1006, 1011, 1012, 1013, 1008, 3000, 4500, 4899), Disposition.BACK_OFF),
        ((1002, 1003, 1007, 1009), Disposition.BISECT),
        ((4000, 4001, 4099), Disposition.RESUME_NOW),
        ((4100, 4199), Disposition.SLOW_DOWN),
        ((4200, 4299), Disposition.REAUTHENTICATE),
        ((4300, 4399), Disposition.RESYNC),
        ((4400, 4499), Disposition.MOVE),
        ((4900, 4999), Disposition.STOP),
    ],
)
def test_a_close_code_is_obeyed_by_its_range(codes: tuple[int, ...], what: Disposition) -> None:
    assert {disposition(code) for code in codes} == {what}


def test_every_state_can_be_left_and_every_state_can_go_offline() -> None:
    for state in State:
        assert next_state(state, Event.HALT) is State.CLOSED
        assert any(source is state and target is not State.CLOSED for (source, _), target in TRANSITIONS.items())


def alive(ping_ms: int = 30_000, now_s: float = 100) -> KeepAlive:
    life = KeepAlive(now_s)
    life.heard(now_s)
    life.welcomed(ping_ms)
    return life


def test_silence_is_answered_by_one_probe_and_then_by_leaving() -> None:
    life = alive()
    assert life.tick(134.9) is Does.NOTHING
    assert life.tick(135) is Does.PROBE
    assert life.tick(144.9) is Does.NOTHING
    assert life.tick(145) is Does.DROP
    life = alive()
    life.tick(135)
    life.heard(140)
    assert life.tick(145) is Does.NOTHING
    assert life.deadline_s == 175


def test_a_socket_after_sleep_has_a_short_time_to_answer_however_often_it_is_asked() -> None:
    life = alive()
    assert life.woke(110) is Does.PROBE
    assert life.woke(114) is Does.NOTHING
    assert life.deadline_s == 115
    assert life.tick(115) is Does.DROP


def test_bytes_without_a_welcome_buy_no_time() -> None:
    life = KeepAlive(0)
    life.heard(9)
    assert life.woke(9.5) is Does.NOTHING
    assert life.tick(10) is Does.DROP
