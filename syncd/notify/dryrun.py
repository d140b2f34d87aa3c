"""What would be decided: an event and the state of a person, told rather than stored, through a version of a workflow.

Owns the shape of such a state, and the answer. Must not know the store, the clock or chance: nothing is read or
written, and where a real decision draws (holdout, exploration) the state says what was drawn or nothing is drawn. The
gates are those of real decisions (`gates.py`), so the verdicts and the sentence are the same.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from syncd.notify import civil
from syncd.notify.expressions import Facts
from syncd.notify.gates import SENDS_KEPT, Candidate, Person, Sent, judged
from syncd.notify.policy import MS_MAX, Policy, preferences
from syncd.notify.program import rendered, words
from syncd.notify.versions import Version, under
from syncd.notify.workflows import BadDefinitions, Problem

FACTS_MAX = 64  # of one kind that a state tells
PREFERENCES_MAX = 256
TEXT_CHARS_MAX = 256

Ms = Annotated[int, Field(ge=0, le=MS_MAX)]
Count = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Text = Annotated[str, Field(max_length=TEXT_CHARS_MAX)]


def _zone(name: Any) -> Any:
    if isinstance(name, str):
        civil.zone(name)
    return name


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class SentBefore(_Table):
    at_ms: Ms
    category: Text


class State(_Table):
    """A person. `count`: how often an event came, by `TYPE SPAN` as a condition asks (`"cart.updated 7d"`); `since`:
    the hours since the latest, by type; `affinity`: by topic; `p_return`: the chance of a session within seven days;
    `holdout_draw`: the number that decides about the holdout, 1 if nobody is held out."""

    zone: Annotated[str, BeforeValidator(_zone)] = "UTC"
    locale: Text = "en"
    preferences: Annotated[dict[Text, dict[Text, Any]], Field(max_length=PREFERENCES_MAX)] = {}
    sent: Annotated[list[SentBefore], Field(max_length=SENDS_KEPT)] = []
    count: Annotated[dict[Text, Count], Field(max_length=FACTS_MAX)] = {}
    since: Annotated[dict[Text, Count], Field(max_length=FACTS_MAX)] = {}
    affinity: Annotated[dict[Text, Share], Field(max_length=FACTS_MAX)] = {}
    p_return: Share | None = None
    sessions: Count = 0
    holdout_draw: Share = 1.0


class Happened(_Table):
    type: Text
    data: dict[str, Any] = {}


class Asked(_Table):
    """`event`: what happened; None for a trigger that is none. `now_ms`: when."""

    event: Happened | None = None
    user: State = State()
    now_ms: Ms


def asked(values: Mapping[str, Any]) -> Asked:
    """Read and check. Raises `BadDefinitions`, with the path of each mistake."""
    try:
        return Asked.model_validate(dict(values))
    except ValidationError as error:
        problems = []
        for each in error.errors():
            cause = (each.get("ctx") or {}).get("error")
            path = tuple(item for item in each["loc"] if item != "[key]")
            problems.append(Problem(path, str(cause) if cause is not None else each["msg"]))
        raise BadDefinitions(problems) from None


def told(version: Version, policy: Policy, question: Asked) -> dict[str, Any]:
    """What would come of it, ready for JSON."""
    workflow, state, now_ms = version.workflow, question.user, question.now_ms
    zone = civil.zone(state.zone)
    data: Mapping[str, Any] = {} if question.event is None else question.event.data
    facts = Facts({**data, "type": None if question.event is None else question.event.type}, _calls(question))
    is_triggered, why = _triggered(version, question, facts)
    answer: dict[str, Any] = {
        "workflow": version.name,
        "version": version.version,
        "triggered": is_triggered,
        "trigger": why,
    }
    if not is_triggered:
        return answer | {"outcome": None, "explanation": f"Nothing would be sent: {why}.", "verdicts": []}
    topic = None if workflow.topic is None else rendered(workflow.topic, data)
    expires = version.category.expires
    candidate = Candidate(version.category.name, topic, None if expires is None else expires.end_ms(zone, now_ms))
    sent = tuple(Sent(each.at_ms, each.category) for each in state.sent)
    draw = min(state.holdout_draw, 1.0)
    person = Person(zone, preferences(state.preferences), sent, draw)
    found = judged(candidate, under(policy, version), person, now_ms)
    outcome = found.outcome
    return answer | {
        "outcome": outcome.kind,
        "reason": outcome.reason,
        "until_ms": outcome.until_ms,
        "into": outcome.into,
        "silent": outcome.is_silent,
        "explanation": found.explanation,
        "verdicts": [verdict._asdict() for verdict in found.verdicts],
        "notification": _shown(version, data, state.locale, topic),
    }


def _calls(question: Asked) -> Any:
    state = question.user

    def call(function: str, arguments: Sequence[Any]) -> Any:
        local = civil.shown(civil.zone(state.zone), question.now_ms)
        match function:
            case "count":
                return state.count.get(f"{arguments[0]} {arguments[1]}", 0.0)
            case "since":
                return state.since.get(arguments[0])
            case "affinity":
                return state.affinity.get(arguments[0], 0.0)
            case "p_return":
                return state.p_return
            case "sessions":
                return state.sessions
            case "hour":
                return local.hour
        assert function == "weekday", "every function of conditions has an answer"
        return local.isoweekday()

    return call


def _triggered(version: Version, question: Asked, facts: Facts) -> tuple[bool, str]:
    trigger, event = version.workflow.trigger, question.event
    if trigger.event is not None:
        if event is None or event.type != trigger.event:
            return False, f"it is set off by the event {trigger.event}"
        if trigger.where is not None and not trigger.where.holds(facts):
            return False, f"the condition does not hold: {trigger.where.text}"
        return True, f"the event {trigger.event}"
    if trigger.inactivity is not None:
        below, state = trigger.inactivity.p_return_below, question.user
        if state.p_return is None:
            away_h = state.since.get("session.start")
            fallback = trigger.inactivity.fallback
            is_away = away_h is not None and away_h >= fallback.nominal_ms / 3_600_000
            shown = "none is known" if away_h is None else f"the latest was {away_h:g} hours ago"
            return is_away, f"it waits for {fallback} without a session, and {shown}"
        return state.p_return < below, f"the chance of a return is {state.p_return:.2f}, and it waits for {below:.2f}"
    if trigger.threshold is not None:
        asked_for = trigger.threshold
        count = question.user.count.get(f"{asked_for.event} {asked_for.within}", 0.0)
        why = f"{asked_for.event} came {count:g} times within {asked_for.within}, and it waits for {asked_for.count}"
        return count >= asked_for.count, why
    return True, "a schedule" if trigger.schedule is not None else "a call of the API"


def _shown(version: Version, data: Mapping[str, Any], locale: str, topic: str | None) -> dict[str, Any] | None:
    """The first notification that the steps send, with the first of its templates."""
    names = [step.send.templates for _, step in version.workflow.steps() if step.send]
    if not names:
        return None
    template = version.templates[names[0][0]]
    title, body = words(template, locale, data)
    collapse = version.workflow.collapse
    return {
        "category": version.category.name,
        "template": names[0][0],
        "title": title,
        "body": body,
        "topic": topic,
        "collapse": None if collapse is None else rendered(collapse, data),
    }
