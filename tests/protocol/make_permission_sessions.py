"""Writes the sessions of SPEC sections 14 and 15 (`python -m tests.protocol.make_permission_sessions`): roles that
change, and what is no part of a space.

Owns these scripts, written by hand; `make_sessions` has the others, and the ways to write a step.
"""

from typing import Any

from tests.protocol.make_sessions import AT_TWO, CREATE, MINE, OPEN, TITLE, A, B
from tests.protocol.make_vectors import VECTORS, text_of
from tests.protocol.session_steps import (
    EPOCH,
    SPACE,
    Step,
    change,
    client,
    commit,
    expect,
    outcome,
    outcomes,
    push,
    server,
    subscribe,
)

SESSIONS: dict[str, tuple[str, list[Step]]] = {
    "revoked-and-purged": (
        "The outbox is answered first; then all that was synced is gone, and the client says so.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server([36, {"space": SPACE, "seq": 3, "reason": "removed"}]),
            {"silent": True},
            server(outcomes(outcome(1, "forbidden"))),
            client([9, {"space": SPACE}]),
            expect({}, complete=0, resume=0, outbox=[], settled=1),
            {"silent": True},
        ],
    ),
    "revoked-again-after-a-lost-confirmation": (
        "Whether the confirmation arrived is not known: each `revoked` is answered by one.",
        [
            *AT_TWO,
            server([36, {"space": SPACE, "seq": 3, "reason": "removed"}]),
            client([9, {"space": SPACE}]),
            {"close": 1006, "then": "backoff"},
            *OPEN,
            client(subscribe(0)),
            server([36, {"space": SPACE, "seq": 3, "reason": "removed"}]),
            client([9, {"space": SPACE}]),
            expect({}, complete=0, resume=0),
        ],
    ),
    "role-changes": (
        "`subscribed` comes again when the role changes: nothing else does, and nothing is asked or sent anew.",
        [
            *AT_TWO,
            server([33, {"space": SPACE, "epoch": EPOCH, "head": 2, "safe": 2, "role": "reader", "mode": "live"}]),
            {"silent": True},
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(outcomes(outcome(1, "forbidden", None, {"reason": "writing needs the role writer"}))),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, outbox=[]),
        ],
    ),
    "signals-are-no-part-of-the-space": (
        "Signals, presence and errors about signals (section 15) move no position, settle nothing, ask for no answer.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server([39, {"space": SPACE, "ref": "ab" * 8, "user": "bob", "key": "at", "value": [1], "ttl_ms": 900}]),
            server([40, {"space": SPACE, "count": 1, "here": [["ab" * 8, "bob", {}]], "whole": True}]),
            server([42, {"code": 22, "name": "signal_refused", "retry": "never", "space": SPACE}]),
            server([42, {"code": 23, "name": "signal_limited", "retry": "backoff", "after_ms": 9, "space": SPACE}]),
            {"silent": True},
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=2, settled=0),
        ],
    ),
}


def files() -> dict[str, Any]:
    return {name: {"name": name, "why": why, "steps": steps} for name, (why, steps) in SESSIONS.items()}


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / "sessions" / f"{name}.json").write_text(text_of(content))
