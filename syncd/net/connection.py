"""One device connection: what a client says, and what is asked of the engine for it.

Owns the reader (one task for each connection), the handshake, the order of a client's requests, and every deadline of
the connection. Must not know how bytes reach the socket or what a subscription still lacks (`delivery`), nor what a
command does (`engine`). A client's messages are judged by `wire.session` before they are seen here.

Invariants: N1 acks and pushes of one connection reach the committer in the order in which they came. N2 at most
`pushes_in_flight_max` pushes are unanswered: then the reader stops. N3 before `welcome` the engine is asked nothing but
whose the device is, and after the conversation is closed nothing but to take the acks that waited. N4 each close has a
code that tells the client what to do, and an `error` before it where the registry has one.
"""

import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final

import trio

from syncd.core.changes import numbers_of
from syncd.engine import commands, reading
from syncd.engine.commands import Attached, Author, Command, Done, Forget, Lose, Purge, Pushed, Result
from syncd.engine.grants import Role
from syncd.engine.reading import Cursor
from syncd.env.ports import Transport, TransportClosed
from syncd.net import happenings, websocket
from syncd.net.acks import Acks
from syncd.net.answers import answer_to, asked_for, check_frame_bytes
from syncd.net.auth import Principal
from syncd.net.channels import Channel
from syncd.net.comparing import asked
from syncd.net.counters import BY_PEER, LOST, STALLED, UNFINISHED
from syncd.net.delivery import Delivery
from syncd.net.formats import format_of
from syncd.net.halt import Halt
from syncd.net.http import RECEIVE_BYTES, Upgrade
from syncd.net.services import Services
from syncd.net.standing import Standing, revoked, standing, standing_after, subscribed
from syncd.net.websocket import Closed, FrameRefused, Inbound, Pinged, Scrap, close_frame, frame
from syncd.store.api import Reader
from syncd.store.committer import Overloaded
from syncd.wire import errors
from syncd.wire import messages as m
from syncd.wire.errors import KIND_BY_NAME, Kind, ProtocolError, error
from syncd.wire.limits import HELLO_BYTES_MAX
from syncd.wire.session import SIGNALS, Due, ServerSession, State, Step, Subscription

IDLE, NO_PROGRESS, BUSY = 4001, 4002, 4101  # close codes for which the registry has no error
SESSION_BYTES: Final = 16

# A frame that takes longer to inflate and read is followed by a pause as long: who sends megabytes of nested arrays
# back to back has half of the loop at most. Turns between the changes of a frame would not do: one change may fill it.
READ_S_MAX: Final = 0.005


