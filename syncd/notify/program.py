"""Where a run stands in its workflow, and what texts with placeholders say.

Owns the path to a step (an index; within a branch: the index of the branch, 0 for `then` or 1 for `otherwise`, an index
there, and so on), the order of steps, and rendering. Pure. Must not know what a step does.

Invariant: P1 `following` only ever leads forward, so a run ends.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from syncd.core.values import ValueRefused, encoded
from syncd.notify.book import Pinned
from syncd.notify.limits import EVENT_BYTES_MAX
from syncd.notify.workflows import PLACEHOLDER, Step, Template, Workflow

TITLE_BYTES_MAX, BODY_BYTES_MAX = 200, 4_000  # of what is shown, as for what backends post


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
    kept, room = {}, EVENT_BYTES_MAX
    for name in sorted(pinned.reads & data.keys()):
        try:
            size = len(encoded(data[name]))
        except ValueRefused:
            continue
        if size <= room:
            kept[name], room = data[name], room - size
    return kept


# -- words ------------------------------------------------------------------------------------------------------------


def rendered(text: str, data: Mapping[str, Any], bytes_max: int = BODY_BYTES_MAX) -> str:
    """A text with its placeholders filled in; what the event does not have is empty."""

    def value(path: str) -> str:
        found: Any = data
        for name in path.split("."):
            found = found.get(name) if isinstance(found, Mapping) else None
        if isinstance(found, bool):
            return "true" if found else "false"
        return str(found) if isinstance(found, str | int | float) else ""

    whole = PLACEHOLDER.sub(lambda found: value(found[1]), text) if "{" in text else text
    if whole.isascii() and len(whole) <= bytes_max:
        return whole
    return whole.encode(errors="replace")[:bytes_max].decode(errors="ignore")


def words(template: Template, locale: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Title and body in a locale (`pt-BR`), its language (`pt`), or as the template has them."""
    language = locale.partition("-")[0]
    chosen = template.locale.get(locale) or template.locale.get(language) or template
    return rendered(chosen.title, data, TITLE_BYTES_MAX), rendered(chosen.body, data)
