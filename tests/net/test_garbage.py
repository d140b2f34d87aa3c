"""What a connection leaves behind when it is over: nothing that only the collector of cycles would find.

The daemon lets fifty thousand containers pile up before it looks for cycles. A session that leaves some behind is paid
for in memory, thousands of sessions at a time, and in one long pause when they are looked for.
"""

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import CoroutineType, FrameType, FunctionType, MethodType

import pytest
import trio
from trio.testing import MockClock
from wsproto.events import BytesMessage

from syncd.env.ports import TransportClosed
from syncd.net.exchange import Response, content
from syncd.net.limits import NetLimits
from tests.net.harness import SPACE, World, send_all, world
from tests.net.polled import greeted
from tests.net.test_waiting import GET, Waiting

SESSIONS = 3
FORGOTTEN_S = 400.0  # by then the wheel has gone round, and what is remembered of polled connections is forgotten
DOUBLES = ("syncd.env.memory", "syncd.env.ports")  # the client's end is made of them too, and is not the daemon's


@contextmanager
def garbage() -> Iterator[Counter[str]]:
    """Counts what of ours only the collector can free, of what is made within."""
    found: Counter[str] = Counter()
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what was there before is neither looked at nor reported
    gc.disable()
    try:
        yield found
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
    finally:
        gc.set_debug(0)
        found.update(name for item in gc.garbage if (name := _ours(item)) is not None)
        gc.garbage.clear()
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _ours(item: object) -> str | None:
    """A name for an object of the daemon; None for others'."""
    match item:
        case FrameType():
            module, name = item.f_globals.get("__name__", ""), f"frame of {item.f_code.co_qualname}"
        case CoroutineType():
            module, name = "syncd." if "/syncd/" in item.cr_code.co_filename else "", item.__qualname__
        case FunctionType():
            module, name = item.__module__ or "", item.__qualname__
        case MethodType():
            module, name = type(item.__self__).__module__, item.__func__.__qualname__
        case _:
            module, name = type(item).__module__, type(item).__qualname__
    return f"{module}: {name}" if module.startswith("syncd.") and module not in DOUBLES else None


def test_the_count_sees_a_cycle_of_ours() -> None:
    with garbage() as found:
        limits = NetLimits()
        cycle: list[object] = [limits]
        cycle.append(cycle)
        del limits, cycle
    assert found == {"syncd.net.limits: NetLimits": 1}


# -- the ways of ending: devices -----------------------------------------------------------------------------------


async def bye(w: World, n: int) -> None:
    client = await w.client(n)
    await client.subscribe()
    await client.push(client.change(["create", "notes", f"d{n}"]))
    while (await client.receive()).name != "outcomes":
        pass
    await client.send("ack", space=SPACE, epoch=None, applied=1, oldest_base=None, settled=1)
    await client.send("bye", end=True)
    await client.closing()
    client.transport.abort()


async def reset(w: World, n: int) -> None:
    client = await w.client(n)
    await client.subscribe()
    await client.push(client.change(["create", "notes", f"d{n}"]))
    client.transport.abort()


async def idle(w: World, n: int) -> None:
    client = await w.client(n)
    await client.subscribe()
    assert (await client.closing()).code == 4001
    client.transport.abort()


async def deaf(w: World, n: int) -> None:
    """Takes nothing, while others write."""
    client, other = await w.client(n, buffer_bytes=2_000), await w.client(100 + n)
    await client.subscribe()
    await other.push(other.change(["create", "notes", f"d{n}"], ["reg.set", "notes", f"d{n}", "a", "x" * 5_000]))
    for _ in range(12):
        await trio.sleep(5)
        await other.send("pong")
    assert w.hub.counters.closes[4002], "it was cut off"
    client.transport.abort()
    other.transport.abort()


async def superseded(w: World, n: int) -> None:
    older, newer = await w.client(n), await w.client(n)
    assert (await older.closing()).code == 4901
    for client in (older, newer):
        client.transport.abort()


async def broken_frame(w: World, n: int) -> None:
    client = await w.client(n)
    await send_all(client.transport, b"\xff" * 20)
    assert (await client.closing()).code == 1002
    client.transport.abort()


async def malformed_message(w: World, n: int) -> None:
    client = await w.client(n)
    await client.send_event(BytesMessage(data=b"\xc1"))
    assert (await client.closing()).code == 1007
    client.transport.abort()


async def wrong_token(w: World, n: int) -> None:
    client = w.make(w, n, 65_536, "syncd.v1.msgpack", None)
    await client.upgrade()
    await client.send("hello", **client.hello("x.y.z"))
    assert (await client.closing()).code == 4200
    client.transport.abort()


async def flood(w: World, n: int) -> None:
    client = await w.client(n, buffer_bytes=1 << 20)
    with suppress(TransportClosed):
        for _ in range(1_100):
            await client.send("pong")
    assert (await client.closing()).code == 4100
    client.transport.abort()


async def silent_after_upgrade(w: World, n: int) -> None:
    client = w.make(w, n, 65_536, "syncd.v1.msgpack", None)
    await client.upgrade()
    assert (await client.closing()).code == 4001
    client.transport.abort()


async def polled_bye(w: World, n: int) -> None:
    client = await greeted(w, n)
    await client.subscribe()
    await client.send("bye")
    assert (await client.closing()).code == 1000


async def polled_lost(w: World, n: int) -> None:
    client = await greeted(w, n)
    await client.subscribe()
    client.ask = None  # type: ignore[assignment]


