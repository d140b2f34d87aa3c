"""Who is there: connections, taken together by user, are sessions, and their lengths are learned.

Owns when a session begins and ends, and the way of both to the engine. Must not know what is learned of it (`notify`),
nor messages: it is told who comes, rests and goes.

A person is there while any of their devices is connected and not in the background. Gaps of less than half an hour are
no ends: a tunnel, a restart of the server, a look at another application. What an application tells of its sessions
itself (`session.start`, `session.end`) is better than what connections show, so then nothing is said of its length.

Nobody waits for any of this, and nothing of it is written where a connection is served: a task of its own hands a
bounded number of visits to the committer, and waits until they are durable and a while longer before it hands on more.
The wall clock tells how long: habits are learned by it, and one that leaps, either way, costs one length, which is
bounded.
So ten thousand who come back at once are ten thousand small steps over some minutes, and the changes that they bring
stand before those. What is under way when the process ends is lost: a length of a habit.

Invariants: A1 what is held is bounded: the longest gone give way. A2 of one user a beginning and an end are told at
most once in `RECENT_SESSION_MS`. A3 shortly after a start, who names a session that this process does not know comes
back because of the start, and begins nothing: else all people were learned to be there when servers are restarted.
"""

import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from math import inf

import trio

from syncd.engine.commands import Attend, Command, Decision, Result, Visit
from syncd.env.ports import Clock
from syncd.notify.learning import begins_session, is_learning
from syncd.notify.limits import RECENT_SESSION_MS
from syncd.store.api import Reader, Store
from syncd.store.committer import Committer, Overloaded

VISITS_AT_ONCE = 64  # in one command: 6 ms of processor time, in which the writer does nothing else
PAUSE_S = 0.5  # after each: some hundredths of the writer's time, and 7,000 people a minute
HOLD_MS = 2_000  # of a beginning: a device in the background says so as soon as it is welcome
LOOK_S = 30.0  # how often ends are looked for: a wall clock may leap
SETTLE_MS = 600_000  # after a start: clients back off for a minute at most, and a crowd is let in slowly


@dataclass(slots=True)
class _Stay:
    """One user's session. `present`: the connections that are there now, since `since_ms`; `past_ms`: of before."""

    began_ms: int
    since_ms: int
    present: dict[object, None]
    past_ms: int = 0
    is_told: bool = False  # by the application


