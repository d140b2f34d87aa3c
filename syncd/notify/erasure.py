"""All that is kept of one person about notifications: told to them, and forgotten.

Owns the list of what that is: what was learned, runs and their timers, decisions, what was delivered, and the documents
of their own space in which they chose and were notified. Must not know HTTP. Counters (`reports.py`) name nobody.

A person's rows are bounded (`limits.py`), so they go in one transaction; their documents are not, so they go by changes
of `DOCUMENTS_AT_ONCE` each, which reach the person's devices like all others. What the log of the space keeps of past
values goes with its history (`retention.history_days`).

Invariants: Y1 what was erased leaves the store whole between two steps: fsck finds nothing. Y2 rows go first, or what
waited would be sent as soon as the choices that held it back are gone; and last, as devices may have written meanwhile.
Y3 no byte of the user's id is left in a
table of notifications.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from syncd.core.ids import INBOX, PREFERENCES, PROFILE, BadName, user_space
from syncd.core.leases import book_of
from syncd.engine import reading
from syncd.engine.batch import Batch, SpaceWork
from syncd.engine.grants import Role
from syncd.engine.posting import SERVER, authored
from syncd.notify import profile
from syncd.notify.asking import told
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DECISIONS, DISPATCHES, PROFILES, RUNS, STANDINGS, RunRow

DOCUMENTS_AT_ONCE = 100  # deleted by one change, which alters 128 at most
ENDED_AT_ONCE = 500  # leases ended by one change, which has 1,000 operations at most
TOLD_MAX = 1_000  # documents of a collection in one export; the rest is read as documents
TOLD_READS_MAX = 2  # pages read for them, of `reading.LISTED_BYTES_MAX`: the loop waits
COLLECTIONS = (PREFERENCES, PROFILE, INBOX)


class Erased(NamedTuple):
    """What a step did. `is_more`: another will find work."""

    documents: int
    rows: int
    is_more: bool


# -- telling ----------------------------------------------------------------------------------------------------------


def exported(tx: Reader, user: str, now_ms: int) -> dict[str, Any]:
    """All that is kept, ready for JSON but for the values of documents, which may be bytes."""
    owner = keys.owner(user)
    row = PROFILES.get(tx, keys.profile(owner))
    standing = STANDINGS.get(tx, keys.standing(owner))
    runs = RUNS.scan(tx, keys.of_user_range(keys.RUN, owner))
    decisions = DECISIONS.scan(tx, keys.of_user_range(keys.DECISION, owner))
    dispatches = DISPATCHES.scan(tx, keys.of_user_range(keys.DISPATCH, owner))
    found = {collection: _told_of(tx, user, collection) for collection in COLLECTIONS}
    return {
        "user": user,
        "exported_ms": now_ms,
        "documents": {
            collection: {each.id: dict(each.fields) for each in each_of} for collection, (each_of, _) in found.items()
        },
        "more_documents": any(is_more for _, is_more in found.values()),
        "learned": None if row is None else _learned(profile.of_row(row), now_ms),
        "standing": None if standing is None else _plain(standing._asdict()),
        "runs": [{"number": keys.parse_of_user(key)[1], **_plain(run._asdict())} for key, run in runs],
        "decisions": [told(tx, owner, keys.parse_of_user(key)[1], each) for key, each in decisions],
        "deliveries": [{"document": keys.parse_dispatch(key)[1], **each._asdict()} for key, each in dispatches],
    }


def _learned(known: profile.Profile, now_ms: int) -> dict[str, Any]:
    """What was learned, as of now: counts are faded."""
    recent, steady = profile.rates_at(known, now_ms)
    return {
        "first_ms": known.first_ms,
        "latest_ms": known.latest_ms,
        "sessions": known.sessions,
        "offset_s": known.offset_s,
        "sessions_a_day": {"recent": recent, "steady": steady},
        "session_s_mean": known.stay_s,
        "sessions_by_hour": list(profile.hours_at(known, now_ms)),
        "affinity": {topic: profile.affinity_at(known, topic, now_ms) for topic in known.taste},
        "categories": {name: profile.category_at(known, name, now_ms)._asdict() for name in known.categories},
    }


def _plain(value: Any) -> Any:
    """Tuples as lists, and bytes nowhere: what rows hold is JSON but for those."""
    if isinstance(value, dict):
        return {str(name).strip("\0"): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def _told_of(tx: Reader, user: str, collection: str) -> tuple[list[reading.Found], bool]:
    """The first documents of a collection, and whether there may be more."""
    found: list[reading.Found] = []
    for count, listing in enumerate(_listings(tx, user, collection, TOLD_MAX), 1):
        found += listing.found
        if listing.after is None or len(found) >= TOLD_MAX or count == TOLD_READS_MAX:
            return found[:TOLD_MAX], listing.after is not None or len(found) > TOLD_MAX
    return found, False


def _listings(tx: Reader, user: str, collection: str, limit: int) -> Iterator[reading.Listing]:
    """Pages of the documents of a collection in a user's own space."""
    try:
        space = user_space(user)
    except BadName:  # too long for a space: such a user has none
        return
    after: tuple[str, str] | None = None
    while True:
        listing = reading.documents(tx, space, collection, after, limit)
        yield listing
        after = listing.after
        if after is None:
            return