# -- the ways of ending: HTTP --------------------------------------------------------------------------------------


async def said(w: World, *parts: bytes) -> bytes:
    """What is answered to these bytes, sent with a second between the parts."""
    transport = w.connect()
    for part in parts:
        await send_all(transport, part)
        await trio.sleep(1)
    answer = bytes(await transport.receive(65_536))
    transport.abort()
    return answer


async def refused_upgrade(w: World, n: int) -> None:
    assert b" 426 " in await said(w, b"GET /v1/sync HTTP/1.1\r\nHost: a\r\n\r\n")


async def bad_head(w: World, n: int) -> None:
    assert b" 400 " in await said(w, b"\x00\r\n\r\n")


async def long_head(w: World, n: int) -> None:
    assert b" 431 " in await said(w, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 40_000 + b"\r\n\r\n")


async def bad_body(w: World, n: int) -> None:
    head = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert b" 400 " in await said(w, head, b"zz\r\n")


async def unfinished_body(w: World, n: int) -> None:
    transport = w.connect()
    await send_all(transport, b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{")
    await trio.sleep(1)
    transport.abort()


async def unfinished_head(w: World, n: int) -> None:
    transport = w.connect()
    await send_all(transport, b"GET ")
    assert b" 408 " in await transport.receive(65_536)
    transport.abort()


async def request(w: World, n: int) -> None:
    assert b" 200 " in await said(w, b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")


async def fault(w: World, n: int) -> None:
    assert b" 500 " in await said(w, b"GET /fault HTTP/1.1\r\nHost: a\r\n\r\n")


async def gone_while_handled(w: World, n: int) -> None:
    transport = w.connect()
    await send_all(transport, b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    await trio.sleep(1)
    transport.abort()


Kind = Callable[[World, int], Awaitable[None]]
KINDS: list[Kind] = [
    bye, reset, idle, deaf, superseded, broken_frame, malformed_message, wrong_token, flood, silent_after_upgrade,
    polled_bye, polled_lost, refused_upgrade, bad_head, long_head, bad_body, unfinished_body, unfinished_head, request,
    fault, gone_while_handled,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
async def test_a_session_leaves_no_cycle_behind(kind: Kind, autojump_clock: MockClock) -> None:
    async with world() as w:
        await kind(w, 1)  # what is made once, as tables and caches, is not a session's
        await trio.sleep(FORGOTTEN_S)
        with garbage() as found:
            for n in range(2, 2 + SESSIONS):
                await kind(w, n)
            await trio.sleep(FORGOTTEN_S)
            assert w.server.connection_count == w.server.polled_count == w.server.remembered_count == 0
        assert not found


@pytest.mark.parametrize("sent", [b"\x00\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET "])
async def test_a_connection_that_is_one_too_many_leaves_no_cycle_behind(sent: bytes, autojump_clock: MockClock) -> None:
    async with world(replace(NetLimits(), connections_max=0)) as w:
        await said(w, sent)
        with garbage() as found:
            for _ in range(SESSIONS):
                await said(w, sent)
            await trio.sleep(FORGOTTEN_S)
        assert not found


@pytest.mark.parametrize("ending", ["answered", "failed", "gone"])
async def test_a_request_that_waits_leaves_no_cycle_behind(ending: str, autojump_clock: MockClock) -> None:
    async def answer() -> Response:
        await trio.sleep(1)
        if ending == "failed":
            raise RuntimeError("a defect")
        return content(200, "text/plain", b"")

    async with world(api=Waiting(answer)) as w:

        async def once() -> None:
            transport = w.connect()
            await send_all(transport, GET)
            await trio.sleep(0.5 if ending == "gone" else 2)
            transport.abort()
            await trio.sleep(2)

        await once()
        with garbage() as found:
            for _ in range(SESSIONS):
                await once()
        assert not found


@pytest.mark.parametrize("ending", ["whole", "failed", "gone"])
async def test_a_stream_leaves_no_cycle_behind(ending: str, autojump_clock: MockClock) -> None:
    async def stream(send: Callable[[bytes], Awaitable[None]]) -> None:
        await send(b"some")
        if ending == "failed":
            raise RuntimeError("a defect")
        await trio.sleep(1)

    async with world(api=Waiting(stream=stream)) as w:

        async def once() -> None:
            transport = w.connect()
            await send_all(transport, GET)
            await trio.sleep(0.5 if ending == "gone" else 2)
            transport.abort()
            await trio.sleep(2)

        await once()
        with garbage() as found:
            for _ in range(SESSIONS):
                await once()
        assert not found


async def test_devices_that_are_sent_away_leave_no_cycle_behind(autojump_clock: MockClock) -> None:
    async with world() as w:
        with garbage() as found:
            clients = [await w.client(n) for n in range(SESSIONS)]
            for client in clients:
                await client.subscribe()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.hub.drain, 5.0, lambda low, high: low)
                for client in clients:
                    nursery.start_soon(client.closing)
            for client in clients:
                client.transport.abort()
            del client, clients, nursery
            await trio.sleep(FORGOTTEN_S)
        assert not found


async def test_a_device_that_comes_and_goes_is_remembered_once(autojump_clock: MockClock) -> None:
    async with world() as w:
        for _ in range(5):
            client = await w.client(1)
            client.transport.abort()
            await trio.sleep(1)
        assert w.hub.session_count == 1
        again = await w.client(1, session=client.welcome["session"])
        assert again.welcome["resumed"], "the newest can be resumed"
        again.transport.abort()
