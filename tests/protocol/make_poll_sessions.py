"""Writes protocol/vectors/polls/*.json (`python -m tests.protocol.make_poll_sessions`): what a polling client survives.

Owns the scripts, written by hand from SPEC 5.5: conversations as those of `make_sessions`, with what befalls the
requests that carry them. The format is described in protocol/vectors/README.md.
"""

from typing import Any

from tests.protocol.make_sessions import AT_TWO, CREATE, MINE, OPEN, TITLE, A, B
from tests.protocol.make_vectors import VECTORS, text_of
from tests.protocol.session_steps import (
    change,
    client,
    commit,
    delta,
    expect,
    note,
    outcome,
    outcomes,
    push,
    server,
    subscribe,
    subscribed,
)

Step = dict[str, Any]
KINDS = ("opening", "message", "poll")
IN_THREE = {"notes/n1": A, "notes/n2": B, "notes/mine": MINE}


def befalls(**kinds: list[Any]) -> Step:
    return {"befalls": kinds}


def held_off(status: int, retry_after_s: int) -> dict[str, int]:
    return {"status": status, "retry_after": retry_after_s}


SETTLED: list[Step] = [
    server(outcomes(outcome(1, "applied", 3)), delta(2, 3, note("mine", 3, 1, title="m"))),
    expect(IN_THREE, complete=3, outbox=[], settled=1),
]
PUSHED: list[Step] = [commit(CREATE, TITLE), client(push(change(1, 2))), *SETTLED, {"silent": True}]
RESUMED: list[Step] = [
    *OPEN,
    client(subscribe(2, chain="0000000000000002")),
    server(subscribed(2)),
    client(push([1, "$nonce(1)", 2, "*", [CREATE, TITLE]])),
    *SETTLED,
]


def each(what: Any) -> list[Step]:
    """It befalls one request of each kind before the client is welcome, and two in the middle of the conversation."""
    first, *rest = AT_TWO
    return [
        first, befalls(**{kind: [what] for kind in KINDS}), *rest, befalls(message=[what], poll=[what]), *PUSHED,
        {"through": True},
    ]  # fmt: skip


POLLS: dict[str, tuple[str, list[Step]]] = {
    "answer-lost": (
        "An answer that is lost: the same request again, as it was, has no second effect and brings the same answer.",
        each("answer-lost"),
    ),
    "request-lost": ("A request that never arrives is sent again.", each("request-lost")),
    "request-doubled": (
        "A request that arrives twice: the client takes either answer, and goes on with the next number.",
        each("doubled"),
    ),
    "answer-late": (
        "An answer that comes when the client has given it up: it asked again, and takes nothing twice.",
        [*AT_TWO, befalls(message=["late"], poll=["late"]), *PUSHED, {"through": True}],
    ),
    "forgotten-by-a-poll": (
        "A server that was started anew knows no connection: 404 is an end as 1006, and what waited is sent again.",
        [*AT_TWO, commit(CREATE, TITLE), client(push(change(1, 2))), befalls(poll=["forgotten"]),
         *RESUMED, {"through": True}],
    ),
    "forgotten-by-a-message": (
        "The same, told to a message: the change that it carried is sent again on the next connection.",
        [*AT_TWO, befalls(message=["forgotten"]), commit(CREATE, TITLE), *OPEN,
         client(subscribe(2, chain="0000000000000002")), server(subscribed(2)), client(push(change(1, 2))), *SETTLED,
         {"through": True}],
    ),
    "held-off-at-the-opening": (
        "503 and 429 with Retry-After at the opening: there is no connection, and the next attempt waits as told.",
        [AT_TWO[0], befalls(opening=[held_off(503, 2), held_off(429, 1)]), *AT_TWO[1:], *PUSHED, {"through": True}],
    ),
    "held-off-in-between": (
        "503 and 429 with Retry-After to a message and a poll: the same request again, after the wait, is taken.",
        [*AT_TWO, befalls(message=[held_off(503, 1)] * 2, poll=[held_off(429, 1)]), *PUSHED, {"through": True}],
    ),
    "ended": (
        "410 says how the connection ended: the client obeys the code as that of a close, and comes back.",
        [*AT_TWO, commit(CREATE, TITLE), client(push(change(1, 2))), {"close": 1012, "then": "backoff"}, *RESUMED],
    ),
}  # fmt: skip


def files() -> dict[str, Any]:
    return {name: {"name": name, "why": why, "steps": steps} for name, (why, steps) in POLLS.items()}


if __name__ == "__main__":
    (VECTORS / "polls").mkdir(exist_ok=True)
    for file_name, content in files().items():
        (VECTORS / "polls" / f"{file_name}.json").write_text(text_of(content))
