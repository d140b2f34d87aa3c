"""What came of notifications, counted by day, category and workflow; and sessions, and opt-outs.

Owns the counters and the report made of them. Must not know who anybody is: no counter names a person, so none has to
be erased with one. Counting is one read and one write of a small row, in the transaction of what is counted.

Rates are of what was sent on a day, whenever it was opened: a receipt is counted on the day of its own notification, so
the latest days of a report still grow. Sessions and opt-outs are counted on the day on which they happen, by UTC.

Invariants: C1 a day has `SERIES_MAX` series at most; what would be one more is counted as `other`. C2 days older than
`KEPT_DAYS` go, `DROPPED_AT_ONCE` rows at most with the first count of a new day. C3 a receipt is counted once.
"""

from datetime import date, timedelta
from itertools import islice
from typing import Any, NamedTuple

from syncd.notify.civil import DAY_MS
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import COUNTERS, META, CounterRow

KEPT_DAYS = 400  # a year, and the weeks that one compares it with
SERIES_MAX = 500  # of one day: 200 workflows, and categories that backends name
DROPPED_AT_ONCE = 2_000  # rows, some 5 ms once a day: four days of the most, so what is over goes faster than it comes
DAYS_MAX = 92  # in one report: a quarter; 46,000 rows at most, a quarter of a second of reading
BY = ("category", "workflow", "day")  # what a report is added up by
OTHER = "other"
NOTHING = CounterRow(0, 0, 0, 0, 0, 0, 0, 0)
_LATEST = keys.meta("counted day")  # the latest day, and how many series it has


class Series(NamedTuple):
    """What a counter is of; both empty: of all people's sessions."""

    category: str
    workflow: str


SESSIONS = Series("", "")


def count(tx: Writer, at_ms: int, now_ms: int, series: Series, **more: int) -> None:
    """Add to the counters of a day. `more`: by measure, `sent=1`."""
    day = at_ms // DAY_MS
    name = Series(series.category.replace("\0", " "), series.workflow)
    key = keys.counter(day, *name)
    row = COUNTERS.get(tx, key)
    if row is None and not _begun(tx, day, now_ms // DAY_MS):
        key = keys.counter(day, OTHER, "")
        row = COUNTERS.get(tx, key)
    row = row or NOTHING
    COUNTERS.put(tx, key, row._replace(**{name: getattr(row, name) + number for name, number in more.items()}))


def _begun(tx: Writer, day: int, today: int) -> bool:
    """Whether one more series of a day may begin. How many the latest day has is in a row of its own, as they are not
    counted anew for each; an earlier day has those that it has. With a new day, those that are over go (C2): as of the
    day after the latest, so that a clock that is wrong for a moment drops no year."""
    found = META.get(tx, _LATEST)
    latest, begun = (-1, 0) if found is None else found[0]
    if latest > max(day, today):  # the clock was ahead, and was set back
        latest, begun = today, sum(1 for _ in tx.scan(*keys.counters_range(today, today + 1)))
    if day < latest or (day == latest and begun >= SERIES_MAX):
        return False
    if day > latest:
        begun = 0
        over = tx.scan(*keys.counters_range(0, max(0, min(day, latest + 1) - KEPT_DAYS)))
        for key in [key for key, _ in islice(over, DROPPED_AT_ONCE)]:
            tx.delete(key)
    META.put(tx, _LATEST, ([day, begun + 1],))
    return True


# -- the report -------------------------------------------------------------------------------------------------------


def report(tx: Reader, first: int, stop: int, by: str) -> dict[str, Any]:
    """The days `first` up to, not including, `stop` (days since 1970), added up `by` category, workflow or day."""
    groups: dict[str, CounterRow] = {}
    whole, sessions = NOTHING, NOTHING
    for key, row in COUNTERS.scan(tx, keys.counters_range(first, stop)):
        day, category, workflow = keys.parse_counter(key)
        if not category:
            sessions = _sum(sessions, row)
            if by != "day":
                continue
        else:
            whole = _sum(whole, row)
        name = {"category": category, "workflow": workflow, "day": _date(day)}[by]
        groups[name] = _sum(groups.get(name, NOTHING), row)
    return {
        "from": _date(first),
        "to": _date(stop - 1),
        "by": by,
        "total": _told(_sum(whole, sessions)),
        "groups": [{by: name, **_told(row)} for name, row in sorted(groups.items())],
    }


def _sum(one: CounterRow, other: CounterRow) -> CounterRow:
    return CounterRow(*(a + b for a, b in zip(one, other, strict=True)))


def _told(row: CounterRow) -> dict[str, Any]:
    """`open_rate` and its like are shares of what was sent; null where nothing was. `session_s_mean`: of the sessions
    whose end was told."""
    rates = {f"{what}_rate": _share(getattr(row, what), row.sent) for what in ("seen", "opened", "dismissed")}
    mean = None if not row.session_ends else round(row.session_s / row.session_ends, 1)
    return {**row._asdict(), **rates, "session_s_mean": mean}


def _share(part: int, whole: int) -> float | None:
    return None if not whole else round(part / whole, 4)


def _date(day: int) -> str:
    return str(date(1970, 1, 1) + timedelta(days=day))
