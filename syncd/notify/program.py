"""Where a run stands in its workflow, and what texts with placeholders say.

Owns the path to a step (an index; within a branch: the index of the branch, 0 for `then` or 1 for `otherwise`, an index
there, and so on), the order of steps, and rendering. Pure. Must not know what a step does.

Invariant: P1 `following` only ever leads forward, so a run ends.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from syncd.core.values import ValueRefused, encoded
from syncd.notify.book import Pinned
from syncd.notify.limits import EVENT_BYTES_MAX
from syncd.notify.workflows import PLACEHOLDER, Step, Template, Workflow

TITLE_BYTES_MAX, BODY_BYTES_MAX = 200, 4_000  # of what is shown, as for what backends post
TEXTS_KEPT = 1_024  # that were cut at their placeholders: those of the workflows in use


def _around(workflow: Workflow, path: Sequence[int]) -> Sequence[Step]:
    steps: Sequence[Step] = workflow.step
    for place in range(0, len(path) - 1, 2):
        branch = steps[path[place]].branch
        assert branch is not None, "a path leads through branches"
        steps = branch.otherwise if path[place + 1] else branch.then
    return steps


def step_at(workflow: Workflow, path: Sequence[int]) -> Step | None:
    """The step to which a path leads; None behind the last."""
    steps = _around(workflow, path)
    return steps[path[-1]] if path[-1] < len(steps) else None


def following(workflow: Workflow, path: Sequence[int]) -> list[int]:
    """The path to what comes after a step; out of a branch when it ends (P1)."""
    path = [*path[:-1], path[-1] + 1]
    while len(path) > 1 and step_at(workflow, path) is None:
        path = [*path[:-3], path[-3] + 1]
    return path


def entered(workflow: Workflow, path: Sequence[int], is_then: bool) -> list[int]:
    """The path into a branch, or past it if that side is empty."""
    inside = [*path, 0 if is_then else 1, 0]
    return inside if step_at(workflow, inside) is not None else following(workflow, path)


# -- what is read of an event -----------------------------------------------------------------------------------------


def read_of(pinned: Pinned, data: Mapping[str, Any]) -> dict[str, Any]:
    """What the runs of a workflow may come to read of an event, and so keep. What would be too much is missing."""
    wanted = {name: data[name] for name in sorted(pinned.reads & data.keys())}
    if _size(wanted) <= EVENT_BYTES_MAX:
        return wanted
    kept, room = {}, EVENT_BYTES_MAX
    for name, value in wanted.items():
        if (size := _size(value)) <= room:
            kept[name], room = value, room - size
    return kept


def _size(value: Any) -> int:
    try:
        return len(encoded(value))
    except ValueRefused:
        return EVENT_BYTES_MAX + 1


# -- words ------------------------------------------------------------------------------------------------------------


def rendered(text: str, data: Mapping[str, Any], bytes_max: int = BODY_BYTES_MAX) -> str:
    """A text with its placeholders filled in; what the event does not have is empty."""

    parts = list(_parts(text))
    for place in range(1, len(parts), 2):
        parts[place] = _value(data, parts[place])
    whole = "".join(parts)
    if whole.isascii() and len(whole) <= bytes_max:
        return whole
    return whole.encode(errors="replace")[:bytes_max].decode(errors="ignore")


@lru_cache(maxsize=TEXTS_KEPT)
def _parts(text: str) -> tuple[str, ...]:
    """What stands around the placeholders, and in each second place what a placeholder names."""
    return tuple(PLACEHOLDER.split(text))


def _value(data: Mapping[str, Any], path: str) -> str:
    found: Any = data
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        return found
    if isinstance(found, bool):
        return "true" if found else "false"
    return str(found) if isinstance(found, int | float) else ""


def words(template: Template, locale: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body in a locale (`pt-BR`), its language (`pt`), or as the template has them."""
    language = locale.partition("-")[0]
    chosen = template.locale.get(locale) or template.locale.get(language) or template
    return rendered(chosen.title, data, TITLE_BYTES_MAX), rendered(chosen.body, data)
