"""Versions of workflows: what was ever defined, and which version of each workflow is active.

Owns the table of versions, the rule by which one becomes active, and reading them back as checked definitions. Must not
know HTTP, files or runs. A version is all that a run may come to read (`workflows.py`, W2), kept as it was written and
named by its hash; the operator's policy is not part of it, and holds for runs in flight as soon as it is changed.

What is active follows who spoke last. A configuration speaks of a workflow when it defines it otherwise than it did at
the start before: a version that an operator activated, or stopped, over HTTP stays so through restarts until then.

Invariants: N1 a version never changes, and its name says what it holds: so what was parsed once may be kept. N2 an
active version exists. N3 of one workflow at most `VERSIONS_MAX` are kept, and those that runs are in; neither these nor
the active one ever go. N4 what is refused alters nothing.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

from syncd.notify.policy import Category, Policy
from syncd.notify.workflows import (
    CATEGORIES_MAX,
    PLACEHOLDER,
    WORKFLOWS_MAX,
    BadDefinitions,
    Definitions,
    Problem,
    Template,
    Workflow,
    definitions,
)
from syncd.store import keys
from syncd.store.api import Reader, Writer
from syncd.store.tables import META, VERSION_USES, WORKFLOW_VERSIONS, UseRow, VersionRow

VERSIONS_MAX = 32  # of one workflow: a change a day for a month
VERSION_BYTES_MAX = 65_536  # as written: 32 steps and 8 templates in ten languages have some 20 KiB
NAMES_MAX = WORKFLOWS_MAX + 50  # workflows that have versions, stopped ones included
PARSED_MAX = 1_000  # definitions that are kept parsed: 5-50 KiB each, of which some 200 are in use
CONFIGURATION = "configuration"  # who made or activated a version, if it was no API key
_SET = keys.workflow_set()


class Head(NamedTuple):
    """One workflow. `active`: the version that new runs begin with, None if it is stopped; `configured`: what the
    configuration said at the latest start, None if it says nothing; `by`: whose word made it so, and when."""

    active: str | None
    configured: str | None
    by: str
    at_ms: int


class WorkflowSet(NamedTuple):
    """What is in force, as it was written: the operator's policy, the heads by name, and the categories that are
    configured, which hold for what backends post without a workflow."""

    policy: Mapping[str, Any]
    heads: Mapping[str, Head]
    categories: Mapping[str, Any]


class Unknown(LookupError):
    """There is no such workflow, or no such version of it; the message says which."""


class TooMany(ValueError):
    """No more may be kept; the message says of what."""


class InUse(ValueError):
    """What is active or configured is not forgotten."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version, checked and ready to run. `templates`: all that its steps may send. `reads`: the fields of an event
    that its runs may come to read."""

    name: str
    version: str
    workflow: Workflow
    category: Category
    templates: Mapping[str, Template]
    reads: frozenset[str]


@dataclass(frozen=True, slots=True)
class Active:
    """All that new runs begin with. `policy` has the categories of all active workflows, and those of the configuration
    that no workflow uses."""

    policy: Policy
    versions: Mapping[str, Version]


# -- reading ----------------------------------------------------------------------------------------------------------


def workflow_set(tx: Reader) -> WorkflowSet:
    row = META.get(tx, _SET)
    if row is None:
        return WorkflowSet({}, {}, {})
    policy, heads, categories = row[0]
    return WorkflowSet(policy, {name: Head(*head) for name, head in heads.items()}, categories)


def kept(tx: Reader, name: str) -> list[tuple[str, VersionRow]]:
    """The versions of a workflow, newest first."""
    found = [
        (keys.parse_workflow_version(key)[1], row) for key, row in WORKFLOW_VERSIONS.scan(tx, keys.workflow_range(name))
    ]
    return sorted(found, key=lambda each: (-each[1].made_ms, each[0]))


def under(policy: Policy, version: Version) -> Policy:
    """The operator's policy of now, with the category as this version has it: what a run is judged by."""
    return replace(policy, categories={version.category.name: version.category})


