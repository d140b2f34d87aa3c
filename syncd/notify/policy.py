"""What may disturb whom: categories, caps, quiet hours of the operator, and the preferences of a person.

Owns these as plain data, how each is written, and the order in which preferences win over each other. Must not know
where either comes from (a configuration, synced documents), nor what has been sent (`gates.py`).

A person's word is the last one, but for critical messages, which a person cannot turn off with everything else by
accident: a category that is critical is turned off by naming it. The order, from strongest: critical, mute, topic,
category, everything, what the operator set, what syncd sets.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from syncd.notify.civil import BadTime, QuietHours, Span, parse_quiet_hours, parse_span

PRIORITIES = ("low", "normal", "high", "critical")
FREQUENCIES = ("instant", "hourly", "daily", "weekly", "off")
QUIET_ACTIONS = ("defer", "silence", "drop")  # wait for their end; show without a sound; forget

CAPS_MAX = 4  # of one category, or global: an hour, a day, a week, and one to spare
CAP_COUNT_MAX = 40  # as many as are remembered of a person's latest notifications
CAP_SPAN_MS_MAX = 30 * 86_400_000
HALF_LIFE = Span(12 * 3_600_000, 0)  # what was worth saying in the morning is worth half in the evening
NAME = re.compile(r"[a-z][a-z0-9_.-]{0,31}", re.ASCII)
NAME_EXPECTED = "a name of 1-32 characters: a letter, then letters, digits, '_', '.', '-', all lower-case"
_CAP = re.compile(r"(\d{1,3}) ?/ ?(\w{1,8})", re.ASCII)


class BadPolicy(ValueError):
    """Something breaks its syntax; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `count` in any stretch of time that is as long as `span`. `4 / 24h` is no calendar day: one at 23:50 and
    one at 00:10 are twenty minutes apart."""

    count: int
    span: Span

    def __str__(self) -> str:
        return f"{self.count} / {self.span}"


def parse_cap(text: str) -> Cap:
    """Read `2 / 24h`. Raises `BadPolicy`."""
    found = _CAP.fullmatch(text)
    if found is not None and 1 <= int(found[1]) <= CAP_COUNT_MAX:
        try:
            span = parse_span(found[2])
        except BadTime as error:
            raise BadPolicy(str(error)) from None
        if span.nominal_ms <= CAP_SPAN_MS_MAX:
            return Cap(int(found[1]), span)
    raise BadPolicy(
        f"a cap is written COUNT / SPAN such as '2 / 24h': 1-{CAP_COUNT_MAX}, at most 30d; not {text[:40]!r}"
    )


@dataclass(frozen=True, slots=True)
class Category:
    """A kind of notification that people can tell apart, and turn off. `half_life`: after so long one is worth half;
    `expires`: after so long it is not sent any more."""

    name: str
    priority: str = "normal"
    frequency: str = "instant"
    caps: tuple[Cap, ...] = ()
    half_life: Span = HALF_LIFE
    expires: Span | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator configured. `caps` count all categories together. `holdout`: the share of people who get
    nothing, so that what notifications do can be told."""

    categories: Mapping[str, Category]
    caps: tuple[Cap, ...] = ()
    quiet_hours: QuietHours | None = None
    quiet_action: str = "defer"
    holdout: float = 0.0


# -- preferences ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person chose for a topic, a category or everything; None: nothing. `mute_until_ms`: silent until then."""

    frequency: str | None = None
    mute_until_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Preferences:
    """A person's choices. `quiet_hours` None: the operator's hold; `has_quiet_hours` False: none at all, by choice.
    `faults`: what stands in the documents and is no choice, each as a clause that says where and what."""

    everything: Wish = Wish()
    categories: Mapping[str, Wish] = field(default_factory=dict)
    topics: Mapping[str, Wish] = field(default_factory=dict)
    quiet_hours: QuietHours | None = None
    has_quiet_hours: bool = True
    faults: tuple[str, ...] = ()

    def quiet(self, policy: Policy) -> QuietHours | None:
        if not self.has_quiet_hours:
            return None
        return self.quiet_hours or policy.quiet_hours


NO_PREFERENCES = Preferences()

MS_MAX = 253_402_300_799_000  # the end of the year 9999


