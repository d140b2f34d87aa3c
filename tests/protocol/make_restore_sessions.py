"""Writes the sessions of servers that were restored (SPEC 10), and of texts (SPEC 3.3, 8): what a client maps, offers
again and gives up, and what it does with a part of a text whose beginning it has lost
(`python -m tests.protocol.make_restore_sessions`).

Owns these scripts, written by hand; `make_sessions` has the others, and the ways to write a step.
"""

from typing import Any

from tests.protocol.make_sessions import (
    AGAIN,
    AGAIN_TITLE,
    AT_TWO,
    CREATE,
    MINE,
    RENAMED,
    TITLE,
    A,
    B,
)
from tests.protocol.make_vectors import VECTORS, text_of
from tests.protocol.session_steps import (
    ANY,
    EPOCH,
    NEW_EPOCH,
    SPACE,
    Fields,
    Step,
    bucket,
    bucket_sums,
    change,
    client,
    commit,
    delta,
    differ,
    document_sums,
    expect,
    note,
    outcome,
    outcomes,
    push,
    repair,
    server,
    subscribe,
    subscribed,
    sum_of,
)
from tests.wire.strategies import json_value

DOWNLOADED = [note("n1", 1, 1, title="a"), note("n2", 2, 1, title="b")]
RETITLE = ["reg.set", "notes", "mine", "title", "again"]


def expired(fork: int, highest: int, epoch: str = NEW_EPOCH) -> Step:
    return server([41, {"space": SPACE, "epoch": epoch, "fork": fork, "highest": highest}])


def new_delta(from_: int, to: int, *docs: list[Any], **more: Any) -> list[Any]:
    code, body = delta(from_, to, *docs, **more)
    return [code, {**body, "epoch": NEW_EPOCH}]


def safe(seq: int, head: int) -> list[Any]:
    code, body = subscribed(head)
    return [code, {**body, "safe": seq}]


def taken(n: int, base: int, *operations: list[Any], seq: int, then: list[Any]) -> list[Step]:
    """A change that is committed, accepted, and brought back by a delta."""
    return [
        commit(*operations),
        client(push(change(n, base, *operations))),
        server(outcomes(outcome(n, "applied", seq)), delta(seq - 1, seq, then)),
    ]


# Two changes of the device, which the server took as 3 and 4.
AT_FOUR: list[Step] = [
    *AT_TWO,
    *taken(1, 2, CREATE, TITLE, seq=3, then=note("mine", 3, 1, title="m")),
    *taken(2, 3, RETITLE, seq=4, then=note("mine", 4, 0, title="again")),
    expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=4, outbox=[], settled=2),
]

# Of a real Yjs document: what three insertions made, the second by another Yjs client than the others.
ONE, TWO, THREE = (
    json_value(bytes.fromhex(text))
    for text in (
        "0101010004010474657874034f6e6500",
        "01010200840102042074776f00",
        "010101038402030620746872656500",
    )
)


def text(*updates: tuple[int, Any], after: int = 0) -> list[Any]:
    return ["text", [after, [[seq, update] for seq, update in updates]]]


def patch(rev: int, state: int = 0, **fields: Any) -> list[Any]:
    return ["notes", "n1", rev, state, fields]


GROWN: Fields = {**A, "body": text((3, ONE), (4, TWO))}
WHOLE: Fields = {**A, "body": text((3, ONE), (4, TWO), (5, THREE))}

