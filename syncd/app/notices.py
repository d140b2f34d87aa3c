"""The operators' side of notifications: decisions, the report, an export, an erasure, over the admin socket.

Owns what these answer; the command line reads the same from the store when no daemon runs. Must not know routes of
others: `admin.py` puts these among its own, where the caller is trusted.
"""

from collections.abc import Mapping
from typing import Any

from syncd.net.api.people import export_json
from syncd.net.api.reports import days
from syncd.net.problems import raised
from syncd.notify import asking, erasure, reports
from syncd.notify.civil import DAY_MS
from syncd.notify.desk import parse_identity
from syncd.store import keys
from syncd.store.api import Reader


def decisions(tx: Reader, user: str, limit: int) -> dict[str, Any]:
    """The latest decisions about a user, newest first."""
    owner = keys.owner(user)
    rows = asking.listed(tx, user, None, limit)
    return {"decisions": [asking.told(tx, owner, number, row) for number, row in rows]}


def decision(tx: Reader, text: str) -> dict[str, Any] | None:
    """One decision; None if there is none of this id."""
    named = parse_identity(text)
    row = None if named is None else asking.found(tx, *named)
    return None if row is None or named is None else asking.told(tx, *named, row)


def engagement(tx: Reader, query: Mapping[str, str], now_ms: int) -> dict[str, Any]:
    """The report that a query asks for. Raises a problem."""
    by = query.get("by", "category")
    if by not in reports.BY:
        raise raised("malformed-request", f"'by' is one of {', '.join(reports.BY)}", parameter="by")
    first, stop = days(query.get("from"), query.get("to"), now_ms // DAY_MS)
    return reports.report(tx, first, stop, by)


def export(tx: Reader, user: str, now_ms: int) -> dict[str, Any]:
    return export_json(erasure.exported(tx, user, now_ms))