# -- forgetting -------------------------------------------------------------------------------------------------------


def erased(batch: Batch, user: str) -> Erased:
    """One step of forgetting."""
    rows = _forgotten(batch, keys.owner(user))  # Y2: there are a few hundred at most, and mostly none
    for collection in COLLECTIONS:
        pages = _listings(batch.tx, user, collection, DOCUMENTS_AT_ONCE)
        found = next((page.found for page in pages if page.found), ())
        if found:
            return Erased(_deleted(batch, user, collection, found), rows, is_more=True)
    return Erased(0, rows, is_more=False)


def _deleted(batch: Batch, user: str, collection: str, found: Sequence[reading.Found]) -> int:
    """How many are gone: none, if they had so many leases that these come first."""
    work = batch.space(user_space(user))
    assert work is not None, "documents are in a space"
    ends, deletes = _ends(work, collection, found), [["delete", collection, each.id] for each in found]
    is_enough = len(ends) > ENDED_AT_ONCE
    entry = authored(
        batch, work, SERVER, Role.OWNER, work.head, ends[:ENDED_AT_ONCE] if is_enough else [*ends, *deletes]
    )
    assert entry.seq is not None, "a deletion of what is there is accepted"
    return 0 if is_enough else len(found)


def _ends(work: SpaceWork, collection: str, found: Sequence[reading.Found]) -> list[list[Any]]:
    """Operations that end the leases of documents, which cannot be deleted before. Nobody leases what is in an inbox,
    but a device may, and would be kept for ever."""
    ends: list[list[Any]] = []
    for each in found:
        document = work.document((collection, each.id))
        for name, field in ({} if document is None else document.fields).items():
            if field.has_leases:
                ends += [["bounded.end", collection, each.id, name, lease] for lease in book_of(field.state).leases]
    return ends


def _forgotten(batch: Batch, owner: bytes) -> int:
    """All rows of a person (Y1: with each run its timer and its version's use)."""
    tx, doomed = batch.tx, [keys.profile(owner), keys.standing(owner)]
    for key, run in list(RUNS.scan(tx, keys.of_user_range(keys.RUN, owner))):
        doomed.append(key)
        doomed += _timer_of(run, owner, keys.parse_of_user(key)[1])
        if run.kind == "run":
            batch.used(run.version, -1)
    for prefix in (keys.DECISION, keys.DISPATCH):
        start, stop = keys.of_user_range(prefix, owner)
        doomed += [key for key, _ in tx.scan(start, stop)]
    return sum(tx.delete(key) for key in doomed)


def _timer_of(run: RunRow, owner: bytes, number: int) -> list[bytes]:
    return [] if run.due_ms is None else [keys.timer(run.due_ms, run.rank, owner, number)]
