"""What arrives at an open port besides clients: scans, broken clients, and those who try.

Owns a few kinds of bytes that mean nothing to the daemon or that it must refuse, each as parts that are sent one after
the other. How the daemon answers is for the tests of its parts; here only that it goes on, and keeps nothing.
"""

import random
import socket
import struct
from collections.abc import Callable

import trio

from bench import workload

_Maker = Callable[[random.Random, str, str], list[bytes]]


def _noise(rng: random.Random, host: str, token: str) -> list[bytes]:
    return [rng.randbytes(rng.randrange(1, 2000))]


def _unfinished_request(rng: random.Random, host: str, token: str) -> list[bytes]:
    return [b"POST /v1/events HTTP/1.1\r\nHost: " + host.encode() + b"\r\nContent-Length: 100000\r\n\r\n{"]


def _long_header(rng: random.Random, host: str, token: str) -> list[bytes]:
    return [b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n"]


def _not_json(rng: random.Random, host: str, token: str) -> list[bytes]:
    body = b"[" * rng.randrange(1, 5000)
    head = f"POST /v1/events HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer none\r\nContent-Length: {len(body)}\r\n"
    return [head.encode() + b"Content-Type: application/json\r\n\r\n" + body]


def _half_an_upgrade(rng: random.Random, host: str, token: str) -> list[bytes]:
    request = workload.upgrade_request(host, rng.randbytes(16))
    return [request[: rng.randrange(10, len(request))]]


def _upgraded(rng: random.Random, host: str, *frames: bytes) -> list[bytes]:
    return [workload.upgrade_request(host, rng.randbytes(16)), *frames]


def _noise_after_upgrade(rng: random.Random, host: str, token: str) -> list[bytes]:
    return _upgraded(rng, host, rng.randbytes(rng.randrange(1, 2000)))


def _unmasked(rng: random.Random, host: str, token: str) -> list[bytes]:
    return _upgraded(rng, host, workload.server_frame(rng.randbytes(50)))


def _endless_frame(rng: random.Random, host: str, token: str) -> list[bytes]:
    return _upgraded(rng, host, b"\x82\xff" + (1 << 62).to_bytes(8), rng.randbytes(1000))


def _stranger(rng: random.Random, host: str, token: str) -> list[bytes]:
    hello = workload.hello_message(workload.sized_id("stranger"), token[:-8] + "AAAAAAAA")
    return _upgraded(rng, host, workload.client_frame(hello))


def _malformed_push(rng: random.Random, host: str, token: str) -> list[bytes]:
    """From a device with a good token: garbage that gets as far as it can."""
    hello = workload.client_frame(workload.hello_message(workload.sized_id("hostile"), token))
    push = workload.push_message("bench/soak/0", [workload.single_field_change(1, 1)])
    cut = rng.randrange(1, len(push) - 1)  # so it is never whole: what a bent name made would be kept, rightly
    return _upgraded(rng, host, hello, workload.client_frame(push[:cut] + rng.randbytes(rng.randrange(3))))


def _unknown_message(rng: random.Random, host: str, token: str) -> list[bytes]:
    hello = workload.client_frame(workload.hello_message(workload.sized_id("hostile"), token))
    return _upgraded(rng, host, hello, workload.client_frame(workload.message(rng.randrange(64), {"space": "x"})))


KINDS: tuple[_Maker, ...] = (
    _noise, _unfinished_request, _long_header, _not_json, _half_an_upgrade, _noise_after_upgrade, _unmasked,
    _endless_frame, _stranger, _malformed_push, _unknown_message,
)  # fmt: skip


def drawn(rng: random.Random, host: str, token: str) -> list[bytes]:
    """One of the kinds. `token`: a good one, for those who have it."""
    return rng.choice(KINDS)(rng, host, token)


def reset(sock: trio.socket.SocketType) -> None:
    """Let the close of this socket be a reset, as when a machine goes away."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
