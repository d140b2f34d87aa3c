"""One user inside one write transaction: what is kept of them, read when it is asked for and written once at the end.

Owns the reading and writing of rows about a user, the numbers of runs and decisions, timers that stand where their runs
say, and the way of a notification into the inbox. Must not know by which rules anything is decided.

Nothing is written before `flush`: whoever raises before it leaves no trace, so a defect in a rule costs its own step
and nothing else. Then the inbox is written first, because what cannot be delivered is not sent.

Invariants: D1 a run that is due has exactly one timer, one that is idle has none. D2 numbers are never used twice.
D3 a user has `RUNS_MAX` runs at most, and `DIRECT_MAX` more for what backends post. D4 a decision that is final is
never altered, but for the receipts beside it.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

from syncd.core.ids import PREFERENCES, PROFILE, BadName, user_space
from syncd.engine.batch import Batch
from syncd.engine.commands import Author
from syncd.engine.posting import SERVER, delivered
from syncd.notify import profile as profiles
from syncd.notify import timing
from syncd.notify.book import Book, Current, Pinned
from syncd.notify.civil import BadTime, offset_s, zone
from syncd.notify.gates import SENDS_KEPT
from syncd.notify.limits import DECISIONS_KEPT, DIRECT_MAX, PAST_KEPT, RUNS_MAX
from syncd.notify.policy import NO_PREFERENCES, Preferences, preferences
from syncd.notify.profile import Profile
from syncd.notify.reports import Series, count
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import (
    DECISIONS,
    DISPATCHES,
    META,
    PROFILES,
    RUNS,
    STANDINGS,
    TIMERS,
    DecisionRow,
    DispatchRow,
    ProfileRow,
    RunRow,
    StandingRow,
)

PROFILE_DOCUMENT = "main"  # of `_profile`: `zone` and `locale`, each with where it came from
_KEY = keys.meta("notice key")
KEY_BYTES = 32


_NOTHING = {"reason": None, "until_ms": None, "into": None, "by": None, "document": None}  # of an outcome, if not told


def identity(owner: bytes, number: int) -> str:
    """The id of a decision outside: 40 hexadecimal digits."""
    return (owner + number.to_bytes(4)).hex()


def parse_identity(text: str) -> tuple[bytes, int] | None:
    """(hash of the user, number) of a decision's id."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        return None
    size = keys.HASH_BYTES + 4
    return (raw[: keys.HASH_BYTES], int.from_bytes(raw[keys.HASH_BYTES :])) if len(raw) == size else None


def is_known(tx: Reader, user: str) -> bool:
    """Whether anything is kept of a user by which a happening could matter: a desk would have a standing."""
    return tx.get(keys.standing(keys.owner(user))) is not None


@dataclass(frozen=True, slots=True)
class Delivery:
    """What goes into the inbox at `flush`, for a decision."""

    decision: int
    document: str
    fields: Mapping[str, Any]


