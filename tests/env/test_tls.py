"""TLS passes the acceptance kit of transports, and what only TLS can get wrong."""

import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock

from syncd.env.memory import MemoryListener, transport_pair
from syncd.env.ports import Transport, TransportClosed
from syncd.env.real import SocketTransport
from syncd.env.tls import RECORD_BYTES, RENEWED_S, BadCertificate, Certificate, TlsListener, TlsTransport
from tests.env.kit import Pair, TransportKit, fill, receive_all, send_all

NAME = "server.invalid"
CA = trustme.CA()


def files(directory: Path, authority: trustme.CA = CA) -> tuple[Path, Path]:
    made = authority.issue_cert(NAME)
    certificate, key = directory / "chain.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    return certificate, key


def server_side() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    CA.issue_cert(NAME).configure_cert(context)
    return context


def client_side() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def opened(near: Transport, far: Transport) -> Pair:
    """A client's and a server's end, after the handshake, which the first byte each way brings about."""
    client, server = TlsTransport(near, client_side(), NAME), TlsTransport(far, server_side())

    async def hear(end: TlsTransport) -> None:
        assert await end.receive(100) == b"!"

    async def greet(end: TlsTransport) -> None:
        await end.wait_writable()
        await send_all(end, b"!")

    async with trio.open_nursery() as nursery:
        for end in (client, server):
            nursery.start_soon(hear, end)
            nursery.start_soon(greet, end)
    return client, server


class TestTlsOverMemory(TransportKit):
    @pytest.fixture(params=[(2000, "client"), (65536, "client"), (65536, "server")])
    async def pair(self, request: pytest.FixtureRequest) -> Pair:
        buffer_bytes, first = request.param
        client, server = await opened(*transport_pair(buffer_bytes))
        return (client, server) if first == "client" else (server, client)


class TestTlsOverSockets(TransportKit):
    @pytest.fixture
    async def pair(self) -> AsyncIterator[Pair]:
        near, far = (SocketTransport(end) for end in socket.socketpair())
        client, server = await opened(near, far)
        yield client, server
        client.abort()
        server.abort()


# -- what only TLS can get wrong --------------------------------------------------------------------------------------


async def test_nothing_is_taken_before_the_handshake_and_who_waits_is_woken_by_it() -> None:
    near, far = transport_pair()
    client, server = TlsTransport(near, client_side(), NAME), TlsTransport(far, server_side())
    assert client.send_now(b"early") == 0

    async def write() -> None:
        await client.wait_writable()
        await send_all(client, b"early")
        client.shutdown()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(client.receive, 1)
        assert await receive_all(server) == b"early"
        server.shutdown()


@pytest.mark.parametrize("buffer_bytes", [2000, 20_000, 200_000])
async def test_a_reader_that_stops_costs_one_record_and_bytes_count_when_their_record_is_out(buffer_bytes: int) -> None:
    near, far = transport_pair(buffer_bytes)
    client, server = await opened(near, far)
    taken = await fill(server)
    # Every record that counts has left; one more is on its way; the rest was never encrypted.
    assert max(0, buffer_bytes - RECORD_BYTES - 600) <= taken <= buffer_bytes
    await client.receive(1)


async def test_an_end_whose_word_finds_no_room_is_read_on_behind() -> None:
    """What was left of the close_notify was offered to the inner stream again, which had ended: so the reader broke
    off, and a socket that is closed with unread input takes back what it was sent."""
    near, far = transport_pair(2000)
    client, server = await opened(near, far)
    sent = 0
    while taken := server.send_now(bytes(max(1, far._outward.room_bytes - 30))):
        sent += taken
        if far._outward.room_bytes < 24:
            break
    server.shutdown()
    await send_all(client, b"late")
    assert await server.receive(100) == b"late"
    data = b""
    with pytest.raises(TransportClosed):
        while True:
            data += await client.receive(10_000)
    assert len(data) == sent


