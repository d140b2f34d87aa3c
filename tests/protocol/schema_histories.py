"""Histories in collections that have a schema: updates that win over deletes (SPEC 4), rules and versions (SPEC 17).

Written by hand from the specification, as those of `make_merge_vectors`, which writes the files of both.
"""

from typing import Any

from tests.protocol.merge_steps import (
    CREATE,
    DELETE,
    LEASE,
    MADE,
    Histories,
    Json,
    R,
    amounts,
    c,
    deleted,
    delta,
    doc,
    nick,
    on,
    patch,
    reg,
    reset,
    stock,
)

WINS = {"note": {"collection": "notes", "update_wins": True}}
MADE_TO_WIN = {**MADE, "schemas": WINS}
HELD = c("A", 0, "applied", CREATE, reg("a"), nick("ann"), schemas=WINS)
OTHER_CREATE = ["create", "others", "n1"]
TAKE = [["create", "notes", "n2"], ["unique", "notes", "n2", "nick", "ann"]]

V1, V2, V3 = {"schema": 1}, {"schema": 2}, {"schema": 3}
NOTE: Json = {
    "collection": "notes", "version": 2, "other_fields": False,
    "fields": {
        "title": {"type": "reg", "required": True, "values": ["text"], "bytes_max": 10},
        "state": {"type": "reg", "one_of": ["draft", "shown"]},
        "count": {"type": "counter", "minimum": -1, "maximum": 3},
        "top": {"type": "max", "values": ["integer"], "minimum": 0, "maximum": 9},
        "tags": {"type": "set", "items_max": 2},
        "any": {"items_max": 2},
    },
    "step": [{"to": 2, "renamed": {"name": "title"}, "defaults": {"state": "draft"}}],
}  # fmt: skip
# Fields that were renamed twice, and others that came with each version.
LATER: Json = {
    "collection": "notes", "version": 3,
    "fields": {"heading": {"type": "reg"}, "color": {"type": "reg"}, "size": {"type": "reg"}},
    "step": [
        {"to": 2, "renamed": {"name": "title"}, "defaults": {"colour": "red"}},
        {"to": 3, "renamed": {"title": "heading", "colour": "color"}, "defaults": {"size": 1}},
    ],
}  # fmt: skip


def title(value: Any, *more: Any) -> list[Any]:
    return on("reg.set", "title", value, *more)


def add(*tags: str) -> list[list[Any]]:
    return [on("set.add", "tags", tag) for tag in tags]


def why(rule: str, field: str | None = None, version: int = 2) -> Json:
    told = {"name": "note", "version": version, "rule": rule}
    return told if field is None else {**told, "field": field}


def broken(outcome: str, rule: str, field: str, op: int | None, *operations: list[Any]) -> Json:
    """A change of B that the schema refuses."""
    return c("B", 1, outcome, *operations, op=op, schema=why(rule, field))


TITLED = c("A", 0, "applied", CREATE, title("a"), schemas={"note": NOTE})
TITLE = [R, "a"]

