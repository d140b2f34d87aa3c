"""What happens to a user, as it is learned: sessions, events, receipts.

Owns which happening alters what of the profile, of the population's and of the standing. Must not know workflows but
for which events they count. Each is one step of constant time in the transaction of what happened.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from syncd.core.documents import Document
from syncd.notify import facts, profile
from syncd.notify.civil import DAY_MS, offset_s
from syncd.notify.desk import Desk
from syncd.notify.limits import RECENT_SESSION_MS
from syncd.notify.reports import OTHER, SESSIONS, Series
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import PROFILES, DispatchRow

SESSION_START, SESSION_END = "session.start", "session.end"
RECEIPTS = ("seen", "opened", "dismissed")  # fields of a document of the inbox, as devices set them
LEARNED_MS_MAX = 1_000 * DAY_MS  # what is older weighs next to nothing, whatever it is: 2^-11 of a session at its hour


def is_learning(tx: Reader) -> bool:
    """Nothing is learned where no notifications were ever configured."""
    return tx.get(keys.workflow_set()) is not None


def begins_session(tx: Reader, user: str, now_ms: int) -> bool:
    """Whether one who comes then begins a session: asked before a transaction is spent on it."""
    if not is_learning(tx):
        return False
    row = PROFILES.get(tx, keys.profile(keys.owner(user)))
    return row is None or not row.sessions or not _goes_on(row.latest_ms, now_ms)


def _goes_on(latest_ms: int, at_ms: int) -> bool:
    """What a device tells of the beginning may come when its connection was taken as such already."""
    return abs(at_ms - latest_ms) < RECENT_SESSION_MS


def session_began(desk: Desk, at_ms: int) -> bool:
    """A device of the user is there. Whether that is a new session: one who comes again within half an hour goes on
    with the one before."""
    if desk.profile.sessions and _goes_on(desk.profile.latest_ms, at_ms):
        return False
    if desk.profile.latest_ms > desk.now_ms:
        # By a clock that was set back since: whoever is absent from now on is so since this session.
        desk.profile = desk.profile._replace(latest_ms=at_ms)
    at_offset_s = offset_s(desk.zone, at_ms)
    desk.profile = profile.with_session(desk.profile, at_ms, at_offset_s)
    desk.population = profile.with_session(desk.population, at_ms, at_offset_s)
    if desk.now_ms - at_ms < DAY_MS:  # a history that is posted later is no news of days that were reported long ago
        desk.count(at_ms, SESSIONS, sessions=1)
    return True


def session_ended(desk: Desk, at_ms: int, stay_s: float) -> None:
    desk.profile = profile.with_stay(desk.profile, stay_s)
    if desk.now_ms - at_ms < DAY_MS:
        counted_s = round(min(max(stay_s, 0.0), profile.STAY_S_MAX))
        desk.count(at_ms, SESSIONS, session_ends=1, session_s=counted_s)


def event_came(desk: Desk, event: str, data: Mapping[str, Any], at_ms: int) -> None:
    """An event about the user, which happened at `at_ms`: it is counted where somebody asks for it, and shows what they
    care about, unless it is what a workflow offers them. It is learned as of its own time, so that what waited in a
    phone counts where it belongs, and a backend can post the sessions from before there was syncd."""
    at_ms = min(at_ms, desk.now_ms)
    facts.counted(desk, event, at_ms)
    if event == SESSION_START and desk.now_ms - at_ms < LEARNED_MS_MAX:
        session_began(desk, at_ms)
    elif event == SESSION_END:
        seconds = data.get("seconds")
        if isinstance(seconds, int | float) and not isinstance(seconds, bool):
            session_ended(desk, at_ms, float(seconds))
    topic = data.get("topic")
    if isinstance(topic, str) and topic and event not in desk.current.on_event:
        desk.profile = profile.with_topic(desk.profile, topic, at_ms)


def receipts(
    desk: Desk, document_id: str, before: Document | None, after: Document | None, stamp: int
) -> list[tuple[str, int]]:
    """A device wrote to a document of the inbox: the receipts that this gives, each with the decision that it is
    about."""
    names = [name for name in RECEIPTS if _is_set(after, name) and not _is_set(before, name)]
    return received(desk, document_id, names, stamp) if names else []


def received(desk: Desk, document_id: str, names: Sequence[str], stamp: int) -> list[tuple[str, int]]:
    """What became of a notification: the receipts among `names` that are new, each with the decision that it is about.
    The first of each kind counts; it is as of when the device says, within what is possible."""
    dispatch = desk.dispatch(document_id)
    if dispatch is None:
        return []
    at_ms = min(max(stamp, dispatch.at_ms), desk.now_ms)
    given = []
    for name in names:
        if getattr(dispatch, f"{name}_ms") is None:
            dispatch = _received(dispatch, name, at_ms)
            given.append((name, dispatch.decision))
    if not given:
        return []
    desk.set_dispatch(document_id, dispatch)
    series = Series(dispatch.category, desk.decision(dispatch.decision).workflow)
    desk.count(dispatch.at_ms, series, **{name: 1 for name, _ in given})
    learned = desk.profile
    for name, _ in given:
        if name != "seen":
            learned = profile.with_receipt(learned, dispatch.category, name, at_ms)
            _answered(desk, dispatch.decision)
        if name == "opened":
            topic = desk.decision(dispatch.decision).topic
            learned = learned if topic is None else profile.with_topic(learned, topic, at_ms)
    if learned is not desk.profile:
        desk.profile = learned
    return given


def _received(dispatch: DispatchRow, name: str, at_ms: int) -> DispatchRow:
    match name:
        case "seen":
            return dispatch._replace(seen_ms=at_ms)
        case "opened":
            return dispatch._replace(opened_ms=at_ms)
    return dispatch._replace(dismissed_ms=at_ms)


def _is_set(document: Document | None, name: str) -> bool:
    field = None if document is None or not document.is_live else document.fields.get(name)
    return field is not None and field.is_visible and bool(field.value)


def _answered(desk: Desk, decision: int) -> None:
    """It was not ignored."""
    sends = [(at, category, number, is_heard or number == decision) for at, category, number, is_heard in _sends(desk)]
    desk.standing = desk.standing._replace(sends=sends)


def _sends(desk: Desk) -> list[tuple[int, str, int, bool]]:
    return [tuple(each) for each in desk.standing.sends]  # type: ignore[misc]


def opted_out(desk: Desk, document_id: str, before: Document | None, after: Document | None) -> None:
    """A document of preferences was written: somebody turned something off. Counted by what it was; topics together, as
    their names are the applications', and there is no end of them, and so the categories of which nobody heard."""
    kind, _, name = document_id.partition(":")
    if _frequency(after) == "off" and _frequency(before) != "off" and kind in ("all", "category", "topic"):
        is_sent = name in desk.current.policy.categories or profile.is_known(desk.profile, name)
        what = kind if kind != "category" else name if is_sent else OTHER
        desk.count(desk.now_ms, Series(what, ""), opt_outs=1)


def _frequency(document: Document | None) -> Any:
    field = None if document is None or not document.is_live else document.fields.get("frequency")
    return None if field is None or not field.is_visible else field.value
