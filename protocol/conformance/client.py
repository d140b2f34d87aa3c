"""Plays vectors/sessions to a client process: a scripted server on one side, JSON lines on the other.

    python -m protocol.conformance.client [--polls] [--session NAME] -- COMMAND ...

`--polls`: by the binding of SPEC 5.5, and vectors/polls as well; SYNCD_TRANSPORT is then `poll`, else `websocket`.

COMMAND is an adapter around the client under test, started anew for each session with the variables SYNCD_URL and
SYNCD_TOKEN and an empty current directory for its replica. It stays connected, and reads commands from its input, one
JSON object a line, each answered by one line:

    {"subscribe": SPACE}                             -> {}
    {"commit": {"space": SPACE, "operations": []}}   -> {}
    {"state": SPACE} -> {"view": {"COLLECTION/ID": {FIELD: [TYPE, VALUE]}}, "complete": seq, "resume": seq,
                         "settled": n, "outbox": [n, ...]}

Values are in their JSON form. Owns the playing; shares no code with syncd or any client. Needs trio-websocket, msgpack.
"""

# A tool with an edge of its own.

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from protocol.conformance.polled import PolledServer, ServerSocket

VECTORS = Path(__file__).resolve().parents[1] / "vectors"
HELLO, PUSH, ACK, PROBE, BYE, PING, PONG = 1, 4, 5, 13, 14, 20, 21
Socket: TypeAlias = "WebSocketConnection | ServerSocket"
BARRIER_ID = 1_000_000  # beyond the ids of the scripts' own pings
ANSWER_S = 15.0  # a client that needs longer to start or to answer on a loaded machine fails here
LATE_S = 60.0  # over polls, where a client may wait for a request that was lost before it sends it again
QUIET_S = 0.2  # how long "nothing is sent" is waited for
POLL_S = 0.01


def fits(pattern: Any, item: Any) -> bool:
    """Whether a message is what a script asks for: `*` is anything, keys that the pattern does not name are free."""
    if pattern == "*":
        return True
    if isinstance(pattern, dict):
        return isinstance(item, dict) and all(fits(value, item.get(key)) for key, value in pattern.items())
    if isinstance(pattern, list):
        return isinstance(item, list) and len(pattern) == len(item) and all(map(fits, pattern, item))
    return type(pattern) is type(item) and bool(pattern == item)


def text(value: Any) -> str:
    """By text: in Python 1 == True, and 1 == 1.0."""
    return json.dumps(value, sort_keys=True)