WINNING: Histories = {
    "wins-update-revives": (
        "An update that had seen the document and not its delete brings it back with the body it had, for everyone.",
        [MADE_TO_WIN, c("B", 1, "applied", on("reg.set", "g", 1)), c("A", 2, "applied", DELETE),
         c("C", 1, "merged", on("reg.set", "h", 9), met=[[0, "won", 3]])],
        doc(4, f=[R, "a"], g=[R, 1], h=[R, 9]),
        [delta(2, 3, deleted(3)), delta(3, 4, reset(4, f=[R, "a"], g=[R, 1], h=[R, 9])),
         delta(2, 4, reset(4, f=[R, "a"], g=[R, 1], h=[R, 9]))],
    ),
    "wins-update-meets-delete-and-value": (
        "Who revives a document is judged against its body: one operation may meet the delete and a value.",
        [MADE_TO_WIN, c("B", 1, "applied", reg("b"), stamp=2000, now=2000), c("A", 2, "applied", DELETE, now=2500),
         c("C", 1, "merged", reg("c"), stamp=1500, now=3000, met=[[0, "won", 3], [0, "lost", 2]])],
        doc(4, f=[R, "b"]), [delta(3, 4, reset(4, f=[R, "b"]))],
    ),
    "wins-delete-that-has-seen-all": (
        "A delete that has seen everything ends the document, and who has seen the delete cannot update it.",
        [MADE_TO_WIN, c("B", 1, "applied", reg("b")), c("A", 2, "applied", DELETE), c("B", 3, "gone", reg("c"), op=0),
         c("B", 3, "applied", CREATE, on("reg.set", "g", 1)), c("C", 2, "gone", reg("c"), op=0)],
        doc(4, g=[R, 1]), [delta(2, 3, deleted(3)), delta(3, 4, reset(4, g=[R, 1])), delta(2, 4, reset(4, g=[R, 1]))],
    ),
    "wins-delete-that-has-not": (
        "A delete that had not seen an update alters nothing, and is told the latest such change.",
        [MADE_TO_WIN, c("B", 1, "applied", reg("b")), c("D", 2, "applied", on("reg.set", "g", 1)),
         c("C", 1, "noop", DELETE, met=[[0, "lost", 3]]), c("C", 2, "noop", DELETE, met=[[0, "lost", 3]]),
         c("C", 3, "applied", DELETE)],
        {}, [delta(3, 4), delta(4, 5), delta(5, 6, deleted(6)), delta(2, 6, deleted(6))],
    ),
    "wins-two-deletes": (
        "Who has seen one of the deletes revives nothing. Makers stay, so who saw a delete that lost may update again.",
        [MADE_TO_WIN, c("A", 1, "applied", DELETE), c("B", 1, "noop", DELETE),
         c("B", 1, "gone", reg("b"), op=0), c("D", 2, "gone", reg("d"), op=0), c("A", 1, "gone", reg("a2"), op=0),
         c("C", 1, "merged", on("reg.set", "g", 1), met=[[0, "won", 2]]),
         c("D", 2, "applied", on("reg.set", "h", 1))],
        doc(5, f=[R, "a"], g=[R, 1], h=[R, 1]), [delta(4, 5, patch(5, h=[R, 1]))],
    ),
    "wins-delete-of-a-body": (
        "A delete that comes when the document is deleted already is judged as if it lived.",
        [MADE_TO_WIN, c("B", 1, "applied", reg("b")), c("A", 2, "applied", DELETE),
         c("C", 1, "noop", DELETE, met=[[0, "lost", 2]]),
         c("C", 1, "merged", on("reg.set", "g", 1), met=[[0, "won", 3]])],
        doc(5, f=[R, "b"], g=[R, 1]), [],
    ),
    "wins-delete-needs-every-maker": (
        "A delete that does not know a maker alters nothing, as elsewhere.",
        [MADE_TO_WIN, c("B", 0, "merged", CREATE, on("reg.set", "g", 1), met=[[0, "maker", 1]]),
         c("C", 1, "noop", DELETE, met=[[0, "maker", 2]])],
        doc(2, f=[R, "a"], g=[R, 1]), [],
    ),
    "wins-create-revives": (
        "A `create` of who knew the document and none of its deletes goes on with it; of who knew it not, it is new.",
        [MADE_TO_WIN, c("A", 1, "applied", DELETE), c("B", 1, "merged", CREATE, met=[[0, "won", 2]]),
         c("B", 3, "applied", DELETE), c("C", 0, "applied", CREATE, on("reg.set", "g", 1))],
        doc(5, g=[R, 1]), [delta(2, 3, reset(3, f=[R, "a"])), delta(4, 5, reset(5, g=[R, 1]))],
    ),
    "wins-to-revive-is-to-write": (
        "A delete that had not seen that the document was revived alters nothing, whatever was written by that.",
        [MADE_TO_WIN, c("A", 1, "applied", DELETE), c("B", 1, "merged", CREATE, met=[[0, "won", 2]]),
         c("C", 2, "noop", DELETE, met=[[0, "lost", 3]])],
        doc(3, f=[R, "a"]), [delta(3, 4)],
    ),
    "wins-expect-revives-nothing": (
        "`expect` does not pass if the delete was not seen, and revives nothing; an earlier operation may do so.",
        [MADE_TO_WIN, c("A", 1, "applied", DELETE), c("B", 1, "precondition", on("expect", "f"), op=0),
         c("B", 2, "noop", on("expect", "f")), c("C", 1, "precondition", on("expect", "f"), reg("c"), op=0),
         c("C", 1, "merged", reg("c"), on("expect", "f"), met=[[0, "won", 2]])],
        doc(4, f=[R, "c"]), [],
    ),
    "wins-all-or-nothing": (
        "A change that is refused later on has revived nothing.",
        [MADE_TO_WIN, c("A", 1, "applied", DELETE),
         c("C", 1, "type_mismatch", on("reg.set", "g", 1), on("counter.inc", "f", 1), op=1),
         c("D", 1, "merged", reg("d"), met=[[0, "won", 2]])],
        doc(3, f=[R, "d"]), [],
    ),
    "wins-in-its-collection-alone": (
        "In collections without such a schema an update that had not seen the delete is gone.",
        [c("A", 0, "applied", CREATE, OTHER_CREATE, schemas={"other": {"collection": "others", "update_wins": True}}),
         c("A", 1, "applied", DELETE, ["delete", "others", "n1"]), c("B", 1, "gone", reg("b"), op=0),
         c("B", 1, "merged", ["reg.set", "others", "n1", "f", 1], met=[[0, "won", 2]])],
        {"others/n1": {"rev": 3, "fields": {"f": [R, 1]}}}, [],
    ),
    "wins-keys-of-a-body": (
        "A document that was deleted keeps its unique keys while it may be revived; a new incarnation holds nothing.",
        [HELD, c("A", 1, "applied", DELETE), c("B", 2, "precondition", *TAKE, op=1, holder=["notes", "n1"]),
         c("C", 1, "merged", on("reg.set", "g", 1), met=[[0, "won", 2]]),
         c("B", 3, "precondition", *TAKE, op=1, holder=["notes", "n1"]), c("A", 3, "applied", DELETE),
         c("A", 4, "applied", CREATE), c("B", 5, "applied", *TAKE)],
        {**doc(5), "notes/n2": {"rev": 6, "fields": {}}}, [],
    ),
    "wins-until-all-know": (
        "When every device has acknowledged the delete, the body is gone, and so are its keys.",
        [HELD, c("B", 1, "noop", on("expect", "f")), c("A", 1, "applied", DELETE),
         {**c("B", 3, "applied", *TAKE), "acknowledged": 3}, c("C", 1, "gone", reg("late"), op=0),
         c("C", 1, "gone", CREATE, op=0)],
        {"notes/n2": {"rev": 4, "fields": {}}}, [delta(3, 4, ["notes", "n2", 4, 1, {}])],
    ),
}  # fmt: skip