RESTORES: dict[str, tuple[str, list[Step]]] = {
    "restored-and-offered-again": (
        "What the backup has not, the device offers again: same n and nonce, bases cut at the fork, shown meanwhile.",
        [
            *AT_FOUR,
            expired(2, 0),
            client(subscribe(0, epoch=NEW_EPOCH)),
            expect({"notes/mine": AGAIN_TITLE}, complete=0, resume=0, outbox=[1, 2], settled=0),
            server(subscribed(2, "catch-up", NEW_EPOCH), new_delta(0, 2, *DOWNLOADED, start=2)),
            client(
                push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]], [2, "$nonce(2)", 2, ANY, [RETITLE]], epoch=NEW_EPOCH)
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=2, outbox=[1, 2]),
            server(
                outcomes(outcome(1, "applied", 3), outcome(2, "applied", 4), epoch=NEW_EPOCH),
                new_delta(2, 4, note("mine", 4, 1, title="again")),
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=4, outbox=[], settled=2),
        ],
    ),
    "restored-with-some-of-it": (
        "`highest` says what the restored server has of the device: only what lies beyond is offered again.",
        [
            *AT_FOUR,
            expired(3, 1),
            client(subscribe(0, epoch=NEW_EPOCH, settled=1)),
            expect(complete=0, outbox=[2], settled=1),
            server(
                subscribed(3, "catch-up", NEW_EPOCH),
                new_delta(0, 3, *DOWNLOADED, note("mine", 3, 1, title="m"), start=3),
            ),
            client(push([2, "$nonce(2)", 3, ANY, [RETITLE]], epoch=NEW_EPOCH)),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=3, outbox=[2], settled=1),
            server(
                outcomes(outcome(2, "applied", 4), epoch=NEW_EPOCH),
                new_delta(3, 4, note("mine", 4, 0, title="again")),
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=4, outbox=[], settled=2),
        ],
    ),
    "restored-with-all-that-was-safe": (
        "A backup that has all up to `safe` has all that the device gave up to keep: nothing is offered, nothing void.",
        [
            *AT_FOUR,
            server(safe(4, 4)),
            expired(4, 2),
            client(subscribe(4, epoch=NEW_EPOCH, chain=ANY, settled=2)),
            server(subscribed(4, epoch=NEW_EPOCH)),
            {"silent": True},
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=4, outbox=[], settled=2),
            commit(["delete", "notes", "mine"]),
            client(push(change(3, 4, ["delete", "notes", "mine"]), epoch=NEW_EPOCH)),
        ],
    ),
    "restored-from-before-what-was-safe": (
        "An older backup than the one that `safe` told of: what the device does not hold any more is void.",
        [
            *AT_FOUR,
            server(safe(3, 4)),
            expired(2, 0),
            client(subscribe(0, epoch=NEW_EPOCH)),
            server(subscribed(2, "catch-up", NEW_EPOCH), new_delta(0, 2, *DOWNLOADED, start=2)),
            {
                "client_any": [
                    push(["void", 1, 1, ANY, "lost_in_restore"], [2, "$nonce(2)", 2, ANY, [RETITLE]], epoch=NEW_EPOCH),
                    push(["void", 1, 1, ANY, "lost_in_restore"], epoch=NEW_EPOCH),
                    push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]], ANY, epoch=NEW_EPOCH),
                ]
            },
            server(outcomes(outcome(1, "void"), epoch=NEW_EPOCH)),
            server(outcomes(outcome(2, "gone", None, {"op": 0, "reason": "it does not exist"}), epoch=NEW_EPOCH)),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, outbox=[], settled=2),
        ],
    ),
    "restored-and-unknown": (
        "A server that does not know the epoch: fork 0, so bases are 0, and a `seen` that becomes 0 is left out.",
        [
            *AT_TWO,
            server(delta(2, 3, note("n3", 3, 1, title="a"), complete=False)),
            commit(["reg.set", "notes", "n3", "title", "x", {"seen": 3}]),
            client(push([1, ANY, 2, ANY, [["reg.set", "notes", "n3", "title", "x", {"seen": 3}]]])),
            expired(0, 0),
            client(subscribe(0, epoch=NEW_EPOCH)),
            expect(complete=0, resume=0, outbox=[1], settled=0),
            server(subscribed(0, epoch=NEW_EPOCH)),
            client(push([1, "$nonce(1)", 0, ANY, [["reg.set", "notes", "n3", "title", "x"]]], epoch=NEW_EPOCH)),
        ],
    ),
    "restored-drops-pages": (
        "Staged pages are of the old epoch: they go; what is complete below the fork stays; a `seen` is cut at it.",
        [
            *AT_TWO,
            server(delta(2, 3, note("n3", 3, 1, title="a"), complete=False)),
            commit(["reg.set", "notes", "n3", "title", "x", {"seen": 3}]),
            client(push([1, ANY, 2, ANY, ANY])),
            expired(2, 0),
            client(subscribe(2, epoch=NEW_EPOCH, chain=ANY)),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, resume=2, outbox=[1]),
            server(subscribed(2, epoch=NEW_EPOCH)),
            client(
                push([1, "$nonce(1)", 2, ANY, [["reg.set", "notes", "n3", "title", "x", {"seen": 2}]]], epoch=NEW_EPOCH)
            ),
            server(outcomes(outcome(1, "gone", None, {"op": 0, "reason": "it does not exist"}), epoch=NEW_EPOCH)),
            server(new_delta(2, 3, note("n4", 3, 1, title="b"))),
            expect({"notes/n1": A, "notes/n2": B, "notes/n4": B}, complete=3, outbox=[], settled=1),
        ],
    ),
    "restored-from-before-a-renaming": (
        "What was settled under an earlier id and is lost with it is numbered anew before all else; contexts are cut.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            commit(RETITLE),
            client(push(change(2, 2))),
            server(outcomes(outcome(1, "applied", 3)), outcomes(forked=2)),
            {"notice": "forked"},
            *RENAMED,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(3, "catch-up"), delta(2, 3, note("mine", 3, 1, title="m"))),
            client(push([1, "$nonce(2)", 2, ANY, [RETITLE], [["$device(1)", 1, 3]]])),
            expired(2, 0),
            client(subscribe(0, epoch=NEW_EPOCH)),
            server(subscribed(2, "catch-up", NEW_EPOCH), new_delta(0, 2, *DOWNLOADED, start=2)),
            client(
                push(
                    [1, ANY, 2, ANY, [CREATE, TITLE]],
                    [2, "$nonce(1)", 2, ANY, [RETITLE], [["$device(1)", 1, 2]]],
                    epoch=NEW_EPOCH,
                )
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, complete=2, outbox=[1, 2], settled=0),
        ],
    ),
    "restored-and-another-replica": (
        "A `highest` that the device never gave: another replica uses its id. The device leaves it, and loses nothing.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            expired(2, 5),
            {"notice": "forked"},
            client(subscribe(2, epoch=NEW_EPOCH, chain=ANY)),
            server(
                outcomes([1, "99" * 8, "noop", 2, None], epoch=NEW_EPOCH),
                subscribed(2, epoch=NEW_EPOCH),
            ),
            *RENAMED,
            client(subscribe(2, epoch=NEW_EPOCH, chain=ANY)),
            server(subscribed(2, epoch=NEW_EPOCH)),
            client(push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]], epoch=NEW_EPOCH)),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, outbox=[1], settled=0),
        ],
    ),
    "expired-of-the-present-epoch": (
        "Another chain value at the position: it is not of this history, though of this epoch. The device falls back.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            *AGAIN,
            client(subscribe(2, chain="0000000000000002")),
            expired(1, 0, EPOCH),
            client(subscribe(0)),
            expect({"notes/mine": MINE}, complete=0, resume=0, outbox=[1], settled=0),
            server(subscribed(2, "catch-up"), delta(0, 2, note("n1", 1, 1, title="a"), start=2)),
            client(push([1, "$nonce(1)", 1, ANY, [CREATE, TITLE]])),
            expect({"notes/n1": A, "notes/mine": MINE}, complete=2, outbox=[1]),
        ],
    ),
}

