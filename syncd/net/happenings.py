"""What a device tells of its user: from its message to the engine, and what became of it back.

Owns the check of each event, whose it is and under which key it counts once. Must not know connections (it is given a
way to answer) nor what an event does (`engine`, `notify`). It rides as an event of a backend does: one command, one
memory of keys, one result for each.

Invariants: H1 an `event` has exactly one answer: `noted` with a result for each, in order, or an `error` by which
nothing of it was taken. H2 an event counts once for its user, whichever of their devices tells it, and how often: a
copy of a phone has the events that wait on it, too.
"""

from collections.abc import Callable
from hashlib import sha256

import trio

from syncd.core.ids import BadName, check_name
from syncd.core.values import encoded
from syncd.engine.commands import Author, Event, EventResults, Failed, PostEvents, Refused, Result
from syncd.engine.posting import TOLD_KEY_MS
from syncd.net.services import Services
from syncd.notify.learning import SESSION_END, SESSION_START
from syncd.store.committer import Overloaded
from syncd.wire import messages as m
from syncd.wire.cloudevents import KEY_BYTES
from syncd.wire.errors import EVENT_LIMITED, INTERNAL, error

Answer = Callable[[m.Noted | m.Error], None]
FULL_MS = 3_600_000  # the memory of keys is full: some are forgotten each hour


def take(message: m.Event, author: Author, services: Services, answer: Answer) -> None:
    """Judge the events of a device; `answer` is called once, now or after the commit."""
    wait_s = services.told.refused_s(author.user, trio.current_time(), len(message.events))
    if wait_s:
        answer(_limited("this user's devices tell more events than are taken", max(1, round(wait_s * 1000))))
        return
    problems = [_problem(event, services.wire_limits.event_bytes_max) for event in message.events]
    good = tuple(
        event_of(author, event) for event, problem in zip(message.events, problems, strict=True) if problem is None
    )
    if not good:
        answer(_noted(message, problems, ()))
        return

    if any(event.name in (SESSION_START, SESSION_END) for event in message.events):
        services.hub.attendance.tells(author.user)

    def done(result: Result) -> None:
        match result:
            case EventResults(results):
                answer(_noted(message, problems, results))
            case Refused("too_many_keys", detail):
                answer(_limited(detail, FULL_MS))
            case Failed("internal", detail):
                answer(error(INTERNAL, detail))
            case Failed(_, detail):
                answer(_limited(detail, services.limits.backoff_ms))
            case _:
                raise AssertionError(f"events are not answered by {result}")

    try:
        services.committer.submit(PostEvents(author, good, TOLD_KEY_MS), done)
    except Overloaded as overloaded:
        answer(_limited(str(overloaded), services.limits.backoff_ms))


def event_of(author: Author, event: m.Happening) -> Event:
    """The event as the engine takes it. Its key is made of the user's name and of bytes: no backend's, of texts, is."""
    key = sha256(encoded([author.user, event.id])).digest()[:KEY_BYTES]
    source, data = f"device:{author.device.hex()}", event.data or {}
    return Event(key, source, event.id.hex(), event.name, author.user, event.time, data)


def _problem(event: m.Happening, bytes_max: int) -> str | None:
    try:
        check_name(event.name, "the name of an event")
    except BadName as wrong:
        return str(wrong)
    size = 0 if event.data is None else len(encoded(event.data))
    return None if size <= bytes_max else f"the data of an event has at most {bytes_max} bytes, not {size}"


def _noted(message: m.Event, problems: list[str | None], results: tuple[tuple[str, str | None], ...]) -> m.Noted:
    rest = iter(results)
    judged = [next(rest) if problem is None else ("invalid", problem) for problem in problems]
    return m.Noted(
        tuple(m.EventResult(event.id, *result) for event, result in zip(message.events, judged, strict=True))
    )


def _limited(detail: str, after_ms: int) -> m.Error:
    return error(EVENT_LIMITED, detail, after_ms=after_ms)
