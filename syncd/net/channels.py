"""What a connection and the hub share: rooms, the channels in them, and who stands behind a channel.

Owns the shape of one subscription's place (`Channel`), of the subscribers of a space (`Room`), and of what both ends of
a delivery need of each other. Must not know how bytes leave (`delivery`), nor what is handed out (`hub`, `live`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import trio

from syncd.engine.commands import Attached
from syncd.engine.grants import Role
from syncd.engine.reading import Cursor
from syncd.net.comparing import Comparison
from syncd.net.counters import Counters
from syncd.net.formats import FORMATS
from syncd.net.pages import Pages
from syncd.net.presence import Roster
from syncd.net.signals import Conflated
from syncd.net.standing import Standing
from syncd.net.turns import Turns
from syncd.store.api import Reader, Store
from syncd.wire.messages import Presence
from syncd.wire.session import Step, Subscription, subscription_after

if TYPE_CHECKING:
    from syncd.net.delivery import Delivery

SLICE = 256  # sends between two checkpoints: some 2 ms


class Room:
    """The subscribers of one space. `sent_to`: the `to` of the last delta whose fan-out has begun. `live`: channels
    that get deltas as they commit, by the number of their format, each in order of arrival. `count`: all channels.
    `hearers`: as `live`, those that hear signals, however far behind they are in deltas; None: none ever did.
    `signals`: those that wait to be handed out. `roster`: who is present, if anyone asked."""

    __slots__ = ("count", "hearers", "live", "roster", "sent_to", "signals", "space")

    def __init__(self, space: str) -> None:
        self.space = space
        self.sent_to = 0
        self.live: tuple[dict[Channel, None], ...] = tuple({} for _ in FORMATS)
        self.count = 0
        self.hearers: tuple[dict[Channel, None], ...] | None = None
        self.signals: Conflated | None = None
        self.roster: Roster | None = None


@dataclass(slots=True)
class Seat:
    """A channel that hears signals. `ref`: what the others know its device by in this space. `is_watching`: it is told
    who is present; `is_present`: it is among them."""

    ref: bytes
    is_watching: bool = False
    is_present: bool = False


async def in_turns(channels: list["Channel"], sends: int, hand_out: Callable[[list["Channel"]], None]) -> int:
    """Hand out to all of them, with turns for others; `sends` since the last of these, before and after."""
    start = 0
    while start < len(channels):
        if sends >= SLICE:
            await trio.lowlevel.checkpoint()
            sends = 0
        part = channels[start : start + SLICE - sends]
        hand_out(part)
        start += len(part)
        sends += len(part)
    return sends


class Rooms(Protocol):
    """What delivery needs of the hub."""

    def enter(self, space: str) -> Room: ...

    def leave(self, room: Room) -> None: ...

    def ref(self, space: str, device: bytes) -> bytes:
        """What others know a device by in a space."""
        ...

    def seated(self, channel: "Channel") -> None:
        """`subscribed` has gone out to a device that hears signals: from here on it does."""
        ...

    def unseated(self, channel: "Channel", *, is_for_good: bool) -> None:
        """It hears nothing more. `is_for_good`: its presence ends with it, and not after a grace."""
        ...

    def present_in(self, space: str) -> Presence | None:
        """Who is, for one who could not be told before; None: nobody listens there any more."""
        ...


@dataclass(frozen=True, slots=True)
class Wiring:
    """What all deliveries of a server share. Pumps run in `nursery`. `channels_max`: of one connection, subscriptions
    and the outcomes that are owed for other spaces together."""

    store: Store
    rooms: Rooms
    nursery: trio.Nursery
    pages: Pages
    control_bytes_max: int
    channels_max: int
    counters: Counters
    signals_held_max: int
    signals_held_bytes_max: int
    turns: Turns


class Owner(Protocol):
    """The connection, as its delivery sees it."""

    def stalled(self) -> None:
        """A remainder has appeared: watch its progress."""
        ...

    def standing(self, tx: Reader, space: str) -> Standing:
        """What the user may do in the space, at the moment of the transaction."""
        ...

    def bar(self, channel: "Channel", now: Standing) -> None:
        """The user may not read the space any more: end the subscription."""
        ...

    def failed(self) -> None:
        """Called in the handler of an exception that is a defect of ours: end the connection."""
        ...

    def compared(self) -> None:
        """What a device holds of a space was compared, or need not be any more: the next one may say so."""
        ...


class Channel:
    """One space of one connection.

    `state` NONE: there is no subscription, but outcomes of a push are owed. `pos`: the `to` of the last frame handed
    over; of use only while live. `role`: as it was told last. `attached_at`: the head at which it was let in: what
    changed roles before that counted then. `cursor`: where the pages go on; None while live or not attached.
    `outcome_n`: the outcomes up to this n are handed over (or were settled before). `answer`: attached, but
    `subscribed` is not handed over yet. `comparison`: while it reconciles, once the device has begun. `is_owed`: there
    are outcomes that the pump has to read from the store. `seat`: while it hears signals.
    """

    __slots__ = (
        *("answer", "attached_at", "comparison", "cursor", "delivery", "epoch", "is_owed", "outcome_n", "pos"),
        *("role", "room", "seat", "slot", "space", "space_id", "state"),
    )

    def __init__(self, delivery: "Delivery", space: str, outcome_n: int) -> None:
        self.delivery = delivery
        self.space = space
        self.state = Subscription.NONE
        self.room: Room | None = None
        self.seat: Seat | None = None
        self.space_id = self.slot = self.pos = self.attached_at = 0
        self.epoch = b""
        self.role = Role.NONE
        self.outcome_n = outcome_n
        self.is_owed = False
        self.cursor: Cursor | None = None
        self.answer: Attached | None = None
        self.comparison: Comparison | None = None

    def moved(self, step: Step) -> None:
        self.state = subscription_after(self.state, step)