class Player:
    """One session. `nonces`: n -> nonce, learnt from the client's pushes."""

    def __init__(self, process: trio.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.stdin, self.stdout = process.stdin, process.stdout
        self.unread = b""
        self.nonces: dict[int, str] = {}
        self.devices: list[str] = []  # ids, in the order in which they said hello
        self.accepted, self.connections = trio.open_memory_channel[Socket](10)
        self.polled: PolledServer | None = None
        self.socket: Socket | None = None
        self.has_left = False
        self.answer_s = ANSWER_S
        self.pending: list[list[Any]] = []
        self.barrier_id = BARRIER_ID

    async def serve(self, request: WebSocketRequest) -> None:
        if "syncd.v1.json" not in request.proposed_subprotocols:
            await request.reject(400, body=b"the scripts are played in the JSON binding: syncd.v1.json")
            return
        socket = await request.accept(subprotocol="syncd.v1.json")
        await self.accepted.send(socket)
        await trio.sleep_forever()  # the script closes it

    async def ask(self, command: dict[str, Any]) -> Any:
        await self.stdin.send_all(json.dumps(command).encode() + b"\n")
        with trio.fail_after(self.answer_s):
            while b"\n" not in self.unread:
                data = await self.stdout.receive_some()
                assert data, "the client's process has ended"
                self.unread += data
        line, _, self.unread = self.unread.partition(b"\n")
        return json.loads(line)

    async def next(self) -> list[Any]:
        """The client's next message but acks, keep-alive and farewells, which may come at any time."""
        while not self.pending:
            await self.receive()
        return self.pending.pop(0)

    async def receive(self) -> None:
        """One frame of the client, into `pending`."""
        assert self.socket is not None, "the script connects first"
        for message in json.loads(await self.socket.get_message()):
            if message[0] == HELLO and message[1]["device"] not in self.devices:
                self.devices.append(message[1]["device"])
            if message[0] == PONG and message[1].get("id", 0) >= BARRIER_ID:
                self.barrier_id = message[1]["id"]
            elif message[0] not in (ACK, PROBE, BYE, PING):
                self.pending.append(message)
            self.has_left = self.has_left or message[0] == BYE

    def learn(self, message: list[Any]) -> None:
        """The nonces of a push, after it was compared: what is sent again has to have the one that it had."""
        if message[0] == PUSH:
            for change in message[1]["changes"]:
                n, nonce = (change[1], change[3]) if change[0] == "void" else change[:2]
                self.nonces[n] = nonce

    async def barrier(self) -> None:
        """Until the client has taken what was sent: it answers a ping in order. One that leaves has taken it, too."""
        assert self.socket is not None
        wanted = self.barrier_id + 1
        with trio.fail_after(self.answer_s):
            try:
                await self.socket.send_message(json.dumps([[PING, {"id": wanted}]]))
                while self.barrier_id < wanted and not self.has_left:
                    await self.receive()
            except ConnectionClosed:
                return

    def filled(self, item: Any) -> Any:
        """The script with `$nonce(n)` and `$device(n)` replaced by what the client chose."""
        if isinstance(item, list):
            return [self.filled(entry) for entry in item]
        if isinstance(item, dict):
            return {key: self.filled(entry) for key, entry in item.items()}
        if isinstance(item, str) and item.startswith("$nonce("):
            return self.nonces[int(item[7:-1])]
        if isinstance(item, str) and item.startswith("$device("):
            number = int(item[8:-1])
            return self.devices[number - 1] if number <= len(self.devices) else None
        return item

    async def play(self, step: dict[str, Any]) -> None:
        if "subscribe" in step or "commit" in step:
            await self.ask(step)
        elif "connect" in step:
            with trio.fail_after(self.answer_s):
                connections = self.connections if self.polled is None else self.polled.connections
                self.socket, self.has_left = await connections.receive(), False
        elif "client" in step or "client_any" in step:
            for pattern in step.get("client", [None]):
                with trio.fail_after(self.answer_s):
                    message = await self.next()
                patterns = step.get("client_any", [pattern])
                assert any(fits(self.filled(one), message) for one in patterns), f"the client sent {message}"
                self.learn(message)
        elif "server" in step:
            assert self.socket is not None
            await self.socket.send_message(json.dumps(self.filled(step["server"])))
            await self.barrier()
        elif "close" in step:
            assert self.socket is not None
            with trio.move_on_after(self.answer_s):
                await self.socket.aclose(step["close"])
            self.socket, self.pending = None, []
        elif "silent" in step:
            with trio.move_on_after(QUIET_S), suppress(ConnectionClosed):
                raise AssertionError(f"the client sent {await self.next()}")
        elif "expect" in step:
            await self.expect(step["expect"])
        elif "befalls" in step:
            assert self.polled is not None, "played over polls only"
            for kind, events in step["befalls"].items():
                for what in events:
                    self.polled.befall(kind, what)
        elif "through" in step:
            assert self.polled is not None
            assert self.polled.is_through, "something has befallen nobody: the client sent fewer requests"

    async def expect(self, facts: dict[str, Any]) -> None:
        """The client may need a moment: asked again until it fits or time is up."""
        wanted = {key: item for key, item in facts.items() if key != "space"}
        told: Any = None
        with trio.move_on_after(self.answer_s):
            while True:
                told = await self.ask({"state": facts["space"]})
                if all(text(told.get(key)) == text(item) for key, item in wanted.items()):
                    return
                await trio.sleep(POLL_S)
        raise AssertionError(f"the client's state is {told}")


async def played(command: list[str], session: dict[str, Any], *, is_polled: bool = False) -> str | None:
    """Play one session. Returns what went wrong."""
    with tempfile.TemporaryDirectory() as directory:
        async with trio.open_nursery() as nursery:
            handler: list[Player] = []

            async def serve(request: WebSocketRequest) -> None:
                await handler[0].serve(request)

            polled = PolledServer() if is_polled else None
            if polled is not None:
                listeners = await nursery.start(partial(trio.serve_tcp, polled.serve, 0, host="127.0.0.1"))
                port = listeners[0].socket.getsockname()[1]
            else:
                port = (await nursery.start(partial(serve_websocket, serve, "127.0.0.1", 0, None))).port
            environment = {
                **os.environ,
                "SYNCD_URL": f"ws://127.0.0.1:{port}/v1/sync",
                "SYNCD_TOKEN": "vectors",
                "SYNCD_TRANSPORT": "poll" if is_polled else "websocket",
            }
            start = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
            process = await nursery.start(partial(start, cwd=directory, env=environment))
            player = Player(process)
            if polled is not None:
                player.polled, player.answer_s = polled, LATE_S
            handler.append(player)
            found = None
            for index, step in enumerate(session["steps"]):
                try:
                    await player.play(step)
                except (AssertionError, trio.TooSlowError, ConnectionClosed) as error:
                    found = f"step {index} ({', '.join(step)}): {type(error).__name__}: {error}"
                    break
            if polled is not None:
                found = found or polled.complaint
            nursery.cancel_scope.cancel()
            return found
    return None


async def run(command: list[str], name: str | None = None, *, is_polled: bool = False) -> int:
    """All sessions, or one; prints a line for each. Returns the number of failures."""
    failures = 0
    folders = ("sessions", "polls") if is_polled else ("sessions",)
    for path in (path for folder in folders for path in sorted((VECTORS / folder).glob(f"{name or '*'}.json"))):
        found = await played(command, json.loads(path.read_text()), is_polled=is_polled)
        failures += found is not None
        print(f"{path.stem}: {found or 'ok'}")
    return failures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--session", help="play only this one")
    arguments.add_argument("--polls", action="store_true", help="by polls, and what befalls their requests, too")
    arguments.add_argument("command", nargs="+")
    given = arguments.parse_args()
    sys.exit(min(1, trio.run(partial(run, given.command, given.session, is_polled=given.polls))))


if __name__ == "__main__":
    main()
