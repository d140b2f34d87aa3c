"""What decides about notifications, as the engine sees it.

Owns the port and no decision: the engine carries out commands, and tells what happened to whoever is injected, inside
the same transaction. So what was learned, decided and delivered is committed with what caused it, or not at all.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from syncd.engine.batch import Batch, Touched
from syncd.engine.commands import Attend, Author, Event, Fire, Result, StartWorkflow


class Notices(Protocol):
    """Told of each thing once, after its own effect. None of these may raise for any input: a defect in them must not
    keep a device from its changes, and is reported as an alarm of the batch."""

    def event(self, batch: Batch, author: Author, event: Event, shown: Mapping[str, Any] | None) -> str | None:
        """An event that was not taken before; `shown`: the fields of the notification that it carries, if it does.
        Returns what is wrong with it, if anything: then it is not taken."""
        ...

    def bound(self, batch: Batch, author: Author) -> None:
        """A device said hello."""
        ...

    def attended(self, batch: Batch, command: Attend) -> None:
        """Users came and went, as their connections show."""
        ...

    def touched(self, batch: Batch, touched: Touched) -> None:
        """A change altered the inbox, the preferences or the profile of a user."""
        ...

    def fired(self, batch: Batch, command: Fire) -> Result:
        """Let what is due go on."""
        ...

    def started(self, batch: Batch, command: StartWorkflow) -> Result: ...