class Attendance:
    """`users_max`: sessions that are held, 300 bytes each."""

    def __init__(self, users_max: int) -> None:
        self._users_max = users_max
        self._clock: Clock | None = None
        self._stays: dict[str, _Stay] = {}
        self._new: OrderedDict[str, int] = OrderedDict()  # user -> when they came, if that is to be told
        self._gone: OrderedDict[str, int] = OrderedDict()  # user -> when the last connection went, in this order
        self._ended: OrderedDict[str, Visit] = OrderedDict()  # by user, what is to be told
        self._changed = trio.Event()
        self._settled_ms = 0

    def start(self, clock: Clock) -> None:
        """Before any connection."""
        self._clock, self._settled_ms = clock, clock.now_ms() + SETTLE_MS

    # -- what connections say ------------------------------------------------------------------------------------

    def came(self, user: str, connection: object, *, is_back: bool = False) -> None:
        """`is_back`: it goes on with a conversation that this process does not know. Idempotent."""
        if self._clock is None:
            return
        now_ms = self._clock.now_ms()
        gone_ms = self._gone.pop(user, None)
        if gone_ms is not None and abs(now_ms - gone_ms) >= RECENT_SESSION_MS:
            self._end(user, gone_ms)
        stay = self._stays.get(user)
        if stay is None:
            if len(self._stays) + len(self._ended) >= self._users_max and not self._give_way():
                return
            stay = self._stays[user] = _Stay(now_ms, now_ms, {})
            if not (is_back and now_ms < self._settled_ms):  # A3
                self._new[user] = now_ms
                self._changed.set()
        if not stay.present:
            stay.since_ms = now_ms
        stay.present[connection] = None

    def went(self, user: str, connection: object, *, is_resting: bool = False) -> None:
        """`is_resting`: it is still there, in the background. Idempotent."""
        stay = self._stays.get(user)
        if self._clock is None or stay is None or connection not in stay.present:
            return
        del stay.present[connection]
        if is_resting and not stay.present and user in self._new:  # a phone that lies there, and came back by itself
            del self._new[user], self._stays[user]
        elif not stay.present:
            now_ms = self._clock.now_ms()
            stay.past_ms += max(0, now_ms - stay.since_ms)
            self._gone[user] = now_ms
            self._changed.set()

    def tells(self, user: str) -> None:
        """The application says itself when its sessions end."""
        if user in self._stays:
            self._stays[user].is_told = True

    def _end(self, user: str, gone_ms: int) -> None:
        stay = self._stays.pop(user)
        if not stay.is_told:
            self._ended[user] = Visit(user, gone_ms, stay.past_ms / 1000)

    def _give_way(self) -> bool:
        """Forget who has been gone for longest; whether there was anybody (A1)."""
        if not self._gone:
            return False
        user, _ = self._gone.popitem(last=False)
        del self._stays[user]
        self._new.pop(user, None)
        return True

    def __len__(self) -> int:
        return len(self._stays)

    # -- what is told --------------------------------------------------------------------------------------------

    @property
    def is_due(self) -> bool:
        """Whether there is something to tell."""
        assert self._clock is not None, "it was started"
        now_ms = self._clock.now_ms()
        new_ms, gone_ms = next(iter(self._new.values()), None), next(iter(self._gone.values()), None)
        return (
            bool(self._ended)
            or (new_ms is not None and abs(now_ms - new_ms) >= HOLD_MS)
            or (gone_ms is not None and abs(now_ms - gone_ms) >= RECENT_SESSION_MS)
        )

    def visits(self, tx: Reader) -> tuple[Visit, ...]:
        """What is to be told now, `VISITS_AT_ONCE` at most. It is not told again."""
        assert self._clock is not None, "it was started"
        now_ms = self._clock.now_ms()
        for user, gone_ms in list(islice(self._gone.items(), VISITS_AT_ONCE)):
            if abs(now_ms - gone_ms) >= RECENT_SESSION_MS:
                del self._gone[user]
                self._end(user, gone_ms)
        told: list[Visit] = []
        is_kept = is_learning(tx)
        while self._ended and len(told) < VISITS_AT_ONCE:
            told.append(self._ended.popitem(last=False)[1])
        for user, at_ms in list(islice(self._new.items(), VISITS_AT_ONCE - len(told))):
            if abs(now_ms - at_ms) < HOLD_MS:
                break
            del self._new[user]
            if is_kept and begins_session(tx, user, at_ms):
                told.append(Visit(user, at_ms))
        return tuple(told) if is_kept else ()

    async def run(
        self, store: Store, committer: Committer[Command, Result, Decision], log: Callable[[str], None]
    ) -> None:
        """Tell until cancelled."""
        while True:
            while not self.is_due:
                self._changed = trio.Event()
                with trio.move_on_after(HOLD_MS / 1000 if self._new else LOOK_S if self._gone else inf):
                    await self._changed.wait()
            try:
                with store.read() as tx:
                    told = self.visits(tx)
                if told:
                    await self._tell(committer, told)
            except Exception:
                log(f"sessions could not be told\n{traceback.format_exc()}")
            await trio.sleep(PAUSE_S)

    async def _tell(self, committer: Committer[Command, Result, Decision], told: tuple[Visit, ...]) -> None:
        while True:
            try:
                await committer.execute(Attend(told))
            except Overloaded:  # those who bring changes go first
                await trio.sleep(PAUSE_S)
            else:
                return