async def test_a_stream_that_is_cut_off_is_not_taken_for_one_that_ended() -> None:
    near, far = transport_pair()
    client, server = await opened(near, far)
    assert client.send_now(b"transfer 100") == 12
    near.shutdown()  # below TLS, as an attacker on the way would
    assert await server.receive(100) == b"transfer 100"
    with pytest.raises(TransportClosed, match="cut off"):
        await server.receive(100)


async def test_bytes_that_were_altered_end_the_connection() -> None:
    near, far = transport_pair()
    client, server = await opened(near, far)
    client.send_now(b"pay ann")
    raw = far._inward.buffer
    raw[-1] ^= 1
    with pytest.raises(TransportClosed, match="TLS: "):
        await server.receive(100)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), os.urandom(1000), b"\x16\x03\x01\xff\xff"])
async def test_who_speaks_no_tls_is_told_so_by_an_alert_and_cut_off(said: bytes) -> None:
    near, far = transport_pair()
    server = TlsTransport(far, server_side())
    near.send_now(said)
    near.shutdown()
    with pytest.raises(TransportClosed, match="TLS: "):
        await server.receive(100)
    with pytest.raises(TransportClosed):
        await server.receive(100)
    server.abort()


async def test_a_client_that_does_not_trust_the_certificate_ends_the_connection_on_both_sides() -> None:
    near, far = transport_pair()
    client, server = TlsTransport(near, ssl.create_default_context(), NAME), TlsTransport(far, server_side())

    async def refused(end: TlsTransport) -> None:
        with pytest.raises(TransportClosed, match="TLS: "):
            await end.receive(100)
        end.abort()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refused, client)
        nursery.start_soon(refused, server)


# -- certificates -----------------------------------------------------------------------------------------------------


async def _serial(listener: TlsListener, inner: MemoryListener, authority: trustme.CA) -> int:
    """Of the certificate that a new connection is shown."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = TlsTransport(inner.connect(), context, NAME)
    server = await listener.accept()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive, 1)
        nursery.start_soon(server.receive, 1)
        await client.wait_writable()
        shown = client._tls.getpeercert()
        nursery.cancel_scope.cancel()
    assert shown is not None
    return int(str(shown["serialNumber"]), 16)


async def test_a_renewed_certificate_is_taken_and_a_broken_one_leaves_the_old_in_force(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    told: list[str] = []
    certificate, key = files(tmp_path)
    inner = MemoryListener()
    listener = TlsListener(inner, Certificate(certificate, key, told.append))
    first = await _serial(listener, inner, CA)
    files(tmp_path)
    assert await _serial(listener, inner, CA) == first  # not looked at with each connection
    await trio.sleep(RENEWED_S)
    second = await _serial(listener, inner, CA)
    assert second != first
    certificate.write_text("no certificate")
    await trio.sleep(RENEWED_S)
    assert await _serial(listener, inner, CA) == second
    await trio.sleep(RENEWED_S)
    assert await _serial(listener, inner, CA) == second
    assert len(told) == 1 and str(certificate) in told[0]
    certificate.unlink()
    await trio.sleep(RENEWED_S)
    assert await _serial(listener, inner, CA) == second
    assert "no such file" in told[1]


async def test_each_bad_pair_of_files_is_named(tmp_path: Path) -> None:
    certificate, key = files(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    _, foreign = files(other)
    empty = tmp_path / "empty.pem"
    empty.touch()
    encrypted = tmp_path / "encrypted.pem"
    from cryptography.hazmat.primitives import serialization

    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    encrypted.write_bytes(
        loaded.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
        )
    )
    for pair, reason in (
        ((tmp_path / "none.pem", key), "none.pem: there is no such file"),
        ((certificate, tmp_path / "none.pem"), "none.pem: there is no such file"),
        ((certificate, foreign), "key values mismatch"),
        ((empty, key), "empty.pem"),
        ((certificate, encrypted), "encrypted"),
    ):
        with pytest.raises(BadCertificate, match=reason):
            Certificate(*pair, print)