def wish(fields: Mapping[str, Any]) -> Wish:
    """A document of preferences as it is merged from a person's devices. What is no choice counts as none: one device
    with a mistake must not take the others' choices away."""
    frequency, until = fields.get("frequency"), fields.get("mute_until")
    return Wish(frequency if frequency in FREQUENCIES else None, until if _is_time(until) else None)


def _is_time(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MS_MAX


FAULTS_MAX = 8  # that are told of one person; further ones are as wrong


def _faults(document_id: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """What in a document is no choice, and is ignored."""
    frequency, until, quiet = (fields.get(name) for name in ("frequency", "mute_until", "quiet_hours"))
    if frequency is not None and frequency not in FREQUENCIES:
        yield f"{document_id}: the frequency {_shown(frequency)} is none of {', '.join(FREQUENCIES)}"
    if until is not None and not _is_time(until):
        yield f"{document_id}: {_shown(until)} is no end of a mute in milliseconds"
    if document_id == "all" and quiet is not None and quiet != "off":
        try:
            parse_quiet_hours(quiet if isinstance(quiet, str) else repr(quiet))
        except BadTime:
            yield f"{document_id}: the quiet hours {_shown(quiet)} are none such as '22:00-08:00'"


def _shown(value: Any) -> str:
    return repr(value)[:40] if isinstance(value, str | int | float) else f"({type(value).__name__})"


def preferences(documents: Mapping[str, Mapping[str, Any]]) -> Preferences:
    """From the documents of `_preferences`, by id: `all`, `category:NAME`, `topic:NAME`; `all` may have `quiet_hours`,
    as text, or `off`."""
    if not documents:
        return NO_PREFERENCES
    everything = documents.get("all", {})
    quiet, text = None, everything.get("quiet_hours")
    if isinstance(text, str) and text != "off":
        try:
            quiet = parse_quiet_hours(text)
        except BadTime:
            quiet = None
    wishes: dict[str, dict[str, Wish]] = {"category": {}, "topic": {}}
    faults: list[str] = []
    for document_id, fields in documents.items():
        faults += islice(_faults(document_id, fields), max(0, FAULTS_MAX - len(faults)))
        kind, colon, name = document_id.partition(":")
        if colon and kind in wishes:
            wishes[kind][name] = wish(fields)
    return Preferences(wish(everything), wishes["category"], wishes["topic"], quiet, text != "off", tuple(faults))


@dataclass(frozen=True, slots=True)
class Resolved:
    """How often a person wants this, and whose word it was."""

    frequency: str
    by: str


def frequency(policy: Policy, wishes: Preferences, category: Category, topic: str | None) -> Resolved:
    """The wish that counts, from the narrowest to the widest; a critical category only by its own name."""
    if wishes is NO_PREFERENCES and category.priority != "critical":
        return Resolved(category.frequency, f"the default of {category.name}")
    named = wishes.categories.get(category.name, Wish())
    if category.priority == "critical":
        is_off = named.frequency == "off"
        return Resolved("off" if is_off else "instant", f"the category {category.name}" if is_off else "critical")
    topical = wishes.topics.get(topic, Wish()) if topic is not None else Wish()
    for found, by in (
        (topical, f"the topic {topic}"),
        (named, f"the category {category.name}"),
        (wishes.everything, "the choice for everything"),
    ):
        if found.frequency is not None:
            return Resolved(found.frequency, by)
    return Resolved(category.frequency, f"the default of {category.name}")


def muted_until(wishes: Preferences, category: Category, topic: str | None, now_ms: int) -> tuple[int, str] | None:
    """The end of the longest mute that holds now, and whose it is; None if there is none. Nothing critical is muted."""
    if category.priority == "critical" or wishes is NO_PREFERENCES:
        return None
    found = [
        (wishes.everything, "everything"),
        (wishes.categories.get(category.name, Wish()), f"the category {category.name}"),
    ]
    if topic is not None:
        found.append((wishes.topics.get(topic, Wish()), f"the topic {topic}"))
    holding = [
        (each.mute_until_ms, by) for each, by in found if each.mute_until_ms is not None and each.mute_until_ms > now_ms
    ]
    return max(holding, default=None)
