"""Notifications, by brute force: what may be shown to whom, when, from what was committed and what people chose.

Imports nothing of syncd. Clocks of the world by `zoneinfo`, windows by counting, quiet hours by looking at the minute.
It is told in plain data which events were taken, what stood in the rows after each transaction, what went into an
inbox, and what the person had chosen at that moment by the oracle's account of the person's space.

N1 each candidate comes to one final outcome, which nothing alters. N2 what is sent goes into the inbox once, in the
transaction that says so. N3 nothing but what is critical comes in quiet hours on the recipient's clock. N4 in no
stretch of time are there more than a cap allows. N5 one run goes on for each collapse key: the newest. N6 nothing comes
after its expiry. N7 what is critical waits for nothing and is stopped by its own name alone; nothing else passes a
mute, or an `off`. N8 what waits, waits for the first moment that is free, and is judged anew when its person chooses
anew. N9 an outcome is what the rules make of history, choices and time; of moments, what the recorded draw makes of
the recorded scores. N10 an event makes as many candidates as its workflow has sends; a digest shows what it gathered.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from tests.sim.auditor import Violation

FINAL = ("sent", "digested", "collapsed", "suppressed", "held_out", "expired", "cancelled")
UNJUDGED = ("runs", "throttle", "delivery")  # reasons for which no gate was asked
LEARNED = ("budget", "back-off")
MINUTE_MS, HORIZON_MS = 60_000, 40 * 86_400_000
EXPLORED_SHARE, EXPLORED_SLOTS = 0.05, 4
FREQUENCIES = ("instant", "hourly", "daily", "weekly", "off")


class Length(NamedTuple):
    """`30s` is so many milliseconds, `2d` so many days of the calendar."""

    ms: int
    days: int

    def after(self, zone: ZoneInfo, at_ms: int) -> int:
        if not self.days:
            return at_ms + self.ms
        local = _local(zone, at_ms) + timedelta(days=self.days)
        return round(local.replace(tzinfo=zone, fold=0).timestamp() * 1000)


def length(text: str) -> Length:
    number, unit = int(text[:-1]), text[-1]
    if unit in "dw":
        return Length(0, number * (7 if unit == "w" else 1))
    return Length(number * {"s": 1_000, "m": 60_000, "h": 3_600_000}[unit], 0)


def _local(zone: ZoneInfo, at_ms: int) -> datetime:
    seconds, ms = divmod(at_ms, 1000)
    return datetime.fromtimestamp(seconds, UTC).astimezone(zone).replace(tzinfo=None, microsecond=ms * 1000)


@dataclass(frozen=True)
class Kind:
    """A category. `caps`: how many in how long."""

    priority: str = "normal"
    frequency: str = "instant"
    caps: tuple[tuple[int, Length], ...] = ()
    expires: Length | None = None


@dataclass(frozen=True)
class Flow:
    """A workflow. `sends`: how many candidates each of its runs makes, if nothing stops it; `least`: of those that no
    condition decides. `gathers`: how often it digests, whatever its category says."""

    event: str
    kind: str
    sends: int
    least: int
    collapse: str | None = None
    cancel_on: tuple[str, ...] = ()
    window: Length | None = None
    delay: Length | None = None
    gathers: str | None = None
    is_throttled: bool = False


def _caps(table: Mapping[str, Any]) -> tuple[tuple[int, Length], ...]:
    pairs = [cap.split("/") for cap in table.get("caps", ())]
    return tuple((int(count), length(span.strip())) for count, span in pairs)


class Rules:
    """The definitions, read anew."""

    def __init__(self, values: Mapping[str, Any], is_held: Mapping[str, Any]) -> None:
        """`is_held`: workflow -> whether its condition holds for an event's data; one that is not here has none."""
        policy = values.get("policy", {})
        self.caps = _caps(policy)
        self.quiet: str | None = policy.get("quiet_hours")
        self.quiet_action = policy.get("quiet_action", "defer")
        self.kinds = {
            name: Kind(
                table.get("priority", "normal"), table.get("frequency", "instant"), _caps(table),
                length(table["expires"]) if "expires" in table else None,
            )
            for name, table in values["category"].items()
        }  # fmt: skip
        self.flows = {
            name: _flow(table) for name, table in values["workflow"].items() if "event" in table["trigger"]
        }  # fmt: skip
        self.schedules = {
            name: table["trigger"]["schedule"] for name, table in values["workflow"].items()
            if "schedule" in table["trigger"]
        }  # fmt: skip
        self._is_held = is_held

    def kind(self, category: str) -> Kind:
        return self.kinds.get(category, Kind())

    def set_off(self, event: str, data: Mapping[str, Any]) -> list[str]:
        """The workflows that an event sets off."""
        return [
            name for name, flow in self.flows.items()
            if flow.event == event and (name not in self._is_held or self._is_held[name](data))
        ]  # fmt: skip


