"""Histories of changes with what must come of them (`python -m tests.protocol.make_merge_vectors` writes the files).

Every expectation is written by hand from SPEC sections 2, 3, 4 and 7; no engine computes any of it. The format is
described in protocol/vectors/README.md. `schema_histories` has those in collections that have a schema.
"""

from tests.protocol.make_vectors import MAX, VECTORS, text_of
from tests.protocol.merge_steps import (
    CREATE,
    DELETE,
    LEASE,
    MADE,
    OTHER,
    STOCKED,
    Histories,
    Json,
    R,
    amounts,
    at,
    c,
    deleted,
    delta,
    doc,
    element,
    member,
    members,
    nick,
    on,
    patch,
    reg,
    reset,
    set_role,
    stock,
)
from tests.protocol.schema_histories import SCHEMA_HISTORIES
from tests.wire.strategies import json_value

ACCEPTED = ("applied", "merged", "noop")

HISTORIES: Histories = {
    "reg-in-sequence": (
        "A value that has seen the stored one replaces it.",
        [MADE, c("B", 1, "applied", reg("b"))],
        doc(2, f=[R, "b"]),
        [delta(0, 2, reset(2, f=[R, "b"])), delta(1, 2, patch(2, f=[R, "b"])), delta(2, 2)],
    ),
    "reg-concurrent-later-wins": (
        "Of two that have not seen each other, the greater (eff, seq) stays.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=2000, now=3000),
         c("C", 1, "merged", reg("c"), stamp=2500, now=3100, met=[[0, "won", 2]])],
        doc(3, f=[R, "c"]), [delta(2, 3, patch(3, f=[R, "c"]))],
    ),
    "reg-concurrent-earlier-loses": (
        "The lesser one is accepted, alters nothing visible and moves no rev.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=2000, now=3000),
         c("C", 1, "merged", reg("c"), stamp=1500, now=3100, met=[[0, "lost", 2]])],
        doc(2, f=[R, "b"]), [delta(2, 3), delta(1, 3, patch(2, f=[R, "b"]))],
    ),
    "reg-equal-time": (
        "At equal eff the greater seq stays.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=2000, now=3000),
         c("C", 1, "merged", reg("c"), stamp=2000, now=3100, met=[[0, "won", 2]])],
        doc(3, f=[R, "c"]), [],
    ),
    "reg-fast-clock": (
        "A stamp in the future counts as the time of receipt: it cannot beat what is received later.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=10**12, now=3000),
         c("C", 1, "merged", reg("c"), stamp=3500, now=4000, met=[[0, "won", 2]])],
        doc(3, f=[R, "c"]), [],
    ),
    "reg-slow-clock": (
        "A slow clock cannot lose to what its change had seen, and what it writes keeps the eff of what it replaced.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=3000, now=3000),
         c("A", 2, "applied", reg("a2"), stamp=100, now=4000),
         c("C", 1, "merged", reg("c"), stamp=2900, now=5000, met=[[0, "lost", 3]])],
        doc(3, f=[R, "a2"]), [],
    ),
    "reg-time-never-falls": (
        "T(seq) never falls: when the server's clock is set back, a stamp is cut at the T of the change before.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=5000, now=5000),
         c("C", 1, "merged", reg("c"), stamp=6000, now=2000, met=[[0, "won", 2]])],
        doc(3, f=[R, "c"]), [],
    ),
    "reg-own-changes-are-seen": (
        "A device's own earlier changes are seen whatever the base; another's are not.",
        [MADE, c("A", 0, "applied", reg("a2"), stamp=500, now=1500),
         c("B", 2, "applied", reg("b"), stamp=3000, now=3000),
         c("A", 0, "merged", reg("a3"), stamp=2000, now=4000, met=[[0, "lost", 3]])],
        doc(3, f=[R, "b"]), [],
    ),
    "reg-unset": (
        "Unset is a value like any other: it makes the field invisible, and beats what it has seen or what is older.",
        [MADE, c("B", 1, "applied", on("reg.unset", "f"), stamp=3000, now=3000),
         c("C", 1, "merged", reg("c"), stamp=2000, now=4000, met=[[0, "lost", 2]])],
        doc(2), [delta(1, 2, patch(2, f=None)), delta(0, 3, reset(2))],
    ),
    "reg-unset-of-nothing": (
        "Unset of a field that never was fixes its type and alters nothing visible.",
        [MADE, c("B", 1, "noop", on("reg.unset", "g")),
         c("C", 2, "type_mismatch", on("counter.inc", "g", 1), op=0)],
        doc(1, f=[R, "a"]), [delta(1, 2)],
    ),
    "reg-same-value": (
        "The value that stands already: accepted, with a seq, and no rev moves.",
        [MADE, c("B", 1, "noop", reg("a"))],
        doc(1, f=[R, "a"]), [delta(1, 2)],
    ),
    "mv-stands-beside": (
        "mv replaces what it has seen and stands beside the rest; values are listed by falling (eff, seq).",
        [c("A", 0, "applied", CREATE, on("mv.set", "v", 1)),
         c("B", 1, "applied", on("mv.set", "v", 2), stamp=2000, now=2000),
         c("C", 1, "merged", on("mv.set", "v", 3), stamp=3000, now=3000, met=[[0, "beside", 2]]),
         c("D", 1, "merged", on("mv.set", "v", 4), stamp=1500, now=3500, met=[[0, "beside", 3], [0, "beside", 2]])],
        doc(4, v=["mv", [3, 2, 4]]), [delta(3, 4, patch(4, v=["mv", [3, 2, 4]]))],
    ),
    "mv-replaces-all-seen": (
        "One that has seen all values leaves only its own.",
        [c("A", 0, "applied", CREATE, on("mv.set", "v", 1)),
         c("B", 1, "applied", on("mv.set", "v", 2)),
         c("C", 1, "merged", on("mv.set", "v", 3), met=[[0, "beside", 2]]),
         c("A", 3, "applied", on("mv.set", "v", 9))],
        doc(4, v=["mv", [9]]), [],
    ),
    "mv-eight-stand": (
        "At most eight stand: the one with the lowest (eff, seq) gives way.",
        [c("A", 0, "applied", CREATE), c("B", 1, "applied", on("mv.set", "v", "B")),
         *(c(name, 1, "merged", on("mv.set", "v", name)) for name in "CDEFGHIJ")],
        doc(10, v=["mv", ["J", "I", "H", "G", "F", "E", "D", "C"]]), [],
    ),
    "counter": (
        "Increments of all are summed; they commute, so they meet nothing.",
        [c("A", 0, "applied", CREATE, on("counter.inc", "n", 5)),
         c("B", 1, "applied", on("counter.inc", "n", -2)), c("C", 1, "applied", on("counter.inc", "n", 10))],
        doc(3, n=["counter", 13]), [delta(1, 3, patch(3, n=["counter", 13]))],
    ),
    "counter-overflow": (
        "A sum outside +-(2^53 - 1) makes the change invalid; nothing of it takes effect.",
        [c("A", 0, "applied", CREATE, on("counter.inc", "n", MAX)),
         c("B", 1, "invalid", reg("b"), on("counter.inc", "n", 1), op=1)],
        doc(1, n=["counter", MAX]), [delta(1, 1)],
    ),
    "max-min": (
        "max and min keep the greatest and the least number put, integers and doubles alike.",
        [c("A", 0, "applied", CREATE, on("max.put", "hi", 5), on("min.put", "lo", 5)),
         c("B", 1, "applied", on("max.put", "hi", 3), on("min.put", "lo", 2.5)),
         c("C", 1, "noop", on("max.put", "hi", 4), on("min.put", "lo", 4)),
         c("C", 1, "applied", on("max.put", "hi", 5.5))],
        doc(4, hi=["max", 5.5], lo=["min", 2.5]), [delta(1, 2, patch(2, lo=["min", 2.5])), delta(2, 3)],
    ),
    "set-add-after-unseen-remove": (
        "An add that had not seen a remove brings the element back.",
        [c("A", 0, "applied", CREATE, on("set.add", "s", "x")),
         c("B", 1, "applied", on("set.remove", "s", "x")),
         c("C", 1, "applied", on("set.add", "s", "x"))],
        doc(3, s=["set", ["x"]]), [delta(1, 2, patch(2, s=["set", []]))],
    ),
    "set-remove-meets-unseen-add": (
        "Add wins: a remove ends only the adds that it has seen.",
        [c("A", 0, "applied", CREATE, on("set.add", "s", "x")),
         c("B", 1, "noop", on("set.add", "s", "x")),
         c("C", 1, "merged", on("set.remove", "s", "x"), met=[[0, "lost", 2]])],
        doc(1, s=["set", ["x"]]), [delta(1, 3)],
    ),
    "set-add-replaces-what-it-has-seen": (
        "An add replaces the adds it has seen: a remove that has seen only the new one ends the element.",
        [c("A", 0, "applied", CREATE, on("set.add", "s", "x")),
         c("B", 1, "noop", on("set.add", "s", "x")),
         c("C", 2, "applied", on("set.remove", "s", "x"))],
        doc(3, s=["set", []]), [],
    ),
    "set-order": (
        "Elements are listed by their canonical encoding, each once; 2 and 2.0 are one element.",
        [c("A", 0, "applied", CREATE, *(on("set.add", "s", item) for item in
                                      ("x", 5, None, True, "a", [1], {"$b": ""}, 2, 2.0, {"b": 1, "a": 1}, -1)))],
        doc(1, s=["set", [2, 5, {"a": 1, "b": 1}, [1], "a", "x", None, True, {"$b": ""}, -1]]), [],
    ),
    "flag-enable-wins": (
        "A disable ends the enables it has seen; one it had not seen stays.",
        [c("A", 0, "applied", CREATE, on("flag.enable", "d")),
         c("B", 1, "noop", on("flag.enable", "d")),
         c("C", 1, "merged", on("flag.disable", "d"), met=[[0, "lost", 2]]),
         c("C", 3, "applied", on("flag.disable", "d"))],
        doc(4, d=["flag", False]), [delta(3, 4, patch(4, d=["flag", False]))],
    ),
    "map-is-reg-per-key": (
        "Keys are decided one by one; a delta brings the field whole.",
        [c("A", 0, "applied", CREATE, on("map.put", "m", "k1", 1), on("map.put", "m", "k2", 2)),
         c("B", 1, "applied", on("map.put", "m", "k1", 10), stamp=3000, now=3000),
         c("C", 1, "merged", on("map.drop", "m", "k1"), stamp=2000, now=4000, met=[[0, "lost", 2]]),
         c("D", 1, "applied", on("map.drop", "m", "k2"))],
        doc(4, m=["map", {"k1": 10}]), [delta(2, 4, patch(4, m=["map", {"k1": 10}]))],
    ),
    "bounded-moves-units": (
        "Each operation moves units between accounts; the total changes by restocking alone.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 4, None)),
         c("B", 1, "applied", stock("take", 3, LEASE)),
         c("C", 1, "applied", stock("take", 2, None)),
         c("B", 1, "applied", stock("give", LEASE, 1)),
         c("C", 1, "applied", stock("refund", 4), stock("restock", -6)),
         c("C", 1, "noop", stock("give", LEASE, 1))],
        doc(6, q=amounts(3, 0, 1, 4)),
        [delta(1, 2, patch(2, q=amounts(6, 4, 0, 10))), delta(3, 4, patch(4, q=amounts(4, 1, 5, 10))), delta(6, 7)],
    ),
    "bounded-too-few": (
        "What is not there is refused, with an outcome that says whose promise was missing.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 4, 60_000)),
         c("B", 1, "precondition", stock("take", 1, LEASE), stock("take", 4, LEASE), op=1),
         c("B", 1, "precondition", stock("give", LEASE, 5), op=0),
         c("C", 1, "precondition", stock("take", 7, None), op=0),
         c("C", 1, "precondition", stock("lease", OTHER, 7, None), op=0),
         c("C", 1, "lease_expired", stock("take", 7, OTHER), op=0),
         c("C", 1, "invalid", stock("lease", LEASE, 1, None), op=0),
         c("C", 1, "precondition", stock("refund", 1), op=0),
         c("C", 1, "precondition", stock("restock", -7), op=0),
         c("C", 1, "invalid", stock("restock", MAX), op=0)],
        doc(2, q=amounts(6, 4, 0, 10)), [],
    ),
    "bounded-lease-of-another": (
        "A lease is its holder's: by another it takes from the reserve, gives nothing back, and stays as it was.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 9, None)),
         c("C", 2, "merged", stock("take", 1, LEASE), met=[[0, "ended", 0]]),
         c("C", 3, "lease_expired", stock("take", 1, LEASE), op=0),
         c("C", 3, "noop", stock("give", LEASE, 1)),
         c("B", 1, "applied", stock("take", 9, LEASE))],
        doc(5, q=amounts(0, 0, 10, 10)), [delta(3, 4)],
    ),
    "bounded-holder-knows-the-document": (
        "Who holds a lease has seen its document, whatever its base says; but not for what it does without the lease.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 4, None)),
         c("B", 0, "applied", stock("take", 2, LEASE)),
         c("B", 0, "gone", stock("take", 1, None), op=0),
         c("B", 0, "gone", stock("take", 1, LEASE), stock("restock", 1), op=1),
         c("C", 0, "gone", stock("take", 1, LEASE), op=0),
         c("B", 0, "applied", stock("give", LEASE, 2)),
         c("B", 0, "gone", stock("take", 1, LEASE), op=0)],
        doc(4, q=amounts(8, 0, 2, 10)), [delta(2, 4, patch(4, q=amounts(8, 0, 2, 10)))],
    ),
    "bounded-keeps-its-document": (
        "A document with leases is not deleted; one whose leases have ended is.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 1, None)), c("C", 2, "precondition", DELETE, op=0),
         c("B", 1, "applied", stock("take", 1, LEASE)), c("C", 3, "applied", DELETE)],
        {}, [],
    ),
    "bounded-is-ended-by-the-server-alone": (
        "No device ends another's lease, nor its own but by taking and giving back.",
        [STOCKED, c("B", 1, "applied", stock("lease", LEASE, 1, None)),
         c("B", 1, "forbidden", stock("end", LEASE), op=0)],
        doc(2, q=amounts(9, 1, 0, 10)), [],
    ),
    "list-in-order": (
        "Elements stand by their positions, compared as bytes; equal indexes are ordered by the elements' names.",
        [c("A", 0, "applied", CREATE, on("list.insert", "l", at("m", "element2"), "two")),
         c("B", 1, "applied", on("list.insert", "l", at("m", "element1"), "one")),
         c("C", 1, "applied", on("list.insert", "l", at("mz", "element3"), [3]),
           on("list.insert", "l", at("c", "element4"), "first"))],
        doc(3, l=["list", [[at("c", "element4"), "first"], [at("m", "element1"), "one"], [at("m", "element2"), "two"],
                           [at("mz", "element3"), [3]]]]),
        [delta(2, 3, patch(3, l=["list", [[at("c", "element4"), "first"], [at("m", "element1"), "one"],
                                          [at("m", "element2"), "two"], [at("mz", "element3"), [3]]]]))],
    ),
    "list-concurrent-moves": (
        "Of concurrent moves of one element, the greater (eff, seq) places it: it is never there twice.",
        [c("A", 0, "applied", CREATE, on("list.insert", "l", at("m", "element1"), 1)),
         c("B", 1, "applied", on("list.move", "l", at("b", "element1")), stamp=3000, now=3000),
         c("C", 1, "merged", on("list.move", "l", at("c", "element1")), stamp=2000, now=4000, met=[[0, "lost", 2]]),
         c("D", 1, "merged", on("list.move", "l", at("d", "element1")), stamp=5000, now=5000, met=[[0, "won", 2]]),
         c("E", 4, "applied", on("list.move", "l", at("e", "element1")), stamp=100, now=6000)],
        doc(5, l=["list", [[at("e", "element1"), 1]]]),
        [delta(2, 3), delta(1, 5, patch(5, l=["list", [[at("e", "element1"), 1]]]))],
    ),
    "list-remove-wins": (
        "A remove wins over a move that it has not seen, whichever comes first; a removed element cannot be moved.",
        [c("A", 0, "applied", CREATE, on("list.insert", "l", at("m", "element1"), 1),
           on("list.insert", "l", at("n", "element2"), 2)),
         c("B", 1, "applied", on("list.move", "l", at("b", "element1"))),
         c("C", 1, "merged", on("list.remove", "l", element("element1")), met=[[0, "won", 2]]),
         c("D", 2, "noop", on("list.move", "l", at("d", "element1"))),
         c("D", 2, "noop", on("list.remove", "l", element("element1"))),
         c("D", 2, "noop", on("list.remove", "l", element("nothing1")))],
        doc(3, l=["list", [[at("n", "element2"), 2]]]), [delta(2, 6, patch(3, l=["list", [[at("n", "element2"), 2]]]))],
    ),
    "list-names-are-given-once": (
        "An insert of a name that is in the list is invalid; after a remove it makes a new element.",
        [c("A", 0, "applied", CREATE, on("list.insert", "l", at("m", "element1"), 1)),
         c("B", 1, "invalid", reg("b"), on("list.insert", "l", at("n", "element1"), 2), op=1),
         c("B", 1, "applied", on("list.remove", "l", element("element1"))),
         c("C", 2, "applied", on("list.insert", "l", at("n", "element1"), 2))],
        doc(3, l=["list", [[at("n", "element1"), 2]]]), [delta(1, 2, patch(2, l=["list", []]))],
    ),
    "text-in-order": (
        "Updates of a text stand in the order of the space, whoever had seen what; a delta brings those after `from`.",
        [c("A", 0, "applied", CREATE, on("text.update", "t", json_value(b"\x01one"))),
         c("B", 1, "applied", on("text.update", "t", json_value(b"\x01two")), stamp=9000, now=9000),
         c("C", 1, "applied", on("text.update", "t", json_value(b"three")), on("text.update", "t", json_value(b"four")),
           stamp=1, now=9001),
         c("A", 0, "type_mismatch", on("reg.set", "t", "text"), op=0),
         c("B", 1, "precondition", on("expect", "t"), op=0)],
        doc(3, t=["text", [0, [[1, json_value(b"\x01one")], [2, json_value(b"\x01two")], [3, json_value(b"three")],
                               [3, json_value(b"four")]]]]),
        [delta(2, 3, patch(3, t=["text", [2, [[3, json_value(b"three")], [3, json_value(b"four")]]]])),
         delta(0, 3, reset(3, t=["text", [0, [[1, json_value(b"\x01one")], [2, json_value(b"\x01two")],
                                              [3, json_value(b"three")], [3, json_value(b"four")]]]]))],
    ),
    "list-of-nothing": (
        "A move in a field that never was fixes its type: an empty list.",
        [MADE, c("B", 1, "applied", on("list.move", "l", at("m", "element1"))),
         c("C", 1, "type_mismatch", on("set.add", "l", 1), op=0)],
        doc(2, f=[R, "a"], l=["list", []]), [delta(1, 2, patch(2, l=["list", []]))],
    ),
    "unique-has-one-holder": (
        "The first document that takes a key has it; another change that takes it is refused, and told of whom.",
        [MADE, c("B", 1, "applied", ["create", "notes", "n2"]),
         c("A", 0, "noop", nick("ann")),
         c("B", 1, "precondition", ["reg.set", "notes", "n2", "f", 1], ["unique", "notes", "n2", "nick", "ann"], op=1),
         c("B", 1, "noop", ["unique", "notes", "n2", "mail", "ann"]),
         c("C", 0, "gone", ["unique", "notes", "n2", "nick", "ben"], op=0)],
        {**doc(1, f=[R, "a"]), "notes/n2": {"rev": 2, "fields": {}}}, [delta(2, 4)],
    ),
    "unique-is-freed": (
        "Taking another key frees the one before; so does a delete, also in the middle of a change, by whomever.",
        [MADE, c("B", 1, "applied", ["create", "notes", "n2"]), c("A", 0, "noop", nick("ann")),
         c("A", 0, "noop", nick("eve")), c("B", 1, "noop", ["unique", "notes", "n2", "nick", "ann"]),
         c("B", 1, "precondition", ["unique", "notes", "n2", "nick", "eve"], op=0),
         c("B", 1, "merged", DELETE, ["unique", "notes", "n2", "nick", "eve"], met=[[0, "ended", 4]]),
         c("A", 6, "applied", CREATE, nick("ann"))],
        {**doc(7), "notes/n2": {"rev": 2, "fields": {}}}, [],
    ),
    "unique-concurrent-keys-of-one-document": (
        "Of keys that one document is given concurrently, the greater (eff, seq) stays; the other is not taken.",
        [MADE, c("B", 1, "applied", ["create", "notes", "n2"]), c("B", 1, "noop", nick("late"), stamp=3000, now=3000),
         c("C", 1, "merged", nick("early"), stamp=2000, now=4000, met=[[0, "lost", 3]]),
         c("B", 1, "noop", ["unique", "notes", "n2", "nick", "early"]),
         c("B", 1, "precondition", nick("early"), op=0)],
        {**doc(1, f=[R, "a"]), "notes/n2": {"rev": 2, "fields": {}}}, [],
    ),
    "type-is-fixed": (
        "The first operation fixes the type; one of another type refuses its whole change.",
        [MADE, c("B", 1, "type_mismatch", on("reg.set", "g", 1), on("counter.inc", "f", 1), op=1),
         c("B", 1, "applied", on("counter.inc", "g", 1))],
        doc(2, f=[R, "a"], g=["counter", 1]), [],
    ),
    "update-never-resurrects": (
        "An update of a document that was deleted is gone, also if it had seen the document.",
        [MADE, c("B", 1, "applied", DELETE), c("C", 1, "gone", reg("c"), op=0)],
        {}, [delta(1, 2, deleted(2)), delta(0, 2)],
    ),
    "update-of-an-unknown-document": (
        "An update by one who has not seen a maker is gone, whether the document exists or not.",
        [c("B", 0, "gone", reg("b"), op=0), MADE, c("B", 0, "gone", reg("b"), op=0), c("B", 1, "applied", reg("b"))],
        doc(2, f=[R, "b"]), [],
    ),
    "create-beside-create": (
        "Two creates that had not seen each other make one document: fields merge, and both are makers.",
        [c("A", 0, "applied", CREATE, reg("a"), on("counter.inc", "n", 1), stamp=1000, now=1000),
         c("B", 0, "merged", CREATE, reg("b"), on("counter.inc", "n", 1), stamp=2000, now=2000,
           met=[[0, "maker", 1], [1, "won", 1]]),
         c("B", 0, "applied", reg("b2"), stamp=2000, now=2500)],
        doc(3, f=[R, "b2"], n=["counter", 2]), [delta(1, 3, patch(3, f=[R, "b2"], n=["counter", 2]))],
    ),
    "create-of-a-known-document": (
        "It alters nothing.",
        [MADE, c("B", 1, "noop", CREATE), c("A", 0, "noop", CREATE)],
        doc(1, f=[R, "a"]), [],
    ),
    "delete-needs-every-maker": (
        "A delete that has not seen one of the makers alters nothing; one that has seen all ends the document.",
        [MADE, c("B", 0, "merged", CREATE, on("reg.set", "g", 1), met=[[0, "maker", 1]]),
         c("C", 1, "noop", DELETE), c("C", 3, "applied", DELETE)],
        {}, [delta(3, 4, deleted(4))],
    ),
    "delete-meets-an-unseen-update": (
        "The delete takes effect and says what it ended.",
        [MADE, c("B", 1, "applied", reg("b")), c("C", 1, "merged", DELETE, met=[[0, "ended", 2]])],
        {}, [delta(2, 3, deleted(3))],
    ),
    "delete-by-one-with-own-unseen-updates": (
        "A device's own last update does not hide that it had not seen another's before it.",
        [MADE, c("B", 1, "applied", reg("b"), stamp=2000, now=2000),
         c("C", 1, "merged", reg("c"), stamp=3000, now=3000, met=[[0, "won", 2]]),
         c("C", 1, "merged", DELETE, met=[[0, "ended", 2]])],
        {}, [],
    ),
    "delete-of-nothing-and-twice": (
        "A delete of a document that never was, or is deleted already, alters nothing.",
        [c("B", 0, "noop", DELETE), MADE, c("B", 2, "applied", DELETE), c("C", 2, "noop", DELETE)],
        {}, [delta(2, 4, deleted(3))],
    ),
    "create-after-a-seen-delete": (
        "A new incarnation: those who knew the old one get it as a reset.",
        [MADE, c("A", 1, "applied", DELETE), c("B", 2, "applied", CREATE, on("reg.set", "g", 1))],
        doc(3, g=[R, 1]), [delta(1, 3, reset(3, g=[R, 1])), delta(2, 3, reset(3, g=[R, 1]))],
    ),
    "create-after-an-unseen-delete": (
        "It had seen the document but not its deletion: an update in disguise, so it is gone.",
        [MADE, c("B", 1, "applied", DELETE), c("C", 1, "gone", CREATE, reg("c"), op=0)],
        {}, [],
    ),
    "create-after-an-unseen-life": (
        "It had seen neither the document nor its deletion: a new incarnation.",
        [MADE, c("B", 1, "applied", DELETE), c("C", 0, "applied", CREATE, reg("c"))],
        doc(3, f=[R, "c"]), [delta(1, 3, reset(3, f=[R, "c"]))],
    ),
    "second-delete-is-remembered": (
        "A tombstone keeps every delete that knew all makers: having seen the one that came second is enough.",
        [MADE, c("B", 1, "applied", DELETE), c("C", 1, "noop", DELETE), c("C", 1, "applied", CREATE, reg("c"))],
        doc(4, f=[R, "c"]), [],
    ),
    "update-of-an-old-incarnation": (
        "An update knows only the incarnation of which it has seen a maker.",
        [MADE, c("A", 1, "applied", DELETE), c("B", 2, "applied", CREATE), c("C", 1, "gone", reg("c"), op=0),
         c("C", 1, "noop", DELETE)],
        doc(3), [],
    ),
    "type-is-free-in-a-new-incarnation": (
        "Types are fixed for one incarnation.",
        [MADE, c("A", 1, "applied", DELETE), c("A", 2, "applied", CREATE, on("counter.inc", "f", 1))],
        doc(3, f=["counter", 1]), [],
    ),
    "expect": (
        "expect passes if the field's last writer, if any, was seen; its own earlier operations are.",
        [MADE, c("B", 1, "applied", reg("b")),
         c("C", 1, "precondition", on("expect", "f"), reg("c"), op=0),
         c("C", 2, "applied", on("expect", "f"), reg("c"), on("expect", "f"), on("expect", "absent"))],
        doc(3, f=[R, "c"]), [],
    ),
    "seen": (
        "An operation's own seen raises the base for that operation alone.",
        [MADE, c("B", 1, "applied", reg("b")), c("C", 0, "gone", reg("c"), op=0),
         c("C", 0, "applied", [*reg("c"), {"seen": 2}]),
         c("D", 0, "gone", [*reg("d"), {"seen": 2}], on("reg.set", "g", 1), op=1)],
        doc(3, f=[R, "c"]), [],
    ),
    "renamed-sees-its-former-id": (
        "A change whose context names an earlier id has seen what that one did up to the seq given, and no more.",
        [MADE, c("A", 0, "applied", reg("b")),
         c("C", 0, "merged", CREATE, reg("c"), met=[[0, "maker", 1], [1, "won", 2]]),
         c("A", 0, "merged", reg("d"), met=[[0, "won", 3]]),
         c("B", 0, "merged", reg("e"), stamp=1, context=[["A", 2, 2]], met=[[0, "lost", 4]]),
         c("B", 0, "merged", reg("f"), context=[["A", 2, 2]], met=[[0, "won", 4]])],
        doc(6, f=[R, "f"]), [delta(0, 6, reset(6, f=[R, "f"]))],
    ),
    "renamed-knows-what-it-made": (
        "Without the context an update by the new id does not know the document; a delete ends what the context lacks.",
        [MADE, c("B", 0, "gone", reg("b"), op=0), c("B", 0, "applied", reg("b"), context=[["A", 1, 1]]),
         c("C", 2, "applied", on("reg.set", "g", 1)),
         c("B", 0, "merged", DELETE, context=[["A", 1, 1]], met=[[0, "ended", 3]])],
        {}, [delta(0, 4), delta(1, 4, deleted(4))],
    ),
    "all-or-nothing": (
        "Operations are judged on the state before plus the earlier ones; one refused refuses all, and n is used.",
        [c("A", 0, "gone", CREATE, reg("a"), DELETE, reg("b"), op=3),
         c("A", 0, "applied", CREATE, reg("a"), reg("b"), on("create"))],
        doc(1, f=[R, "b"]), [delta(0, 1, reset(1, f=[R, "b"]))],
    ),
    "reserved-collections": (
        "_inbox, _preferences, _profile and _members may be written; another collection that begins with _ may not.",
        [c("A", 0, "applied", ["create", "_inbox", "i1"]),
         c("A", 0, "forbidden", CREATE, ["create", "_counts", "ann"], op=1)],
        {"_inbox/i1": {"rev": 1, "fields": {}}}, [],
    ),
    "later-changes-stand-alone": (
        "A refused change uses its n; the changes after it are judged on their own.",
        [c("A", 0, "invalid", ["fly", "notes", "n1"], op=0), c("A", 0, "applied", CREATE),
         c("A", 0, "gone", ["reg.set", "notes", "n2", "f", 1], op=0), c("A", 0, "applied", reg("a"))],
        doc(2, f=[R, "a"]), [],
    ),
    "delta-holds-what-changed": (
        "A delta lists each changed document once, with the fields whose rev lies above from.",
        [MADE, c("A", 0, "applied", ["create", "notes", "n2"]), c("A", 0, "applied", on("reg.set", "g", 1)),
         c("A", 0, "applied", ["reg.set", "notes", "n2", "f", 2])],
        {**doc(3, f=[R, "a"], g=[R, 1]), "notes/n2": {"rev": 4, "fields": {"f": [R, 2]}}},
        [delta(1, 4, patch(3, g=[R, 1]), ["notes", "n2", 4, 1, {"f": [R, 2]}]),
         delta(2, 4, patch(3, g=[R, 1]), ["notes", "n2", 4, 0, {"f": [R, 2]}])],
    ),
    "members-give-and-take": (
        "A member's role counts from the next change on; only owners alter members; `none` ends what a token grants.",
        [c("A", 0, "applied", *member("b", "owner")),
         c("B", 1, "applied", *member("c", "writer")),
         c("C", 0, "forbidden", *member("c", "owner"), op=0),
         c("C", 0, "applied", CREATE),
         c("B", 3, "applied", set_role("c", "none")),
         c("C", 3, "forbidden", reg("c")),
         c("C", 3, "forbidden", on("expect", "f"))],
        {**doc(3), **members(b=(1, "owner"), c=(4, "none"))}, [],
    ),
    "members-are-altered-by-who-knows-them": (
        "Who alters a member has seen its last change, also its deletion; other members do not matter.",
        [c("A", 0, "applied", *member("b", "owner")),
         c("B", 0, "precondition", set_role("b", "reader"), op=0),
         c("B", 0, "applied", *member("c", "writer")),
         c("A", 1, "precondition", ["delete", "_members", "c"], op=0),
         c("A", 2, "applied", ["delete", "_members", "c"]),
         c("B", 2, "precondition", *member("c", "writer"), op=0),
         c("B", 3, "applied", *member("c", "writer"))],
        members(b=(1, "owner"), c=(4, "writer")), [],
    ),
    "members-keep-an-owner": (
        "A change leaves an owner: a member, or its author by its token. B owns as a member only; D by its token, too.",
        [c("A", 0, "applied", *member("b", "owner")),
         c("B", 1, "precondition", set_role("b", "writer")),
         c("B", 1, "precondition", ["delete", "_members", "b"]),
         c("B", 1, "applied", set_role("b", "writer"), *member("c", "owner")),
         c("D", 2, "precondition", *member("d", "none"), set_role("c", "reader")),
         c("D", 2, "applied", set_role("c", "reader"))],
        members(b=(2, "writer"), c=(3, "reader")), [],
    ),
    "members-have-one-of-four-roles": (
        "The field `role` is a reg with one of four words; other fields of a member are free.",
        [c("A", 0, "invalid", *member("b", "admin"), op=1),
         c("A", 0, "invalid", ["create", "_members", "b"], ["flag.enable", "_members", "b", "role"], op=1),
         c("A", 0, "applied", *member("b", "reader"), ["flag.enable", "_members", "b", "muted"])],
        {"_members/b": {"rev": 1, "fields": {"role": [R, "reader"], "muted": ["flag", True]}}}, [],
    ),
}  # fmt: skip

