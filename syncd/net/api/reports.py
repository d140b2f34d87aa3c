"""GET /v1/reports/engagement: what came of notifications, added up.

Owns the reading of the request. What is counted, and how it is added up, is `notify/reports.py`'s.
"""

from datetime import date, timedelta

from syncd.net.api.calls import Call
from syncd.net.api.workflows import check_scope_of
from syncd.net.auth import NOTIFICATIONS_READ
from syncd.net.exchange import Response, json_content
from syncd.net.problems import raised
from syncd.notify import reports
from syncd.notify.civil import DAY_MS

DAYS_DEFAULT = 30
NO_STORE = ("Cache-Control", "no-store")
_EPOCH = date(1970, 1, 1)


async def get_engagement(call: Call) -> Response:
    """`from`, `to`: dates, both included; the latest thirty days, unless they are given."""
    check_scope_of(call, NOTIFICATIONS_READ)
    today = call.services.clock.now_ms() // DAY_MS
    first, stop = days(call.query.get("from"), call.query.get("to"), today)
    by = call.query.get("by", "category")
    if by not in reports.BY:
        raise raised("malformed-request", f"'by' is one of {', '.join(reports.BY)}", parameter="by")
    with call.services.store.read() as tx:
        return json_content(200, reports.report(tx, first, stop, by), (NO_STORE,))


def days(first_text: str | None, last_text: str | None, today: int) -> tuple[int, int]:
    """(first day, the day after the last), in days since 1970. Raises a problem."""
    last = _day(last_text, "to", today)
    first = _day(first_text, "from", max(0, last - DAYS_DEFAULT + 1))
    if not 0 < last + 1 - first <= reports.DAYS_MAX:
        expected = f"'from' is a date up to that of 'to', and at most {reports.DAYS_MAX} days are reported at once"
        raise raised("malformed-request", expected, parameter="from")
    return first, last + 1


def _day(text: str | None, parameter: str, default: int) -> int:
    if text is None:
        return default
    try:
        found = (date.fromisoformat(text) - _EPOCH) // timedelta(days=1) if len(text) == 10 else -1
    except ValueError:
        found = -1
    if found < 0:
        raise raised("malformed-request", f"{parameter!r} is a date such as '2026-11-28'", parameter=parameter)
    return found