def _flow(table: Mapping[str, Any]) -> Flow:
    steps, inner = table["step"], [step["branch"] for step in table["step"] if "branch" in step]
    sends = sum("send" in step or "digest" in step for step in steps)
    further = sum(max(len(branch["then"]), len(branch.get("otherwise", ()))) for branch in inner)
    return Flow(
        table["trigger"]["event"], table["category"], sends + further, sends, table.get("collapse"),
        tuple(table.get("cancel_on", ())), length(table["window"]["within"]) if "window" in table else None,
        length(steps[0]["delay"]) if "delay" in steps[0] else None,
        next((step["digest"] for step in steps if "digest" in step), None),
        any("throttle" in step for step in steps),
    )  # fmt: skip


@dataclass(frozen=True)
class Wishes:
    """What a person chose: documents of `_preferences` by id; and the zone of their clock."""

    documents: Mapping[str, Mapping[str, Any]]
    zone: ZoneInfo

    def _said(self, document: str, name: str) -> Any:
        return self.documents.get(document, {}).get(name)

    def frequency(self, category: str, default: str) -> str:
        for document in (f"category:{category}", "all"):
            found = self._said(document, "frequency")
            if found in FREQUENCIES:
                return str(found)
        return default

    def named(self, category: str) -> Any:
        return self._said(f"category:{category}", "frequency")

    def is_muted(self, category: str, at_ms: int) -> bool:
        ends = [self._said(document, "mute_until") for document in (f"category:{category}", "all")]
        return any(isinstance(end, int) and end > at_ms for end in ends)

    def is_quiet(self, rules: Rules, at_ms: int) -> bool:
        text = self._said("all", "quiet_hours")
        if text == "off":
            return False
        start, end = minutes(text) or minutes(rules.quiet) or (0, 0)
        local = _local(self.zone, at_ms)
        now = local.hour * 60 + local.minute
        return start <= now < end if start <= end else now >= start or now < end


def minutes(text: Any) -> tuple[int, int] | None:
    """Start and end of quiet hours in minutes of the day; None if these are none."""
    return _minutes(text) if isinstance(text, str) else None


@lru_cache(maxsize=256)  # asked for each minute of a wait
def _minutes(text: str) -> tuple[int, int] | None:
    try:
        clocks = [datetime.strptime(part, "%H:%M") for part in text.split("-")]
        start, end = (clock.hour * 60 + clock.minute for clock in clocks)
    except ValueError:
        return None
    return (start, end) if start != end and len(text) == 11 else None


Shown = tuple[int, str]  # when, category: what counts against caps


class Delivered(NamedTuple):
    """What went into an inbox, and what its person had chosen then."""

    document: str
    fields: Mapping[str, Any]
    wishes: Wishes


@dataclass
class Happened:
    """An event that was taken. `flows`: what it set off; `is_stopped`: what of that a later event may have ended."""

    at_ms: int
    key: tuple[str, str]
    type: str
    data: Mapping[str, Any]
    flows: list[str]
    is_direct: bool
    is_stopped: dict[str, None] = field(default_factory=dict)


@dataclass
class Person:
    rows: dict[int, Any] = field(default_factory=dict)
    runs: dict[int, Any] = field(default_factory=dict)
    events: list[Happened] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    documents: dict[str, None] = field(default_factory=dict)
    newest: dict[tuple[str, str], tuple[str, str]] = field(default_factory=dict)  # by workflow and collapse key
    wishes: Wishes = field(default_factory=lambda: Wishes({}, ZoneInfo("UTC")))


class Verdict(NamedTuple):
    outcome: str
    reason: str | None = None
    until_ms: int | None = None


