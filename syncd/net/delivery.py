"""Delivery: everything that goes out on one device connection, and the place of each of its subscriptions.

Owns the bytes that a socket did not take yet, the channels (one per space), and the pump that brings a channel which is
behind back to live. Must not know what a device asked for (`connection`) nor who else gets a delta (`hub`).

The log is the queue. What the socket does not take of one frame is the *remainder*; while there is one, nothing more is
queued: no delta, no outcome. The connection is *behind* on every channel, and when the remainder is gone the pump reads
pages from the store, in which repeated changes of one field have become one. So a slow reader costs one frame (shared
with the others who got it) and a few words, however long it is slow, and then gets the newest state.

A pump is a task that exists only while something waits; it runs in the server's nursery and ends with the connection
(`abort` wakes it). A nursery of its own for each connection would cost every idle one what only slow ones need. What
all pumps read in one turn of the loop is bounded (`turns`).

Invariants: D1 on one connection, the outcome of the device's change with seq s is handed over before any delta with
to >= s. D2 a channel's deltas have no gap: each has from <= pos, the `to` of the one before. D3 a channel becomes live
in a step without await in which nothing waits for the socket and `pos` covers every delta whose fan-out has begun. D4
memory is bounded: one remainder, `control_bytes_max` of control messages, what one step reads, and the signals that
`signals` lets wait. D5 signals and presence wait behind all else: while anything does, none is handed over.
"""

from dataclasses import replace
from typing import Final

import trio

from syncd.core.ids import Position
from syncd.engine import reading
from syncd.engine.commands import Attached, Pushed
from syncd.engine.grants import Role
from syncd.engine.reading import Cursor
from syncd.engine.repair import Question
from syncd.env.ports import Transport, TransportClosed
from syncd.net.channels import Channel, Owner, Seat, Wiring
from syncd.net.comparing import Comparison
from syncd.net.formats import Format
from syncd.net.pages import Page
from syncd.net.signals import Conflated, Waiting, messages
from syncd.net.standing import Standing
from syncd.store.api import Reader
from syncd.wire.messages import Differ, Outcomes, Repair, ServerMessage, Subscribed
from syncd.wire.session import Step, Subscription

OUTCOMES_MAX: Final = 1000  # outcome entries in one message (SPEC 6)
COMPARED_BYTES: Final = 65536  # what a step of a comparison is taken for: some 5 ms
RECONCILE: Final = "reconcile"  # the mode of a subscription that stands below the floor


