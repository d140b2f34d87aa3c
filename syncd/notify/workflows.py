"""Workflows as an operator writes them: what sets one off, and what it does step by step.

Owns their shape, every check that can be made before one runs, and their versions. The same shape is read from TOML and
from JSON; a mistake is told with its path, for whoever knows lines and columns to point at it. Must not know runs, the
store or HTTP.

    [category.learning]
    caps = ["2 / 24h"]

    [template.streak]
    title = "Keep your streak of {days} days"
    body = "Five minutes are enough."

    [workflow.nudge]
    category = "learning"
    trigger = { inactivity = { p_return_below = 0.35, fallback = "3d" } }
    cancel_on = ["session.start"]
    [[workflow.nudge.step]]
    send = { templates = ["streak"] }

Invariants: W1 definitions with any mistake are refused whole, and every mistake in them is named. W2 a version is a
hash of all that a run may come to read: the workflow, its name, its category, its templates; equal definitions have
equal versions, whatever the order of their keys. W3 a run of any workflow ends: steps only go forward, each waits for a
bounded time, and there are `STEPS_MAX` at most, those within branches included.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from syncd.notify import civil, expressions
from syncd.notify.civil import QuietHours, Schedule, Span
from syncd.notify.expressions import Condition
from syncd.notify.policy import (
    CAPS_MAX,
    FREQUENCIES,
    NAME,
    NAME_EXPECTED,
    PRIORITIES,
    QUIET_ACTIONS,
    Cap,
    Category,
    Policy,
    parse_cap,
)

WORKFLOWS_MAX, CATEGORIES_MAX, TEMPLATES_MAX = 200, 64, 1_000
STEPS_MAX = 32
TITLE_CHARS_MAX, BODY_CHARS_MAX = 200, 1_000  # a lock screen shows four lines; APNs takes 4 KiB in all
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*){0,7}", re.ASCII)
_EVENT_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `path` leads to it through tables and arrays; `column`: within a text, from 1, if it is known;
    `is_key`: the key itself is the mistake, not what it holds."""

    path: Path
    message: str
    column: int | None = None
    is_key: bool = False


