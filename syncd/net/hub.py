"""The hub: who is connected, who listens to which space, and the fan-out of what was committed.

Owns the rooms (subscribers by space), the registry of devices, counts by user, and which sessions may be resumed. Must
not know how a connection was made, nor what a client asked for.

A delta is encoded, deflated and framed once for each format in use, and the same bytes go to every subscriber, inline,
without await: `send_now` for one after the other. What a socket does not take is its delivery's affair. The loop yields
between slices, counted over all deltas of a batch, so that ten thousand sends do not stop the process for a tenth of a
second.

Invariants: B1 of one space, deltas are handed out in the order of their commits. B2 `sent_to` of a room is raised
before the first subscriber gets the delta: one that wants to become live in the middle of a fan-out has it, or reads
on. B3 a device has one connection: the newest. B4 what one subscriber raises ends its connection only. B5 nobody is
handed a live delta that begins behind a change which took the right to read from its user.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Protocol

import trio

from syncd.engine.commands import Decision, Pushed, Regrant
from syncd.engine.grants import Role
from syncd.env.ports import TransportClosed
from syncd.net.attendance import Attendance
from syncd.net.channels import SLICE, Channel, Room, in_turns
from syncd.net.counters import Counters
from syncd.net.delivery import Delivery
from syncd.net.formats import FORMATS
from syncd.net.limits import NetLimits
from syncd.net.live import Live
from syncd.net.waiters import Waiters
from syncd.net.websocket import SERVICE_RESTART, Unfinished
from syncd.wire.limits import JSON_FACTOR, Limits
from syncd.wire.messages import Delta, Presence
from syncd.wire.session import Subscription

SEND_BYTES = 2048  # to encode, deflate and frame so many costs about one send more


class Member(Protocol):
    """A connection as the hub sees it, from its `hello` on."""

    @property
    def device(self) -> bytes: ...

    @property
    def user(self) -> str: ...

    @property
    def delivery(self) -> Delivery: ...

    def supersede(self) -> None:
        """A newer connection of the same device took over: end, at once on the side of the engine."""
        ...

    def regranted(self, space: str, seq: int, said: Role | None) -> None:
        """The space says this of the user from `seq` on: judge its subscription anew."""
        ...

    def silence(self, space: str, seq: int, said: Role | None) -> None:
        """The space is going to say this of the user: let it hear no signal if it may read no more then."""
        ...

    def depart(self, code: int, retry_after_ms: int, spread_ms: int) -> None:
        """Say goaway; the connection goes on until the client leaves, or `close`."""
        ...

    def close(self, code: int, reason: str) -> None: ...


class Hub:
    def __init__(self, limits: NetLimits, wire_limits: Limits, counters: Counters | None = None) -> None:
        self._limits = limits
        self.counters = counters or Counters()
        self._delta_bytes_max = wire_limits.delta_bytes_max
        self.waiters = Waiters(limits)
        self.unfinished = Unfinished()
        self._rooms: dict[str, Room] = {}
        self._members: dict[bytes, Member] = {}
        self._users: dict[str, dict[Member, None]] = {}
        self._sessions: OrderedDict[bytes, bytes] = OrderedDict()  # device -> its newest session
        self._emptied = trio.Event()  # replaced by `drain`, which alone waits for it
        self._send_away: Callable[[Member], None] | None = None  # once it drains
        self.attendance = Attendance(limits.sessions_max)
        self.live = Live(self._rooms, limits, wire_limits, self.counters)

    # -- members -------------------------------------------------------------------------------------------------

    @property
    def members(self) -> list[Member]:
        return list(self._members.values())

    def has_room_for(self, user: str, device: bytes) -> bool:
        """Whether a user may have one more connection (a device that is connected is replaced, not added)."""
        return device in self._members or len(self._users.get(user, ())) < self._limits.connections_per_user_max

    def join(self, member: Member, *, is_back: bool = False) -> None:
        """The device is connected by this connection from now on; an older one ends first. `is_back`: it goes on with a
        conversation that is not known here."""
        older = self._members.get(member.device)
        if older is not None:
            self.part(older)
            older.supersede()
        self._members[member.device] = member
        self._users.setdefault(member.user, {})[member] = None
        self.attendance.came(member.user, member, is_back=is_back)

    def welcomed(self, member: Member) -> None:
        """It may be told something from now on. One whose handshake was under way when a drain began hears of it now,
        or each restart of a busy server would wait for such a one to the deadline."""
        if self._send_away is not None:
            self._send_away(member)

    def part(self, member: Member) -> None:
        """The connection is over. Idempotent."""
        if self._members.get(member.device) is not member:
            return
        del self._members[member.device]
        del self._users[member.user][member]
        self.attendance.went(member.user, member)
        if not self._users[member.user]:
            del self._users[member.user]
        if not self._members:
            self._emptied.set()

    def rests(self, member: Member, *, is_resting: bool) -> None:
        """The application is in the background, or visible again."""
        if self._members.get(member.device) is member:
            if is_resting:
                self.attendance.went(member.user, member, is_resting=True)
            else:
                self.attendance.came(member.user, member)

    def pushed(self, device: bytes, asker: Member, result: Pushed, floor: int) -> None:
        """Outcomes of a device's changes, to the connection that it has now. If that is not the one which asked, it
        gets them only for spaces that it listens to: there, deltas with these changes are about to come."""
        member = self._members.get(device)
        if member is asker:
            member.delivery.pushed(result, floor)
        elif member is not None and result.space in member.delivery.channels:
            member.delivery.pushed(result, 0)

    async def drain(self, deadline_s: float, uniform: Callable[[float, float], float]) -> None:
        """Send every device away, each with a delay of its own, serve those that stay, and close them at the deadline.
        Requests that wait are answered first: whoever asks again finds the next process.

        The delays begin when the next process is expected to listen, and are spread over somewhat more than the time in
        which it can take all of them. Each device has a slot of its own: if all drew from the whole, chance would bring
        a hundred too many in some second, and who is refused comes back long after the others.
        """
        limits, slots = self._limits, count()
        slot_ms = 1000 * limits.goaway_slack / limits.upgrades_per_s_max

        def send_away(member: Member) -> None:
            slot = next(slots)
            after_ms = limits.goaway_absence_ms + int(uniform(slot * slot_ms, (slot + 1) * slot_ms))
            member.depart(SERVICE_RESTART, after_ms, limits.goaway_spread_ms)

        await self.waiters.end()
        self._send_away = send_away
        for number, member in enumerate(self.members, 1):
            send_away(member)
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        await self._wait_empty(deadline_s)
        for number, member in enumerate(self.members, 1):
            member.close(SERVICE_RESTART, "the server restarts")
            if number % SLICE == 0:
                await trio.lowlevel.checkpoint()
        await self._wait_empty(limits.closing_s)

    async def _wait_empty(self, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            while self._members:
                self._emptied = trio.Event()
                await self._emptied.wait()

    # -- sessions ------------------------------------------------------------------------------------------------

    def resumes(self, session: bytes | None, device: bytes) -> bool:
        return session is not None and self._sessions.get(device) == session

    def remember(self, session: bytes, device: bytes) -> None:
        """The session may be resumed, instead of an older one of its device: coming and going fills no table.
        Beyond `sessions_max` the one that was used longest ago may not any more."""
        self._sessions[device] = session
        self._sessions.move_to_end(device)
        if len(self._sessions) > self._limits.sessions_max:
            self._sessions.popitem(last=False)

    def forget(self, session: bytes, device: bytes) -> None:
        if self._sessions.get(device) == session:
            del self._sessions[device]

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    # -- rooms ---------------------------------------------------------------------------------------------------

    def enter(self, space: str) -> Room:
        room = self._rooms.get(space)
        if room is None:
            room = self._rooms[space] = Room(space)
        room.count += 1
        return room

    def leave(self, room: Room) -> None:
        room.count -= 1
        if not room.count:
            del self._rooms[room.space]
            self.live.vacated(room)

    def ref(self, space: str, device: bytes) -> bytes:
        return self.live.ref(space, device)

    def seated(self, channel: Channel) -> None:
        self.live.seated(channel)

    def unseated(self, channel: Channel, *, is_for_good: bool) -> None:
        self.live.unseated(channel, is_for_good=is_for_good)

    def present_in(self, space: str) -> Presence | None:
        return self.live.present_in(space)

    @property
    def room_count(self) -> int:
        return len(self._rooms)

    # -- fan-out -------------------------------------------------------------------------------------------------

    async def publish(self, decision: Decision) -> None:
        """Hand out the deltas of one commit. The results of its commands were called back before. Where a delta ends
        at a change of roles, those whom it concerns are judged before the next one (B5). They hear no signal from now
        on, before anything is awaited: who sends one may know of that change already."""
        for each in decision.regrants:
            self._silence(each)
        regrants = {(each.space, each.seq): each for each in decision.regrants}
        sends = 0  # since the last checkpoint: a batch may have a thousand deltas with a few subscribers each
        woken = 0
        for delta in decision.deltas:
            woken = await self.waiters.wake(delta.space, woken)
            sends = await self._hand_on(delta, sends)
            regrant = regrants.get((delta.space, delta.to))
            if regrant is not None:
                self._regrant(regrant)

    def _regrant(self, regrant: Regrant) -> None:
        self._for_concerned(regrant, lambda member, said: member.regranted(regrant.space, regrant.seq, said))

    def _silence(self, regrant: Regrant) -> None:
        self._for_concerned(regrant, lambda member, said: member.silence(regrant.space, regrant.seq, said))

    def _for_concerned(self, regrant: Regrant, do: Callable[[Member, Role | None], None]) -> None:
        for user, said in regrant.said:
            for member in list(self._users.get(user, ())):
                try:
                    do(member, said)
                except Exception:  # B4
                    member.delivery.failed()

    async def _hand_on(self, delta: Delta, sends: int) -> int:
        """One delta to all who listen; how many sends there were since the last checkpoint."""
        room = self._rooms.get(delta.space)
        if room is not None:
            room.sent_to = delta.to  # B2
            codec, payload = None, b""
            for format, live in zip(FORMATS, room.live, strict=True):
                if live:
                    if format.codec is not codec:
                        codec = format.codec
                        payload = codec.encode(delta)
                    is_sendable = len(payload) <= self._delta_bytes_max * (JSON_FACTOR if codec.is_text else 1)
                    data = format.framed(payload) if is_sendable else None
                    sends += 1 + len(payload) // SEND_BYTES
                    sends = await in_turns(list(live), sends, partial(self._hand_out, delta, data))
        return sends

    def _hand_out(self, delta: Delta, data: bytes | None, part: list[Channel]) -> None:
        if data is None:
            _leave_behind(part)
        else:
            sent = _hand_out(delta, data, part)
            self.counters.deltas_sent += sent
            self.counters.bytes_sent += sent * len(data)


def _hand_out(delta: Delta, data: bytes, channels: list[Channel]) -> int:
    """The hot loop: one send per subscriber, and as little else as can be. How many there were."""
    sent = 0
    from_, to, size, live = delta.from_, delta.to, len(data), Subscription.LIVE
    for channel in channels:
        if channel.state is not live or to <= channel.pos:
            continue  # it left while others got theirs, or it read this from the store
        delivery = channel.delivery
        try:
            if from_ > channel.pos:
                delivery.fall_behind(channel)
                continue
            try:
                taken = delivery.send_now(data)
            except TransportClosed:
                delivery.abort()
                continue
            channel.pos = to
            sent += 1
            if taken != size:
                delivery.keep_rest(data, taken)
        except Exception:  # B4
            delivery.failed()
    return sent


def _leave_behind(channels: list[Channel]) -> None:
    """What committed together is longer than a delta may be: each reads it from the store in pages."""
    for channel in channels:
        if channel.state is Subscription.LIVE:
            try:
                channel.delivery.fall_behind(channel)
            except Exception:  # B4
                channel.delivery.failed()
