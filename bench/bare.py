"""What the libraries cost by themselves: a server that opens WebSockets, and one that answers posts, with nothing else.

    python -m bench.bare handshake | post        prints its port

The first is wsproto's `WSConnection`, with h11 under it, on a trio stream: it accepts every upgrade, says `welcome`
behind the answer, since the generator waits for one, and throws away what comes. The second is h11 on a trio stream: it
reads each request whole and answers 202 with as many bytes as the daemon does.
"""

import subprocess
import sys
from contextlib import suppress
from functools import partial
from types import TracebackType

import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request

from bench import workload
from bench.measure import pin

READ_BYTES = 65_536
WELCOME = workload.server_frame(workload.message(32, {"resumed": False}))
BODY = b'{"results":[{"source":"/bench","id":"00000000","status":"accepted"}]}'
HEADERS = [
    ("Content-Type", "application/json"), ("Content-Length", str(len(BODY))), ("Cache-Control", "no-store"),
    ("Date", "Thu, 01 Jan 1970 00:00:00 GMT"),
]  # fmt: skip


class Bare:
    """One of the two, running on the server's core, as a context manager."""

    def __init__(self, what: str, core: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.bare", what], preexec_fn=partial(pin, core), text=True,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.pid = self._process.pid

    def __enter__(self) -> "Bare":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


async def handshake(stream: trio.SocketStream) -> None:
    connection = WSConnection(ConnectionType.SERVER)
    while data := await stream.receive_some(READ_BYTES):
        connection.receive_data(data)
        for event in connection.events():
            if isinstance(event, Request):
                accepted = connection.send(AcceptConnection(subprotocol=event.subprotocols[0]))
                await stream.send_all(accepted + WELCOME)


async def post(stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(READ_BYTES))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            parts = (h11.Response(status_code=202, headers=HEADERS), h11.Data(data=BODY), h11.EndOfMessage())
            await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))
            body.clear()
            connection.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed):
            return


async def serve(what: str) -> None:
    async def one(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):  # the generator is killed in the middle
            await {"handshake": handshake, "post": post}[what](stream)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=4096)
    print(listeners[0].socket.getsockname()[1], flush=True)
    await trio.serve_listeners(one, listeners)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