class Parsed:
    """Definitions that were read back, kept while they are used. One of these belongs to one thread: what it keeps is
    found by what the transaction says, so a transaction that is undone leaves nothing wrong behind."""

    def __init__(self) -> None:
        self._versions: OrderedDict[str, Version] = OrderedDict()
        self._active: tuple[bytes | None, Active] = (None, Active(Policy({}), {}))

    def active(self, tx: Reader) -> Active:
        """What new runs begin with."""
        record = tx.get(_SET)
        if record != self._active[0]:
            found = workflow_set(tx)
            read = {
                name: version
                for name, head in found.heads.items()
                if head.active is not None and (version := self.version(tx, head.active)) is not None
            }
            policy = definitions({"policy": found.policy, "category": found.categories}).policy
            of_versions = {version.category.name: version.category for version in read.values()}
            policy = replace(policy, categories={**policy.categories, **of_versions})
            self._active = record, Active(policy, read)
        return self._active[1]

    def version(self, tx: Reader, version: str) -> Version | None:
        """A version; None if it is not kept any more, or was written for another syncd that took more."""
        found = self._versions.get(version)
        if found is not None:
            self._versions.move_to_end(version)
            return found
        use = VERSION_USES.get(tx, keys.version_use(version))
        row = None if use is None else WORKFLOW_VERSIONS.get(tx, keys.workflow_version(use.name, version))
        if use is None or row is None:
            return None
        try:
            found = self._versions[version] = _version(use.name, version, row.values)
        except BadDefinitions:
            return None
        if len(self._versions) > PARSED_MAX:
            self._versions.popitem(last=False)
        return found

    def in_use(self, tx: Reader) -> list[Version]:
        """All versions in which there are runs."""
        rows = VERSION_USES.scan(tx, keys.table_range(keys.VERSION_USE))
        used = [keys.parse_version_use(key) for key, use in rows if use.runs]
        return [version for each in used if (version := self.version(tx, each)) is not None]


def policy_of(found: WorkflowSet) -> Policy:
    """The operator's policy, without categories."""
    return definitions({"policy": found.policy}).policy


def _version(name: str, version: str, values: Mapping[str, Any]) -> Version:
    found = definitions(values)
    workflow = found.workflows[name]
    category, reads = _one(found.policy.categories[workflow.category]), _reads(workflow, found.templates)
    return Version(name, version, workflow, category, found.templates, reads)


@lru_cache(maxsize=PARSED_MAX)
def _one(category: Category) -> Category:
    """The same object for categories that say the same, so that a run sees at a look whether its own is the one in
    force, whichever workflow that was read from."""
    return category


def _reads(workflow: Workflow, templates: Mapping[str, Template]) -> frozenset[str]:
    """The fields that its texts and conditions name, and `title`, by which a digest names an event."""
    texts = [text for text in (workflow.topic, workflow.collapse) if text is not None]
    for template in templates.values():
        texts += [template.title, template.body]
        for words in template.locale.values():
            texts += [words.title, words.body]
    names = {found[1].partition(".")[0] for text in texts for found in PLACEHOLDER.finditer(text)}
    for _, step in workflow.steps():
        if step.branch is not None:
            names.update(field.partition(".")[0] for field in step.branch.where.fields())
    return frozenset(names | {"title"})


# -- writing ----------------------------------------------------------------------------------------------------------


def parts(values: Mapping[str, Any], found: Definitions) -> dict[str, dict[str, Any]]:
    """What each workflow's version is made of, by name, as it was written. Raises `BadDefinitions` if one is too
    large."""
    made, problems = {}, []
    for name, workflow in found.workflows.items():
        used = {each for _, step in workflow.steps() if step.send for each in step.send.templates}
        made[name] = {
            "workflow": {name: values["workflow"][name]},
            "category": {workflow.category: values["category"][workflow.category]},
            "template": {each: values["template"][each] for each in sorted(used)},
        }
        if (size := len(json.dumps(made[name], ensure_ascii=False).encode())) > VERSION_BYTES_MAX:
            told = f"with its category and templates it has {size} bytes, at most {VERSION_BYTES_MAX} are kept"
            problems.append(Problem(("workflow", name), told))
    if problems:
        raise BadDefinitions(problems)
    return made


def configured(tx: Writer, now_ms: int, values: Mapping[str, Any]) -> None:
    """What a start found in its configuration, checked before. A workflow that it says otherwise than the start before
    becomes active as it says; one that it says no more stops, unless an operator has activated another version."""
    found = definitions(values)
    made, before = parts(values, found), workflow_set(tx)
    heads = dict(before.heads)
    for name, head in before.heads.items():
        if head.configured is not None and name not in made:
            is_ours = head.active == head.configured
            heads[name] = head._replace(configured=None)
            if is_ours:
                heads[name] = Head(None, None, CONFIGURATION, now_ms)
    for name, version in found.versions.items():
        known = heads.get(name)
        if known is None or known.configured != version:
            heads[name] = Head(version, version, CONFIGURATION, now_ms)
        # One that was in force before is kept as it is: there may be runs in it. Missing is what is new, and what was
        # dropped while another was active.
        if tx.get(keys.workflow_version(name, version)) is None:
            _keep(tx, now_ms, name, version, made[name], CONFIGURATION, heads[name].active)
    _put(tx, WorkflowSet(dict(values.get("policy", {})), heads, dict(values.get("category", {}))))