class Desk:
    """Make one for each thing that happens to a user, and `flush` it if nothing raised."""

    __slots__ = (
        *("_are_all_loaded", "_begun", "_counted", "_ended", "_stored"),
        *("_decisions", "_dirty", "_dispatches", "_documents", "_loaded", "_population", "_profile", "_runs", "_work"),
        *(
            "author",
            "batch",
            "book",
            "current",
            "deliveries",
            "now_ms",
            "owner",
            "standing",
            "user",
            "zone",
        ),
    )

    def __init__(
        self, batch: Batch, book: Book, user: str, author: Author = SERVER, run: tuple[int, RunRow] | None = None
    ) -> None:
        """`author`: to whom the user's space is counted if a notification makes it. `run`: one that is read already."""
        self.batch, self.book, self.user, self.author = batch, book, user, author
        self.now_ms, self.owner = batch.now_ms, keys.owner(user)
        self.current: Current = book.current(batch.tx)
        self._profile: Profile | None = None
        self._population: Profile | None = None
        self._runs: dict[int, RunRow | None] = {}  # those that were asked for; None: there is none
        self._loaded: dict[int, RunRow] = {}  # as they are stored
        self._are_all_loaded = False
        if run is not None:
            self._runs[run[0]] = self._loaded[run[0]] = run[1]
        self._decisions: dict[int, DecisionRow] = {}
        self._dispatches: dict[str, DispatchRow] = {}
        self._dirty: dict[str | int, None] = {}  # decisions, and by name: profile, population
        self._documents: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._begun: list[Pinned] = []
        self._ended: list[str] = []
        self._counted: list[tuple[int, Series, dict[str, int]]] = []
        self.deliveries: list[Delivery] = []
        try:
            self._work = batch.space(user_space(user))
        except BadName:
            self._work = None  # too long a name for a space: such a user has none
        self.zone: ZoneInfo = self._zone()
        row = STANDINGS.get(batch.tx, keys.standing(self.owner))
        self._stored = row
        self.standing = row or StandingRow(user, self.zone.key, 0, 0, 0, (), {}, {})

    # -- what devices wrote ------------------------------------------------------------------------------------------

    def fields(self, collection: str, document_id: str) -> Mapping[str, Any]:
        """The visible fields of a document in the user's space; none if there is no such document."""
        name = (collection, document_id)
        if name not in self._documents:
            self._documents[name] = {}
            document = None if self._work is None else self._work.document(name)
            if document is not None and document.is_live:
                self._documents[name] = {field: value for field, (_, value) in document.visible().items()}
        return self._documents[name]

    def _zone(self) -> ZoneInfo:
        named = self.fields(PROFILE, PROFILE_DOCUMENT).get("zone")
        try:
            return zone(named if isinstance(named, str) else self.book.zone)
        except BadTime:
            return zone(self.book.zone)

    @property
    def locale(self) -> str:
        found = self.fields(PROFILE, PROFILE_DOCUMENT).get("locale")
        return found if isinstance(found, str) else ""

    def wishes(self, category: str, topic: str | None) -> Preferences:
        """What the user chose that bears on a category and a topic: three documents, whatever else there is."""
        if self._work is None:
            return NO_PREFERENCES
        names = ["all", f"category:{category}", *([f"topic:{topic}"] if topic is not None else [])]
        found = {name: self.fields(PREFERENCES, name) for name in names}
        return preferences({name: fields for name, fields in found.items() if fields})

    @property
    def offset_s(self) -> int:
        return offset_s(self.zone, self.now_ms)

    def lot(self) -> float:
        """A number in [0, 1) that is this user's for ever, and that nobody outside can tell."""
        row = META.get(self.batch.tx, _KEY)
        if row is None:
            META.put(self.batch.tx, _KEY, row := (self.batch.entropy(KEY_BYTES),))
        return int.from_bytes(hmac.digest(row[0], self.user.encode(), "sha256")[:6]) / 2**48

    def draw(self) -> float:
        """A random number in [0, 1)."""
        return int.from_bytes(self.batch.entropy(6)) / 2**48

    # -- what was learned --------------------------------------------------------------------------------------------

    @property
    def profile(self) -> Profile:
        if self._profile is None:
            row = PROFILES.get(self.batch.tx, keys.profile(self.owner))
            self._profile = profiles.new(self.now_ms, self.offset_s) if row is None else profiles.of_row(row)
        return self._profile

    @profile.setter
    def profile(self, learned: Profile) -> None:
        self._profile = learned
        self._dirty["profile"] = None

    @property
    def population(self) -> Profile:
        """What was learned of all people."""
        if self._population is None:
            row = PROFILES.get(self.batch.tx, keys.POPULATION)
            self._population = profiles.new(self.now_ms, 0) if row is None else profiles.of_row(row)
        return self._population

    @population.setter
    def population(self, learned: Profile) -> None:
        self._population = learned
        self._dirty["population"] = None

    @property
    def people(self) -> Sequence[float]:
        """When all people are there: `timing.shares`."""
        if "population" in self._dirty:
            return timing.shares(profiles.hours_at(self.population, self.now_ms))
        return self.book.people(self.batch.tx, self.now_ms)

    # -- runs --------------------------------------------------------------------------------------------------------

    @property
    def runs(self) -> Mapping[int, RunRow]:
        """All runs of the user that go on, by number."""
        if not self._are_all_loaded:
            self._are_all_loaded = True
            if self.standing.run_count:
                found: dict[int, RunRow | None] = {}
                for key, run in RUNS.scan(self.batch.tx, keys.of_user_range(keys.RUN, self.owner)):
                    number = keys.parse_of_user(key)[1]
                    found[number] = self._loaded[number] = run
                self._runs = {**found, **self._runs}
        return {number: run for number, run in sorted(self._runs.items()) if run is not None}

    def run(self, number: int) -> RunRow | None:
        if number not in self._runs and not self._are_all_loaded:
            run = RUNS.get(self.batch.tx, keys.run(self.owner, number))
            self._runs[number] = run
            if run is not None:
                self._loaded[number] = run
        return self._runs.get(number)

    def begin(self, run: RunRow, pinned: Pinned | None = None) -> int | None:
        """A new run; its number, or None if there are as many as may be (D3)."""
        if self.standing.run_count >= RUNS_MAX + (DIRECT_MAX if run.kind == "direct" else 0):
            return None
        if pinned is not None:
            self._begun.append(pinned)
        number = self.standing.run_next
        self.standing = self.standing._replace(run_next=number + 1, run_count=self.standing.run_count + 1)
        self._runs[number] = run
        return number

    def alter(self, number: int, **changes: Any) -> RunRow:
        run = self.run(number)
        assert run is not None, "a run that ended is not altered"
        run = run._replace(**changes)
        self._runs[number] = run
        return run

    def end(self, number: int) -> None:
        run = self.run(number)
        assert run is not None, "a run ends once"
        self._runs[number] = None
        self.standing = self.standing._replace(run_count=self.standing.run_count - 1)
        if run.kind == "run":
            self._ended.append(run.version)

    def pinned(self, run: RunRow) -> Pinned | None:
        return self.book.pinned(self.batch.tx, run.version)

    # -- decisions ---------------------------------------------------------------------------------------------------

    def decision(self, number: int) -> DecisionRow:
        row = self.kept_decision(number)
        assert row is not None, "what waits, and what was dispatched, has its decision"
        return row

    def kept_decision(self, number: int) -> DecisionRow | None:
        """None if it is forgotten: a send is remembered for longer where many candidates come to nothing."""
        row = self._decisions.get(number) or DECISIONS.get(self.batch.tx, keys.decision(self.owner, number))
        if row is not None:
            self._decisions[number] = row
        return row

    def decision_begun(self, row: DecisionRow) -> int:
        number = self.standing.decision_next
        self.standing = self.standing._replace(decision_next=number + 1)
        self._decisions[number] = row
        self._dirty[number] = None
        return number

    def decided(self, number: int, **changes: Any) -> DecisionRow:
        """What a decision comes to now; what it came to before becomes its past."""
        row = self.decision(number)
        assert row.outcome in ("", "deferred"), "what is final is not decided again (D4)"
        if row.outcome:
            changes["past"] = [*row.past, (row.decided_ms, row.outcome, row.reason, row.until_ms)][-PAST_KEPT:]
        row = row._replace(**{**_NOTHING, "decided_ms": self.now_ms, **changes})
        self._decisions[number] = row
        self._dirty[number] = None
        return row

    def sent(self, at_ms: int, category: str, number: int) -> None:
        """Remember what was shown, for caps."""
        sends = [*self.standing.sends, (at_ms, category, number, False)][-SENDS_KEPT:]
        self.standing = self.standing._replace(sends=sends)

    def dispatch(self, document: str) -> DispatchRow | None:
        found = self._dispatches.get(document)
        return found or DISPATCHES.get(self.batch.tx, keys.dispatch(self.owner, document))

    def set_dispatch(self, document: str, row: DispatchRow) -> None:
        self._dispatches[document] = row

    def count(self, at_ms: int, series: Series, **more: int) -> None:
        """Something to be counted of all people, on the day of `at_ms`."""
        self._counted.append((at_ms, series, more))

    # -- the end -----------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Deliver, and write all that changed."""
        for each in self.deliveries:
            self._deliver(each)
        tx = self.batch.tx
        for pinned in self._begun:
            self.batch.used(pinned.version, 1)
        for version in self._ended:
            self.batch.used(version, -1)
        for number, run in self._runs.items():
            self._write_run(number, run)
        for mark in self._dirty:
            if isinstance(mark, int):
                DECISIONS.put(tx, keys.decision(self.owner, mark), self._decisions[mark])
        for document, dispatch in self._dispatches.items():
            DISPATCHES.put(tx, keys.dispatch(self.owner, document), dispatch)
        if "profile" in self._dirty:
            PROFILES.put(tx, keys.profile(self.owner), ProfileRow(*self.profile))  # type: ignore[arg-type]
        if "population" in self._dirty:
            PROFILES.put(tx, keys.POPULATION, ProfileRow(*self.population))  # type: ignore[arg-type]
        for at_ms, series, more in self._counted:
            count(tx, at_ms, self.now_ms, series, **more)
        if self.standing.zone != self.zone.key:
            self.standing = self.standing._replace(zone=self.zone.key)
        if self.standing != self._stored and self._is_known():
            STANDINGS.put(tx, keys.standing(self.owner), self.standing)
        if made := sum(isinstance(mark, int) for mark in self._dirty):
            self._trim(made)

    def _is_known(self) -> bool:
        """Whether there is anything to keep of the user: one of whom an event was heard once needs no row."""
        kept = self.standing
        return bool(kept.run_next or kept.decision_next or kept.counts or kept.sends or kept.passes)

    def _deliver(self, delivery: Delivery) -> None:
        row = self._decisions[delivery.decision]
        problem = delivered(self.batch, self.author, self.user, delivery.document, delivery.fields)
        if problem is None:
            silent = row.is_silent
            dispatch = DispatchRow(delivery.decision, self.now_ms, row.category, silent, None, None, None)
            self.count(self.now_ms, Series(row.category, row.workflow), sent=1)
            self._dispatches[delivery.document] = dispatch
            return
        sends = [each for each in self.standing.sends if each[2] != delivery.decision]
        self.standing = self.standing._replace(sends=sends)
        self._decisions[delivery.decision] = row._replace(
            outcome="suppressed",
            reason="delivery",
            by=problem,
            document=None,
            explanation=f"Not sent: the inbox did not take it ({problem}).",
        )

    def _write_run(self, number: int, run: RunRow | None) -> None:
        """A run and its timer (D1)."""
        tx, before = self.batch.tx, self._loaded.get(number)
        if run is before or run == before:
            return
        was = None if before is None or before.due_ms is None else (before.due_ms, before.rank)
        now = None if run is None or run.due_ms is None else (run.due_ms, run.rank)
        if was is not None and was != now:
            tx.delete(keys.timer(*was, self.owner, number))
        if now is not None and now != was:
            TIMERS.put(tx, keys.timer(*now, self.owner, number), ())
            self.batch.due_ms = now[0] if self.batch.due_ms is None else min(self.batch.due_ms, now[0])
        if run is not None:
            RUNS.put(tx, keys.run(self.owner, number), run)
        elif before is not None:
            tx.delete(keys.run(self.owner, number))

    def _trim(self, made: int) -> None:
        """Forget the oldest decisions, some more than were made. Those that wait stay."""
        tx, last = self.batch.tx, self.standing.decision_next - DECISIONS_KEPT
        if last <= 0:
            return
        bounds = keys.of_user_range(keys.DECISION, self.owner)[0], keys.decision(self.owner, last)
        old = []
        for looked, (key, row) in enumerate(DECISIONS.scan(tx, bounds)):
            if row.outcome != "deferred":
                old.append((key, row))
            if len(old) == made + 2 or looked == RUNS_MAX + DIRECT_MAX + made + 2:
                break
        for key, row in old:
            tx.delete(key)
            if row.document is not None:
                where = keys.dispatch(self.owner, row.document)
                dispatch = DISPATCHES.get(tx, where)
                if dispatch is not None and dispatch.decision == keys.parse_of_user(key)[1]:
                    tx.delete(where)