class Delivery:
    """The outgoing side of one connection. Nothing here raises `TransportClosed`: a dead transport is aborted, which
    wakes its reader."""

    __slots__ = (
        *(
            "_control",
            "_control_bytes",
            "_is_ending",
            "_is_finished",
            "_is_pumping",
            "_owner",
            "_rest",
            "_volatile",
            "_waiting",
            "_wiring",
        ),
        *("channels", "format", "heard_as", "is_closed", "progress_s", "send_now", "transport"),
    )

    def __init__(self, transport: Transport, format: Format, wiring: Wiring, owner: Owner) -> None:
        self.transport = transport
        self.send_now = transport.send_now
        self.format = format
        self.channels: dict[str, Channel] = {}
        self.heard_as: bytes | None = None  # the device, if it hears signals
        self.is_closed = False
        self.progress_s = 0.0  # trio's clock: when the socket last took something of the remainder
        self._wiring = wiring
        self._owner: Owner | None = owner  # until `disown`
        self._rest: memoryview | None = None
        self._control: list[bytes] | None = None  # frames that wait behind the remainder
        self._control_bytes = 0
        self._waiting: dict[Channel, None] | None = None  # channels for the pump, as a queue
        self._volatile: Conflated | None = None  # signals that wait behind all that
        self._is_pumping = False
        self._is_finished = False  # the close frame is out, or waits: nothing may follow it
        self._is_ending = False  # half-close after it

    # -- bytes ---------------------------------------------------------------------------------------------------

    @property
    def is_stalled(self) -> bool:
        """Whether something waits for the socket."""
        return self._rest is not None

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the socket, or for the pump."""
        return self._rest is not None or bool(self._waiting) or self._volatile is not None

    @property
    def waiting_bytes(self) -> int:
        """How much that is."""
        return self._control_bytes + self.signals_bytes + (0 if self._rest is None else len(self._rest))

    @property
    def signals_bytes(self) -> int:
        """How much of it are signals."""
        return 0 if self._volatile is None else self._volatile.held_bytes

    def send(self, *messages: ServerMessage) -> None:
        """Hand over one frame with these messages, or keep it behind the remainder."""
        self.send_frame(self.format.encoded(*messages))

    def send_frame(self, data: bytes) -> None:
        """Hand over a frame, or keep it behind the remainder. A peer that lets too much pile up is cut off."""
        if self.is_closed or self._is_finished:
            return
        if self._rest is None:
            self._hand_over(data)
            return
        self._control_bytes += len(data)
        if self._control_bytes > self._wiring.control_bytes_max:
            self.abort()
            return
        if self._control is None:
            self._control = []
        self._control.append(data)

    def finish(self, data: bytes) -> None:
        """The last frame. Idempotent: only the first one is sent."""
        self.drop_all()
        self.send_frame(data)
        self._is_finished = True

    def end(self) -> None:
        """Half-close, once what waits has been taken."""
        assert self._is_finished or self.is_closed
        self._is_ending = True
        if self._rest is None and not self.is_closed:
            self.transport.shutdown()

    def abort(self) -> None:
        """Let go of everything at once. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self.drop_all()
            self._rest = self._control = None
            self.transport.abort()

    def disown(self) -> None:
        """Let go of the owner, after `abort`. The two hold each other, and the collector seldom looks for cycles."""
        assert self.is_closed
        self._owner = None

    def failed(self) -> None:
        """Called in the handler of an exception that is a defect of ours: end the connection."""
        if self._owner is not None:
            self._owner.failed()

    def _hand_over(self, data: bytes) -> None:
        try:
            taken = self.send_now(data)
        except TransportClosed:
            self.abort()
            return
        self._wiring.counters.bytes_sent += len(data)  # what is left of it will go, or the connection
        if taken != len(data):
            self.keep_rest(data, taken)

    def keep_rest(self, data: bytes, taken: int) -> None:
        """The socket took only `taken` bytes of a frame: all channels are behind from here on."""
        assert self._rest is None, "whoever sends has looked"
        self._rest = memoryview(data)[taken:]
        self.progress_s = trio.current_time()
        for channel in self.channels.values():
            if channel.state is Subscription.LIVE:
                self.fall_behind(channel)
        if self._owner is not None:
            self._owner.stalled()
        self._start_pump()

    def _flush(self) -> None:
        """Hand over of the remainder, and of the control messages behind it, what the socket takes."""
        assert self._rest is not None
        taken = self.send_now(self._rest)
        if taken:
            self.progress_s = trio.current_time()
        if taken < len(self._rest):
            self._rest = self._rest[taken:]
            return
        self._rest = None
        if self._control:
            data = b"".join(self._control)
            self._wiring.counters.bytes_sent += len(data)
            self._control, self._control_bytes = None, 0
            self._rest = memoryview(data)
            self._flush()

    # -- channels ------------------------------------------------------------------------------------------------

    def begin(self, space: str, settled: int) -> Channel:
        """A `subscribe` came: the channel stands in the place of an older one of that space."""
        old = self.channels.get(space)
        channel = Channel(self, space, settled)
        if old is not None:
            # Outcomes of pushes that came before this `subscribe` are owed still, whatever becomes of it.
            channel.is_owed = old.is_owed
            channel.space_id, channel.slot, channel.epoch = old.space_id, old.slot, old.epoch
            if old.is_owed:
                channel.outcome_n = min(settled, old.outcome_n)
            self._detach(old)
        channel.moved(Step.SUBSCRIBE)
        self.channels[space] = channel
        return channel

    def attached(self, channel: Channel, answer: Attached, cursor: Cursor) -> None:
        """The engine let the subscription stand: answer it, and bring it to live."""
        channel.space_id, channel.slot, channel.epoch = answer.space_id, answer.slot, answer.epoch
        channel.role, channel.attached_at = Role[answer.role.upper()], answer.head
        channel.answer, channel.cursor = answer, cursor
        channel.room = self._wiring.rooms.enter(channel.space)  # before its first read: D3
        if self.heard_as is not None:
            channel.seat = Seat(self._wiring.rooms.ref(channel.space, self.heard_as))
        self._wait(channel)
        if self._rest is None and not self._is_pumping:
            self._step_next()
            self._start_pump()

    def refused(self, channel: Channel) -> None:
        """The subscription does not stand. Outcomes that it was to bring are still owed."""
        if self.is_closed:
            return  # telling so has found the transport dead, and all channels are gone
        channel.moved(Step.REFUSED)
        if channel.is_owed:
            self._wait(channel)
            self._start_pump()
        else:
            del self.channels[channel.space]

    def drop(self, channel: Channel, step: Step) -> None:
        """A subscription ends by `step`."""
        channel.moved(step)
        self._detach(channel, is_for_good=step is not Step.EXPIRED)
        if channel.is_owed:
            self._wait(channel)
            self._start_pump()
        else:
            del self.channels[channel.space]

    def promoted(self, channel: Channel, role: Role) -> bool:
        """The subscription goes on in this role. Whether that is to be said: it is another one, and was told before."""
        if role is channel.role:
            return False
        channel.role = role
        if channel.answer is not None:
            channel.answer = replace(channel.answer, role=role.name.lower())
        return channel.answer is None

    def drop_all(self) -> None:
        for channel in self.channels.values():
            self._detach(channel)
        self.channels.clear()
        self._waiting = self._volatile = None

    def fall_behind(self, channel: Channel) -> None:
        """A live channel stops getting deltas as they commit, and catches up from where it is."""
        assert channel.room is not None
        channel.moved(Step.BLOCKED)
        self._wiring.counters.fell_behind += 1
        del channel.room.live[self.format.number][channel]
        channel.cursor = Cursor(channel.space, channel.space_id, channel.pos, channel.pos, None)
        self._wait(channel)
        self._start_pump()

    @property
    def is_comparing(self) -> bool:
        """Whether something is held of what a device said that it holds: one such thing at a time bounds the memory."""
        return any(each.comparison is not None and each.comparison.is_waiting for each in self.channels.values())

    def compare(self, channel: Channel, sums: bytes | None, question: Question | None) -> None:
        """The device says what it holds, as it was told to or has found a difference: no more deltas. Or it asks
        about the buckets that differ; one that was not told which they are asks in vain."""
        if channel.state is Subscription.ATTACHING or (sums is None and channel.comparison is None):
            return  # it will hear where the subscription stands, and say again what it has to
        if channel.state is Subscription.LIVE:
            assert channel.room is not None
            del channel.room.live[self.format.number][channel]
        channel.moved(Step.SUMS)
        if sums is not None:
            channel.cursor, channel.comparison = None, Comparison(sums)
            self._wiring.counters.reconciled += 1
        else:
            assert channel.comparison is not None
            channel.comparison.question = question
        self._wait(channel)
        self._start_pump()

    def _detach(self, channel: Channel, *, is_for_good: bool = False) -> None:
        """`is_for_good`: it will not be back in a moment."""
        self.deafen(channel, is_for_good=is_for_good)
        if channel.room is not None:
            channel.room.live[self.format.number].pop(channel, None)
            self._wiring.rooms.leave(channel.room)
            channel.room = None
        channel.state, channel.answer, channel.cursor = Subscription.NONE, None, None
        if channel.comparison is not None:
            channel.comparison = None
            if self._owner is not None:
                self._owner.compared()
        if self._waiting is not None:
            self._waiting.pop(channel, None)

    def _go_live(self, channel: Channel) -> bool:
        """D3, in one step. False: the channel has to read on."""
        room, cursor = channel.room, channel.cursor
        assert room is not None and cursor is not None
        if self._rest is not None or self.is_closed or room.sent_to > cursor.complete:
            return False
        channel.moved(Step.FINAL_PAGE)
        channel.pos, channel.cursor, channel.is_owed = cursor.complete, None, False
        room.live[self.format.number][channel] = None
        return True

    # -- outcomes ------------------------------------------------------------------------------------------------

    def pushed(self, result: Pushed, floor: int) -> None:
        """The outcomes of a push, straight from the commit. `floor`: `outcome_n` of the channel when the push came.

        What the pump has read from the store since then is not repeated; what lies at or below the floor was asked for
        again, and is given again.
        """
        if self._is_finished:
            return
        channel = self.channels.get(result.space)
        entries = result.outcomes
        if channel is not None and entries and entries[0].n <= channel.outcome_n:
            entries = tuple(entry for entry in entries if not floor < entry.n <= channel.outcome_n)
        if entries and not self._is_deferred(result, channel, entries[0].n):
            if channel is not None:
                channel.outcome_n = max(channel.outcome_n, entries[-1].n)
        else:
            entries = ()
        # Whatever waits, a device whose changes were not taken must hear so, or it would never send them again.
        if entries or result.gap is not None or result.forked is not None:
            self.send(Outcomes(result.space, result.epoch, entries, result.gap, result.forked))

    def _is_deferred(self, result: Pushed, channel: Channel | None, first: int) -> bool:
        """Leave outcomes to the pump, which reads them from the store, unless they can be handed over now."""
        if channel is None:
            if self._rest is None:
                return False
            if len(self.channels) >= self._wiring.channels_max:
                self.abort()  # it pushes to ever new spaces and does not read: what it is owed is durable
                return True
            channel = self.channels[result.space] = Channel(self, result.space, first - 1)
        elif channel.state is Subscription.LIVE:
            return False
        channel.outcome_n = min(channel.outcome_n, first - 1)
        channel.is_owed = True
        channel.space_id, channel.slot, channel.epoch = result.space_id, result.slot, result.epoch
        if channel.state in (Subscription.NONE, Subscription.RECONCILING):
            self._wait(channel)
            self._start_pump()
        return True

    # -- signals -------------------------------------------------------------------------------------------------

    def hold(self, signals: list[Waiting]) -> None:
        """Signals for one who cannot take them now."""
        held = self._held()
        for each in signals:
            held.put(each)
        self._start_pump()

    def hold_presence(self, space: str) -> None:
        """Who is present there is told anew, when that can be."""
        self._held().spaces[space] = None
        self._start_pump()

    def silence(self, channel: Channel, now: Standing) -> None:
        """The user is going to stand so: one who may not read then hears no more already."""
        if not now.may_read:
            self.deafen(channel, is_for_good=True)

    def deafen(self, channel: Channel, *, is_for_good: bool) -> None:
        """The channel hears no signal any more, not even one that waits."""
        if channel.seat is not None:
            self._wiring.rooms.unseated(channel, is_for_good=is_for_good)
        if self._volatile is not None:
            self._volatile.forget(channel.space)

    def _held(self) -> Conflated:
        if self._volatile is None:
            wiring = self._wiring
            self._volatile = Conflated(wiring.signals_held_max, wiring.signals_held_bytes_max, wiring.counters)
        return self._volatile

    def _hand_over_signals(self) -> None:
        """One frame of what waited: the presence of one space, or some signals."""
        held, counters = self._volatile, self._wiring.counters
        assert held is not None
        if held.spaces:
            space = next(iter(held.spaces))
            del held.spaces[space]
            present = self._wiring.rooms.present_in(space)
            data = b"" if present is None else self.format.encoded(present)
            counters.signals["presence"] += 1
        else:
            now_s = trio.current_time()
            taken = held.take(now_s)
            data = self.format.encoded(*messages(taken, now_s)) if taken else b""
            counters.signals["sent"] += len(taken)
        if not held:
            self._volatile = None
        if data:
            self._hand_over(data)

    # -- the pump ------------------------------------------------------------------------------------------------

    def _wait(self, channel: Channel) -> None:
        if self._waiting is None:
            self._waiting = {}
        self._waiting[channel] = None

    def _start_pump(self) -> None:
        if not self._is_pumping and not self.is_closed and self.is_behind:
            self._is_pumping = True
            self._wiring.nursery.start_soon(self._pump)

    async def _pump(self) -> None:
        owner = self._owner  # which may be gone before the pump is, and hears of its failure all the same
        try:
            await self._bring_on()
        except Exception:
            self._is_pumping = False  # the error that is sent now may need a pump of its own
            if owner is not None:
                owner.failed()
            return
        self._is_pumping = False

    async def _bring_on(self) -> None:
        """Until nothing waits: flush, then bring one channel on by one step, and let others run."""
        try:
            while not self.is_closed and self.is_behind:
                if self._rest is not None:
                    await self.transport.wait_writable()
                    if self._rest is not None:
                        self._flush()
                    continue
                if not self._waiting:
                    self._hand_over_signals()
                    await trio.lowlevel.checkpoint()
                    continue
                await self._wiring.turns.take(self._step_next)
            if self._is_ending and not self.is_closed:
                self.transport.shutdown()
        except TransportClosed:
            self.abort()

    def _step_next(self) -> int:
        """One step of the channel that has waited longest; it goes to the end of the queue if it needs another. What it
        has read, in bytes: nothing, if all is otherwise by now."""
        if not self._waiting or self._rest is not None or self.is_closed:
            return 0
        pages = self._wiring.pages
        channel = next(iter(self._waiting))
        read_bytes = COMPARED_BYTES * (channel.comparison is not None) - pages.read_bytes
        del self._waiting[channel]
        if not self._waiting:
            self._waiting = None
        if self._step(channel):
            self._wait(channel)
        return read_bytes + pages.read_bytes

    def _step(self, channel: Channel) -> bool:
        """Read once, hand over what was read in one piece; whether the channel needs another step.

        Role, outcomes and page come from one transaction, and nothing of the space is looked up, not even among pages
        that are kept, for one who may not read it then. The outcomes go first: so D1 holds even for a change whose
        commit is in this transaction and whose result has not been called back yet.
        """
        page: Page | None = None
        forgotten: Position | None = None
        repair: Differ | Repair | None = None
        if channel.answer is not None and not channel.is_owed and channel.answer.highest <= channel.outcome_n:
            # When it was attached nothing was recorded that it has not been told, and no result was left to the pump
            # since; what commits from then on is called back before its delta is handed out.
            self._hand_over(self.format.encoded(_subscribed(channel)))
            return self._needs_more(channel, None)
        owner = self._owner
        assert owner is not None, "it lets go only of what is closed"
        with self._wiring.store.read() as tx:
            now = owner.standing(tx, channel.space)
            if channel.state in (Subscription.BEHIND, Subscription.RECONCILING) and not now.may_read:
                owner.bar(channel, now)
                return False
            outcomes, is_told, read_bytes = reading.outcomes_after(
                tx, channel.space_id, channel.slot, channel.outcome_n, OUTCOMES_MAX, now.role
            )
            self._wiring.pages.read_bytes += read_bytes
            if is_told and channel.state is Subscription.BEHIND:
                assert channel.cursor is not None
                if reading.is_forgotten(tx, channel.cursor):
                    forgotten = reading.position(tx, channel.space)
                else:
                    page = self._wiring.pages.page(tx, channel.cursor, self.format)
            elif is_told and channel.state is Subscription.RECONCILING and channel.comparison is not None:
                repair = self._compared(tx, channel, channel.comparison)
        data = b""
        if outcomes:
            channel.outcome_n = outcomes[-1].n
            data = self.format.encoded(Outcomes(channel.space, channel.epoch, outcomes))
        if is_told:
            channel.is_owed = False
            if channel.answer is not None:
                data += self.format.encoded(_subscribed(channel))
            elif page is not None and page.data:
                data += page.data
                self._wiring.counters.pages += 1
            elif forgotten is not None:
                role = channel.role.name.lower()
                # `safe` 0: nothing new is said of it.
                again = Subscribed(channel.space, channel.epoch, forgotten.seq, 0, role, RECONCILE)
                data += self.format.encoded(again)
                channel.moved(Step.FORGOTTEN)
            elif repair is not None:
                data += self.format.encoded(repair)
        if data:
            self._hand_over(data)
        return not is_told or self._needs_more(channel, page)

    def _compared(self, tx: Reader, channel: Channel, comparison: Comparison) -> Differ | Repair | None:
        """A step of a comparison: what there is to say about it. At its end the channel is behind, at a new place."""
        told, is_over = comparison.step(tx, channel.space)
        if isinstance(told, Repair):
            self._wiring.counters.repaired += len(told.docs) + len(told.gone) // 8
        if is_over:
            channel.moved(Step.REPAIRED)
            channel.cursor = Cursor(channel.space, channel.space_id, comparison.at, comparison.at, None)
            channel.comparison = None
        if self._owner is not None and not (channel.comparison and channel.comparison.is_waiting):
            self._owner.compared()
        return told

    def _needs_more(self, channel: Channel, page: Page | None) -> bool:
        """After outcomes, and an answer or a page, were handed over: move the channel on."""
        if self.is_closed:
            return False
        if channel.answer is not None and channel.seat is not None:
            self._wiring.rooms.seated(channel)  # D5 holds: it is told before it hears
        if channel.state is Subscription.NONE:
            del self.channels[channel.space]  # nothing was owed but outcomes
            return False
        if channel.state is Subscription.RECONCILING:
            return channel.comparison is not None and channel.comparison.is_waiting
        if channel.answer is None and page is None:
            return True  # a comparison is over: on with the pages
        cursor = channel.cursor
        assert cursor is not None
        if channel.answer is not None and channel.answer.is_forgotten:
            channel.moved(Step.FORGOTTEN)
            channel.answer = None
            return False
        if channel.answer is not None:
            channel.moved(Step.ATTACHED)
            is_complete = _is_at_head(channel.answer, cursor)
            channel.answer = None
        else:
            assert page is not None
            is_complete = page.complete
            complete, start = (page.to, None) if is_complete else (cursor.complete, page.start)
            channel.cursor = Cursor(channel.space, channel.space_id, complete, page.to, start)
        return not (is_complete and self._go_live(channel))


def _is_at_head(answer: Attached, cursor: Cursor) -> bool:
    return cursor.complete == cursor.resume == answer.head


def _subscribed(channel: Channel) -> Subscribed:
    answer, cursor = channel.answer, channel.cursor
    assert answer is not None and cursor is not None
    mode = RECONCILE if answer.is_forgotten else "live" if _is_at_head(answer, cursor) else "catch-up"
    ref = None if channel.seat is None else channel.seat.ref
    return Subscribed(answer.space, answer.epoch, answer.head, answer.safe, answer.role, mode, ref)
