"""The definitions that are in force, and those that runs began with.

Owns what decisions read of them, and an index of the workflows by what sets them off; beside them, when people are
there, all together. All of it is worked out once, until the rows say otherwise. Must not know where definitions come
from; `versions.py` keeps them.

A run is bound to the version of its workflow with which it began (`Pinned`), so that a change of the definitions never
alters what is already on its way; the policy is always the one in force, because it is a promise to people.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from syncd.notify import profile, timing
from syncd.notify.expressions import Condition
from syncd.notify.policy import Policy
from syncd.notify.versions import Active, Parsed, Version
from syncd.notify.workflows import Workflow
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import PROFILES

Pinned = Version  # the version that a run is bound to


@dataclass(frozen=True, slots=True)
class Current:
    """What is in force. `on_event`, `on_threshold`: by the type of an event. `counted`: event -> the spans in ms over
    which its faded counts are kept, 0 for the time of the latest. `heard`: the types of events for which a run may
    wait, or by which it may end: of all versions in which there are runs, in force or not."""

    policy: Policy
    workflows: Mapping[str, Pinned]
    on_event: Mapping[str, Sequence[Pinned]]
    on_threshold: Mapping[str, Sequence[Pinned]]
    inactivity: Sequence[Pinned]
    scheduled: Sequence[Pinned]
    counted: Mapping[str, Sequence[int]]
    heard: frozenset[str]


def current_of(active: Active, further: Sequence[Pinned]) -> Current:
    """What is in force, indexed. `further`: the versions that are not, and in which there are runs."""
    pinned = active.versions
    on_event: dict[str, list[Pinned]] = {}
    on_threshold: dict[str, list[Pinned]] = {}
    counted: dict[str, set[int]] = {}
    for each in pinned.values():
        trigger = each.workflow.trigger
        if trigger.event is not None:
            on_event.setdefault(trigger.event, []).append(each)
        if trigger.threshold is not None:
            on_threshold.setdefault(trigger.threshold.event, []).append(each)
            counted.setdefault(trigger.threshold.event, set()).add(trigger.threshold.within.nominal_ms)
        for condition in _conditions(each.workflow):
            for event, span in condition.calls("count"):
                counted.setdefault(event, set()).add(span.nominal_ms)
            for (event,) in condition.calls("since"):
                counted.setdefault(event, set()).add(0)
    return Current(
        active.policy,
        pinned,
        on_event,
        on_threshold,
        tuple(each for each in pinned.values() if each.workflow.trigger.inactivity is not None),
        tuple(each for each in pinned.values() if each.workflow.trigger.schedule is not None),
        {event: tuple(sorted(spans)) for event, spans in counted.items()},
        frozenset(event for each in (*pinned.values(), *further) for event in _heard(each.workflow)),
    )


def _heard(workflow: Workflow) -> list[str]:
    waits = [step.wait_for for _, step in workflow.steps() if step.wait_for is not None]
    return [*workflow.cancel_on, *waits]


def _conditions(workflow: Workflow) -> list[Condition]:
    found = [step.branch.where for _, step in workflow.steps() if step.branch is not None]
    return found if workflow.trigger.where is None else [workflow.trigger.where, *found]


class Book:
    """Where definitions are read. It belongs to the one thread that writes. `zone`: the name of the zone of people who
    did not say theirs."""

    def __init__(self, zone: str = "UTC") -> None:
        self._parsed = Parsed()
        self._active: Active | None = None
        self._current: Current = current_of(Active(Policy({}), {}), ())
        self._people: tuple[bytes | None, int, Sequence[float]] | None = None
        self.zone = zone

    def current(self, tx: Reader) -> Current:
        """What is in force now."""
        active = self._parsed.active(tx)
        if active is not self._active:
            # Runs begin in what is in force alone: until that changes, no further version comes to have any.
            self._active, self._current = active, current_of(active, self._parsed.in_use(tx))
        return self._current

    def people(self, tx: Reader, now_ms: int) -> Sequence[float]:
        """When all people are there: `timing.shares`, of what was learned of them."""
        record = tx.get(keys.POPULATION)
        if self._people is None or self._people[:2] != (record, now_ms):
            row = None if record is None else PROFILES.row(keys.POPULATION, record)
            hours = [0.0] * 48 if row is None else profile.hours_at(profile.of_row(row), now_ms)
            self._people = record, now_ms, timing.shares(hours)
        return self._people[2]

    def pinned(self, tx: Reader, version: str) -> Pinned | None:
        """A version, as long as any run uses it; None if it was lost (a restored store, say)."""
        return self._parsed.version(tx, version)
