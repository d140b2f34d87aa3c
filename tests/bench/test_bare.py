"""The limits beside the daemon: they answer what the load sends, and the load counts what comes back."""

import shutil
from pathlib import Path

import pytest

from bench import connect, events
from bench.bare import Bare
from bench.measure import cores
from bench.native import Devices, Failed, compiled
from syncd.net.auth import Authenticator, Unauthenticated
from syncd.wire.cloudevents import CloudEvent, parsed_events


def test_each_post_is_answered_once_and_its_events_are_counted() -> None:
    with Bare("post", cores()[0]) as bare:
        posters = events.Posters(bare.port)
        try:
            assert posters.post([events.request("key", [events.event(number)]) for number in range(100)]) == 100
            assert posters.post([events.request("key", [events.event(number) for number in range(100)])]) == 1
        finally:
            posters.close()


def test_a_server_that_refuses_a_post_is_no_server_to_measure() -> None:
    with Bare("post", cores()[0]) as bare:
        posters = events.Posters(bare.port)
        try:
            with pytest.raises(Failed):
                posters.post([b"POST / HTTP/1.1\r\n\r\n"])
        finally:
            posters.close()


@pytest.mark.parametrize("count", [1, 100])
def test_the_daemon_reads_the_events(count: int) -> None:
    head, _, body = events.request("key", [events.event(number) for number in range(count)]).partition(b"\r\n\r\n")
    lines = (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    found = parsed_events({name.lower(): value for name, _, value in lines}, body)
    assert len(found) == count and all(isinstance(event, CloudEvent) for event in found)


def test_a_token_is_verified_by_its_own_key_only(tmp_path: Path) -> None:
    for algorithm, key in connect._keys(tmp_path).items():
        (token,) = connect._tokens(key, 1)
        principal = Authenticator([key]).token(token, connect.time.time_ns() // 1_000_000)
        assert principal.user == f"{algorithm}-0"
        with pytest.raises(Unauthenticated):
            Authenticator([other for other in connect._keys(tmp_path).values() if other.kid != algorithm]).token(
                token, 0
            )


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_bare_handshake_lets_the_devices_in(tmp_path: Path) -> None:
    server_core, load_core = cores()
    with Bare("handshake", server_core) as bare:
        plans = connect._plans(bare.port, [f"token {number}" for number in range(30)], "bare", b"")
        with Devices(compiled("devices", tmp_path), bare.port, plans, tmp_path, load_core) as devices:
            assert devices.open()["connections"] == 30