class BadDefinitions(ValueError):
    """The definitions are refused."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, each.path))}: {each.message}" for each in problems))
        self.problems = tuple(problems)


# -- values -----------------------------------------------------------------------------------------------------------


def _parsed(parse: Callable[[str], Any], expected: str) -> BeforeValidator:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            raise ValueError(f"expected {expected}")
        return parse(value)  # every parser here raises a ValueError that says what was expected

    return BeforeValidator(read)


def _named(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(f"expected {NAME_EXPECTED}")
    return text


def _event_type(text: str) -> str:
    if not _EVENT_TYPE.fullmatch(text):
        raise ValueError("expected the type of an event: 1-128 letters, digits, '.', '_', '-', not a sign first")
    return text


def _placed(text: str) -> str:
    """A text with placeholders such as `{story_id}` or `{cart.total}`, which name fields of the event."""
    for found in PLACEHOLDER.finditer(text):
        if not _PATH.fullmatch(found[1]):
            raise ValueError(f"expected the name of a field in braces, not {found[0][:40]!r}")
    if re.search(r"[{}]", PLACEHOLDER.sub("", text)):
        raise ValueError("expected a brace to open and to close around the name of a field")
    return text


SpanText = Annotated[Span, _parsed(civil.parse_span, "a span such as '3d'")]
CapText = Annotated[Cap, _parsed(parse_cap, "a cap such as '2 / 24h'")]
QuietText = Annotated[QuietHours, _parsed(civil.parse_quiet_hours, "quiet hours such as '22:00-08:00'")]
ScheduleText = Annotated[Schedule, _parsed(civil.parse_schedule, "a schedule such as 'mon 09:00'")]
ConditionText = Annotated[Condition, _parsed(expressions.parse, "a condition in text")]
EventType = Annotated[str, _parsed(_event_type, "the type of an event")]
Name = Annotated[str, _parsed(_named, NAME_EXPECTED)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


# -- what sets a workflow off -----------------------------------------------------------------------------------------


class Inactivity(_Table):
    """When a person's chance to come back within seven days falls below a share; `fallback`: after so long without a
    session, for one of whom too little is known."""

    p_return_below: Annotated[float, Field(gt=0.0, lt=1.0)]
    fallback: SpanText


class Threshold(_Table):
    """When an event has come `count` times within a span."""

    event: EventType
    count: Annotated[int, Field(ge=1, le=1_000_000)]
    within: SpanText


class Trigger(_Table):
    """Exactly one of these sets a workflow off. `where` holds for an event."""

    event: EventType | None = None
    where: ConditionText | None = None
    inactivity: Inactivity | None = None
    threshold: Threshold | None = None
    schedule: ScheduleText | None = None
    api: Literal[True] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Trigger":
        kinds = [
            name for name in ("event", "inactivity", "threshold", "schedule", "api") if getattr(self, name) is not None
        ]
        if len(kinds) != 1:
            raise ValueError("expected exactly one of event, inactivity, threshold, schedule, api")
        if self.where is not None and self.event is None:
            raise ValueError("'where' is about an event, and this trigger names none")
        return self


# -- what it does -----------------------------------------------------------------------------------------------------


class Send(_Table):
    """A notification. Of several templates one is chosen: the first, or by what has worked (`bandit`)."""

    templates: Annotated[list[Name], Field(min_length=1, max_length=8)]
    choose: Literal["first", "bandit"] = "first"


class Step(_Table):
    """Exactly one of these. `timeout` belongs to `wait_for`: what did not come by then ends the wait."""

    send: Send | None = None
    delay: SpanText | None = None
    wait_for: EventType | None = None
    timeout: SpanText | None = None
    digest: Literal["hourly", "daily", "weekly"] | None = None
    throttle: CapText | None = None
    branch: "Branch | None" = None

    @cached_property
    def kind(self) -> str:
        return next(name for name in _STEPS if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one(self) -> "Step":
        kinds = [name for name in _STEPS if getattr(self, name) is not None]
        if len(kinds) != 1:
            raise ValueError(f"expected exactly one of {', '.join(_STEPS)}")
        if (self.wait_for is not None) != (self.timeout is not None):
            raise ValueError("'wait_for' and 'timeout' go together: nothing waits for ever")
        return self


_STEPS = ("send", "delay", "wait_for", "digest", "throttle", "branch")


class Branch(_Table):
    """`then` if the condition holds when the run comes here, else `otherwise`. Both go on after the branch."""

    where: ConditionText
    then: list[Step]
    otherwise: list[Step] = []


class Window(_Table):
    """How long a notification may wait for its moment. `at`: at the best one for this person, or at once."""

    within: SpanText
    at: Literal["best", "once"] = "best"


class Workflow(_Table):
    """One workflow. `collapse`: a text with placeholders; of what comes to the same text only the newest is sent.
    `after_downtime`: what becomes of what fell due meanwhile."""

    category: Name
    trigger: Trigger
    topic: Annotated[str, _parsed(_placed, "text with placeholders")] | None = None
    collapse: Annotated[str, _parsed(_placed, "text with placeholders")] | None = None
    cancel_on: Annotated[list[EventType], Field(max_length=16)] = []
    window: Window | None = None
    after_downtime: Literal["fire", "coalesce", "skip"] = "fire"
    step: Annotated[list[Step], Field(min_length=1)]

    def steps(self) -> Iterator[tuple[Path, Step]]:
        """All steps, those within branches included, with their paths below the workflow."""
        yield from _steps(("step",), self.step)


def _steps(path: Path, steps: Sequence[Step]) -> Iterator[tuple[Path, Step]]:
    for index, step in enumerate(steps):
        yield (*path, index), step
        if step.branch is not None:
            yield from _steps((*path, index, "branch", "then"), step.branch.then)
            yield from _steps((*path, index, "branch", "otherwise"), step.branch.otherwise)


# -- around them ------------------------------------------------------------------------------------------------------


class Template(_Table):
    """What is shown. `title` and `body` may have placeholders; `locale`: the same in other languages (`pt-BR`)."""

    title: Annotated[str, _parsed(_placed, "text with placeholders")]
    body: Annotated[str, _parsed(_placed, "text with placeholders")] = ""
    locale: "dict[str, Translation]" = {}

    @model_validator(mode="after")
    def _fits(self) -> "Template":
        if not 0 < len(self.title) <= TITLE_CHARS_MAX or len(self.body) > BODY_CHARS_MAX:
            raise ValueError(f"a title has 1-{TITLE_CHARS_MAX} characters, a body {BODY_CHARS_MAX} at most")
        return self


class Translation(_Table):
    title: Annotated[str, _parsed(_placed, "text with placeholders")]
    body: Annotated[str, _parsed(_placed, "text with placeholders")] = ""


class CategoryTable(_Table):
    priority: Literal["low", "normal", "high", "critical"] = "normal"
    frequency: Literal["instant", "hourly", "daily", "weekly", "off"] = "instant"
    caps: Annotated[list[CapText], Field(max_length=CAPS_MAX)] = []
    half_life: SpanText = civil.parse_span("12h")
    expires: SpanText | None = None


class PolicyTable(_Table):
    caps: Annotated[list[CapText], Field(max_length=CAPS_MAX)] = []
    quiet_hours: QuietText | None = None
    quiet_action: Literal["defer", "silence", "drop"] = "defer"
    holdout: Share = 0.0


assert set(CategoryTable.model_fields["priority"].annotation.__args__) == set(PRIORITIES)  # type: ignore[union-attr]
assert set(CategoryTable.model_fields["frequency"].annotation.__args__) == set(FREQUENCIES)  # type: ignore[union-attr]
assert set(PolicyTable.model_fields["quiet_action"].annotation.__args__) == set(QUIET_ACTIONS)  # type: ignore[union-attr]


class _Tables(_Table):
    policy: PolicyTable = PolicyTable()
    category: Annotated[dict[Name, CategoryTable], Field(max_length=CATEGORIES_MAX)] = {}
    template: Annotated[dict[Name, Template], Field(max_length=TEMPLATES_MAX)] = {}
    workflow: Annotated[dict[Name, Workflow], Field(max_length=WORKFLOWS_MAX)] = {}


@dataclass(frozen=True, slots=True)
class Definitions:
    """All that was defined. `versions`: workflow -> its version, 16 hexadecimal digits."""

    policy: Policy
    templates: Mapping[str, Template]
    workflows: Mapping[str, Workflow]
    versions: Mapping[str, str]


def definitions(values: Mapping[str, Any]) -> Definitions:
    """Read and check. `values`: as a TOML or JSON parser gives them. Raises `BadDefinitions`."""
    try:
        tables = _Tables.model_validate(dict(values))
    except ValidationError as error:
        raise BadDefinitions([_problem(each) for each in error.errors()]) from None
    problems = list(_broken_relations(tables))
    if problems:
        raise BadDefinitions(problems)
    categories = {
        name: Category(name, each.priority, each.frequency, tuple(each.caps), each.half_life, each.expires)
        for name, each in tables.category.items()
    }
    common = tables.policy
    policy = Policy(categories, tuple(common.caps), common.quiet_hours, common.quiet_action, common.holdout)
    versions = {name: _version(values, tables, name) for name in tables.workflow}
    return Definitions(policy, tables.template, tables.workflow, versions)


def _problem(error: Mapping[str, Any]) -> Problem:
    """A complaint of the schema, in the words of this module where it has any."""
    # The names of alternatives are no part of the way to the mistake.
    path = tuple(
        item for item in error["loc"] if not (isinstance(item, str) and item.startswith(("function-", "[key]")))
    )
    cause = (error.get("ctx") or {}).get("error")
    match error["type"]:
        case "extra_forbidden":
            return Problem(path, "an unknown key", is_key=True)
        case "missing":
            return Problem(path, "expected a value, found nothing")
    if isinstance(cause, expressions.BadExpression):
        return Problem(path, cause.message, cause.column)
    return Problem(path, str(cause) if cause is not None else error["msg"][:1].lower() + error["msg"][1:])


def _broken_relations(tables: _Tables) -> Iterator[Problem]:
    """What each table cannot know of itself: names that lead nowhere, and sizes that add up."""
    for name, workflow in tables.workflow.items():
        at: Path = ("workflow", name)
        if workflow.category not in tables.category:
            known = ", ".join(sorted(tables.category)) or "none"
            yield Problem((*at, "category"), f"no category {workflow.category!r} is defined; there are: {known}")
        steps = list(workflow.steps())
        if len(steps) > STEPS_MAX:
            yield Problem((*at, "step"), f"a workflow has at most {STEPS_MAX} steps, not {len(steps)}")
        if not any(step.send or step.digest for _, step in steps):
            yield Problem((*at, "step"), "no step sends anything")
        for path, step in steps:
            for index, template in enumerate(step.send.templates if step.send else ()):
                if template not in tables.template:
                    where = (*at, *path, "send", "templates", index)
                    yield Problem(where, f"no template {template!r} is defined")


def _version(values: Mapping[str, Any], tables: _Tables, name: str) -> str:
    """W2. Over what was written, not over what was made of it: a default that changes with a release of syncd does not
    make new versions of old workflows."""
    workflow = tables.workflow[name]
    templates = sorted({each for _, step in workflow.steps() if step.send for each in step.send.templates})
    read = {
        "name": name,
        "workflow": values["workflow"][name],
        "category": values["category"][workflow.category],
        "templates": {each: values["template"][each] for each in templates},
    }
    return sha256(json.dumps(read, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]
