"""Targets: what devices write as updates of a `text`, and what becomes of it on the server and in editors."""

from functools import cache
from itertools import pairwise
from random import Random
from typing import Any

from pycrdt import Doc, Text

from syncd.app.texts import merged
from syncd.core.texts import Merging
from syncd.store import fsck, keys
from syncd.store.tables import DOCUMENTS
from syncd_client.editing import ROOT, TextEditor
from syncd_client.errors import UnreadableText
from syncd_client.texts import shortened
from tests.engine.kit import Daemon, device, nonce
from tests.fuzz.runner import Target
from tests.oracle.replica import Replica

UPDATES_MAX = 12  # of one input
DEVICES = (device(1), device(2), device(3))
READER = device(9)


class Field:
    """What an editor needs of a text: updates in their order, and a place for its own."""

    def __init__(self, updates: list[bytes]) -> None:
        self.held = updates

    def updates(self) -> list[bytes]:
        return self.held

    def update(self, *updates: bytes) -> None:
        self.held = [*self.held, *updates]


def shown(updates: list[bytes]) -> str | None:
    """What an editor shows that loads these; None if it says that it cannot."""
    try:
        return str(TextEditor(Field(updates)))  # type: ignore[arg-type]
    except UnreadableText as refused:
        assert str(refused)
        return None


def stored(daemon: Daemon) -> list[tuple[int, bytes]]:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        row = DOCUMENTS.get(tx, keys.document(daemon.row().id, "notes", "n1"))
    assert row is not None
    return [(seq, update) for seq, update in row.fields["body"].state[1]]


def written(updates: list[bytes], merge: Merging | None, draw: Random) -> tuple[list[tuple[int, bytes]], Replica]:
    """What a server holds to whom devices wrote these, and what a device has that caught up now and then."""
    daemon, replica = Daemon(merging=merge), Replica()
    attached = daemon.attach(READER)
    counts = [0] * len(DEVICES)
    for index, update in enumerate(updates):
        number = draw.randrange(len(DEVICES))
        counts[number] += 1
        operations = [["create", "notes", "n1"]] if index == 0 else []
        operations.append(["text.update", "notes", "n1", "body", update])
        change = [counts[number], nonce(counts[number]), index, 0, operations]
        (entry,) = daemon.push(DEVICES[number], change).outcomes
        assert (entry.outcome, entry.seq) == ("applied", index + 1), entry
        if draw.random() < 0.3:
            daemon.catch_up(replica, attached)
    daemon.catch_up(replica, attached)
    assert not daemon.alarms, daemon.alarms
    return stored(daemon), replica


def check_text(data: bytes) -> None:
    """Updates, each behind two bytes of length; the first byte of all draws who writes, and who reads when."""
    updates, rest = [], data[1:]
    while len(rest) > 2 and len(updates) < UPDATES_MAX:
        size = max(1, int.from_bytes(rest[:2]))
        updates.append(rest[2 : 2 + size])
        rest = rest[2 + size :]
    if not updates:
        return
    draw = data[0]
    plain, reader = written(updates, None, Random(draw))
    assert plain == [(seq, update) for seq, update in enumerate(updates, 1)], "an update is lost or out of order"
    assert held_by(reader) == updates, "a reader has not what was written"
    folding, other = written(updates, Merging(merged, 4, 1), Random(draw))
    seqs = [seq for seq, _ in folding]
    assert seqs == sorted(seqs) and seqs[-1] == len(updates)
    kept = [item for item in folding if item in plain]
    assert folding[len(folding) - len(kept) :] == kept, "what is not merged stays as it was, behind what is"
    wanted = shown(updates)
    for name, others in (
        ("the server merged", [update for _, update in folding]),
        ("a reader has", held_by(other)),
        ("a device merged", [update for _, update in shortened([[seq, update] for seq, update in plain], 0)]),
    ):
        # What no editor reads may become readable once it is merged with others: nobody has shown anything else.
        assert wanted is None or shown(others) == wanted, f"what {name} is shown as {shown(others)!r}, not {wanted!r}"


def held_by(replica: Replica) -> list[bytes]:
    return [update for _, update in replica.documents["notes", "n1"][1]["body"][1][1]]


# -- seeds: real updates ----------------------------------------------------------------------------------------------


def framed(updates: list[bytes], draw: int = 0) -> bytes:
    return bytes((draw,)) + b"".join(len(update).to_bytes(2) + update for update in updates)


def edited(seed: int, writers: int, edits: int) -> list[bytes]:
    """What some writers made of one text, each seeing the others' now and then; in an order in which it may come."""
    draw = Random(seed)
    docs: list[Any] = [Doc(client_id=seed * 10 + number + 1) for number in range(writers)]
    made: list[bytes] = []
    for _ in range(edits):
        doc = draw.choice(docs)
        if draw.random() < 0.6:
            for update in made:
                doc.apply_update(update)
        before, text = doc.get_state(), doc.get(ROOT, type=Text)
        places = [0, *(len(str(text)[:at].encode()) for at in range(1, len(str(text)) + 1))]
        at = draw.choice(places)
        if draw.random() < 0.3 and len(places) > 2:
            start, stop = draw.choice(list(pairwise(places)))
            del text[start:stop]
        else:
            text.insert(at, draw.choice(("a", "word ", "é", "𝄞", "\n", "longer text than others ")))
        made.append(doc.get_update(before))
    return made


def var(number: int) -> bytes:
    """A number as Yjs writes it."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def nested(depth: int) -> bytes:
    """An update that inserts a value: so many arrays in each other."""
    return b"\x01\x01\x01\x00\x08\x01\x01t\x01" + depth * b"\x75\x01" + b"\x7e\x00"


# Two updates, found by fuzzing: the library panics when it loads the second on the first, and merges them to the first.
PANIC = tuple(map(bytes.fromhex, ("01013f0004010474657874016100", "01013f05c43d0c3d8180000000000d01")))


@cache
def seeds() -> tuple[bytes, ...]:
    found = [framed(edited(seed, writers, edits), seed) for seed, writers, edits in (
        (1, 1, 3), (2, 1, 10), (3, 2, 6), (4, 2, 12), (5, 3, 9), (6, 3, 12),
    )]  # fmt: skip
    late = edited(7, 2, 8)
    found.append(framed(late[::-1], 7))  # those that others rest on come last
    found.append(framed([*late[:4], b"\x00\x00", b"no update", *late[4:]], 8))
    found.append(framed([late[0], late[0], *late, late[1]], 9))
    found.append(framed([*late[:2], *PANIC, *late[2:]], 11))
    odd = (b"\xf4\x90\x80\x80\x01" + bytes(4), b"\x00" + var(1 << 28), nested(20), nested(15))
    found.extend(framed([*late[:5], each, *late[5:]], 12) for each in odd)
    other: Any = Doc(client_id=99)
    other["text"] = Text("twice")
    found.append(framed([*late[:3], other.get_update()], 10))
    return tuple(found)


TARGETS = (
    Target("text", "kept in order; merged means the same; editors show the same, or say they cannot",
           lambda: list(seeds()), check_text, 100),
)  # fmt: skip