class Connection:
    """Speaks for one device, from the upgrade to the end of the byte stream."""

    __slots__ = (
        *("_acks", "_author", "_authorization", "_closing_due_s", "_counters", "_expires_ms", "_forgetting"),
        *("_halt", "_in_flight", "_inbound", "_services", "_session", "_session_id", "_unread"),
        *("delivery", "due"),
    )

    def __init__(self, transport: Transport, upgrade: Upgrade, services: Services) -> None:
        codec, limits = upgrade.codec, services.wire_limits
        self.due: int | None = None  # the wheel's
        is_sent_deflated = upgrade.deflate is not None and upgrade.deflate.is_sent
        self.delivery = Delivery(transport, format_of(codec, is_deflated=is_sent_deflated), services.wiring, self)
        self._services, self._counters = services, services.gate.counters
        self._session = ServerSession(codec, _now_ms(), limits, services.limits.ping_ms)
        # Not more than a hello needs, until it is known who sends. None: what comes is thrown away.
        hello_bytes_max = min(HELLO_BYTES_MAX, codec.frame_bytes_max(limits))
        self._inbound: Inbound | None = Inbound(
            is_text=codec.is_text, payload_bytes_max=hello_bytes_max, is_deflated=upgrade.deflate is not None
        )
        self._authorization = upgrade.authorization
        self._unread, self._session_id = upgrade.trailing, b""
        self._author: Author | None = None  # from `welcome` on
        self._expires_ms: int | None = None
        self._closing_due_s: float | None = None  # our close frame is out: when to give up on the peer's
        self._in_flight = 0
        self._halt = Halt()
        self._acks = Acks()
        self._forgetting: set[str] | None = None  # spaces with a `Forget` that is not carried out yet

    # -- the reader ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serve until the byte stream ends."""
        receive = self.delivery.transport.receive
        self._watch()
        try:
            data, self._unread = self._unread, b""
            while True:
                if data:
                    await self._take(data)
                    if self._author is not None and (
                        pause_s := self._services.gate.input_pause_s(self._author.user, len(data))
                    ):
                        await self._pause(pause_s)
                del data  # an idle connection must not hold on to what it received last
                data = await receive(RECEIVE_BYTES)
                if not data:
                    break
        except TransportClosed:
            pass
        finally:
            self._submit_acks()
            self._session.close()
            if self._closing_due_s is None:
                self._counters.closes[LOST] += 1
            self._inbound = None  # the wheel holds this object until its last deadline: not half a message with it
            self._services.hub.unfinished.let_go(self)
            if self._author is not None:
                self._services.hub.part(self)  # first: a defect of the delivery must not leave a dead member behind
            self.delivery.abort()
            self.delivery.disown()

    def heard(self) -> None:
        """A sign of life that is not in the byte stream: a request of a polled connection."""
        self._session.heard(_now_ms())

    async def _take(self, data: bytes) -> None:
        """All that a piece of input completes, in order. A frame that is refused has no effect."""
        inbound, unfinished = self._inbound, self._services.hub.unfinished
        began_s = trio.current_time()
        self._session.heard(int(began_s * 1000))
        if inbound is None:
            return
        try:
            for item in inbound.receive(data):
                if isinstance(item, Closed):
                    self._peer_closed(item.code)
                elif self._session.is_closed:
                    continue
                elif isinstance(item, Pinged):
                    self._session.charge(1, int(began_s * 1000))
                    self.delivery.send_frame(frame(websocket.PONG, item.payload))
                elif isinstance(item, Scrap):
                    self._session.charge(1, int(began_s * 1000))
                else:
                    unfinished.let_go(self)
                    messages = self._session.receive(item, int(began_s * 1000))
                    read_s = trio.current_time() - began_s
                    self._counters.messages_received += len(messages)
                    for message in messages:
                        await self._handle(message)
                        if self._closing_due_s is not None or self._inbound is None:
                            break  # also what came behind a `hello` that was refused; a `bye` has yet to be handled
                    if read_s > READ_S_MAX:
                        await trio.sleep(read_s)
                    if self._author is not None and (grown := inbound.grown()):  # at once: much may come compressed
                        await self._pause(self._services.gate.input_pause_s(self._author.user, grown))
                began_s = trio.current_time()
            if inbound.held_bytes and self._inbound is not None:
                unfinished.hold(self, inbound.held_bytes)
        except ProtocolError as refused:
            self._refuse(refused)
            if refused.kind is errors.RATE_LIMITED:
                self._stop_looking()  # or a flood would cost as much as before until the peer closes
        except FrameRefused as refused:
            if refused.code == websocket.PROTOCOL_ERROR:
                self.close(refused.code, refused.reason)  # who breaks the framing would not find our error either
            else:
                self._end(errors.MALFORMED, refused.reason, refused.code)
            self._stop_looking()  # where the next frame begins is unknown, so its close frame cannot be waited for
        except Exception:
            self.failed()

    async def _pause(self, seconds: float) -> None:
        """The user sends more than its share."""
        if seconds:
            if self._halt.reassures(_now_ms(), self._session.ping_ms):
                self._send(m.Ping())
            await self._halt.pause(seconds)

    def _stop_looking(self) -> None:
        """Throw away what else comes. To cut the peer off at once would make the kernel throw away our close frame,
        because there is input that nobody has read."""
        self.delivery.end()
        self._inbound = None
        self._services.hub.unfinished.let_go(self)

    def give_up(self) -> None:
        self._counters.cut_off[UNFINISHED] += 1
        self.close(BUSY, "too much is held of messages that do not end")
        self._stop_looking()

    async def _handle(self, message: m.ClientMessage | m.Error) -> None:
        match message:
            case m.Push():
                await self._push(message)
            case m.Ack():
                self._ack(message)
            case m.Sums():
                await self._sums(message)
            case m.Subscribe():
                self._subscribe(message)
            case m.Unsubscribe():
                self._unsubscribe(message)
            case m.Hello():
                await self._hello(message)
            case m.Signal():
                channel = self.delivery.channels.get(message.space)
                self._send(*self._services.hub.live.received(message, channel, self._known()))
            case m.Event():
                happenings.take(message, self._known(), self._services, partial(self._guarded, self._send))
            case m.Refresh():
                self._refresh(message)
            case m.Purged():
                self._submit(Purge(self._known(), message.space), partial(self._acked, message.space), message.space)
            case m.Probe() | m.Ping():
                self._send(m.Pong(message.id))
            case m.Pong():
                pass
            case m.Background() | m.Foreground():
                self._services.hub.rests(self, is_resting=isinstance(message, m.Background))
                self._watch()  # the interval has changed
            case m.Bye():
                if message.end and self._author is not None:
                    self._services.hub.forget(self._session_id, self._author.device)
                    self._services.hub.live.ended(list(self.delivery.channels.values()))
                self.close(websocket.NORMAL, "")
            case m.Error():
                self._send(message)

    # -- hello ---------------------------------------------------------------------------------------------------

    async def _hello(self, hello: m.Hello) -> None:
        services = self._services
        principal = services.principal(hello.token, self._authorization, self.delivery.transport.peer)
        check_frame_bytes(hello, services.wire_limits.delta_bytes_max)
        author = Author(hello.device, hello.installation, "device", principal.user, principal.grants)
        result = await services.bound(author)
        if self._session.is_closed:
            return
        match result:
            case commands.Bound():
                self._welcome(hello, author, principal)
            case commands.Failed(reason, detail):
                self._turn_away(KIND_BY_NAME.get(reason, errors.INTERNAL), detail, services.limits.backoff_ms)
            case commands.Refused(reason, detail):
                raise ProtocolError(KIND_BY_NAME[reason], detail)  # `device_bound`, `too_many_devices`
            case _:
                raise AssertionError(f"a Bind is not answered by {result}")

    def _welcome(self, hello: m.Hello, author: Author, principal: Principal) -> None:
        services, limits = self._services, self._services.limits
        if not services.hub.has_room_for(author.user, author.device):
            detail = f"a user has at most {limits.connections_per_user_max} connections"
            self._turn_away(errors.OVERLOADED, detail, limits.backoff_ms_max)
            return
        self._author, self._expires_ms, self._authorization = author, principal.expires_ms, None
        self.delivery.heard_as = author.device if SIGNALS in hello.caps else None
        is_resumed = hello.session is not None and services.hub.resumes(hello.session, author.device)
        self._session_id = hello.session if is_resumed and hello.session else services.entropy.token(SESSION_BYTES)
        services.hub.remember(self._session_id, author.device)
        services.hub.join(self, is_back=hello.session is not None and not is_resumed)
        if self._inbound is not None:
            self._inbound.allow(self._session.codec.frame_bytes_max(services.wire_limits))
        ping_ms, expires_ms = self._session.ping_ms, principal.expires_ms
        self._send(services.welcome(self._session_id, author.user, is_resumed, ping_ms, expires_ms))
        services.hub.welcomed(self)
        self._watch()

    def _turn_away(self, kind: Kind, detail: str, after_ms: int) -> None:
        """No welcome, for now."""
        # Past the session, to which an error of a kind that can leave a connection open is none before `welcome`.
        self._counters.errors[kind.name] += 1
        self.delivery.send(error(kind, detail, after_ms=after_ms))
        self.close(BUSY, detail)

    def _refresh(self, refresh: m.Refresh) -> None:
        """A new token: every subscription is judged again by what it grants."""
        author, peer = self._known(), self.delivery.transport.peer
        principal = self._services.principal(refresh.token, None, peer, is_known=True)
        if principal.user != author.user:
            raise ProtocolError(errors.TOKEN_USER, "the token of 'refresh' names another user")
        self._author = Author(author.device, author.installation, author.kind, author.user, principal.grants)
        self._expires_ms = principal.expires_ms
        channels = list(self.delivery.channels.values())
        with self._services.store.read() as tx:
            judged = [self.standing(tx, channel.space) for channel in channels]
        for channel, now in zip(channels, judged, strict=True):
            self._stand(channel, now)
        self._watch()

    def _known(self) -> Author:
        assert self._author is not None, "the session lets nothing through before welcome"
        return self._author

    # -- subscriptions -------------------------------------------------------------------------------------------

    def _subscribe(self, message: m.Subscribe) -> None:
        services, delivery, space = self._services, self.delivery, message.space
        if delivery.is_closed:
            return  # what stood before it in its frame found the socket dead: nobody would leave the room again
        if space not in delivery.channels and len(delivery.channels) >= services.wire_limits.subscriptions_max:
            detail = f"a connection has at most {services.wire_limits.subscriptions_max} subscriptions"
            self._send(error(errors.TOO_MANY_SUBSCRIPTIONS, detail, space=space))
            return
        command = asked_for(self._known(), message)
        channel = delivery.begin(space, message.settled)
        if self._forgetting is None or space not in self._forgetting:
            with services.store.read() as tx:
                result = reading.attached(tx, command)
            if result is not None:
                self._attached(channel, message, command.author, result)
                return
        if not self._submit(command, partial(self._attached, channel, message, command.author), space):
            delivery.refused(channel)

    def _attached(self, channel: Channel, message: m.Subscribe, author: Author, result: Result) -> None:
        delivery = self.delivery
        if delivery.channels.get(channel.space) is not channel or channel.state is not Subscription.ATTACHING:
            return  # taken back, or asked anew, while this was on its way
        if author is not self._known():
            self._subscribe(message)  # the engine has judged by the token of then, and `refresh` has brought another
            return
        match result:
            case Attached(_, space_id):
                cursor = Cursor(channel.space, space_id, message.complete, message.resume, message.start)
                delivery.attached(channel, result, cursor)
            case commands.Refused("forbidden", detail, seq):
                delivery.refused(channel)
                self._send(m.Revoked(channel.space, detail, seq))
            case _:
                delivery.refused(channel)
                self._tell(channel.space, result)

    def _unsubscribe(self, message: m.Unsubscribe) -> None:
        space, channel = message.space, self.delivery.channels.get(message.space)
        if channel is None or channel.state is Subscription.NONE:
            self._send(error(errors.NOT_SUBSCRIBED, "there is no subscription to end", space=space))
            return
        self.delivery.drop(channel, Step.UNSUBSCRIBE)
        self._submit_acks()
        if message.forget and self._submit(Forget(self._known(), space), partial(self._forgotten, space), space):
            self._forgetting = (self._forgetting or set()) | {space}

    def _forgotten(self, space: str, result: Result) -> None:
        if self._forgetting is not None:
            self._forgetting.discard(space)
        if not isinstance(result, Done):
            self._tell(space, result)

    # -- standing ------------------------------------------------------------------------------------------------

    def standing(self, tx: Reader, space: str) -> Standing:
        return standing(tx, self._known(), space)

    def regranted(self, space: str, seq: int, said: Role | None) -> None:
        channel = self.delivery.channels.get(space)
        if channel is not None and channel.attached_at < seq:
            self._stand(channel, standing_after(self._known(), space, seq, said))

    def silence(self, space: str, seq: int, said: Role | None) -> None:
        channel = self.delivery.channels.get(space)
        if channel is not None and channel.attached_at < seq:
            self.delivery.silence(channel, standing_after(self._known(), space, seq, said))

    def _stand(self, channel: Channel, now: Standing) -> None:
        """Let a subscription go on in another role, or end. One without an answer is left to the engine, to judge."""
        if channel.state is Subscription.NONE or (channel.state is Subscription.ATTACHING and channel.answer is None):
            return
        if not now.may_read:
            self.bar(channel, now)
        elif self.delivery.promoted(channel, now.role):
            self._send(subscribed(channel.space, channel.epoch, now, is_live=channel.state is Subscription.LIVE))

    def bar(self, channel: Channel, now: Standing) -> None:
        self.delivery.drop(channel, Step.REVOKED)
        self._send(revoked(channel.space, now))
        if not now.is_recorded:  # the device is to be listed until it has purged
            with suppress(Overloaded):  # then it is when it comes back
                self._services.committer.submit(Lose(self._known(), channel.space), lambda result: None)

    async def _sums(self, message: m.Sums) -> None:
        question = asked(message)
        while self.delivery.is_comparing:  # nothing more is read meanwhile: so little is held of what a device holds
            await self._halt.wait_room()
        channel = self.delivery.channels.get(message.space)
        if channel is None or channel.state is Subscription.NONE or message.epoch != channel.epoch:
            self._send(error(errors.NOT_SUBSCRIBED, "sums are of a space with a subscription", space=message.space))
        else:
            self.delivery.compare(channel, message.buckets, question)

    def compared(self) -> None:
        self._halt.end()

    # -- changes and acks ----------------------------------------------------------------------------------------

    async def _push(self, message: m.Push) -> None:
        while self._in_flight >= self._services.wire_limits.pushes_in_flight_max:  # N2
            await self._halt.wait_room()
        if self._session.is_closed:
            return
        self._submit_acks()  # N1
        channel = self.delivery.channels.get(message.space)
        floor = 0 if channel is None else channel.outcome_n
        command = commands.Push(self._known(), message.space, message.epoch, message.changes)
        if self._submit(command, partial(self._pushed, message.space, floor), message.space):
            self._in_flight += 1
            await self._pause(self._services.gate.changes_pause_s(self._known().user, numbers_of(message.changes)))

    def _pushed(self, space: str, floor: int, result: Result) -> None:
        self._in_flight -= 1
        self._halt.end()
        if isinstance(result, Pushed):
            self._services.hub.pushed(self._known().device, self, result, floor)
        else:
            self._tell(space, result)

    def _ack(self, message: m.Ack) -> None:
        channel = self.delivery.channels.get(message.space)
        if channel is None or channel.state is Subscription.NONE:
            self._send(error(errors.NOT_SUBSCRIBED, "an ack is for a space with a subscription", space=message.space))
            return
        due_s = trio.current_time() + self._services.limits.ack_flush_s
        if self._acks.put(message, due_s):
            self._services.wheel.schedule(self, due_s)

    def _submit_acks(self) -> None:
        if self._acks.due_s is not None:
            self._acks.submit(self._known(), self._services.committer, self._acked)

    def _acked(self, space: str, result: Result) -> None:
        if isinstance(result, commands.Expired | commands.Refused):
            self._guarded(partial(self._tell, space), result)

    # -- answers -------------------------------------------------------------------------------------------------

    def _submit(self, command: Command, done: Callable[[Result], None], space: str) -> bool:
        """Ask the engine. False: it takes nothing now, and the client has been told so."""
        try:
            self._services.committer.submit(command, partial(self._guarded, done))
        except Overloaded as overloaded:
            after_ms = self._services.limits.backoff_ms
            self._send(error(errors.OVERLOADED, str(overloaded), space=space, after_ms=after_ms))
            return False
        return True

    def _guarded(self, done: Callable[[Any], None], result: Any) -> None:
        """Call back from the committer, which serves everyone: a defect ends this connection only."""
        try:
            done(result)
        except Exception:
            self.failed()

    def _tell(self, space: str, result: Result) -> None:
        """A request about a space that did not do what it was meant to."""
        channel = self.delivery.channels.get(space)
        if isinstance(result, commands.Expired):
            self._services.met_expiry(result.alarm)
            if channel is not None:
                self.delivery.drop(channel, Step.EXPIRED)
        try:
            self._send(answer_to(space, result, self._services.limits.backoff_ms))
        except ProtocolError as refused:
            self._refuse(refused)

    def _send(self, *messages: m.ServerMessage) -> None:
        payload = self._session.send(*messages) if messages else b""
        if payload:
            for message in messages:
                if isinstance(message, m.Error):
                    self._counters.errors[message.name] += 1
            self.delivery.send_frame(self.delivery.format.framed(payload))

    # -- the end -------------------------------------------------------------------------------------------------

    def close(self, code: int, reason: str, counted: int | str | None = None) -> None:
        """Begin the closing handshake: nothing but the peer's close frame matters from here on. Idempotent."""
        if self._closing_due_s is not None or self.delivery.is_closed:
            return
        self._counters.closes[code if counted is None else counted] += 1
        self._session.close()
        self.delivery.finish(close_frame(code, reason))
        self._closing_due_s = trio.current_time() + self._services.limits.closing_s
        self._services.wheel.schedule(self, self._closing_due_s)

    def _refuse(self, refused: ProtocolError) -> None:
        self._end(refused.kind, refused.detail, refused.close_code)

    def _end(self, kind: Kind, detail: str, code: int | None = None) -> None:
        """An `error` that closes, and the close (N4)."""
        if not self._session.is_closed:
            self._send(error(kind, detail))
            self.close(code or kind.close or websocket.INTERNAL_ERROR, detail)

    def _peer_closed(self, code: int) -> None:
        """The peer's close frame: answer it unless it answers ours, and say that nothing follows."""
        self.close(code, "", BY_PEER)  # under a word of ours: the peer may choose among thousands of codes
        self.delivery.end()

    def supersede(self) -> None:
        self._end(errors.SUPERSEDED, "a newer connection of this device took over")

    def depart(self, code: int, retry_after_ms: int, spread_ms: int) -> None:
        if self._session.state is State.OPEN:
            self._send(m.Goaway(code, retry_after_ms, spread_ms))

    def failed(self) -> None:
        """An exception that is a defect of ours is being handled. Raises nothing: who calls serves all connections."""
        device = "" if self._author is None else f" of device {self._author.device.hex()}"
        self._services.log(f"a connection{device} failed\n{traceback.format_exc()}")
        try:
            self._end(errors.INTERNAL, "the server failed on this connection and has logged why")
        except Exception:
            self._services.log(f"a connection{device} failed while it was ended\n{traceback.format_exc()}")
        if self._closing_due_s is None:  # it could not end, now or before: its reader wakes and clears up
            self._session.close()
            self._inbound = None  # nor is the rest of a frame handled
            self.delivery.transport.abort()

    # -- deadlines -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Be woken at the next deadline: one has come nearer."""
        at_s = self._next_s()
        if at_s is not None:
            self._services.wheel.schedule(self, at_s)

    def stalled(self) -> None:
        self._services.wheel.schedule(self, self.delivery.progress_s + self._services.limits.no_progress_s)

    def _next_s(self) -> float | None:
        """The next deadline, on trio's clock."""
        if self.delivery.is_closed:
            return None
        if self._closing_due_s is not None:
            return self._closing_due_s
        deadline_ms = self._session.deadline_ms
        times = [] if deadline_ms is None else [deadline_ms / 1000]
        if self._acks.due_s is not None:
            times.append(self._acks.due_s)
        if self.delivery.is_stalled:
            times.append(self.delivery.progress_s + self._services.limits.no_progress_s)
        if self._expires_ms is not None:
            left_ms = self._expires_ms - self._services.clock.now_ms()
            times.append(trio.current_time() + left_ms / 1000)
        return min(times, default=None)

    def wake(self, now_s: float) -> float | None:
        """Whatever is due. Called by the wheel."""
        try:
            self._serve_deadlines(now_s)
            return self._next_s()
        except Exception:
            self.failed()
            return self._closing_due_s

    def _serve_deadlines(self, now_s: float) -> None:
        delivery, session = self.delivery, self._session
        if delivery.is_closed:
            return
        if self._closing_due_s is not None:
            if now_s >= self._closing_due_s:
                delivery.abort()
            return
        if delivery.is_stalled and now_s >= delivery.progress_s + self._services.limits.no_progress_s:
            # Nothing can be said to who takes nothing: a close frame would wait where the rest waits. It is counted;
            # whoever logs that adds many up: phones do so every day, and nobody has anything to repair.
            self._counters.closes[NO_PROGRESS] += 1
            self._counters.cut_off[STALLED] += 1
            self._closing_due_s = now_s
            delivery.abort()
            return
        if self._expires_ms is not None and self._services.clock.now_ms() >= self._expires_ms:
            self._end(errors.TOKEN_EXPIRED, "the token has expired and was not refreshed in time")
            return
        if self._acks.due_s is not None and now_s >= self._acks.due_s:
            self._submit_acks()
        match session.tick(_now_ms()):
            case Due.PING:
                self._send(m.Ping())
                if self._halt.is_on:
                    session.heard(_now_ms())  # no answer is waited for, as none would be read
            case Due.CLOSE:
                self.close(IDLE, "no hello in time" if self._author is None else "nothing was received for too long")
            case Due.NOTHING:
                pass

    # -- for the hub ---------------------------------------------------------------------------------------------

    @property
    def device(self) -> bytes:
        return self._known().device

    @property
    def user(self) -> str:
        return self._known().user


def _now_ms() -> int:
    """Milliseconds on trio's clock: keep-alive and rates must not follow a wall clock that is set."""
    return int(trio.current_time() * 1000)
