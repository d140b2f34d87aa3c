"""What people choose, as documents and as one JSON object: the two forms, and the operations that lead between them.

Owns the schema of `_preferences` and `_profile` in a user's space, and how a request alters them. Must not know HTTP or
the store: documents come in as fields, operations go out, and become one change like any device's. So a choice made
over HTTP meets those made offline by the same rules, and reaches every device.

`_preferences` has a document `all`, and one for each category (`category:NAME`) and topic (`topic:NAME`) about which
something was chosen. `frequency`: instant, hourly, daily, weekly, off. `mute_until`: milliseconds since 1970. `all` may
have `quiet_hours`: `22:00-08:00`, or `off`. `_profile` has a document `main` with `zone` and `locale`, each with where
it came from (`zone_from`: `device`, `user` or `backend`). All are `reg` fields.

Devices may write anything there. What is no choice is ignored where decisions are made (`policy.preferences`); here it
is told as a fault, so that whoever looks can put it right. Over HTTP nothing wrong is taken.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from syncd.core.ids import PREFERENCES, PROFILE, BadName, check_name
from syncd.notify import civil
from syncd.notify.policy import MS_MAX, NAME, NAME_EXPECTED, Policy, Preferences, frequency, muted_until, preferences
from syncd.notify.workflows import BadDefinitions, Problem

NAMED_MAX = 60  # categories, and topics, in one request: a change alters 128 documents at most
READ_MAX = 1_000  # documents of one user that are shown: a person chooses about tens
PROFILE_DOCUMENT = "main"
LOCALE_CHARS_MAX = 35  # RFC 5646, 4.4.1: what buffers should hold

Documents = Mapping[str, Mapping[str, Any]]  # id -> fields


def _quiet_hours(text: Any) -> Any:
    if isinstance(text, str) and text != "off":
        civil.parse_quiet_hours(text)
    return text


def _zone(name: Any) -> Any:
    if isinstance(name, str):
        civil.zone(name)
    return name


def _category(name: Any) -> Any:
    if isinstance(name, str) and not NAME.fullmatch(name):
        raise ValueError(f"expected {NAME_EXPECTED}")
    return name


def _topic(name: Any) -> Any:
    try:
        check_name(f"topic:{name}", "a topic, with 'topic:' in front of it,")
    except BadName as error:
        raise ValueError(str(error)) from None
    return name


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Choice(_Table):
    frequency: Literal["instant", "hourly", "daily", "weekly", "off"] | None = None
    mute_until: Annotated[int, Field(ge=0, le=MS_MAX)] | None = None


class Everything(Choice):
    quiet_hours: Annotated[str | None, BeforeValidator(_quiet_hours)] = None


class Whereabouts(_Table):
    zone: Annotated[str | None, BeforeValidator(_zone)] = None
    locale: Annotated[str | None, Field(max_length=LOCALE_CHARS_MAX)] = None


class Choices(_Table):
    """Everything that a person can choose. None stands for no choice, and takes one back."""

    all: Everything = Everything()
    categories: Annotated[
        dict[Annotated[str, BeforeValidator(_category)], Choice | None], Field(max_length=NAMED_MAX)
    ] = {}
    topics: Annotated[dict[Annotated[str, BeforeValidator(_topic)], Choice | None], Field(max_length=NAMED_MAX)] = {}
    profile: Whereabouts = Whereabouts()


def chosen(values: Mapping[str, Any]) -> Choices:
    """Read and check a request. Raises `BadDefinitions`, with the path of each mistake."""
    try:
        return Choices.model_validate(dict(values))
    except ValidationError as error:
        problems = []
        for each in error.errors():
            cause = (each.get("ctx") or {}).get("error")
            path = tuple(item for item in each["loc"] if item not in ("[key]", "Choice"))
            problems.append(Problem(path, str(cause) if cause is not None else each["msg"]))
        raise BadDefinitions(problems) from None


def _wanted(choices: Choices, is_patch: bool) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(id of a document of `_preferences`, its fields) as a request has them: in a patch only those it names; None: the
    whole document goes."""
    yield "all", choices.all.model_dump(exclude_unset=is_patch)
    for kind, named in (("category", choices.categories), ("topic", choices.topics)):
        for name, choice in named.items():
            yield f"{kind}:{name}", None if choice is None else choice.model_dump(exclude_unset=is_patch)


def operations(documents: Documents, profile: Documents, choices: Choices, source: str, *, is_patch: bool) -> list[Any]:
    """What leads from what stands in a user's space to what was chosen: nothing for what is so already. `is_patch`:
    only what is named is altered; else what is not named goes. `source`: from whom the profile is, `user` or `backend`.
    """
    made: list[Any] = []
    wanted = dict(_wanted(choices, is_patch))
    for name, fields in wanted.items():
        if fields is not None:
            made += _altered(PREFERENCES, name, documents.get(name), fields)
        elif name in documents:
            made.append(["delete", PREFERENCES, name])
    if not is_patch:
        made += [["delete", PREFERENCES, name] for name in documents if name not in wanted]
    fields = choices.profile.model_dump(exclude_unset=is_patch)
    before = profile.get(PROFILE_DOCUMENT)
    for name, value in list(fields.items()):
        if value != (before or {}).get(name):
            fields[f"{name}_from"] = None if value is None else source
    return made + _altered(PROFILE, PROFILE_DOCUMENT, before, fields)


def _altered(collection: str, name: str, before: Mapping[str, Any] | None, fields: Mapping[str, Any]) -> list[Any]:
    made: list[Any] = []
    for field, value in fields.items():
        if value is not None and value != (before or {}).get(field):
            made.append(["reg.set", collection, name, field, value])
        elif value is None and before is not None and field in before:
            made.append(["reg.unset", collection, name, field])
    return [["create", collection, name], *made] if made and before is None else made


# -- showing ----------------------------------------------------------------------------------------------------------


def shown(documents: Documents, profile: Documents, policy: Policy, now_ms: int) -> dict[str, Any]:
    """What was chosen, and what holds now for each category that there is, ready for JSON."""
    wishes = preferences(documents)
    quiet = wishes.quiet(policy)
    named: dict[str, dict[str, Any]] = {"category": {}, "topic": {}}
    for name, fields in documents.items():
        kind, colon, rest = name.partition(":")
        if colon and kind in named:
            named[kind][rest] = _choice(fields)
    everything = documents.get("all", {})
    main = profile.get(PROFILE_DOCUMENT, {})
    return {
        "all": _choice(everything) | _known(everything, ("quiet_hours",), str),
        "categories": named["category"],
        "topics": named["topic"],
        "profile": _known(main, ("zone", "zone_from", "locale", "locale_from"), str),
        "effective": {name: _effective(policy, wishes, name, now_ms) for name in sorted(policy.categories)},
        "quiet_hours": None if quiet is None else str(quiet),
        "faults": list(wishes.faults),
    }


def _choice(fields: Mapping[str, Any]) -> dict[str, Any]:
    return _known(fields, ("frequency",), str) | _known(fields, ("mute_until",), int)


def _known(fields: Mapping[str, Any], names: tuple[str, ...], kind: type) -> dict[str, Any]:
    return {name: fields[name] for name in names if type(fields.get(name)) is kind}


def _effective(policy: Policy, wishes: Preferences, name: str, now_ms: int) -> dict[str, Any]:
    category = policy.categories[name]
    found, muted = frequency(policy, wishes, category, None), muted_until(wishes, category, None, now_ms)
    return {
        "frequency": found.frequency,
        "by": found.by,
        "muted_until": None if muted is None else muted[0],
        "priority": category.priority,
        "default": category.frequency,
    }