TEXTS: dict[str, tuple[str, list[Step]]] = {
    "text-grows": (
        "What follows a part is appended, without what is there already; with `after` = 0 it replaces all there is.",
        [
            *AT_TWO,
            server(delta(2, 3, patch(3, body=text((3, ONE))), sum=sum_of({
                "notes/n1": (3, {**A, "body": text((3, ONE))}), "notes/n2": (2, B)}))),
            expect({"notes/n1": {**A, "body": text((3, ONE))}, "notes/n2": B}, complete=3),
            server(delta(3, 4, patch(4, body=text((4, TWO), after=3)), sum=sum_of({
                "notes/n1": (4, GROWN), "notes/n2": (2, B)}))),
            expect({"notes/n1": GROWN, "notes/n2": B}, complete=4),
            server(delta(3, 5, patch(5, body=text((4, TWO), (5, THREE), after=3)), sum=sum_of({
                "notes/n1": (5, WHOLE), "notes/n2": (2, B)}))),
            expect({"notes/n1": WHOLE, "notes/n2": B}, complete=5),
            server(delta(5, 6, patch(6, body=text((5, ONE), (6, TWO))), sum=sum_of({
                "notes/n1": (6, {**A, "body": text((5, ONE), (6, TWO))}), "notes/n2": (2, B)}))),
            expect({"notes/n1": {**A, "body": text((5, ONE), (6, TWO))}, "notes/n2": B}, complete=6),
            {"silent": True},
        ],
    ),
    "text-whose-beginning-is-lost": (
        "A delta tells what follows a part that the client lacks: it leaves the field out, compares, and gets all.",
        [
            *AT_TWO,
            server(delta(2, 5, patch(5, body=text((5, THREE), after=4)), sum=sum_of({
                "notes/n1": (5, WHOLE), "notes/n2": (2, B)}))),
            client(bucket_sums({"notes/n1": (5, A), "notes/n2": (2, B)})),
            expect({"notes/n1": A, "notes/n2": B}, complete=5),
            server(differ(5, bucket("notes/n1"))),
            client(document_sums({"notes/n1": (5, A)})),
            server(repair(5, patch(5, 1, **WHOLE), sum=sum_of({"notes/n1": (5, WHOLE), "notes/n2": (2, B)}))),
            expect({"notes/n1": WHOLE, "notes/n2": B}, complete=5, resume=5),
            {"silent": True},
        ],
    ),
    "text-of-a-document-that-is-lost": (
        "The same for a document that is not there at all; without a sum, the client finds out by the next one.",
        [
            *AT_TWO,
            server(delta(2, 4, ["notes", "n3", 4, 0, {"title": ["reg", "a"], "body": text((4, TWO), after=3)}])),
            expect({"notes/n1": A, "notes/n2": B, "notes/n3": A}, complete=4),
            server(delta(4, 5, patch(5, title=["reg", "b"]), sum=sum_of({
                "notes/n1": (5, B), "notes/n2": (2, B), "notes/n3": (4, GROWN)}))),
            client(bucket_sums({"notes/n1": (5, B), "notes/n2": (2, B), "notes/n3": (4, A)})),
            server(differ(5, bucket("notes/n3"))),
            client(document_sums({"notes/n3": (4, A)})),
            server(repair(5, ["notes", "n3", 4, 1, GROWN], sum=sum_of({
                "notes/n1": (5, B), "notes/n2": (2, B), "notes/n3": (4, GROWN)}))),
            expect({"notes/n1": B, "notes/n2": B, "notes/n3": GROWN}, complete=5),
        ],
    ),
}  # fmt: skip

SESSIONS = {**RESTORES, **TEXTS}


def files() -> dict[str, Any]:
    return {name: {"name": name, "why": why, "steps": steps} for name, (why, steps) in SESSIONS.items()}


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / "sessions" / f"{name}.json").write_text(text_of(content))
