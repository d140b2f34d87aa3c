"""A field of type `list` as the application sees it: elements in order, and edits that name their neighbours.

Owns the translation from "after this element" to positions (positions.py). Each edit reads the view and commits in one
step, so its position is chosen from what the application is shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import InvalidInput
from .operations import operation
from .positions import Item, element_of, items_of, neighbours, place_of, positions_of_run, respaced
from .values import Value

if TYPE_CHECKING:
    from .space import Change, Space


class ListField:
    """`after` is the element behind which something is to stand; None: at the beginning."""

    def __init__(self, space: Space, collection: str, id: str, field: str) -> None:
        self._space = space
        self._where = (collection, id, field)

    def items(self) -> list[Item]:
        """The elements that the view shows, in order; none if there is no such field or document."""
        collection, id, field = self._where
        document = self._space.view(collection, id)
        if document is None or field not in document.fields:
            return []
        if document.types[field] != "list":
            raise InvalidInput(f"{collection}/{id}: {field} is a {document.types[field]}, not a list")
        return items_of(document.fields[field])

    def append(self, *values: Value) -> Change:
        items = self.items()
        return self.insert(*values, after=items[-1].element if items else None)

    def insert(self, *values: Value, after: bytes | None) -> Change:
        """Insert values in their order. What others insert at the same place at the same time stands before or behind
        them, never between."""
        elements = [element_of(self._space.random_bytes(8)) for _ in values]
        positions = positions_of_run(*neighbours(self.items(), after), elements)
        return self._space.commit(
            operation("list.insert", *self._where, position, value)
            for position, value in zip(positions, values, strict=True)
        )

    def move(self, element: bytes, *, after: bytes | None) -> Change:
        items = self.items()
        place_of(items, element)
        others = [item for item in items if item.element != element]
        position = positions_of_run(*neighbours(others, after), [element])[0]
        return self._space.commit([operation("list.move", *self._where, position)])

    def remove(self, element: bytes) -> Change:
        place_of(self.items(), element)
        return self._space.commit([operation("list.remove", *self._where, element)])

    def respace(self, *, after: bytes | None) -> Change | None:
        """Make room at a place where thousands of inserts have used it up: gives the elements around it short
        positions. They keep their order; of a move of one of them that is made elsewhere meanwhile, the later wins."""
        positions = respaced(self.items(), after)
        if not positions:
            return None
        return self._space.commit(operation("list.move", *self._where, position) for position in positions)
