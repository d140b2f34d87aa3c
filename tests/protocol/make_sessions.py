"""Writes protocol/vectors/sessions/*.json (`python -m tests.protocol.make_sessions`): conversations to survive.

Owns the scripts, written by hand from SPEC sections 5, 6, 7 and 10; only sums are computed, by the hashes of section 8
spelled out in `make_vectors`. The format is described in protocol/vectors/README.md.
"""

from typing import Any

from tests.protocol.make_vectors import VECTORS, text_of
from tests.protocol.session_steps import (
    ANY,
    NEW_EPOCH,
    SPACE,
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
    key_hash,
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

WELCOME: list[Any] = [
    32,
    {
        "session": "50" * 16,
        "time": 1_000,
        "user": "ann",
        "resumed": False,
        "limits": {"frame_bytes_max": 1_048_576, "push_changes_max": 1_000, "pushes_in_flight_max": 16},
        "ping_ms": 30_000,
        "ack_ms": 0,
        "reconnect": {"first_jitter_ms": 1, "backoff_ms": 1, "backoff_max_ms": 1, "stable_ms": 1},
        "server": "vectors",
        "caps": [],
    },
]
HELLO = [1, {"device": ANY, "installation": ANY, "time": ANY}]
OPEN: list[Step] = [{"connect": True}, client(HELLO), server(WELCOME)]
JOIN: list[Step] = [{"subscribe": SPACE}, *OPEN]
A, B, C = {"title": ["reg", "a"]}, {"title": ["reg", "b"]}, {"title": ["reg", "c"]}
# A replica that is complete at 2: n1 made at 1, n2 at 2.
AT_TWO: list[Step] = [
    *JOIN,
    client(subscribe(epoch=None)),
    server(subscribed(2, "catch-up"), delta(0, 2, note("n1", 1, 1, title="a"), note("n2", 2, 1, title="b"), start=2)),
    expect({"notes/n1": A, "notes/n2": B}, complete=2, resume=2),
]
CREATE = ["create", "notes", "mine"]
TITLE = ["reg.set", "notes", "mine", "title", "m"]
MINE = {"title": ["reg", "m"]}
AGAIN_TITLE, MORE_TITLE, OTHER_TITLE = ({"title": ["reg", text]} for text in ("again", "more", "other"))
# The client has taken another id: it leaves, and comes back as that.
RENAMED: list[Step] = [
    {"notice": "renamed"},
    {"connect": True},
    client([1, {"device": "$device(2)", "installation": ANY, "time": ANY}]),
    server(WELCOME),
]
AGAIN: list[Step] = [{"close": 1012}, *OPEN]

LEASE = {"$b": "bGVhc2UgMSAgICAgICAgIA"}  # 16 bytes
STOCK = [
    ["bounded.restock", "notes", "mine", "q", 9], ["bounded.lease", "notes", "mine", "q", LEASE, 4, None],
    ["bounded.take", "notes", "mine", "q", 3, LEASE], ["bounded.take", "notes", "mine", "q", 2, None],
    ["bounded.take", "notes", "mine", "q", 9, None], ["bounded.give", "notes", "mine", "q", LEASE, 2],
    ["bounded.take", "notes", "mine", "w", 1, None],
]  # fmt: skip

SESSIONS: dict[str, tuple[str, list[Step]]] = {
    "first-download": (
        "Pages are staged: the view changes only with the complete one, and all at once.",
        [
            *JOIN,
            client(subscribe(epoch=None)),
            server(
                subscribed(3, "catch-up"),
                delta(0, 1, note("n1", 1, 1, title="a"), complete=False, start=3),
            ),
            expect({}, complete=0, resume=1),
            server(
                delta(
                    0, 3, note("n2", 3, 1, title="b"),
                    after=1, start=3, sum=sum_of({"notes/n1": (1, A), "notes/n2": (3, B)}),
                )
            ),
            expect({"notes/n1": A, "notes/n2": B}, complete=3, resume=3),
        ],
    ),
    "resume-in-the-middle": (
        "A connection that ends between pages: resume says where to go on, start is repeated, complete has not moved.",
        [
            *JOIN,
            client(subscribe(epoch=None)),
            server(subscribed(3, "catch-up"), delta(0, 1, note("n1", 1, 1, title="a"), complete=False, start=3)),
            expect({}, complete=0, resume=1),
            {"close": 1012},
            *OPEN,
            client(subscribe(0, 1, start=3)),
            server(
                subscribed(4, "catch-up"),
                delta(0, 4, note("n2", 3, 1, title="b"), note("n1", 4, 1, title="b"), after=1, start=3),
            ),
            expect({"notes/n1": B, "notes/n2": B}, complete=4, resume=4),
        ],
    ),
    "a-later-page-goes-on-top": (
        "A document that changes between pages comes again behind the page cursor: the later on top.",
        [
            *AT_TWO,
            server(delta(2, 3, note("n3", 3, 1, title="x", body="y"), complete=False)),
            server(delta(2, 5, note("n3", 5, 0, title="z", body=None), note("n1", 4, 2), after=3)),
            expect({"notes/n2": B, "notes/n3": {"title": ["reg", "z"]}}, complete=5, resume=5),
        ],
    ),
    "patch-reset-delete": (
        "A patch sets and removes single fields, a reset replaces the document, a deletion removes it.",
        [
            *AT_TWO,
            server(
                delta(2, 3, ["notes", "n1", 3, 0, {"body": ["reg", {"$$x": {"$b": "AA"}}], "tags": ["set", ["t"]]}])
            ),
            expect(
                {"notes/n1": {**A, "body": ["reg", {"$$x": {"$b": "AA"}}], "tags": ["set", ["t"]]}, "notes/n2": B},
                complete=3,
            ),
            server(delta(3, 4, note("n1", 4, 0, title=None))),
            expect({"notes/n1": {"body": ["reg", {"$$x": {"$b": "AA"}}], "tags": ["set", ["t"]]}, "notes/n2": B}),
            server(delta(4, 5, note("n1", 5, 1, title="b"))),
            expect({"notes/n1": B, "notes/n2": B}),
            server(delta(5, 6, note("n1", 6, 2))),
            expect({"notes/n2": B}, complete=6),
            server(delta(6, 7, note("n1", 7, 0, title="b"))),
            expect({"notes/n1": B, "notes/n2": B}, complete=7),
        ],
    ),
    "repeated-delta": (
        "A delta that ends at or below complete is ignored, whatever it holds; one that overlaps is applied.",
        [
            *AT_TWO,
            server(delta(0, 2, note("n1", 1, 1, title="wrong"))),
            server(delta(1, 2, note("n2", 2, 2))),
            expect({"notes/n1": A, "notes/n2": B}, complete=2),
            server(delta(1, 3, note("n2", 2, 0, title="b"), note("n1", 3, 0, title="b"))),
            expect({"notes/n1": B, "notes/n2": B}, complete=3),
        ],
    ),
    "gap": (
        "A delta from beyond complete is not applied: the client subscribes again with its stored positions.",
        [
            *AT_TWO,
            server(delta(3, 4, note("n1", 4, 0, title="b"))),
            client(subscribe(2, chain="0000000000000002")),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, resume=2),
            server(subscribed(4, "catch-up"), delta(2, 4, note("n2", 3, 2), note("n1", 4, 0, title="b"))),
            expect({"notes/n1": B}, complete=4),
        ],
    ),
    "gap-between-pages": (
        "A page that begins beyond resume is a gap too: what is staged is kept, and the download goes on from resume.",
        [
            *AT_TWO,
            server(delta(2, 3, note("n3", 3, 1, title="a"), complete=False)),
            server(delta(2, 6, note("n4", 6, 1, title="a"), after=4)),
            client(subscribe(2, 3, chain="0000000000000002")),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, resume=3),
            server(subscribed(6, "catch-up"), delta(2, 6, note("n4", 4, 1, title="b"), after=3)),
            expect({"notes/n1": A, "notes/n2": B, "notes/n3": A, "notes/n4": B}, complete=6),
        ],
    ),
    "outcome-before-delta": (
        "An entry stays in the view between its outcome and the delta that brings its effect; the view never flickers.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, outbox=[1]),
            client(push(change(1, 2, CREATE, TITLE))),
            server(outcomes(outcome(1, "applied", 3))),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=2, settled=1),
            server(delta(2, 3, note("mine", 3, 1, title="m"))),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=3, outbox=[], settled=1),
        ],
    ),
    "outcome-without-seq": (
        "A refused change leaves the view at once, and later changes of the outbox are shown on what remains.",
        [
            *AT_TWO,
            commit(["reg.set", "notes", "n1", "title", "no"]),
            commit(["reg.set", "notes", "n2", "title", "yes"]),
            expect({"notes/n1": {"title": ["reg", "no"]}, "notes/n2": {"title": ["reg", "yes"]}}, outbox=[1, 2]),
            client(push(change(1, 2))),
            client(push(change(2, 2))),
            server(outcomes(outcome(1, "gone", None, {"op": 0, "reason": "the document does not exist"}))),
            expect({"notes/n1": A, "notes/n2": {"title": ["reg", "yes"]}}, outbox=[2], settled=1),
            server(outcomes(outcome(2, "merged", 4, {"met": [[0, "won", 3]]}))),
            expect({"notes/n1": A, "notes/n2": {"title": ["reg", "yes"]}}, settled=2),
            server(delta(2, 4, note("n2", 4, 0, title="yes"))),
            expect({"notes/n1": A, "notes/n2": {"title": ["reg", "yes"]}}, outbox=[], complete=4),
        ],
    ),
    "lost-answer": (
        "An answer that was lost: subscribe brings the outcome again, before anything is pushed a second time.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            *AGAIN,
            client(subscribe(2, chain="0000000000000002")),
            server(
                outcomes(outcome(1, "applied", 3)),
                subscribed(3, "catch-up"),
                delta(2, 3, note("mine", 3, 1, title="m")),
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=3, outbox=[], settled=1),
        ],
    ),
    "resent-after-lost-push": (
        "A push that never arrived is sent again under the same n and nonce.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            *AGAIN,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(2)),
            client(push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]])),
            server(outcomes(outcome(1, "applied", 3)), delta(2, 3, note("mine", 3, 1, title="m"))),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=3, outbox=[]),
        ],
    ),
    "nonce-of-another": (
        "An outcome with another nonce settles nothing: another replica of this device used the n.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(outcomes([1, "99" * 8, "applied", 3, None])),
            {"notice": "forked"},
            *RENAMED,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(3, "catch-up")),
            client(push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]])),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, outbox=[1], settled=0),
        ],
    ),
    "forked": (
        "After `forked` the client leaves its id: what was not taken, and what comes then, goes out under another.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(outcomes(forked=1)),
            {"notice": "forked"},
            *RENAMED,
            commit(["delete", "notes", "n1"]),
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(2)),
            client(push([1, "$nonce(1)", 2, ANY, [CREATE, TITLE]], [2, ANY, 2, ANY, [["delete", "notes", "n1"]]])),
            server(
                outcomes(outcome(1, "applied", 3), outcome(2, "applied", 4)),
                delta(2, 4, note("mine", 3, 1, title="m"), note("n1", 4, 2)),
            ),
            expect({"notes/n2": B, "notes/mine": MINE}, outbox=[], settled=2, complete=4),
        ],
    ),
    "forked-in-the-middle": (
        "What was answered under the old id is seen by what is sent under the new one: its context says so.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            commit(["reg.set", "notes", "mine", "title", "again"]),
            client(push(change(2, 2))),
            server(outcomes(outcome(1, "applied", 3)), outcomes(forked=2)),
            {"notice": "forked"},
            *RENAMED,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(3, "catch-up")),
            client(
                push([1, "$nonce(2)", 2, ANY, [["reg.set", "notes", "mine", "title", "again"]], [["$device(1)", 1, 3]]])
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": AGAIN_TITLE}, outbox=[0, 1], settled=0),
            commit(["reg.set", "notes", "mine", "title", "more"]),
            client(push([2, ANY, 2, ANY, ANY, [["$device(1)", 1, 3]]])),
            server(
                outcomes(outcome(1, "applied", 4), outcome(2, "applied", 5)),
                delta(2, 5, note("mine", 5, 1, title="more")),
            ),
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MORE_TITLE}, outbox=[], settled=2, complete=5),
            commit(["reg.set", "notes", "mine", "title", "m"]),
            client(push([3, ANY, 5, ANY, [["reg.set", "notes", "mine", "title", "m"]]])),
        ],
    ),
    "answered-by-the-old-id": (
        "A restored copy offers what it holds once more under the old id: what the server has ends there, once.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            commit(["reg.set", "notes", "mine", "title", "again"]),
            client(push(change(2, 2))),
            *AGAIN,
            client(subscribe(2, chain="0000000000000002")),
            server(
                outcomes(outcome(1, "applied", 3), outcome(2, "applied", 4), [3, "99" * 8, "applied", 5, None]),
                subscribed(5, "catch-up"),
                delta(2, 5, note("mine", 5, 1, title="other")),
            ),
            {"notice": "forked"},
            *RENAMED,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(5, "catch-up"), delta(2, 5, note("mine", 5, 1, title="other"))),
            {"silent": True},
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": OTHER_TITLE}, outbox=[], settled=0, complete=5),
        ],
    ),
    "void-after-gap": (
        "The server expects an n that the device settled and no longer holds: the device gives it up by a void.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(outcomes(outcome(1, "applied", 3)), delta(2, 3, note("mine", 3, 1, title="m"))),
            server([33, {**subscribed(3)[1], "safe": 3}]),
            commit(["delete", "notes", "mine"]),
            client(push(change(2, 3))),
            server(outcomes(gap=1)),
            {
                "client_any": [
                    push(["void", 1, 1, ANY, ANY], change(2, 3)),
                    push(["void", 1, 1, ANY, ANY]),
                ]
            },
            expect({"notes/n1": A, "notes/n2": B}, outbox=[1, 2], complete=3),
            server(outcomes(outcome(1, "void"), outcome(2, "applied", 4)), delta(3, 4, note("mine", 4, 2))),
            expect({"notes/n1": A, "notes/n2": B}, outbox=[], complete=4, settled=2),
        ],
    ),
    "lost-in-restore": (
        "A restored server that lost the device's last changes: those still held are pushed again, the rest is voided.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(outcomes(outcome(1, "noop", 3)), delta(2, 3)),
            expect({"notes/n1": A, "notes/n2": B}, outbox=[], settled=1),
            server([41, {"space": SPACE, "epoch": NEW_EPOCH, "fork": 3, "highest": 0}]),
            client(subscribe(3, epoch=NEW_EPOCH, chain=ANY)),
            server(subscribed(3, epoch=NEW_EPOCH)),
            {
                "client_any": [
                    push([1, ANY, 2, ANY, ANY], epoch=NEW_EPOCH),
                    push(["void", 1, 1, ANY, ANY], epoch=NEW_EPOCH),
                ]
            },
            server(
                outcomes([1, "$nonce(1)", "noop", 4, None], epoch=NEW_EPOCH),
                [34, {**delta(3, 4)[1], "epoch": NEW_EPOCH}],
            ),
            expect({"notes/n1": A, "notes/n2": B}, complete=4, outbox=[], settled=1),
        ],
    ),
    "expired-after-fork": (
        "A restored server whose fork lies below complete: synced state and pages go; the outbox stays, its bases cut.",
        [
            *AT_TWO,
            commit(["reg.set", "notes", "n1", "title", "late"]),
            client(push(change(1, 2))),
            server([41, {"space": SPACE, "epoch": NEW_EPOCH, "fork": 1, "highest": 0}]),
            client(subscribe(0, epoch=NEW_EPOCH)),
            expect(complete=0, resume=0, outbox=[1]),
            server(
                subscribed(1, "catch-up", NEW_EPOCH),
                [34, {**delta(0, 1, note("n1", 1, 1, title="a"), start=1)[1], "epoch": NEW_EPOCH}],
            ),
            client(push([1, "$nonce(1)", 1, ANY, [["reg.set", "notes", "n1", "title", "late"]]], epoch=NEW_EPOCH)),
            expect({"notes/n1": {"title": ["reg", "late"]}}, complete=1, outbox=[1]),
        ],
    ),
    "expired-before-fork": (
        "A fork at or above complete: what was synced is shared history and stays.",
        [
            *AT_TWO,
            *AGAIN,
            client(subscribe(2, chain="0000000000000002")),
            server([41, {"space": SPACE, "epoch": NEW_EPOCH, "fork": 2, "highest": 0}]),
            client(subscribe(2, epoch=NEW_EPOCH, chain=ANY)),
            expect({"notes/n1": A, "notes/n2": B}, complete=2, resume=2),
        ],
    ),
    "delta-of-another-epoch": (
        "A delta of another epoch than the space's present one is ignored.",
        [
            *AT_TWO,
            server([34, {**delta(2, 3, note("n1", 3, 2))[1], "epoch": NEW_EPOCH}]),
            expect({"notes/n1": A, "notes/n2": B}, complete=2),
        ],
    ),
    "revoked": (
        "Synced and staged state goes, the outbox stays.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server([36, {"space": SPACE, "seq": 3, "reason": "removed"}]),
            expect({"notes/mine": MINE}, complete=0, resume=0, outbox=[1]),
            {"notice": "revoked"},
            server(delta(2, 4, note("n1", 4, 0, title="secret"))),
            expect({"notes/mine": MINE}, complete=0),
        ],
    ),
    "superseded": (
        "Another connection of the same device: the client stops; nothing is lost.",
        [
            *AT_TWO,
            server([42, {"code": 13, "name": "superseded", "retry": "never"}]),
            {"close": 4901, "then": "stop"},
            expect({"notes/n1": A, "notes/n2": B}, complete=2),
        ],
    ),
    "goaway": (
        "After goaway nothing new is pushed; the client leaves, or is left at the deadline, and comes back later.",
        [
            *AT_TWO,
            server([43, {"code": 1012, "retry_after_ms": 0, "spread_ms": 0}]),
            commit(CREATE, TITLE),
            {"silent": True},
            expect({"notes/n1": A, "notes/n2": B, "notes/mine": MINE}, complete=2, outbox=[1]),
            {"close": 1012, "then": "backoff"},
            *OPEN,
            client(subscribe(2, chain="0000000000000002")),
            server(subscribed(2)),
            client(push(change(1, 2))),
        ],
    ),
    "unknown-keys-and-types": (
        "Unknown keys of a body and unknown types from 128 on are ignored, also in the middle of a frame.",
        [
            *JOIN,
            client(subscribe(epoch=None)),
            server(
                [200, {"x": 1}],
                [33, {**subscribed(1)[1], "later": {"a": [1]}}],
                [128, {}],
                [34, {**delta(0, 1, note("n1", 1, 1, title="a"), start=1)[1], "later": None}],
            ),
            expect({"notes/n1": A}, complete=1),
        ],
    ),
    "sum-mismatch": (
        "A sum that differs: the client says what it holds, and is brought the one document that differs.",
        [
            *AT_TWO,
            commit(CREATE, TITLE),
            client(push(change(1, 2))),
            server(delta(2, 3, note("n1", 3, 0, title="b"), sum="00" * 8)),
            client(bucket_sums({"notes/n1": (3, B), "notes/n2": (2, B)})),
            expect({"notes/n1": B, "notes/n2": B, "notes/mine": MINE}, complete=3, outbox=[1]),
            server(differ(3, bucket("notes/n1"))),
            client(document_sums({"notes/n1": (3, B)})),
            server(delta(3, 4, note("n9", 4, 1))),  # one that was under way: of no use, as it comes again
            server(repair(3, note("n1", 3, 1, title="c"), sum=sum_of({"notes/n1": (3, C), "notes/n2": (2, B)}))),
            expect({"notes/n1": C, "notes/n2": B, "notes/mine": MINE}, complete=3, resume=3, outbox=[1]),
            server(delta(3, 4, note("n2", 4, 0, title="a"), sum=sum_of({"notes/n1": (3, C), "notes/n2": (4, A)}))),
            expect({"notes/n1": C, "notes/n2": A, "notes/mine": MINE}, complete=4, outbox=[1]),
        ],
    ),
    "reconcile": (
        "A position below the floor: what was deleted goes, what was made comes, and all at once.",
        [
            *AT_TWO,
            {"close": 1012},
            *OPEN,
            client(subscribe(2, chain=ANY)),
            server(subscribed(9, "reconcile")),
            client(bucket_sums({"notes/n1": (1, A), "notes/n2": (2, B)})),
            server(differ(9, *sorted({bucket("notes/n1"), bucket("notes/n3")}))),
            client(document_sums({"notes/n1": (1, A)}, "notes/n3")),
            server(repair(10, note("n3", 7, 1, title="c"), last=None, done=None)),
            expect({"notes/n1": A, "notes/n2": B}, complete=2),
            server(repair(11, gone=key_hash("notes/n1"))),
            expect({"notes/n2": B, "notes/n3": C}, complete=9, resume=9),
            server(delta(9, 11, note("n2", 11, 0, title="c"), sum=sum_of({"notes/n2": (11, C), "notes/n3": (7, C)}))),
            expect({"notes/n2": C, "notes/n3": C}, complete=11),
        ],
    ),
    "replay": (
        "Every operation as section 6 replays it, on a document of the outbox alone.",
        [
            *AT_TWO,
            commit(
                CREATE,
                ["reg.set", "notes", "mine", "r", {"b": 1, "a": 2.0}], ["mv.set", "notes", "mine", "mv", 1],
                ["counter.inc", "notes", "mine", "c", 2], ["counter.inc", "notes", "mine", "c", -5],
                ["max.put", "notes", "mine", "hi", 1.5], ["max.put", "notes", "mine", "hi", 1],
                ["min.put", "notes", "mine", "lo", 1.5], ["min.put", "notes", "mine", "lo", 1],
                ["set.add", "notes", "mine", "s", "x"], ["set.add", "notes", "mine", "s", 5],
                ["set.add", "notes", "mine", "s", "x"], ["set.remove", "notes", "mine", "s", "y"],
                ["flag.enable", "notes", "mine", "f"], ["flag.disable", "notes", "mine", "g"],
                ["map.put", "notes", "mine", "m", "k", 1], ["map.drop", "notes", "mine", "m", "z"],
                ["set.remove", "notes", "mine", "none", "y"], ["map.drop", "notes", "mine", "void", "z"],
                ["list.insert", "notes", "mine", "l", json_value(b"\x80element1"), 1],
                ["list.insert", "notes", "mine", "l", json_value(b"\x40element2"), 2],
                ["list.insert", "notes", "mine", "l", json_value(b"\x20element1"), "taken"],
                ["list.insert", "notes", "mine", "l", json_value(b"\x20element3"), [3]],
                ["list.move", "notes", "mine", "l", json_value(b"\x10element1")],
                ["list.move", "notes", "mine", "l", json_value(b"\x10element9")],
                ["list.remove", "notes", "mine", "l", json_value(b"element2")],
                ["reg.unset", "notes", "mine", "nothing"], ["expect", "notes", "mine", "r"],
                *STOCK,
                ["counter.inc", "notes", "mine", "r", 1], ["reg.set", "notes", "absent", "title", "x"],
                ["delete", "notes", "n2"],
            ),
            expect({
                "notes/n1": A,
                "notes/mine": {
                    "r": ["reg", {"a": 2, "b": 1}], "mv": ["mv", [1]], "c": ["counter", -3], "hi": ["max", 1.5],
                    "lo": ["min", 1], "s": ["set", [5, "x"]], "f": ["flag", True], "g": ["flag", False],
                    "m": ["map", {"k": 1}], "none": ["set", []], "void": ["map", {}],
                    "q": ["bounded", {"available": 3, "leased": 1, "taken": 5, "total": 9}],
                    "w": ["bounded", {"available": 0, "leased": 0, "taken": 0, "total": 0}],
                    "l": ["list", [[json_value(b"\x10element1"), 1], [json_value(b"\x20element3"), [3]]]],
                },
            }, outbox=[1]),
        ],
    ),
    "ping": (
        "A ping is answered at once, with the same id.",
        [*AT_TWO, server([20, {"id": 7}]), client([21, {"id": 7}]), server([20, {}]), client([21, {}])],
    ),
}  # fmt: skip


def files() -> dict[str, Any]:
    return {name: {"name": name, "why": why, "steps": steps} for name, (why, steps) in SESSIONS.items()}


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / "sessions" / f"{name}.json").write_text(text_of(content))
