"""What carries the next connection, and polls against a real daemon behind proxies that let no WebSocket through."""

import asyncio
import gc
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from syncd_client import aio, carriers, open_device
from syncd_client.carriers import AGAIN_MAX_S, AGAIN_MIN_S, BLOCKED_MAX, Choice, Mode
from syncd_client.device import Device, Status
from syncd_client.errors import Absent, Blocked, Refused, TransportClosed, Unreachable
from syncd_client.fallback import connect_by
from syncd_client.lanes import Dial, connect_polls, place
from syncd_client.loops import Loop
from syncd_client.policy import State
from syncd_client.shell import Connect
from syncd_client.trio_shell import TrioLoop, connect_websocket, dial
from syncd_client.values import Value
from tests.e2e.process import running

LIMIT_S = 60.0


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """A socket that was left to the garbage collector is told of here: warnings are errors."""
    yield
    gc.collect()


# -- the choice -------------------------------------------------------------------------------------------------------


def blocked_choice() -> Choice:
    choice = Choice("auto")
    for _ in range(BLOCKED_MAX):
        assert choice.next(0.0) == "websocket"
        is_over = choice.blocked(0.0, 0.5)
    assert is_over
    return choice


def test_polls_follow_two_upgrades_that_went_wrong_in_a_row() -> None:
    choice = Choice("auto")
    assert not choice.blocked(0.0, 0.0)
    choice.upgraded()
    assert not choice.blocked(0.0, 0.0)
    assert choice.blocked(0.0, 0.0)
    assert choice.next(1.0) == "polls"


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=30))
def test_a_websocket_is_tried_again_less_and_less_often_and_within_bounds(randoms: list[float]) -> None:
    choice, now_s, wait_s = blocked_choice(), 0.0, AGAIN_MIN_S
    for random in randoms:
        assert choice.next(now_s) == "polls"
        now_s = choice.again_s
        assert choice.next(now_s) == "websocket"
        wait_s = min(AGAIN_MAX_S, 2 * wait_s)
        assert choice.blocked(now_s, random), "polls follow at once"
        assert choice.again_s - now_s == pytest.approx(wait_s * (0.5 + random))


def test_when_polls_fail_a_websocket_is_next() -> None:
    choice = blocked_choice()
    choice.polls_failed()
    assert choice.next(0.0) == "websocket"


@pytest.mark.parametrize(("mode", "carrier"), [("poll", "polls"), ("websocket", "websocket")])
def test_who_is_told_what_to_use_uses_nothing_else(mode: str, carrier: str) -> None:
    choice = Choice(mode)  # type: ignore[arg-type]
    for now_s in range(10):
        assert choice.next(now_s) == carrier
        assert not choice.blocked(now_s, 0.5)
        assert choice.again_s == float("inf")


# -- a network that lets no WebSocket through -------------------------------------------------------------------------


