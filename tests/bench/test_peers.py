"""The peers: what their clients say is what those protocols say, ratios pair runs, and C counts by the byte."""

import socket
import threading
from pathlib import Path
from typing import cast

import pytest

from bench.fanout import WINDOW, Run
from bench.latency import figures as latency_figures
from bench.measure import cores
from bench.native import Failed, Generator, compiled
from bench.peers import BATCHED_MAX, BATCHED_MIN, SUBSCRIBERS, Contender, batched_count, figures, plan
from bench.servers import PEERS, TEXT_BYTES, Peer, Role, Running, text
from tests.bench.test_load import needs_compiler, unmasked

NATS = next(peer for peer in PEERS if peer.name == "NATS")
MOSQUITTO = next(peer for peer in PEERS if peer.name == "Mosquitto")


def test_every_message_has_the_same_size_of_about_a_hundred_bytes() -> None:
    assert 70 <= TEXT_BYTES <= 130
    assert {len(text(n)) for n in (1, 64, 65, 10_000, 99_999)} == {TEXT_BYTES}
    for peer in PEERS:
        assert len({len(peer.publish(n)) for n in (1, 300, 70_000)}) == 1


def test_nats_and_mqtt_get_their_own_framing_inside_a_masked_frame() -> None:
    assert unmasked(NATS.publish(7)) == b"PUB fanout %d\r\n" % TEXT_BYTES + text(7) + b"\r\n"
    packet = unmasked(MOSQUITTO.publish(7))
    assert packet[0] == 0x32 and packet[1] == len(packet) - 2  # PUBLISH at QoS 1, and how much follows
    assert packet[2:10] == b"\0\x06fanout" and packet[10:12] == b"\0\x08" and packet[12:] == text(7)
    assert MOSQUITTO.message_bytes == len(packet) - 2  # a subscriber at QoS 0 gets no packet id


def run(per_s: float, us: float, generator_us: float = 1.0) -> Run:
    return Run(per_s, us, generator_us, 0.1, 0.2)


def contender(name: str, singles: list[Run], sixteens: list[Run]) -> Contender:
    return Contender(name, cast(Generator, None), [], singles=singles, sixteens=sixteens)


def test_ratios_are_of_runs_of_one_round_and_carry_their_targets() -> None:
    ours = contender("syncd", [run(90, 10), run(80, 10)], [run(500, 2), run(500, 2)])
    nchan = contender("nchan", [run(100, 8), run(100, 8)], [run(100, 8), run(100, 8)])
    nats = contender("NATS", [run(100, 9, 10), run(100, 9)], [run(600, 1), run(1000, 1)])
    found = {each.name: each for each in figures([run(200, 4), run(100, 4)], ours, [nchan, nats])}
    unbatched = found["syncd / nchan, one in flight"]
    assert unbatched.values == (0.9, 0.8) and str(unbatched.target) == ">= 0.85"
    assert found["nchan / syncd, one in flight, CPU"].values == (0.8, 0.8)
    assert found[f"syncd / NATS, {WINDOW} in flight"].values == (500 / 600, 0.5)
    assert found[f"syncd / nchan, {WINDOW} in flight"].verdict == "met"
    assert found["syncd / NATS, one in flight"].target is None
    assert found["syncd, one in flight / limit"].values == (0.45, 0.8)
    assert "the generator took more" in found["NATS, one in flight"].detail and not found["nchan, one in flight"].detail


def test_a_run_takes_about_a_second_whatever_the_server_does() -> None:
    assert batched_count(500.0 * SUBSCRIBERS) == 500
    assert batched_count(1.0) == BATCHED_MIN and batched_count(1e9) == BATCHED_MAX


def test_latency_is_judged_against_a_sync_and_a_round_trip_of_the_same_round() -> None:
    trips = [{"seen_p50_ms": 0.1}, {"seen_p50_ms": 0.2}]
    seen = [{"seen_p50_ms": 1.2, "seen_p99_ms": 2.4}, {"seen_p50_ms": 1.0, "seen_p99_ms": 8.0}]
    found = {each.name: each for each in latency_figures([0.3, 0.3], trips, seen)}
    assert found["p50 / (sync + round trip)"].values == (pytest.approx(3.0), pytest.approx(2.0))
    assert found["p99 / p50"].values == (pytest.approx(2.0), pytest.approx(8.0))


# -- the generator against a server of a few lines ---------------------------------------------------------------------

SUBSCRIBED, MESSAGE, CHUNK = 3, b"message of 20 bytes.", 2


def serve(listener: socket.socket, connections: int, publishes: int, lost: int) -> None:
    """Answers upgrades, and each publish with an acknowledgement and the message to all others: in odd pieces, with a
    ping in between, as other servers do. `lost`: bytes that the last message lacks."""
    sockets = []
    for _ in range(connections):
        sock, _ = listener.accept()
        assert b"\r\n\r\n" in sock.recv(4096)
        sock.sendall(b"HTTP/1.1 101 Switching\r\n\r\n\x82\x05ready")
        sockets.append(sock)
    publisher, *others = sockets
    for number in range(publishes):
        publisher.recv(4096)
        publisher.sendall(b"\x81\x02ok")
        data = MESSAGE[: len(MESSAGE) - lost] if number == publishes - 1 else MESSAGE
        for other in others:
            frame = b"\x89\x01p\x82" + bytes([len(data)]) + data
            for start in range(0, len(frame), CHUNK):
                other.sendall(frame[start : start + CHUNK])
    if not lost:
        publisher.recv(4096)  # until the generator is gone
    for sock in sockets:
        sock.close()


@needs_compiler
@pytest.mark.parametrize("lost", [0, 5])
def test_the_generator_counts_bytes_of_messages_and_finds_a_loss(tmp_path: Path, lost: int) -> None:
    role = Role(b"GET / HTTP/1.1\r\n\r\n", b"", b"ready")
    peer = Peer("p", "p", lambda: True, lambda directory, port: ([], {}), role, role, len(MESSAGE), 0, lambda n: b"x")
    made = bytearray(plan(peer, 4))
    made = made.replace(SUBSCRIBERS.to_bytes(4, "little") + (4).to_bytes(4, "little"), b"\3\0\0\0\4\0\0\0")
    (tmp_path / "plan").write_bytes(made)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=serve, args=(listener, SUBSCRIBED + 1, 4, lost), daemon=True)
        thread.start()
        command: list[str | Path] = [compiled("peers", tmp_path), str(port), str(tmp_path / "plan")]
        with Generator("peers", command, cores()[1]) as generator:
            assert generator.open()["connections"] == SUBSCRIBED + 1
            if lost:
                with pytest.raises(Failed, match=r"hangs up|bytes of messages"):
                    generator.go(1, 4)
            else:
                counted = generator.go(1, 4)
                assert (counted["outcomes"], counted["delivered"]) == (4, 4 * SUBSCRIBED)
        thread.join(5)


@pytest.mark.long
@needs_compiler
@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_an_installed_peer_delivers_every_message(tmp_path: Path, peer: Peer) -> None:
    if not peer.is_found():
        pytest.skip(f"{peer.package} is not installed")
    server_core, load_core = cores()
    (tmp_path / "plan").write_bytes(plan(peer, 60))
    with Running(peer, tmp_path / peer.name, server_core) as running:
        command: list[str | Path] = [compiled("peers", tmp_path), str(running.port), str(tmp_path / "plan")]
        with Generator(peer.name, command, load_core) as generator:
            generator.open()
            assert generator.go(1, 20)["delivered"] == 20 * SUBSCRIBERS
            assert generator.go(WINDOW, 40)["delivered"] == 40 * SUBSCRIBERS
