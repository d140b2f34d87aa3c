"""Writes the sessions of SPEC section 14 (`python -m tests.protocol.make_permission_sessions`): roles that change.

Owns these scripts, written by hand; `make_sessions` has the others, and the ways to write a step.
"""

from typing import Any

from tests.protocol.make_sessions import AT_TWO, CREATE, OPEN, TITLE, A, B
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
}


def files() -> dict[str, Any]:
    return {name: {"name": name, "why": why, "steps": steps} for name, (why, steps) in SESSIONS.items()}


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / "sessions" / f"{name}.json").write_text(text_of(content))