class Proxy:
    """A proxy before a daemon. `upgrade` is what becomes of a request to upgrade: a status to answer, `strip`, `reset`
    (the daemon's 101 is passed on, and then the connection cut), or `pass`. `closes`: each answer ends its connection.
    `loss`: how often a connection is cut before its answer arrives."""

    def __init__(self, target: str, upgrade: str, *, closes: bool = False, loss: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.upgrade, self.closes, self.loss = upgrade, closes, loss
        self.upgrades = self.requests = self.losses = 0
        self._random = Random(1)

    async def serve(self, client: trio.SocketStream) -> None:
        async with client:
            try:
                head = b""
                while b"\r\n\r\n" not in head:
                    data = await client.receive_some()
                    if not data:
                        return
                    head += data
                self.requests += 1
                is_upgrade = b"upgrade: websocket" in head.lower()
                self.upgrades += is_upgrade
                if is_upgrade and self.upgrade.isdigit():
                    answer = (
                        f"HTTP/1.1 {self.upgrade} Told By A Proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                    )
                    await client.send_all(answer.encode())
                    return
                if is_upgrade and self.upgrade == "strip":
                    lines = head.split(b"\r\n")
                    hop = (b"upgrade", b"connection", b"sec-websocket-key")
                    head = b"\r\n".join(line for line in lines if not line.lower().startswith(hop))
                if self.closes:
                    head = head.replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
                is_lost = not is_upgrade and self._random.random() < self.loss
                await self._pass(client, head, is_cut=is_upgrade and self.upgrade == "reset", is_lost=is_lost)
            except* (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _pass(self, client: trio.SocketStream, head: bytes, *, is_cut: bool, is_lost: bool) -> None:
        async with await trio.open_tcp_stream(*self._target) as server, trio.open_nursery() as nursery:

            async def downward() -> None:
                async for data in server:
                    if is_lost:
                        self.losses += 1
                        break
                    await client.send_all(data)
                    if is_cut:
                        break
                nursery.cancel_scope.cancel()

            nursery.start_soon(downward)
            await server.send_all(head)
            async for data in client:
                await server.send_all(data)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxied(proxy: Proxy) -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, proxy.serve, 0)
        port = listeners[0].socket.getsockname()[1]
        yield f"ws://127.0.0.1:{port}/v1/sync"
        nursery.cancel_scope.cancel()


def title(device: Device, id: str) -> Value:
    document = device.space("home/cart").view("item", id)
    return document.fields.get("note") if document is not None else None


async def agree(near: Device, far: Device) -> str:
    """What one writes, the other shows, both ways. The document's id."""
    id = far.id.hex()
    for device in (near, far):
        device.space("home/cart").subscribe()
    near.space("home/cart").create("item", id, {"note": "the blue one"})
    await far.wait_until(lambda: title(far, id) == "the blue one")
    far.space("home/cart").set("item", id, "note", "two")
    await near.wait_until(lambda: title(near, id) == "two")
    await far.space("home/cart").wait_settled()
    return id


async def test_a_device_falls_back_when_the_upgrade_fails_as_on_such_networks(tmp_path: Path) -> None:
    with running(tmp_path / "daemon") as daemon:
        token = daemon.token("ann", "home/*:owner")

        async def fall_back(near: Device, upgrade: str) -> None:
            proxy = Proxy(daemon.http, upgrade)
            async with proxied(proxy) as url, open_device(tmp_path / upgrade, url=url, token=token) as far:
                await agree(near, far)
                assert (near.status.carrier, far.status.carrier) == ("websocket", "polls"), upgrade
                assert proxy.upgrades == BLOCKED_MAX, upgrade

        with trio.fail_after(LIMIT_S):
            async with (
                open_device(tmp_path / "near", url=daemon.sync_url, token=token) as near,
                trio.open_nursery() as nursery,
            ):
                for upgrade in ("200", "400", "426", "502", "strip", "reset"):
                    nursery.start_soon(fall_back, near, upgrade)


@pytest.mark.long  # its devices wait as long as real ones do before they try again
@pytest.mark.parametrize("binding", ["msgpack", "json"])
async def test_polls_get_through_a_proxy_that_closes_each_time_and_loses_answers(
    binding: Literal["msgpack", "json"], tmp_path: Path
) -> None:
    with running(tmp_path / "daemon") as daemon:
        proxy, token = Proxy(daemon.http, "400", closes=True, loss=0.25), daemon.token("ann", "home/*:owner")
        async with (
            proxied(proxy) as url,
            open_device(tmp_path / "a", url=daemon.sync_url, token=token) as near,
            open_device(tmp_path / "b", url=url, token=token, transport="poll", binding=binding) as far,
        ):
            with trio.fail_after(LIMIT_S):
                id = await agree(near, far)
                for _ in range(15):
                    for device in (far, near):
                        device.space("home/cart").inc("item", id, "quantity")
                    for device in (far, near):
                        await device.space("home/cart").wait_settled()
                await near.wait_until(lambda: is_thirty(near, id))
                await far.wait_until(lambda: is_thirty(far, id))
                assert near.space("home/cart").checksum == far.space("home/cart").checksum
            assert proxy.losses and not proxy.upgrades


def is_thirty(device: Device, id: str) -> bool:
    document = device.space("home/cart").view("item", id)
    return document is not None and document.fields.get("quantity") == 30 and device.outbox_depth() == 0


@pytest.mark.long
async def test_a_device_goes_back_to_a_websocket_when_the_network_lets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(carriers, "AGAIN_MIN_S", 1.0)
    with running(tmp_path / "daemon") as daemon:
        proxy, token = Proxy(daemon.http, "502"), daemon.token("ann", "home/*:owner")
        async with proxied(proxy) as url, open_device(tmp_path / "b", url=url, token=token) as device:
            with trio.fail_after(LIMIT_S):
                await device.wait_until(lambda: device.status == Status(State.READY, "", None, "polls"))
                proxy.upgrade = "pass"
                await device.wait_until(lambda: device.status == Status(State.READY, "", None, "websocket"))


async def test_the_asyncio_shell_falls_back_and_agrees_with_the_trio_shell(tmp_path: Path) -> None:
    """One that is behind such a network, and one that is told to poll; both beside a device on a WebSocket."""
    with running(tmp_path / "daemon") as daemon:
        token = daemon.token("ann", "home/*:owner")

        async def in_asyncio(url: str, transport: Mode, near_id: str) -> str:
            async with aio.open_device(tmp_path / transport, url=url, token=token, transport=transport) as far:
                space = far.space("home/cart")
                space.subscribe()
                await far.wait_until(lambda: title(far, near_id) == "the blue one")
                space.set("item", near_id, "note", transport)
                await space.wait_settled()
                return far.status.carrier

        with trio.fail_after(LIMIT_S):
            proxy = Proxy(daemon.http, "400")
            async with proxied(proxy) as url, open_device(tmp_path / "near", url=daemon.sync_url, token=token) as near:
                near.space("home/cart").subscribe()
                for transport in ("auto", "poll"):
                    id = near.space("home/cart").create("item", transport, {"note": "the blue one"}).keys[0][1]
                    run = partial(in_asyncio, url, transport, id)
                    assert await trio.to_thread.run_sync(lambda run=run: aio.run(run)) == "polls"
                    await near.wait_until(lambda id=id, transport=transport: title(near, id) == transport)
            assert proxy.upgrades == BLOCKED_MAX


async def test_polls_that_find_nobody_or_are_refused_say_so_as_an_upgrade_does(nursery: trio.Nursery) -> None:
    """Under both shells: nobody listens, `Retry-After`, and what answers without being a server of this protocol."""

    async def serve(answer: bytes, stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async def opened(port: int, loop: Loop, dial: Dial) -> None:
        url = f"ws://127.0.0.1:{port}/v1/sync"
        async with connect_polls(loop, dial, url, "syncd.v1.json", entropy=os.urandom) as transport:
            await transport.send("[]")

    answer = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 17\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    for told, kind, after_s in (
        (answer, Refused, 17.0),
        (answer.replace(b"503", b"403").replace(b"Retry-After: 17\r\n", b""), Refused, 0.0),
        (answer.replace(b"503", b"404"), TransportClosed, 0.0),
        (None, Absent, 0.0),
    ):
        if told is None:
            with socket.create_server(("127.0.0.1", 0)) as unused:
                port = unused.getsockname()[1]
        else:
            listeners = await nursery.start(trio.serve_tcp, partial(serve, told), 0)
            port = listeners[0].socket.getsockname()[1]
        in_asyncio = partial(opened, port, aio.AsyncioLoop(), aio.dial)
        with pytest.raises(kind) as in_trio:
            await opened(port, TrioLoop(), dial)
        with pytest.raises(kind) as other:
            await trio.to_thread.run_sync(lambda run=in_asyncio: aio.run(run))
        for raised in (in_trio.value, other.value):
            assert type(raised) is kind
            assert isinstance(raised, (TransportClosed, Absent))
            assert raised.after_s == after_s
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 101 Switching",
        b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: none\r\n\r\n",
    ],
)
async def test_what_answers_an_upgrade_and_is_no_websocket_is_a_network_that_blocks(
    answer: bytes, nursery: trio.Nursery
) -> None:
    """trio-websocket failed at telling it so, by an error of another library, in a group, which ended the device. Where
    the stream just ended it waited on, for all of the time that an answer may take."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    listeners = await nursery.start(trio.serve_tcp, serve, 0)
    url = f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1/sync"

    async def opened(connect: Connect) -> None:
        async with connect(url, "syncd.v1.json"):
            raise AssertionError("nobody speaks the protocol there")

    with trio.fail_after(5), pytest.raises(Blocked):
        await opened(connect_websocket)
    with pytest.raises(Blocked):
        await trio.to_thread.run_sync(lambda: aio.run(partial(opened, aio.connect_websocket)))
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "url", ["ws://a/ö", "ws://a/b c", "ws://a/b\r\nX: y", "ws://[::1/", "ftp://a", "ws://a:99999", "ws://a..b"]
)
def test_a_url_that_leads_nowhere_is_no_place(url: str) -> None:
    with pytest.raises(Unreachable):
        place(url)


@pytest.mark.parametrize(
    "run", [trio.run, aio.run, lambda main: asyncio.run(main())], ids=["trio", "uvloop", "asyncio"]
)
def test_a_stream_that_the_server_has_reset_fails_as_one_that_breaks(run: Callable[[Any], Any]) -> None:
    """uvloop raises RuntimeError for what is written to a transport that it has closed: no error of a network, so it
    ended the device whose idle stream a server had reset, as one that is restarted does."""
    dialled = dial if run is trio.run else aio.dial

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            stream = await dialled(place(f"ws://127.0.0.1:{listener.getsockname()[1]}"))
            with listener.accept()[0] as served:
                served.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError):
            while await stream.receive():
                raise AssertionError("nothing was sent")
        with pytest.raises(OSError):
            while True:
                await stream.send(b"GET / HTTP/1.1\r\n\r\n")
        await stream.aclose()

    run(main)


async def test_a_server_that_is_down_is_no_network_that_blocks(tmp_path: Path) -> None:
    with running(tmp_path / "daemon") as daemon:
        url, token = daemon.sync_url, daemon.token("ann", "home/*:owner")
    choice = Choice("auto")
    loop = TrioLoop()
    connect = connect_by(loop, choice, bytes, connect_websocket, partial(connect_polls, loop, dial))
    for _ in range(3):
        with pytest.raises(Absent):
            async with connect(url, "syncd.v1.msgpack"):
                raise AssertionError("nobody listens there")
    assert choice.next(0.0) == "websocket" and token

    async def in_asyncio() -> None:
        async with aio.connect_websocket(url, "syncd.v1.msgpack"):
            raise AssertionError("nobody listens there")

    with pytest.raises(Absent):
        await trio.to_thread.run_sync(lambda: asyncio.run(in_asyncio()))