def made(tx: Writer, now_ms: int, values: Mapping[str, Any], by: str) -> list[tuple[str, str, bool]]:
    """Versions of all workflows in definitions that were checked before, none of them active yet: (name, version,
    whether it is new). Raises `TooMany`."""
    found = definitions(values)
    made_of, before = parts(values, found), workflow_set(tx)
    heads, told = dict(before.heads), []
    new = [name for name in found.versions if name not in heads]
    if len(heads) + len(new) > NAMES_MAX:
        raise TooMany(f"versions of {NAMES_MAX} workflows are kept, as many as may be; delete some that are stopped")
    if full := [name for name in found.versions if _in_use(tx, name, None) >= VERSIONS_MAX]:
        raise TooMany(f"runs are in {VERSIONS_MAX} versions of the workflow {full[0]!r}: wait until some have ended")
    for name, version in found.versions.items():
        head = heads.setdefault(name, Head(None, None, by, now_ms))
        is_new = tx.get(keys.workflow_version(name, version)) is None
        if is_new:
            _keep(tx, now_ms, name, version, made_of[name], by, head.active)
        told.append((name, version, is_new))
    _put(tx, before._replace(heads=heads))
    return told


def activated(tx: Writer, now_ms: int, name: str, version: str, by: str) -> Head:
    """New runs begin with this version from now on. Raises `Unknown`, `TooMany`."""
    before = workflow_set(tx)
    head = before.heads.get(name)
    if head is None:
        raise Unknown(f"there is no workflow {name!r}")
    if tx.get(keys.workflow_version(name, version)) is None:
        raise Unknown(f"the workflow {name!r} has no version {version!r}")
    if head.active == version:
        return head
    active = {other: each.active for other, each in before.heads.items() if each.active is not None and other != name}
    if len(active) >= WORKFLOWS_MAX:
        raise TooMany(f"{WORKFLOWS_MAX} workflows are active, as many as may be")
    rows = [WORKFLOW_VERSIONS.get(tx, keys.workflow_version(*each)) for each in (*active.items(), (name, version))]
    if len({category for row in rows if row is not None for category in row.values["category"]}) > CATEGORIES_MAX:
        raise TooMany(f"the active workflows have {CATEGORIES_MAX} categories, as many as may be")
    head = Head(version, head.configured, by, now_ms)
    _put(tx, before._replace(heads={**before.heads, name: head}))
    return head


def stopped(tx: Writer, now_ms: int, name: str, by: str) -> Head:
    """No new run begins; runs in flight go on. Raises `Unknown`."""
    before = workflow_set(tx)
    head = before.heads.get(name)
    if head is None:
        raise Unknown(f"there is no workflow {name!r}")
    if head.active is not None:
        head = Head(None, head.configured, by, now_ms)
        _put(tx, before._replace(heads={**before.heads, name: head}))
    return head


def dropped(tx: Writer, name: str) -> None:
    """Forget a workflow that is stopped, with all its versions. Raises `Unknown`, `InUse`."""
    before = workflow_set(tx)
    head = before.heads.get(name)
    if head is None:
        raise Unknown(f"there is no workflow {name!r}")
    if head.active is not None or head.configured is not None:
        raise InUse(f"the workflow {name!r} is active or configured: only one that is neither can be deleted")
    if any(_runs(tx, version) for version, _ in kept(tx, name)):
        raise InUse(f"runs of the workflow {name!r} are in flight: it can be deleted when they have ended")
    for version, _ in kept(tx, name):
        _drop(tx, name, version)
    _put(tx, before._replace(heads={other: each for other, each in before.heads.items() if other != name}))


def _runs(tx: Reader, version: str) -> int:
    use = VERSION_USES.get(tx, keys.version_use(version))
    return 0 if use is None else use.runs


def _keep(
    tx: Writer, now_ms: int, name: str, version: str, values: Mapping[str, Any], by: str, active: str | None
) -> None:
    """Write a version; the oldest that nobody needs make room (N3)."""
    spare = [each for each, _ in kept(tx, name) if each != active and not _runs(tx, each)]
    for each in spare[max(0, VERSIONS_MAX - 2 - _in_use(tx, name, active)) :]:
        _drop(tx, name, each)
    WORKFLOW_VERSIONS.put(tx, keys.workflow_version(name, version), VersionRow(dict(values), now_ms, by))
    VERSION_USES.put(tx, keys.version_use(version), UseRow(name, 0))


def _in_use(tx: Reader, name: str, active: str | None) -> int:
    """How many versions of a workflow are kept for their runs alone."""
    return sum(1 for each, _ in kept(tx, name) if each != active and _runs(tx, each))


def _drop(tx: Writer, name: str, version: str) -> None:
    tx.delete(keys.workflow_version(name, version))
    tx.delete(keys.version_use(version))


def _put(tx: Writer, found: WorkflowSet) -> None:
    heads = {name: list(head) for name, head in sorted(found.heads.items())}
    META.put(tx, _SET, ([dict(found.policy), heads, dict(found.categories)],))
