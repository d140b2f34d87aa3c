"""Live: signals and presence on their way from those who send them to those who listen.

Owns who may send and hear them now, the names by which devices know each other, and the fan-out. Must not know bytes of
a socket (`delivery`), HTTP, or the store: no transaction is opened here, whatever comes. What waits, and for how long,
is decided in `signals`, who is present in `presence`; this is the shell that has the time and the tasks.

One task hands everything out. What came for one space while it was busy leaves in one frame, encoded once for each
format, of each key the newest value: so the order of one sender's values is kept on every connection, and a space that
is signalled to faster than its listeners can be reached costs fewer frames, not more.

The role is the one that the subscription has been told; before a change that takes it away is handed out, those who
lose it hear no more (`silence`). A signal is no part of the order of the space: it has no seq.

Invariants: V1 nothing is handed to a channel without a seat, and a channel loses it in the same step as its right to
read. V2 what waits for a space, and on a connection, is bounded. V3 a device has one ref in a space for as long as the
process lives, another in each space; neither tells its id.
"""

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import blake2b
from math import inf
from typing import Final

import trio

from syncd.engine.commands import Author
from syncd.engine.grants import Role
from syncd.env.ports import TransportClosed
from syncd.net.channels import SLICE, Channel, Room, in_turns
from syncd.net.counters import Counters
from syncd.net.formats import FORMATS
from syncd.net.limits import NetLimits
from syncd.net.presence import Roster
from syncd.net.rates import Rate, RateTable
from syncd.net.signals import Conflated, SignalRefused, Waiting, checked_bytes, messages, signal
from syncd.net.wheel import Wheel
from syncd.wire import messages as m
from syncd.wire.errors import MALFORMED, SIGNAL_LIMITED, SIGNAL_REFUSED, ProtocolError, error
from syncd.wire.limits import SIGNALS_BURST_MAX, Limits

REF_BYTES: Final = 8
# How long joins and leaves are collected: a crowd that comes together is told of in a few messages, not one for each.
PRESENCE_BATCH_S: Final = 0.25


class _Tended:
    """The place of one roster on the wheel."""

    __slots__ = ("_wake", "due")

    def __init__(self, wake: Callable[[float], float | None]) -> None:
        self.due: int | None = None
        self._wake = wake

    def wake(self, now_s: float) -> float | None:
        return self._wake(now_s)


class SignalLimited(Exception):
    """Too many signals: the caller may send again after so many seconds."""

    def __init__(self, detail: str, wait_s: float) -> None:
        super().__init__(detail)
        self.wait_s = wait_s