class NoticesAuditor:
    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.people: dict[str, Person] = {}
        self.seen: dict[str, int] = {}  # how often what was judged
        self.is_live = True  # somebody looks at timers all the time, but for minutes
        self._taken: dict[tuple[str, str], None] = {}

    def person(self, user: str) -> Person:
        return self.people.setdefault(user, Person())

    def _see(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    # -- what happened -----------------------------------------------------------------------------------------------

    def event(self, now_ms: int, user: str, key: tuple[str, str], type: str, data: Any) -> None:
        """An event was accepted."""
        if key in self._taken:
            raise Violation("N1", f"the event {key} is accepted twice", "server")
        self._taken[key] = None
        values = data if isinstance(data, dict) else {}
        person = self.person(user)
        for each in person.events:
            for name in each.flows:
                if type in self.rules.flows[name].cancel_on:
                    each.is_stopped[name] = None
        flows = self.rules.set_off(type, values)
        for name in flows:
            collapse = self.rules.flows[name].collapse
            if collapse is None:
                continue
            rendered = collapse.format_map(_Text(values))
            for each in person.events:
                if name in each.flows and collapse.format_map(_Text(each.data)) == rendered:
                    each.is_stopped[name] = None
            person.newest[name, rendered] = key
        person.events.append(Happened(now_ms, key, type, values, flows, "notification" in values))

    def committed(
        self,
        now_ms: int,
        user: str,
        rows: Mapping[int, Any],
        runs: Mapping[int, Any],
        delivered: Sequence[Delivered],
        wishes: Sequence[Wishes],
    ) -> None:
        """A transaction. `rows`: decisions that are new or other than before; `runs`: all of the user. `wishes`: what
        the person had chosen, from before it up to its end."""
        person = self.person(user)
        person.runs = dict(runs)
        new = sorted(number for number in rows if number not in person.rows)
        if new != [*range(len(person.rows), len(person.rows) + len(new))]:
            raise Violation("N1", f"{user}: decisions {new} follow {len(person.rows)} others", "server")
        self._check_deliveries(now_ms, user, person, rows, delivered)
        for number, row in sorted(rows.items()):
            self._check_row(now_ms, user, person, number, row, delivered, wishes)
        person.rows.update(rows)
        for each in delivered:
            if self.rules.kind(each.fields["category"]).priority != "critical":
                person.shown.append((now_ms, each.fields["category"]))
        person.wishes = wishes[-1]
        self._check_runs(user, person)
        self._check_waiting(now_ms, user, person, wishes)

    # -- what was shown ----------------------------------------------------------------------------------------------

    def _check_deliveries(
        self, now_ms: int, user: str, person: Person, rows: Mapping[int, Any], delivered: Sequence[Delivered]
    ) -> None:
        sent = {row.document: number for number, row in rows.items() if row.outcome == "sent"}
        if sorted(sent) != sorted(each.document for each in delivered):
            told = f"{user}: sent {sorted(sent)}, and into the inbox went {[each.document for each in delivered]}"
            raise Violation("N2", told, "server")
        shown = list(person.shown)
        for each in delivered:
            fields, category, kind = each.fields, each.fields["category"], self.rules.kind(each.fields["category"])
            where = f"{user}: {each.document} of {category} at {now_ms}"
            row = rows[sent[each.document]]
            if each.document in person.documents or int(fields["decision"][-8:], 16) != sent[each.document]:
                raise Violation("N2", f"{where} comes a second time, or by another decision", "server")
            person.documents[each.document] = None
            if kind.expires is not None and now_ms >= kind.expires.after(each.wishes.zone, row.made_ms):
                raise Violation("N6", f"{where}, made at {row.made_ms}, expired after {kind.expires}", "server")
            self._see("sent")
            if kind.priority == "critical":
                self._check_critical(now_ms, where, row, each)
                continue
            if self._is_withheld(each.wishes, now_ms):
                raise Violation("N3", f"{where} comes in quiet hours in {each.wishes.zone}", "server")
            if each.wishes.is_muted(category, now_ms) or each.wishes.frequency(category, "instant") == "off":
                raise Violation("N7", f"{where} passes a mute, or a category that is off", "server")
            shown.append((now_ms, category))
            self._check_caps(where, shown, category)
        for number, row in rows.items():
            if row.priority == "critical" and row.outcome == "deferred":
                raise Violation("N7", f"{user}: decision {number} is critical and waits", "server")

    def _is_withheld(self, wishes: Wishes, at_ms: int) -> bool:
        return self.rules.quiet_action != "silence" and wishes.is_quiet(self.rules, at_ms)

    def _check_critical(self, now_ms: int, where: str, row: Any, each: Delivered) -> None:
        category = each.fields["category"]
        if row.made_ms != now_ms:
            raise Violation("N7", f"{where} is critical and waited since {row.made_ms}", "server")
        if each.wishes.named(category) == "off":
            raise Violation("N7", f"{where} was turned off by its name", "server")
        if each.wishes.is_quiet(self.rules, now_ms) or each.wishes.is_muted(category, now_ms):
            self._see("critical passes")

    def _check_caps(self, where: str, shown: Sequence[Shown], category: str) -> None:
        for limits, name in ((self.rules.kind(category).caps, category), (self.rules.caps, None)):
            times = sorted(at for at, of in shown if name in (None, of))
            for count, span in limits:
                if span.days:
                    continue  # by a calendar that moves with its person; the moment itself is judged by the rules
                for first in times:
                    inside = [at for at in times if first <= at < first + span.ms]
                    if len(inside) > count:
                        told = f"{where}: {len(inside)} of {name or 'all'} in {span.ms} ms, at most {count}"
                        raise Violation("N4", told, "server")
                    if len(inside) == count:
                        self._see("cap full")

    # -- what was decided --------------------------------------------------------------------------------------------

    def _check_row(
        self,
        now_ms: int,
        user: str,
        person: Person,
        number: int,
        row: Any,
        delivered: Sequence[Delivered],
        wishes: Sequence[Wishes],
    ) -> None:
        where = f"{user}: decision {number} ({row.workflow or 'direct'}, {row.category})"
        before = person.rows.get(number)
        if row.outcome not in (*FINAL, "deferred") or not row.explanation:
            raise Violation("N1", f"{where} comes to {row.outcome!r}", "server")
        if before is not None and before.outcome in FINAL:
            raise Violation("N1", f"{where} was final: {before.outcome}, and is now {row.outcome}", "server")
        if row.decided_ms != now_ms:
            raise Violation("N9", f"{where} says that it was decided at {row.decided_ms}, at {now_ms}", "server")
        if row.workflow in self.rules.schedules and self.is_live and before is None:
            self._check_schedule(now_ms, where, person, row, wishes)
        self._see(row.outcome)
        if row.reason in (*LEARNED, *UNJUDGED):
            self._see(row.reason)
        if row.outcome in ("collapsed", "cancelled") or row.reason in UNJUDGED:
            return
        judged = []
        for chosen in wishes:
            for count in range(len(delivered) + 1):
                if row.outcome == "sent" and (
                    count == len(delivered) or delivered[count].document != row.document
                    or delivered[count].wishes != chosen
                ):  # fmt: skip
                    continue
                shown = [
                    *person.shown,
                    *((now_ms, each.fields["category"]) for each in delivered[:count]
                      if self.rules.kind(each.fields["category"]).priority != "critical"),
                ]  # fmt: skip
                judged += self._judged(row, chosen, shown, now_ms)
                if any(self._is_as(row, verdict, chosen, now_ms) for verdict in judged):
                    return
        told = f"{where} is {row.outcome} ({row.reason}, until {row.until_ms}) at {now_ms}; by the rules: {judged}"
        raise Violation(_number(row, judged), told, "server")

    def _check_schedule(self, now_ms: int, where: str, person: Person, row: Any, wishes: Sequence[Wishes]) -> None:
        """One for each date on the person's clock, and not before its time. A run is too short, and its zones too near,
        for anybody to be at two dates."""
        clocks = [f"{_local(each.zone, now_ms):%H:%M}" for each in wishes]
        if max(clocks) < self.rules.schedules[row.workflow]:
            raise Violation("N10", f"{where} comes at {clocks} on the person's clock", "server")
        if any(other.workflow == row.workflow for other in person.rows.values()):
            raise Violation("N10", f"{where} comes a second time on one date", "server")
        self._see("schedule")

    def _judged(self, row: Any, wishes: Wishes, shown: Sequence[Shown], now_ms: int) -> list[Verdict]:
        """What the rules make of a candidate; several where a workflow gathers, and its person has just chosen."""
        kind, flow = self.rules.kind(row.category), self.rules.flows.get(row.workflow)
        is_digest = "count" in row.content
        defaults = {kind.frequency: None}
        if flow is not None and flow.gathers is not None and kind.frequency == "instant":
            defaults = {flow.gathers: None, kind.frequency: None}
        return [self._judgement(row, kind, default, is_digest, wishes, shown, now_ms) for default in defaults]

    def _judgement(
        self, row: Any, kind: Kind, default: str, is_digest: bool, wishes: Wishes, shown: Sequence[Shown], now_ms: int
    ) -> Verdict:
        is_critical, is_over = kind.priority == "critical", row.expires_ms is not None and now_ms >= row.expires_ms
        if is_critical:
            if wishes.named(row.category) == "off":
                return Verdict("suppressed", "preference")
            return Verdict("expired", "expiry") if is_over else Verdict("sent")
        wanted = wishes.frequency(row.category, default)
        if wanted == "off":
            return Verdict("suppressed", "preference")
        if wishes.is_muted(row.category, now_ms):
            return Verdict("suppressed", "mute")
        if is_over:
            return Verdict("expired", "expiry")
        is_quiet = self._is_withheld(wishes, now_ms)
        if is_quiet and self.rules.quiet_action == "drop":
            return Verdict("suppressed", "quiet hours")
        if wanted != "instant" and not is_digest:
            return Verdict("digested", "preference")
        caps = self._caps_end(row.category, shown, wishes, now_ms)
        reason = "caps" if caps > now_ms else "quiet hours" if is_quiet else None
        if reason is None:
            return Verdict("sent")
        until_ms = self._free_ms(row.category, shown, wishes, now_ms)
        if until_ms is None or (row.expires_ms is not None and until_ms >= row.expires_ms):
            return Verdict("expired", reason)
        return Verdict("deferred", reason, until_ms)

    def _caps_end(self, category: str, shown: Sequence[Shown], wishes: Wishes, at_ms: int) -> int:
        """When every cap has room again for one more, if nothing else is sent; `at_ms` if they have it."""
        end_ms = at_ms
        for limits, name in ((self.rules.kind(category).caps, category), (self.rules.caps, None)):
            for count, span in limits:
                ends = sorted(span.after(wishes.zone, at) for at, of in shown if name in (None, of))
                if len(ends) >= count:
                    end_ms = max(end_ms, ends[-count])
        return end_ms

    def _free_ms(self, category: str, shown: Sequence[Shown], wishes: Wishes, at_ms: int) -> int | None:
        """The first moment at which neither caps nor quiet hours hold it back: each minute is looked at."""
        last_ms, caps_ms = at_ms + HORIZON_MS, self._caps_end(category, shown, wishes, at_ms)
        while at_ms < last_ms:
            if caps_ms > at_ms:
                at_ms = caps_ms
            elif self.rules.quiet_action == "defer" and wishes.is_quiet(self.rules, at_ms):
                at_ms = (at_ms // MINUTE_MS + 1) * MINUTE_MS
            else:
                return at_ms
        return None

    def _is_as(self, row: Any, verdict: Verdict, wishes: Wishes, now_ms: int) -> bool:
        """Whether a row is what the rules say, once behaviour and the choice of a moment have had their say."""
        flow = self.rules.flows.get(row.workflow)
        may_learn = row.workflow and row.priority in ("low", "normal") and "count" not in row.content
        if verdict.outcome not in ("sent", "deferred"):
            return (row.outcome, row.reason) == verdict[:2]
        earliest_ms = verdict.until_ms or now_ms
        if row.reason in LEARNED and may_learn:
            return row.outcome in ("suppressed", "expired") or bool(row.until_ms >= earliest_ms)
        if row.reason == "timing" and row.outcome == "deferred":
            # Also workflows that no event sets off have windows.
            end_ms = None if flow is None or flow.window is None else flow.window.after(wishes.zone, row.made_ms)
            is_free = row.until_ms == verdict.until_ms or not self._is_withheld(wishes, row.until_ms)
            in_time = row.expires_ms is None or row.until_ms < row.expires_ms
            in_window = end_ms is None or row.until_ms <= max(end_ms, earliest_ms)
            return bool(row.until_ms > now_ms and is_free and in_time and in_window and _is_as_drawn(row))
        return (row.outcome, row.reason, row.until_ms) == tuple(verdict)

    # -- what goes on ------------------------------------------------------------------------------------------------

    def _check_runs(self, user: str, person: Person) -> None:
        keys: dict[tuple[str, str], int] = {}
        for number, run in person.runs.items():
            if run.kind != "run" or run.collapse is None:
                continue
            key = (run.name, run.collapse)
            source = tuple(run.event.get("\0source", ()))
            if key in keys or (key in person.newest and source != person.newest[key]):
                told = f"{user}: run {number} of {key} by {source}; the newest is {person.newest.get(key)}"
                raise Violation("N5", told, "server")
            keys[key] = number

    def _check_waiting(self, now_ms: int, user: str, person: Person, wishes: Sequence[Wishes]) -> None:
        waiting = {number for number, row in person.rows.items() if row.outcome == "deferred"}
        held = {run.decision for run in person.runs.values() if run.decision is not None}
        if waiting != held:
            raise Violation("N10", f"{user}: {sorted(waiting)} wait, and runs wait for {sorted(held)}", "server")
        if wishes[0] != wishes[-1]:
            for number in waiting:
                row = person.rows[number]
                if row.decided_ms != now_ms:
                    told = f"{user}: decision {number} of {row.category} was not judged by what the person chose now"
                    raise Violation("N8", told, "server")
                self._see("judged anew")

    # -- at the end --------------------------------------------------------------------------------------------------

    def check(self, over_ms: int | None = None) -> None:
        """How many candidates each event has. `over_ms`: so much time has passed since then that what was made or begun
        before it waits for nothing any more."""
        for user, person in self.people.items():
            made: dict[tuple[str, str, str], list[Any]] = {}
            for row in person.rows.values():
                if row.source is not None:
                    made.setdefault((*row.source, row.workflow), []).append(row)
            for each in person.events:
                for name in [*each.flows, *([""] if each.is_direct else [])]:
                    self._check_made(user, each, name, made.pop((*each.key, name), []), over_ms is not None)
            if made:
                raise Violation("N1", f"{user}: candidates of no event: {list(made)[:3]}", "server")
            if over_ms is not None:
                self._check_over(user, person, over_ms)

    def _check_made(self, user: str, event: Happened, name: str, rows: list[Any], is_over: bool) -> None:
        flow = self.rules.flows.get(name)
        most = 1 if flow is None else flow.sends
        least = 1 if flow is None else flow.least
        if flow is not None and (name in event.is_stopped or not is_over):
            least = 0
        if any(row.reason in ("runs", "throttle") for row in rows):
            most = least = 1
        if not least <= len(rows) <= most:
            told = f"{user}: {event.type} {event.key} made {len(rows)} candidates of {name or 'its own'}"
            raise Violation("N10", f"{told}, which are {least} to {most}", "server")
        if flow is not None and flow.delay is not None and not flow.delay.days:
            early = [row for row in rows if row.made_ms < event.at_ms + flow.delay.ms]
            if early and early[0].reason != "runs":
                raise Violation("N10", f"{user}: {event.key} of {name} did not wait for its delay", "server")

    def _check_over(self, user: str, person: Person, over_ms: int) -> None:
        left = [n for n, row in person.rows.items() if row.outcome not in FINAL and row.made_ms < over_ms]
        going = [run for run in person.runs.values() if run.kind != "watch" and run.began_ms < over_ms]
        if left or going:
            raise Violation("N10", f"{user}: {left} are not final, and {len(going)} runs go on: {going[:1]}", "server")
        gathered: dict[str, int] = {}
        for row in person.rows.values():
            if row.outcome == "digested":
                gathered[row.category] = gathered.get(row.category, 0) + 1
            if "count" in row.content:
                gathered[row.category] = gathered.get(row.category, 0) - row.content["count"]
                self._see("digest closed")
        for run in person.runs.values():
            if run.kind == "digest" and run.decision is None:  # one that has closed is counted by its candidate
                gathered[run.name] = gathered.get(run.name, 0) - len(run.entries)
        if any(gathered.values()):
            raise Violation("N10", f"{user}: what was gathered and what digests hold differ by {gathered}", "server")


class _Text(dict[str, Any]):
    """An event's data, of which a text asks."""

    def __missing__(self, name: str) -> str:
        return ""


def _is_as_drawn(row: Any) -> bool:
    """Whether the moment is the one that the draw picks of the scores: the best, or one of the best few."""
    at_ms, _, is_explored, draw = row.choice
    best = [moment for moment, _ in row.scores][:EXPLORED_SLOTS]
    if [score for _, score in row.scores] != sorted((score for _, score in row.scores), reverse=True):
        return False
    wanted = best[0]
    if draw < EXPLORED_SHARE and len(best) > 1:
        wanted = best[min(int(draw / EXPLORED_SHARE * len(best)), len(best) - 1)]
    return bool(row.until_ms == at_ms == wanted and is_explored == (draw < EXPLORED_SHARE and len(best) > 1))


def _number(row: Any, judged: Sequence[Verdict]) -> str:
    """Which promise a wrong outcome breaks."""
    outcomes = {verdict.outcome for verdict in judged}
    if row.priority == "critical":
        return "N7"
    if row.outcome == "deferred" and outcomes <= {"sent", "deferred"}:
        return "N8"
    return "N6" if outcomes == {"expired"} and row.outcome == "sent" else "N9"
