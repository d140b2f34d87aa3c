"""The PROXY protocol: whom a balancer speaks for, and what becomes of those who are none."""

from collections.abc import AsyncIterator
from ipaddress import ip_network

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.env.memory import MemoryListener, MemoryTransport
from syncd.env.ports import TransportClosed
from syncd.env.proxy import (
    FIXED_BYTES,
    OPENING_S,
    REST_BYTES_MAX,
    SIGNATURE,
    BadHeader,
    ProxyListener,
    announced_peer,
    header_rest,
)
from tests.env.kit import Connect, ListenerKit, receive_all

BALANCER = "10.0.0.7:4711"
TCP4 = bytes([203, 0, 113, 9, 10, 0, 0, 1]) + (50000).to_bytes(2) + (8740).to_bytes(2)
TCP6 = bytes.fromhex("20010db8000000000000000000000009") + bytes(16) + (50000).to_bytes(2) + (8740).to_bytes(2)


def header(command: int, family: int, rest: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(rest).to_bytes(2) + rest


class TestProxyListener(ListenerKit):
    @pytest.fixture
    def inner(self) -> MemoryListener:
        return MemoryListener()

    @pytest.fixture
    async def listener(self, inner: MemoryListener, nursery: trio.Nursery) -> AsyncIterator[ProxyListener]:
        listener = ProxyListener(inner, [ip_network("10.0.0.0/8")], lambda text: None)
        nursery.start_soon(listener.run)
        yield listener
        listener.close()

    @pytest.fixture
    def connect(self, inner: MemoryListener) -> Connect:
        async def connect() -> MemoryTransport:
            transport = inner.connect(BALANCER)
            transport.send_now(header(0x21, 0x11, TCP4))
            return transport

        return connect


@pytest.mark.parametrize(
    ("sent", "peer"),
    [
        (header(0x21, 0x11, TCP4), "203.0.113.9:50000"),
        (header(0x21, 0x21, TCP6), "[2001:db8::9]:50000"),
        (header(0x21, 0x11, TCP4 + b"\x04\x00\x03abc"), "203.0.113.9:50000"),  # with a remark of the balancer's
        (header(0x20, 0x00, b""), None),  # its own health check
        (header(0x20, 0x11, TCP4), None),
        (header(0x21, 0x31, bytes(216)), None),  # UNIX sockets have no port
        (header(0x21, 0x00, b"?"), None),
    ],
)
def test_a_header_says_who_is_at_the_other_end(sent: bytes, peer: str | None) -> None:
    fixed, rest = sent[:FIXED_BYTES], sent[FIXED_BYTES:]
    assert header_rest(fixed) == len(rest)
    assert announced_peer(fixed, rest) == peer


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 50000 8740\r\n", "version 1 is not spoken"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "the signature"),
        (SIGNATURE + b"\x11\x11\x00\x0c" + TCP4, "0x11"),
        (SIGNATURE + b"\x22\x11\x00\x0c" + TCP4, "0x22"),
        (SIGNATURE + b"\x21\x11\xff\xff", str(REST_BYTES_MAX)),
        (header(0x21, 0x11, TCP4[:11]), "12 bytes"),
        (header(0x21, 0x21, TCP6[:35]), "36 bytes"),
    ],
)
def test_what_is_no_header_is_refused_and_says_what_was_expected(sent: bytes, expected: str) -> None:
    with pytest.raises(BadHeader, match=expected):
        size = header_rest(sent[:FIXED_BYTES])
        announced_peer(sent[:FIXED_BYTES], sent[FIXED_BYTES : FIXED_BYTES + size])


@given(st.binary(min_size=FIXED_BYTES, max_size=FIXED_BYTES), st.binary(max_size=300))
def test_any_bytes_are_a_header_or_refused(tail: bytes, rest: bytes) -> None:
    for fixed in (tail, SIGNATURE + tail[12:]):
        try:
            size = header_rest(fixed)
            peer = announced_peer(fixed, rest)
        except BadHeader:
            continue
        assert size <= REST_BYTES_MAX
        assert peer is None or peer.rpartition(":")[2].isdecimal()


async def _proxied(nursery: trio.Nursery, told: list[str]) -> tuple[MemoryListener, ProxyListener]:
    inner = MemoryListener()
    listener = ProxyListener(inner, [ip_network("10.0.0.0/8"), ip_network("fd00::/8")], told.append)
    nursery.start_soon(listener.run)
    return inner, listener


async def test_a_connection_has_its_clients_address_and_every_byte_behind_the_header(nursery: trio.Nursery) -> None:
    inner, listener = await _proxied(nursery, [])
    for balancer in (BALANCER, "[fd00::7]:4711"):
        client = inner.connect(balancer, buffer_bytes=4096)
        for byte in header(0x21, 0x21, TCP6) + b"GET /":
            client.send_now(bytes([byte]))
        client.shutdown()
        server = await listener.accept()
        assert server.peer == "[2001:db8::9]:50000"
        assert await receive_all(server) == b"GET /"


@pytest.mark.parametrize("peer", ["[::ffff:10.0.0.7]:4711", "[::ffff:192.0.2.1]:4711"])
async def test_a_socket_for_both_kinds_of_addresses_knows_balancers_as_well(nursery: trio.Nursery, peer: str) -> None:
    """One that systemd opened, for example: to it an IPv4 address is the end of an IPv6 address."""
    inner, listener = await _proxied(nursery, [])
    client = inner.connect(peer)
    client.send_now(header(0x21, 0x11, TCP4))
    if "10.0.0.7" in peer:
        assert (await listener.accept()).peer == "203.0.113.9:50000"
    else:
        assert await client.receive(1) == b""


async def test_a_stranger_is_cut_off_unheard_and_told_of_once(nursery: trio.Nursery) -> None:
    told: list[str] = []
    inner, listener = await _proxied(nursery, told)
    for _ in range(3):
        stranger = inner.connect("192.0.2.1:5")
        stranger.send_now(header(0x21, 0x11, TCP4))
        assert await stranger.receive(1) == b""
    friend = inner.connect(BALANCER)
    friend.send_now(header(0x20, 0, b""))
    assert (await listener.accept()).peer == BALANCER
    assert told == ["192.0.2.1 is none of server.proxies: cut off"]


async def test_one_that_sends_no_header_holds_up_nobody_and_is_cut_off(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    told: list[str] = []
    inner, listener = await _proxied(nursery, told)
    silent, half, wrong = (inner.connect(BALANCER) for _ in range(3))
    half.send_now(SIGNATURE[:7])
    wrong.send_now(b"GET / HTTP/1.1\r\n\r\n")
    friend = inner.connect(BALANCER)
    friend.send_now(header(0x21, 0x11, TCP4))
    assert (await listener.accept()).peer == "203.0.113.9:50000"
    began_s = trio.current_time()
    for cut in (silent, half, wrong):
        assert await cut.receive(1) == b""
    assert trio.current_time() - began_s == pytest.approx(OPENING_S)
    assert [text.partition(": ")[2][:8] for text in told] == ["expected"] * 2


async def test_closing_cuts_off_those_that_are_not_handed_over(nursery: trio.Nursery) -> None:
    inner, listener = await _proxied(nursery, [])
    waiting, silent = inner.connect(BALANCER), inner.connect(BALANCER)
    waiting.send_now(header(0x21, 0x11, TCP4))
    await wait_all_tasks_blocked()
    listener.close()
    with pytest.raises(TransportClosed):
        await listener.accept()
    for cut in (waiting, silent):
        assert await cut.receive(1) == b""
