"""HTTP events: posts of one event and of a hundred, durable when they are answered, beside h11 that answers a post.

The load keeps one request in flight on each of its connections, so what arrives together is committed together, as it
is with many backends. Every event is new. The measure is processor time of the server.
"""

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from bench.bare import Bare
from bench.daemon import Daemon
from bench.measure import Figure, Target, cores, cpu_s, ratios
from bench.native import Failed
from bench.profiling import profiled

CONNECTIONS = 32
SINGLES, SINGLES_QUICK = 4_000, 1_500
BATCH = 100
STALL_S = 30.0
SINGLE_TARGET = Target(least=0.7)
BATCH_TARGET = Target(least=8.0)
ACCEPTED = b'"status":"accepted"'


def event(number: int) -> dict[str, object]:
    """What a shop posts about an order."""
    return {
        "specversion": "1.0", "type": "order.shipped", "source": "/bench", "id": f"{number:08d}",
        "subject": f"user-{number % 100}", "data": {"order": number, "carrier": "DHL", "parcels": 1},
    }  # fmt: skip


def request(key: str, events: list[dict[str, object]]) -> bytes:
    single = len(events) == 1
    body = json.dumps(events[0] if single else events).encode()
    kind = "application/cloudevents+json" if single else "application/cloudevents-batch+json"
    return (
        f"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\nContent-Type: {kind}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


class Posters:
    """Connections that stay open. `post` sends all requests and returns how many events were accepted."""

    def __init__(self, port: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        self._selector = selectors.DefaultSelector()
        for each in self._sockets:
            self._selector.register(each, selectors.EVENT_READ, bytearray())

    def close(self) -> None:
        self._selector.close()
        for each in self._sockets:
            each.close()

    def post(self, requests: list[bytes]) -> int:
        left: Iterator[bytes] = iter(requests)
        accepted = answered = 0
        for each in self._sockets:
            if (data := next(left, None)) is not None:
                each.sendall(data)
        while answered < len(requests):
            ready = self._selector.select(STALL_S)
            if not ready:
                raise Failed(f"{len(requests) - answered} requests were not answered")
            for selected, _ in ready:
                sock, received = selected.fileobj, selected.data
                assert isinstance(sock, socket.socket)
                data = sock.recv(65_536)
                if not data:
                    raise Failed("the server hangs up")
                received += data
                if (size := _whole(received)) == 0:
                    continue
                accepted += received.count(ACCEPTED)
                if size != len(received) or not received.startswith(b"HTTP/1.1 202"):
                    raise Failed(f"not the answer to one post: {bytes(received[:300])!r}")
                received.clear()
                answered += 1
                if (data := next(left, b"")) != b"":
                    sock.sendall(data)
        return accepted


def _whole(received: bytearray) -> int:
    """The size of the response at the beginning; 0 if it is not whole."""
    head, separator, _ = received.partition(b"\r\n\r\n")
    if not separator:
        return 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = len(head) + len(separator) + int(line.partition(b":")[2])
            return size if len(received) >= size else 0
    raise Failed(f"a response without a length: {bytes(head[:300])!r}")


def _us(posters: Posters, pid: int, requests: list[bytes], events: int) -> float:
    before = cpu_s(pid)
    accepted = posters.post(requests)
    used = cpu_s(pid) - before
    if accepted != events:
        raise Failed(f"{accepted} of {events} events were accepted")
    return used / events * 1e6


def run(directory: Path, *, quick: bool, say: Callable[[str], None], profile: bool = False) -> list[Figure]:
    """`profile`: one more run of each kind under py-spy, and its shares as figures. Raises `Failed`."""
    server_core, _ = cores()
    runs, singles = (3, SINGLES_QUICK) if quick else (5, SINGLES)
    bare: list[float] = []
    single: list[float] = []
    batched: list[float] = []
    shares: list[Figure] = []
    with Daemon(directory / "events", server_core) as daemon, Bare("post", server_core) as plain:
        key, number = daemon.api_key("events:write"), 0
        ours, theirs = Posters(daemon.port), Posters(plain.port)

        def made(count: int, each: int) -> list[bytes]:
            nonlocal number
            requests = []
            for _ in range(count):
                requests.append(request(key, [event(number + i) for i in range(each)]))
                number += each
            return requests

        try:
            ours.post(made(300, 1))  # warms up
            theirs.post(made(300, 1))
            for index in range(runs):
                say(f"events: run {index + 1} of {runs}")
                bare.append(_us(theirs, plain.pid, made(singles, 1), singles))
                single.append(_us(ours, daemon.pid, made(singles, 1), singles))
                batched.append(_us(ours, daemon.pid, made(singles // 20, BATCH), singles // 20 * BATCH))
                time.sleep(0.2)
            if profile:
                for name, requests in (("single posts", made(singles, 1)), ("batches", made(singles // 10, BATCH))):
                    shares += profiled(f"events, {name}", daemon.pid, directory, partial(ours.post, requests), say)
        finally:
            ours.close()
            theirs.close()
        daemon.check()
    return [
        Figure("events", "bare h11 that answers a post, CPU", "us/event", tuple(bare)),
        Figure("events", "single posts, CPU", "us/event", tuple(single)),
        Figure("events", "bare / single posts", "ratio", ratios(bare, single), SINGLE_TARGET, "of processor time"),
        Figure("events", f"batches of {BATCH}, CPU", "us/event", tuple(batched)),
        Figure(
            "events", f"single posts / batches of {BATCH}", "ratio", ratios(single, batched), BATCH_TARGET,
            "of processor time for each event",
        ),
        *shares,
    ]  # fmt: skip