# Whose devices they are, and what their tokens grant; in all other histories each is a device of one owner.
GRANTS = {
    "A": ["a", "owner"], "B": ["b", "reader"], "C": ["c", "writer"], "D": ["d", "owner"],
}  # fmt: skip


ALL: Histories = {**HISTORIES, **SCHEMA_HISTORIES}


def history(name: str) -> Json:
    why, changes, state, deltas = ALL[name]
    counts: dict[str, int] = {}
    seq, now, written = 0, 0, []
    for change in changes:
        counts[change["device"]] = counts.get(change["device"], 0) + 1
        now = change["now_ms"] or now + 100
        entry = {**change, "n": counts[change["device"]], "now_ms": now, "stamp_ms": change["stamp_ms"] or now}
        seq += change["outcome"] in ACCEPTED
        written.append({**entry, "seq": seq if change["outcome"] in ACCEPTED else None})
    grants = {letter: GRANTS[letter] for letter in sorted(counts)} if name.startswith("members-") else {}
    told = {"name": name, "why": why, "changes": written, "state": state, "deltas": deltas}
    return {**told, "grants": grants} if grants else told


def files() -> dict[str, Json]:
    return {name: history(name) for name in ALL}


if __name__ == "__main__":
    for name, content in files().items():
        (VECTORS / "merge" / f"{name}.json").write_text(text_of(content))