class Live:
    """`rooms`: the hub's, by space."""

    def __init__(self, rooms: Mapping[str, Room], limits: NetLimits, wire_limits: Limits, counters: Counters) -> None:
        self._rooms, self._limits, self._wire_limits, self._counters = rooms, limits, wire_limits, counters
        rate = Rate(wire_limits.signals_per_s_max, SIGNALS_BURST_MAX)
        self._devices = RateTable(rate, limits.rate_entries_max)
        self._spaces = RateTable(limits.space_signals, limits.rate_entries_max)
        self._ready: dict[Room, None] = {}  # with signals that wait
        self._rosters: dict[str, None] = {}  # spaces whose presence is to be told
        self._tended: dict[str, _Tended] = {}
        self._wheel: Wheel | None = None
        self._secret = b""
        self._changed = trio.Event()
        self.present_count = 0

    # -- who is who ----------------------------------------------------------------------------------------------

    def ref(self, space: str, device: bytes) -> bytes:
        """What others know a device by in a space."""
        return blake2b(space.encode() + b"\0" + device, digest_size=REF_BYTES, key=self._secret).digest()

    def seated(self, channel: Channel) -> None:
        room = channel.room
        assert room is not None and channel.seat is not None
        if room.hearers is None:
            room.hearers = tuple({} for _ in FORMATS)
        room.hearers[channel.delivery.format.number][channel] = None

    def unseated(self, channel: Channel, *, is_for_good: bool) -> None:
        room, seat = channel.room, channel.seat
        channel.seat = None
        if room is None or seat is None:
            return
        if room.hearers is not None:
            room.hearers[channel.delivery.format.number].pop(channel, None)
        if seat.is_present and room.roster is not None:
            if is_for_good:
                self._left(room.roster, seat.ref)
            else:
                until_s = trio.current_time() + self._limits.presence_grace_s
                room.roster.away(seat.ref, until_s)
                self._tend(room.roster, until_s)

    def is_heard_by(self, channel: Channel) -> bool:
        hearers = None if channel.room is None else channel.room.hearers
        return hearers is not None and channel in hearers[channel.delivery.format.number]

    def vacated(self, room: Room) -> None:
        """Nobody listens there any more, and so nobody is missed."""
        self._tended.pop(room.space, None)
        self._rosters.pop(room.space, None)
        self._ready.pop(room, None)
        if room.roster is not None:
            self.present_count -= len(room.roster)

    # -- what comes in -------------------------------------------------------------------------------------------

    def received(self, message: m.Signal, channel: Channel | None, author: Author) -> tuple[m.Error, ...]:
        """A device's signal, or what it says of its presence; an error that tells why not. Raises `ProtocolError`."""
        if (message.key is None) == (message.presence is None):
            raise ProtocolError(MALFORMED, "'signal' has either 'key' or 'presence'")
        try:
            if channel is None or channel.seat is None or not self.is_heard_by(channel):
                raise SignalRefused("a signal is for a space that is subscribed to, by one who said 'signals' in hello")
            now_s = trio.current_time()
            self._take_rate(self._devices, author.device.hex(), "this device sends", now_s)
            if message.presence is not None:
                self._say_presence(channel, author.user, message.presence)
                return ()
            assert message.key is not None
            if channel.role < Role.WRITER:
                raise SignalRefused(f"signals are sent by writers, and this user is {channel.role.name.lower()}")
            self._put(
                signal(
                    channel.space, author.user, channel.seat.ref, message.key, message.value, message.ttl_ms,
                    self._wire_limits, now_s,
                )
            )  # fmt: skip
        except SignalRefused as refused:
            self._counters.signals["refused"] += 1
            return (error(SIGNAL_REFUSED, str(refused), space=message.space),)
        except SignalLimited as limited:
            self._counters.signals["limited"] += 1
            after_ms = max(1, round(limited.wait_s * 1000))
            return (error(SIGNAL_LIMITED, str(limited), space=message.space, after_ms=after_ms),)
        return ()

    def posted(self, space: str, device: bytes, user: str | None, signals: list[m.Signal]) -> int:
        """Signals of one who may send them, by HTTP; how many listen. All or none are taken. Raises `SignalRefused`,
        `SignalLimited`."""
        now_s = trio.current_time()
        ref = self.ref(space, device)
        checked = [
            signal(space, user, ref, each.key or "", each.value, each.ttl_ms, self._wire_limits, now_s)
            for each in signals
        ]
        self._take_rate(self._spaces, space, "the space is sent", now_s, len(checked))
        for each in checked:
            self._keep(each)
        room = self._rooms.get(space)
        return 0 if room is None or room.hearers is None else sum(map(len, room.hearers))

    def _put(self, waiting: Waiting) -> None:
        now_s = trio.current_time()
        self._take_rate(self._spaces, waiting.heard.space, "the space is sent", now_s)
        self._keep(waiting)

    def _keep(self, waiting: Waiting) -> None:
        self._counters.signals["taken"] += 1
        room = self._rooms.get(waiting.heard.space)
        if room is None or room.hearers is None:
            return  # nobody hears it
        if room.signals is None:
            limits = self._limits
            room.signals = Conflated(limits.space_signals_max, limits.space_signals_bytes_max, self._counters)
        room.signals.put(waiting)
        self._ready[room] = None
        self._changed.set()

    def _take_rate(self, table: RateTable, key: str, who: str, now_s: float, cost: int = 1) -> None:
        wait_s = table.refused_s(key, now_s, cost)
        if wait_s:
            raise SignalLimited(f"{who} more signals than are taken", wait_s)

    # -- presence ------------------------------------------------------------------------------------------------

    def _say_presence(self, channel: Channel, user: str, said: object) -> None:
        """A map: it is present, and watches. True: it watches. False: neither."""
        seat, room = channel.seat, channel.room
        assert seat is not None and room is not None
        if seat.is_present and (said is True or said is False):
            seat.is_present = False
            if room.roster is not None:
                self._left(room.roster, seat.ref)
        if said is False:
            seat.is_watching = False
            return
        if room.roster is None:
            room.roster = Roster(room.space, self._wire_limits.presence_members_max)
        roster = room.roster
        if said is not True:
            checked_bytes(said, self._wire_limits.presence_bytes_max, "the state of a device that is present")
            self._check_presence_room(channel, roster)
            count = len(roster)
            roster.here(seat.ref, user, said)
            self.present_count += len(roster) - count
            seat.is_present = True
            self._tend(roster, trio.current_time() + PRESENCE_BATCH_S)
        if not seat.is_watching:
            seat.is_watching = True
            self._tell_whole(channel, roster)

    def _check_presence_room(self, channel: Channel, roster: Roster) -> None:
        seat = channel.seat
        assert seat is not None
        if seat.is_present or seat.ref in roster:
            return
        most = self._wire_limits.presence_spaces_max
        if (
            sum(other.seat is not None and other.seat.is_present for other in channel.delivery.channels.values())
            >= most
        ):
            raise SignalRefused(f"a device is present in at most {most} spaces at once")
        if self.present_count >= self._limits.presences_max:
            raise SignalLimited("the server keeps track of as many who are present as it can", 60.0)

    def _left(self, roster: Roster, ref: bytes) -> None:
        if roster.left(ref):
            self.present_count -= 1
            self._tend(roster, trio.current_time() + PRESENCE_BATCH_S)

    def ended(self, channels: list[Channel]) -> None:
        """A device has said that its session is over: it leaves without a grace."""
        for channel in channels:
            if channel.seat is not None and channel.seat.is_present and channel.room is not None:
                channel.seat.is_present = False
                if channel.room.roster is not None:
                    self._left(channel.room.roster, channel.seat.ref)

    def present_in(self, space: str) -> m.Presence | None:
        room = self._rooms.get(space)
        return None if room is None or room.roster is None else room.roster.whole()

    def _tell_whole(self, channel: Channel, roster: Roster) -> None:
        if channel.delivery.is_behind:
            channel.delivery.hold_presence(channel.space)
        else:
            channel.delivery.send(roster.whole())
            self._counters.signals["presence"] += 1

    def _tend(self, roster: Roster, at_s: float) -> None:
        """Look at the roster then."""
        if self._wheel is None:
            return
        space = roster.space
        tended = self._tended.get(space)
        if tended is None:
            tended = self._tended[space] = _Tended(lambda now_s: self._due(space, now_s))
        self._wheel.schedule(tended, at_s)

    def _due(self, space: str, now_s: float) -> float | None:
        """The wheel has come round to a roster: when to look again."""
        room = self._rooms.get(space)
        if room is None or room.roster is None:
            return None
        self.present_count -= room.roster.expire(now_s)
        if room.roster.is_changed:
            self._rosters[space] = None
            self._changed.set()
        due_s = room.roster.due_s
        return None if due_s == inf else due_s

    # -- what goes out -------------------------------------------------------------------------------------------

    def start(self, wheel: Wheel, secret: bytes) -> None:
        """Before any connection. `secret`: random, and never told."""
        self._wheel, self._secret = wheel, secret

    async def run(self, log: Callable[[str], None]) -> None:
        """Hand out until cancelled."""
        sends = 0
        while True:
            if sends >= SLICE or not (self._ready or self._rosters):
                await trio.lowlevel.checkpoint()
                sends = 0
            while not (self._ready or self._rosters):  # what has changed may be taken back until this task runs
                self._changed = trio.Event()
                await self._changed.wait()
            try:
                sends = await self._hand_on(sends)
            except Exception:
                log(f"signals could not be handed out\n{traceback.format_exc()}")

    async def _hand_on(self, sends: int) -> int:
        """What waits for one space, to all who hear it; how many sends there were since the last checkpoint."""
        if self._ready:
            room = next(iter(self._ready))
            del self._ready[room]
            if room.signals is None:
                return sends
            now_s = trio.current_time()
            taken = room.signals.take(now_s)
            if room.signals:
                self._ready[room] = None  # behind the others
            if not taken:
                return sends
            return await self._fan_out(room, messages(taken, now_s), taken, sends)
        space = next(iter(self._rosters))
        del self._rosters[space]
        roster_room = self._rooms.get(space)
        roster = None if roster_room is None else roster_room.roster
        told = None if roster is None else roster.changes()
        if roster_room is None or told is None:
            return sends
        return await self._fan_out(roster_room, [told], None, sends)

    async def _fan_out(
        self, room: Room, said: list[m.Heard] | list[m.Presence], taken: list[Waiting] | None, sends: int
    ) -> int:
        """`taken`: what is kept, of signals, for one who is behind; None: it is presence, told to those who watch."""
        if room.hearers is None:
            return sends
        codec, payload = None, b""
        for format, hearers in zip(FORMATS, room.hearers, strict=True):
            channels = list(hearers) if taken is not None else [each for each in hearers if _is_watching(each)]
            if not channels:
                continue
            if format.codec is not codec:
                codec = format.codec
                payload = codec.encode(*said)
            hand_out = partial(self._hand_out, format.framed(payload), taken, len(said))
            sends = await in_turns(channels, sends, hand_out)
        return sends

    def _hand_out(self, data: bytes, taken: list[Waiting] | None, count: int, part: list[Channel]) -> None:
        sent = _hand_out(part, data, taken)
        self._counters.signals["sent" if taken is not None else "presence"] += sent * count
        self._counters.bytes_sent += sent * len(data)


def _is_watching(channel: Channel) -> bool:
    return channel.seat is not None and channel.seat.is_watching


def _hand_out(channels: list[Channel], data: bytes, taken: list[Waiting] | None) -> int:
    """The hot loop: one send for each channel, and as little else as can be. How many there were."""
    sent, size = 0, len(data)
    for channel in channels:
        if channel.seat is None:
            continue  # it left, or lost the right to read, while others got theirs
        delivery = channel.delivery
        try:
            if delivery.is_behind:
                if taken is None:
                    delivery.hold_presence(channel.space)
                else:
                    delivery.hold(taken)
                continue
            try:
                written = delivery.send_now(data)
            except TransportClosed:
                delivery.abort()
                continue
            sent += 1
            if written != size:
                delivery.keep_rest(data, written)
        except Exception:  # one listener's defect ends its connection only
            delivery.failed()
    return sent
