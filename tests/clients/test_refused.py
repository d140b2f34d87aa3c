"""An upgrade that is answered 503 says when to come back, and each shell reads it."""

from __future__ import annotations

import asyncio
import gc

import pytest
import trio

from syncd_client import aio, trio_shell
from syncd_client.errors import Unreachable

ANSWER = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 17\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def test_the_trio_shell_hears_retry_after(nursery: trio.Nursery) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(ANSWER)
        await stream.aclose()

    listeners = await nursery.start(trio.serve_tcp, refuse, 0)
    port = listeners[0].socket.getsockname()[1]
    with pytest.raises(Unreachable, match="503") as refused:
        async with trio_shell.connect_websocket(f"ws://127.0.0.1:{port}/v1/sync", "syncd.v1.json"):
            raise AssertionError("it was refused")
    assert refused.value.after_s == 17
    del refused
    gc.collect()  # a socket that was left to it would be told of here
    nursery.cancel_scope.cancel()


def test_the_asyncio_shell_hears_retry_after() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(ANSWER)
        await writer.drain()
        writer.close()

    async def main() -> float:
        async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            try:
                async with aio.connect_websocket(f"ws://127.0.0.1:{port}/v1/sync", "syncd.v1.json"):
                    raise AssertionError("it was refused")
            except Unreachable as refused:
                return refused.after_s

    assert asyncio.run(main()) == 17