RULES: Histories = {
    "schema-rules": (
        "A change that breaks a rule is refused whole; the outcome says what kind of thing is wrong, the detail which.",
        [TITLED,
         broken("type_mismatch", "type", "title", 1, on("flag.enable", "any"), on("mv.set", "title", "x")),
         broken("invalid", "values", "title", 0, title(1)),
         broken("too_large", "bytes_max", "title", 0, title("eleven byte")),
         broken("invalid", "one_of", "state", 1, title("b"), on("reg.set", "state", "gone")),
         broken("invalid", "other_fields", "colour", 0, on("reg.set", "colour", 1)),
         broken("invalid", "minimum", "top", 0, on("max.put", "top", -1)),
         broken("invalid", "maximum", "top", 0, on("max.put", "top", 10)),
         broken("too_large", "items_max", "any", 0, on("mv.set", "any", [1, 2, 3])),
         broken("invalid", "maximum", "count", None, on("counter.inc", "count", 4)),
         broken("invalid", "minimum", "count", None, on("counter.inc", "count", -2)),
         broken("too_large", "items_max", "tags", None, *add("x", "y", "z")),
         broken("invalid", "required", "title", None, on("reg.unset", "title")),
         c("B", 1, "invalid", ["create", "notes", "n2"], op=None, schema=why("required", "title")),
         c("B", 1, "applied", title("b"), on("reg.set", "state", "shown"), *add("x", "y"))],
        doc(2, title=[R, "b"], state=[R, "shown"], tags=["set", ["x", "y"]]),
        [delta(1, 2, patch(2, title=[R, "b"], state=[R, "shown"], tags=["set", ["x", "y"]]))],
    ),
    "schema-judges-what-is-left-behind": (
        "A change may pass through what it may not leave behind: sums, numbers of items and required fields.",
        [TITLED,
         c("B", 1, "applied", on("counter.inc", "count", 9), on("counter.inc", "count", -6)),
         c("B", 1, "applied", *add("x", "y", "z"), on("set.remove", "tags", "y")),
         c("B", 1, "applied", on("reg.unset", "title"), title("b")),
         c("B", 1, "invalid", on("reg.set", "state", "gone"), on("reg.set", "state", "draft"), op=0,
           schema=why("one_of", "state"))],
        doc(4, title=[R, "b"], count=["counter", 3], tags=["set", ["x", "z"]]), [],
    ),
    "schema-judges-the-merged-state": (
        "What counts is what the change leaves behind where it arrives, not what its author saw.",
        [TITLED, c("B", 1, "applied", on("counter.inc", "count", 2), *add("x", "y")),
         c("C", 1, "invalid", on("counter.inc", "count", 2), op=None, schema=why("maximum", "count")),
         c("C", 1, "too_large", *add("z"), op=None, schema=why("items_max", "tags")),
         c("C", 1, "applied", on("counter.inc", "count", 1)), c("C", 1, "noop", *add("x"))],
        doc(3, title=TITLE, count=["counter", 3], tags=["set", ["x", "y"]]), [],
    ),
    "schema-leaves-what-it-finds": (
        "A change answers for what it writes: what was there before the rules stays, and may only come nearer to them.",
        [c("A", 0, "applied", CREATE, on("reg.set", "state", "odd"), on("counter.inc", "count", 9), *add("x", "y", "z"),
           on("reg.set", "colour", 1)),
         {**c("B", 1, "applied", on("reg.set", "state", "shown")), "schemas": {"note": NOTE}},
         c("B", 1, "invalid", on("reg.set", "state", "odd"), op=0, schema=why("one_of", "state")),
         c("B", 1, "applied", on("counter.inc", "count", -2)),
         c("B", 1, "invalid", on("counter.inc", "count", 1), op=None, schema=why("maximum", "count")),
         c("B", 1, "too_large", *add("v"), op=None, schema=why("items_max", "tags")),
         c("B", 1, "applied", on("set.remove", "tags", "x"), *add("v")),
         c("B", 1, "applied", on("reg.unset", "colour")),
         c("B", 1, "applied", title("t")),
         c("B", 1, "invalid", on("reg.unset", "title"), op=None, schema=why("required", "title")),
         c("B", 1, "applied", DELETE)],
        {}, [delta(6, 7, deleted(7)), delta(1, 2, patch(2, state=[R, "shown"])), delta(4, 5, patch(5, colour=None)),
             delta(3, 4, patch(4, tags=["set", ["v", "y", "z"]]))],
    ),
    "schema-keeps-promises": (
        "`take`, `give`, `refund` of a stock, `expect`, `unique` and `delete` are never refused by a schema.",
        [c("A", 0, "applied", CREATE, title("a"), stock("restock", 5)),
         c("B", 1, "applied", stock("lease", LEASE, 3, None)),
         {**c("B", 1, "applied", stock("take", 1, LEASE)), "schemas": {"note": NOTE}},
         c("B", 1, "applied", stock("give", LEASE, 2)), c("C", 1, "applied", stock("take", 1, None)),
         c("C", 1, "applied", stock("refund", 1)), c("B", 1, "noop", on("expect", "colour")),
         c("B", 1, "noop", nick("x")),
         c("B", 1, "invalid", stock("restock", 1), op=0, schema=why("other_fields", "q"))],
        doc(6, title=TITLE, q=amounts(4, 0, 1, 5)), [],
    ),
    "schema-judges-operations-in-order": (
        "The first operation that cannot take effect refuses the change, whether a schema or the state is the reason.",
        [TITLED, c("B", 0, "gone", title("b"), on("reg.set", "state", "odd"), op=0),
         c("B", 1, "invalid", on("reg.set", "state", "odd"), ["reg.set", "notes", "n2", "title", "b"], op=0,
           schema=why("one_of", "state")),
         c("B", 0, "precondition", on("expect", "title"), on("reg.set", "state", "odd"), op=0),
         c("B", 1, "gone", *add("x", "y", "z"), ["reg.set", "notes", "n2", "title", "b"], op=3)],
        doc(1, title=TITLE), [],
    ),
    "schema-other-collections-are-free": (
        "A schema holds in its collection alone.",
        [TITLED, c("A", 1, "applied", ["create", "others", "n1"], ["reg.set", "others", "n1", "title", 1, V1])],
        {**doc(1, title=TITLE), "others/n1": {"rev": 2, "fields": {"title": [R, 1]}}}, [],
    ),
}  # fmt: skip

