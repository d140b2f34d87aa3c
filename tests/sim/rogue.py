"""A peer that breaks the protocol on purpose, with tokens that are good, on devices of its own.

Owns one connection of it (`Talk`): frames as they come to mind go out, and each thing that comes back is judged; and
the table MISDEEDS of what it does, which `misdeeds.py` and `excesses.py` fill. Every answer must be a documented one,
with the documented close; what the server accepts of it passes the auditor like everyone's; and nobody else may be
disturbed, which all other invariants see to.

R1 the answer to a misdeed is the documented error, outcome or close, in time. R2 nothing of a refused frame takes
effect. A server that dies, drains, is full or has no room for one more connection ends a misdeed without a verdict.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import msgpack
import trio
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from syncd.engine.grants import Grant, Role
from syncd.env.ports import TransportClosed
from syncd.net.auth import sign_token
from tests.sim.auditor import Violation
from tests.sim.clocks import true_ms
from tests.sim.determinism import sleep
from tests.sim.network import Socket, Weather
from tests.sim.server import KEY
from tests.sim.sockets import RECEIVE_BYTES, Refused, Tap, opened, send_all
from tests.sim.wiretap import CODES, messages_of

if TYPE_CHECKING:
    from tests.sim.world import World

WAIT_S = 90.0  # for an answer: beyond every timer of the server
REST_S = 12.0  # after a misdeed that was cut short: what was on its way is recorded by then
# Ends a misdeed, not the run, unless it is just what was to be heard.
LIFE_S = 86_400.0  # of a token: the server's clock may be off by hours, and what is judged here is not its expiry
PASSING_ERRORS = ("overloaded", "store_full", "unauthenticated", "token_expired", "rate_limited")
PASSING_CLOSES = (1000, 1012, 4101, 4200, 4201)


class Disturbed(Exception):
    """Something else happened: no verdict."""


class Talk:
    """One connection of a rogue. It reads only when something is to be heard, so it can also let all pile up."""

    def __init__(self, rogue: "Rogue", socket: Socket, rest: bytes, tap: Tap | None, life: int) -> None:
        self.rogue, self.socket = rogue, socket
        self._tap = tap
        self._frames = FrameProtocol(client=True, extensions=[])
        self._frames.receive_bytes(rest)
        self._heard: deque[tuple[str, dict[str, Any]]] = deque()
        self._pieces = b""
        self._server = rogue.world.server
        self._life = life
        self.device = rogue.device
        self.close_code: int | None = None

    # -- out -----------------------------------------------------------------------------------------------------

    async def raw(self, data: bytes) -> None:
        """Bytes as they are. A connection that is gone is met when something is to be heard."""
        try:
            await send_all(self.socket, data)
        except TransportClosed:
            await trio.lowlevel.checkpoint()

    async def frame(self, payload: bytes, opcode: Opcode = Opcode.BINARY) -> None:
        await self.raw(masked(opcode, payload))

    async def say(self, name: str, **body: Any) -> None:
        payload = packed_message(name, body)
        if self._tap is not None:
            self._tap.sent(payload)
        await self.frame(payload)

    async def hello(self, **changes: Any) -> dict[str, Any]:
        """Say hello as it should be, but for `changes`, and be welcomed."""
        await self.say("hello", **(self.rogue.hello() | {"device": self.device} | changes))
        return await self.hear("welcome")

    async def push(self, space: str, *changes: list[Any], epoch: bytes | None = None) -> None:
        await self.say("push", space=space, epoch=epoch or self.rogue.epoch(space), changes=list(changes))

    async def subscribe(self, space: str, **changes: Any) -> None:
        body = {"space": space, "epoch": None, "complete": 0, "resume": 0, "settled": 0}
        await self.say("subscribe", **(body | changes))

    # -- in ------------------------------------------------------------------------------------------------------

    async def hear(self, kind: str, timeout_s: float = WAIT_S, /, **wanted: Any) -> dict[str, Any]:
        """The next message of this name with these values; others, of subscriptions, are passed by."""
        with trio.move_on_after(timeout_s):
            while True:
                heard, body = await self._next()
                if heard == kind and all(body.get(key) == value for key, value in wanted.items()):
                    return body
                self._pass_by(heard, body, f"{kind} {wanted}")
        raise self.wrong(f"hears no {kind} {wanted} within {timeout_s:.0f} s")

    async def hear_any(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """The next message of one of these names."""
        with trio.move_on_after(WAIT_S):
            while True:
                heard, body = await self._next()
                if heard in kinds:
                    return heard, body
        raise self.wrong(f"hears none of {kinds} within {WAIT_S:.0f} s")

    async def hear_close(self, code: int, timeout_s: float = WAIT_S) -> None:
        """Nothing but what was on its way, then a close with this code."""
        with trio.move_on_after(timeout_s):
            while True:
                heard, body = await self._next(code)
                if heard == "close":
                    self.rogue.world.auditor.told_close(code)
                    await self.raw(masked(Opcode.CLOSE, code.to_bytes(2)))
                    return
                self._pass_by(heard, body, f"close {code}")
        raise self.wrong(f"is not closed with {code} within {timeout_s:.0f} s")

    async def refused(self, name: str, code: int, timeout_s: float = WAIT_S) -> None:
        """An error of this name that says why, and the close that belongs to it."""
        body = await self.hear("error", timeout_s, name=name)
        if not body.get("detail"):
            raise self.wrong(f"the error {name} does not say what was expected")
        await self.hear_close(code)

    def expect(self, body: dict[str, Any], name: str) -> None:
        """An error of this name, that says when to come back."""
        if body["name"] != name:
            self._pass_by("error", body, name)
        if not body.get("after_ms"):
            raise self.wrong(f"the error {name} does not say when to come back")

    async def alive(self) -> None:
        """The connection goes on."""
        number = self.rogue.random.randrange(1, 1 << 30)
        await self.say("probe", id=number)
        await self.hear("pong", id=number)

    def _pass_by(self, heard: str, body: dict[str, Any], wanted: str) -> None:
        if heard == "error" and body["name"] in PASSING_ERRORS:
            raise Disturbed(body["name"])
        if heard == "error" or (heard == "outcomes" and (body.get("gap") or body.get("forked"))):
            raise self.wrong(f"hears {heard} {body} instead of {wanted}")

    async def _next(self, code: int | None = None) -> tuple[str, dict[str, Any]]:
        """The next message. A close is one only if it has this code."""
        while not self._heard:
            try:
                data = await self.socket.receive(RECEIVE_BYTES)
            except TransportClosed:
                data = b""
            if not data:
                raise self._ended()
            self.take(data)
        name, body = self._heard.popleft()
        if name == "error":
            self.rogue.world.auditor.told_error(body["name"])
            if body["name"] == "internal":
                raise self.wrong(f"made the server fail: {body}")
        elif name == "close" and body["code"] != code:
            if body["code"] in PASSING_CLOSES:
                raise Disturbed(f"closed with {body['code']}")
            raise self.wrong(f"is closed with {body['code']}, expected {code}")
        return name, body

    def take(self, data: bytes) -> None:
        """What was received, taken apart."""
        self._frames.receive_bytes(data)
        for frame in self._frames.received_frames():
            payload = frame.payload
            if frame.opcode is Opcode.CLOSE:
                assert isinstance(payload, tuple)
                self.close_code = 1000 if payload[0] is CloseReason.NO_STATUS_RCVD else int(payload[0])
                self._heard.append(("close", {"code": self.close_code}))
            elif frame.opcode is Opcode.BINARY:
                assert isinstance(payload, bytes | bytearray)
                self._pieces += payload
                if frame.message_finished:
                    whole, self._pieces = self._pieces, b""
                    if self._tap is not None:
                        self._tap.received(whole)
                    self._heard.extend(messages_of(whole))

    def _ended(self) -> Exception:
        return self.wrong("is cut off without a word")

    @property
    def is_disturbed(self) -> bool:
        return self._server.life != self._life or self._server.is_going or self.socket.is_reset

    def wrong(self, detail: str) -> Exception:
        if self.is_disturbed:
            return Disturbed(detail)
        return Violation("R1", f"{self.rogue.name} ({self.rogue.misdeed}): {detail}", self.rogue.name, "server")


class Rogue:
    """Who commits misdeeds, one after the other. Its documents are those that everyone edits."""

    def __init__(self, world: "World", name: str, random: Random) -> None:
        self.world, self.name, self.random = world, name, random
        self.user = f"rogue-{name}"
        self.device, self.installation = random.randbytes(16), random.randbytes(16)
        self.roles = dict.fromkeys(world.shared_spaces, 2) | {f"user/{self.user}": 3, "rogue/**": 3}
        self.misdeed = ""
        self.kept: list[tuple[str, list[Any], str, int | None]] = []  # pushed changes: space, wire form, outcome, seq
        world.name_device(self.device, name)

    # -- what it says of itself ----------------------------------------------------------------------------------

    def token(self, user: str | None = None, life_s: float = LIFE_S) -> str:
        world = self.world
        grants = [Grant(space, Role(role)) for space, role in self.roles.items()]
        token = sign_token(KEY, user or self.user, grants, life_s, true_ms(), token_id=str(self.random.getrandbits(32)))
        world.know_token(token, self.roles, true_ms() + round(life_s * 1000))
        return token

    def hello(self) -> dict[str, Any]:
        return {"device": self.device, "installation": self.installation, "time": true_ms(), "token": self.token()}

    def epoch(self, space: str) -> bytes | None:
        return self.world.server.epoch(space)

    @property
    def weather(self) -> Weather:
        return self.world.network.weather[self.name]

    def head(self, space: str) -> int:
        return self.world.auditor.space(space).oracle.head

    def any_space(self) -> str:
        return self.random.choice(self.world.shared_spaces)

    def next_n(self, space: str) -> int:
        return self.world.auditor.space(space).highest.get(self.device, 0) + 1

    def made(
        self, space: str, n: int, operations: Sequence[Any], fate: str | None = None, base: int | None = None
    ) -> list[Any]:
        """A change as it goes into a push; the auditor is told of it."""
        nonce = self.random.randbytes(8)
        base = self.random.randint(0, self.head(space)) if base is None else base
        stamp = self.random.choice((0, true_ms(), true_ms(), 2**53 - 1))
        told: Sequence[Any] = [] if fate is not None else operations
        self.world.auditor.committed(self.device, space, n, nonce, [(None, base)], told, self.name, fate)
        return [n, nonce, base, stamp, list(operations)]

    # -- what it does --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def talk(self, tap: Tap | None = None) -> AsyncIterator[Talk]:
        """A connection with the upgrade done. Raises `Disturbed` if the server takes none now."""
        life = self.world.server.life  # of the server, before it answers: it may die meanwhile
        try:
            with trio.fail_after(WAIT_S):
                socket, rest = await opened(self.world.network, self.name, "syncd.v1.msgpack")
        except (TransportClosed, Refused, trio.TooSlowError) as error:
            raise Disturbed(str(error)) from None
        try:
            yield Talk(self, socket, rest, tap, life)
        finally:
            socket.abort()

    @asynccontextmanager
    async def welcomed(self, tap: Tap | None = None) -> AsyncIterator[Talk]:
        async with self.talk(tap) as talk:
            await talk.hello()
            yield talk

    async def run(self) -> None:
        names: list[str] = []
        while True:
            await sleep(self.random.expovariate(1 / self.world.plan.misdeed_every_s))
            if not names:
                names = self.random.sample(sorted(MISDEEDS), len(MISDEEDS))  # all of them, in turn
            self.misdeed = names.pop()
            self.world.trace.record(self.name, f"misdeed: {self.misdeed}")
            try:
                await MISDEEDS[self.misdeed](self)
                self.world.misdeeds[self.misdeed] = self.world.misdeeds.get(self.misdeed, 0) + 1
                self.world.trace.record(self.name, "was answered as it should be")
            except Disturbed as disturbed:
                self.world.trace.record(self.name, f"no verdict: {disturbed}")
                await sleep(REST_S)
            except Violation as violation:
                self.world.fail(violation)


Misdeed = Callable[[Rogue], Awaitable[None]]
MISDEEDS: dict[str, Misdeed] = {}


def misdeed(function: Misdeed) -> Misdeed:
    MISDEEDS[function.__name__.replace("_", " ")] = function
    return function


def packed_message(name: str, body: dict[str, Any]) -> bytes:
    data: bytes = msgpack.packb([CODES[name], {key: value for key, value in body.items() if value is not None}])
    return data


def masked(opcode: int, payload: bytes, final: int = 0x80) -> bytes:
    """A client's frame, masked with nothing."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2) if size < 65536 else b"\xff" + size.to_bytes(8)
    return bytes([final | opcode]) + length + bytes(4) + payload
