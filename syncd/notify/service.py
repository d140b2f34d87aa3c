"""The decider of notifications, as the engine calls it: each happening is one `Desk`, written whole or not at all.

Owns the order of what an event leads to: it is learned first, then runs hear of it, then it sets others off; so a
condition that counts sees the event itself. Must not know how any of these is done.

Invariants: S1 no defect here keeps a device from its changes or a backend from its events: it is contained, leaves
nothing behind, and is told as an alarm. S2 what is about nobody (an event without a subject) does nothing. S3 an event
of which nothing is learned, that nothing in force asks about, of a user of whom nothing is kept (no run that may wait
for it, no zone that may have changed) is left at that: it would have made a desk that writes nothing.
"""

import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from syncd.core.ids import INBOX, PREFERENCES, BadName, user_space
from syncd.engine.batch import Batch, Touched
from syncd.engine.commands import Attend, Author, Event, Fire, Refused, Result, Started, StartWorkflow, Visit
from syncd.engine.posting import SERVER
from syncd.notify import firing, learning, runs, watches
from syncd.notify.book import Book
from syncd.notify.desk import Desk, is_known
from syncd.store.api import StoreError


class Decider:
    """Implements `engine.notices.Notices`. `book` says which workflows there are."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def event(self, batch: Batch, author: Author, event: Event, shown: Mapping[str, Any] | None) -> str | None:
        user = event.subject
        if user is None:
            return None  # S2
        try:
            space = user_space(user)
        except BadName:
            return None  # no user is called so; what the event is about is no person
        if shown is not None and (refusal := batch.refused_space(space, author)) is not None:
            return refusal.detail
        given = event.data if isinstance(event.data, dict) else {}
        is_receipt = author.kind == "device" and event.type in learning.RECEIPTS

        def is_of_no_concern() -> bool:
            return shown is None and not is_receipt and self._is_of_no_concern(batch, user, event.type, given)

        at_ms = batch.now_ms if event.time_ms is None else event.time_ms

        def happened(desk: Desk) -> None:
            data = {**given, "type": event.type, "source": event.source}
            if is_receipt:
                for name, decision in learning.received(desk, str(data.get("document")), [event.type], at_ms):
                    runs.heard(desk, name, decision)
                return
            learning.event_came(desk, event.type, data, at_ms)
            if event.type == learning.SESSION_START:
                watches.sessions(desk)
            if desk.standing.run_count:
                runs.heard(desk, event.type)
            watches.kept(desk)
            runs.triggered(desk, event.type, data, (event.source, event.id))
            if shown is not None:
                runs.direct(desk, event.key.hex(), shown)

        problem = self._contained(batch, user, author, happened, is_of_no_concern)
        return problem if shown is not None else None

    def _is_of_no_concern(self, batch: Batch, user: str, event: str, given: Mapping[str, Any]) -> bool:
        """Whether an event leads to nothing (S3)."""
        current = self._book.current(batch.tx)
        return not (
            event in (learning.SESSION_START, learning.SESSION_END)
            or "topic" in given
            or event in current.counted
            or event in current.on_event
            or event in current.on_threshold
            or current.inactivity
            or current.scheduled
        ) and not is_known(batch.tx, user)

    def bound(self, batch: Batch, author: Author) -> None:
        if author.kind != "device":
            return

        self._contained(batch, author.user, author, lambda desk: _came(desk, batch.now_ms))

    def attended(self, batch: Batch, command: Attend) -> None:
        for visit in command.visits:
            self._contained(batch, visit.user, SERVER, partial(_visited, visit))

    def touched(self, batch: Batch, touched: Touched) -> None:
        def happened(desk: Desk) -> None:
            collections = {collection for collection, _ in touched.documents}
            for (collection, document_id), (before, after) in touched.documents.items():
                if collection == PREFERENCES:
                    learning.opted_out(desk, document_id, before, after)
                if collection == INBOX:
                    for name, decision in learning.receipts(desk, document_id, before, after, touched.stamp):
                        runs.heard(desk, name, decision)
            if PREFERENCES in collections:
                runs.rejudged(desk)

        self._contained(batch, touched.user, touched.author, happened)

    def fired(self, batch: Batch, command: Fire) -> Result:
        return firing.fired(batch, self._book, command)

    def started(self, batch: Batch, command: StartWorkflow) -> Result:
        pinned = self._book.current(batch.tx).workflows.get(command.workflow)
        if pinned is None or pinned.workflow.trigger.api is None:
            return Refused("unknown", f"there is no workflow {command.workflow!r} that is set off over the API")
        made: list[tuple[int | None, str | None]] = []
        for user in command.users:
            try:
                user_space(user)
            except BadName as error:
                made.append((None, str(error)))
                continue
            begun: list[int | None] = []

            def happened(desk: Desk, begun: list[int | None] = begun) -> None:
                begun.append(runs.begun(desk, pinned, command.data))

            problem = self._contained(batch, user, command.author, happened)
            number = begun[0] if begun and problem is None else None
            made.append((number, problem or (None if number is not None else "as many runs as there may be")))
        return Started(tuple(made))

    def _contained(
        self,
        batch: Batch,
        user: str,
        author: Author,
        happened: Callable[[Desk], None],
        is_of_no_concern: Callable[[], bool] = lambda: False,
    ) -> str | None:
        """Let something happen to a user; what went wrong, if anything (S1)."""
        try:
            if is_of_no_concern():
                return None
            desk = Desk(batch, self._book, user, author)
            if desk.zone.key != desk.standing.zone:  # theirs is another, or that of all who did not say theirs
                runs.moved(desk)
            happened(desk)
            desk.flush()
        except StoreError:
            raise
        except Exception:
            batch.alarms.append(f"notifications of {user!r}: {traceback.format_exc()}")
            return "the notification could not be decided: a defect of the server"
        return None


def _came(desk: Desk, at_ms: int) -> None:
    if learning.session_began(desk, at_ms):
        watches.kept(desk)
        watches.sessions(desk)
        runs.heard(desk, learning.SESSION_START)


def _visited(visit: Visit, desk: Desk) -> None:
    if visit.stay_s is None:
        _came(desk, visit.at_ms)
    else:
        learning.session_ended(desk, visit.at_ms, visit.stay_s)
        runs.heard(desk, learning.SESSION_END)