VERSIONS: Histories = {
    "schema-older-version-is-upcast": (
        "A change of an older version is read as one of the present: renamed fields, and defaults for what it makes.",
        [c("A", 0, "applied", [*CREATE, V1], on("reg.set", "name", "ann", V1), schemas={"note": NOTE}),
         c("B", 1, "applied", on("reg.set", "name", "bob", V1)),
         c("C", 1, "precondition", on("expect", "name", V1), op=0), c("C", 2, "noop", on("expect", "name", V1)),
         c("C", 2, "invalid", on("reg.set", "name", 7, V1), op=0, schema=why("values", "title")),
         c("C", 2, "type_mismatch", on("counter.inc", "name", 1, V1), op=0, schema=why("type", "title"))],
        doc(2, title=[R, "bob"], state=[R, "draft"]),
        [delta(0, 1, reset(1, title=[R, "ann"], state=[R, "draft"])), delta(1, 2, patch(2, title=[R, "bob"]))],
    ),
    "schema-versions-are-of-operations": (
        "Each operation says its own version; one without any, or with a later one, is judged by the present rules.",
        [c("A", 0, "applied", [*CREATE, V2], title("a", V2), schemas={"note": NOTE}),
         c("B", 1, "invalid", on("reg.set", "name", "b"), op=0, schema=why("other_fields", "name")),
         c("B", 1, "invalid", on("reg.set", "name", "b", V2), op=0, schema=why("other_fields", "name")),
         c("B", 1, "invalid", title("b", V3), on("reg.set", "heading", "b", V3), op=1,
           schema=why("other_fields", "heading")),
         c("B", 1, "applied", title("b"), on("reg.set", "name", "c", V1)), c("B", 1, "applied", title("d", V3))],
        doc(3, title=[R, "d"]), [],
    ),
    "schema-defaults-give-way": (
        "A default is for a document that the change makes, and for a field that it does not write.",
        [c("A", 0, "applied", CREATE, title("a"), on("reg.set", "state", "shown"), schemas={"note": NOTE}),
         c("B", 0, "merged", [*CREATE, V1], on("reg.set", "name", "b", V1), met=[[0, "maker", 1], [1, "won", 1]]),
         c("A", 2, "applied", DELETE),
         c("B", 3, "applied", [*CREATE, V1], on("reg.set", "state", "shown", V1), on("reg.set", "name", "n", V1)),
         c("B", 3, "applied", DELETE),
         c("B", 3, "applied", [*CREATE, V1], on("reg.set", "name", "m", V1), on("reg.set", "state", "shown"))],
        doc(6, title=[R, "m"], state=[R, "shown"]),
        [delta(1, 2, patch(2, title=[R, "b"])), delta(3, 4, reset(4, title=[R, "n"], state=[R, "shown"]))],
    ),
    "schema-second-maker": (
        "Who makes what another has made makes no document: nothing is required of it, and it gives no defaults.",
        [TITLED, c("B", 0, "merged", [*CREATE, V1], *add("t"), met=[[0, "maker", 1]])],
        doc(2, title=TITLE, tags=["set", ["t"]]), [delta(1, 2, patch(2, tags=["set", ["t"]]))],
    ),
    "schema-several-creates": (
        "Of several creates of a document in one change, the one by which it is made says which defaults it gets.",
        [c("A", 0, "applied", [*CREATE, V1], title("a"), CREATE, schemas={"note": NOTE}),
         c("A", 1, "applied", DELETE, CREATE, title("b"), [*CREATE, V1]),
         c("A", 2, "applied", on("reg.set", "state", "shown"), DELETE, [*CREATE, V1], title("c"))],
        doc(3, title=[R, "c"], state=[R, "draft"]),
        [delta(0, 1, reset(1, title=TITLE, state=[R, "draft"])), delta(1, 2, reset(2, title=[R, "b"])),
         delta(2, 3, reset(3, title=[R, "c"], state=[R, "draft"]))],
    ),
    "schema-through-all-versions": (
        "From version to version: a field that was renamed twice has its last name, also one that a default gave.",
        [c("A", 0, "applied", [*CREATE, V1], on("reg.set", "name", "a", V1), schemas={"note": LATER}),
         c("B", 0, "applied", ["create", "notes", "n2", V2], ["reg.set", "notes", "n2", "title", "b", V2],
           ["reg.set", "notes", "n2", "name", "other", V2]),
         c("C", 0, "applied", ["create", "notes", "n3", V1], ["reg.set", "notes", "n3", "colour", "blue", V1]),
         c("D", 1, "applied", on("reg.set", "title", "d", V1)), c("D", 1, "applied", on("reg.set", "name", "e"))],
        {**doc(5, heading=[R, "d"], color=[R, "red"], size=[R, 1], name=[R, "e"]),
         "notes/n2": {"rev": 2, "fields": {"heading": [R, "b"], "name": [R, "other"], "size": [R, 1]}},
         "notes/n3": {"rev": 3, "fields": {"color": [R, "blue"], "size": [R, 1]}}}, [],
    ),
    "schema-unique-names-are-not-renamed": (
        "The name of a unique key is no field.",
        [c("A", 0, "applied", [*CREATE, V1], on("reg.set", "name", "a", V1), on("unique", "name", "k", V1),
           schemas={"note": NOTE}),
         c("B", 0, "precondition", ["create", "notes", "n2"], ["reg.set", "notes", "n2", "title", "b"],
           ["unique", "notes", "n2", "name", "k"], op=2, holder=["notes", "n1"]),
         c("B", 0, "applied", ["create", "notes", "n2"], ["reg.set", "notes", "n2", "title", "b"],
           ["unique", "notes", "n2", "title", "k"])],
        {**doc(1, title=TITLE, state=[R, "draft"]), "notes/n2": {"rev": 2, "fields": {"title": [R, "b"]}}}, [],
    ),
    "schema-too-old-and-never-refused": (
        "What a schema never refuses is not refused for its version either; it is read by the steps that are known.",
        [c("A", 0, "applied", CREATE, title("a"), stock("restock", 5), on("reg.set", "name", "x")),
         c("B", 1, "applied", stock("lease", LEASE, 3, None)),
         {**c("B", 1, "applied", [*stock("take", 1, LEASE), V1]), "schemas": {"note": {**NOTE, "oldest": 2}}},
         c("B", 1, "applied", [*stock("give", LEASE, 2), V1], [*stock("refund", 1), V1]),
         c("C", 1, "applied", title("c", V2)), c("B", 4, "precondition", on("expect", "name", V1), op=0),
         c("B", 5, "noop", on("expect", "name", V1), on("unique", "nick", "b", V1)),
         c("B", 5, "applied", [*DELETE, V1])],
        {}, [],
    ),
    "schema-too-old": (
        "A version before the oldest that is taken is refused; whether it is taken is the server's of that moment.",
        [c("A", 0, "invalid", [*CREATE, V1], on("reg.set", "name", "a", V1), op=0, schema=why("oldest"),
           schemas={"note": {**NOTE, "oldest": 2}}),
         c("A", 0, "invalid", CREATE, title("a"), on("reg.set", "state", "draft", V1), op=2, schema=why("oldest")),
         c("A", 0, "applied", [*CREATE, V2], title("a")),
         c("B", 0, "invalid", title("b", V2), on("reg.set", "name", "b", V1), op=1, schema=why("oldest")),
         {**c("B", 1, "applied", on("reg.set", "name", "b", V1)), "schemas": {"note": NOTE}}],
        doc(2, title=[R, "b"]), [],
    ),
}  # fmt: skip

SCHEMA_HISTORIES: Histories = {**WINNING, **RULES, **VERSIONS}
