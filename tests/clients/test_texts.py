"""Texts on a device: an editor keeps what its person sees, whatever was refused, and others can read what it sends."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd_client import InvalidInput, Space, UnreadableText, replica
from syncd_client import messages as m
from syncd_client.store import Store
from syncd_client.sums import document_sum, sum_bytes
from syncd_client.tables import DocumentRow
from syncd_client.texts import joined as grown
from syncd_client.texts import rev_of, shortened
from syncd_client.yjs import checked

from . import peer as p
from .peer import SPACE, Peer
from .test_device import device_at, joined

pycrdt = pytest.importorskip("pycrdt", reason="pycrdt is not there: texts are not edited")
editing = pytest.importorskip("syncd_client.editing")


def update_of(text: str) -> bytes:
    doc = pycrdt.Doc()
    doc.get("text", type=pycrdt.Text).insert(0, text)
    return bytes(doc.get_update())


def shown_by(*updates: bytes) -> str:
    """What another Yjs library makes of updates."""
    doc = pycrdt.Doc()
    for update in updates:
        doc.apply_update(update)
    return str(doc.get("text", type=pycrdt.Text))


def editor_of(space: Space) -> Any:
    return editing.TextEditor(space.text_field("notes", "n1", "body"))


async def test_an_editor_says_that_it_cannot_show_a_text_and_keeps_what_it_showed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    peer, first = Peer(), update_of("base")
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, 1)
        await wire.delta(0, 1, [["notes", "n1", 1, 1, {"body": ["text", [0, [[1, first]]]]}]])
        await space.wait_complete()
        editor = editor_of(space)
        await wire.delta(1, 2, [["notes", "n1", 2, 0, {"body": ["text", [1, [[2, b"no update"]]]]}]])
        await device.wait_until(lambda: len(space.text_field("notes", "n1", "body").updates()) == 2)
        for ask in (editor.refresh, lambda: editor_of(space)):
            with pytest.raises(UnreadableText, match="update 2 of the text"):
                ask()
        assert str(editor) == "base"
        assert space.text_field("notes", "n1", "body").updates() == [first, b"no update"]


async def test_what_was_refused_is_made_anew_under_another_client_id(tmp_path: Path, autojump_clock: MockClock) -> None:
    peer, first = Peer(), update_of("base")
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, 1)
        await wire.delta(0, 1, [["notes", "n1", 1, 1, {"body": ["text", [0, [[1, first]]]]}]])
        await space.wait_complete()
        editor = editor_of(space)
        before = editor.client_id
        editor.insert(4, " móre")
        refused = editor.commit()
        editor.insert(0, "a ")
        later = editor.commit()
        answers = []
        while len(answers) < 2:
            for n, nonce, *_, operations in (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"]:
                answers.append([n, nonce, *(("too_large", None) if n == 1 else ("applied", 2))])
                second = operations[0][4]
        await wire.outcomes(*answers)
        assert (await refused.outcome()).seq is None
        assert (await later.outcome()).seq == 2
        assert shown_by(first, second) in ("base", "a base"), "what follows a gap may be shown, or wait for ever"
        editor.refresh()
        assert str(editor) == "a base móre"
        assert editor.client_id != before
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert shown_by(first, second, push["changes"][0][4][0][4]) == "a base móre"
        assert editor.commit() is None, "nothing is made twice"
        await wire.outcomes([3, push["changes"][0][1], "applied", 3])
        await wire.delta(
            1, 3, [["notes", "n1", 3, 0, {"body": ["text", [1, [[2, second], [3, push["changes"][0][4][0][4]]]]]}]]
        )
        await space.wait_settled()
        assert str(editor_of(space)) == "a base móre"
        assert not editor.refresh()


async def test_a_text_that_is_there_again_as_it_was_is_gone_on_with_under_another_client_id(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its document was deleted and made anew with earlier updates: later ones of this id would wait for ever."""
    peer, first = Peer(), update_of("base")
    async with device_at(tmp_path, peer) as device:
        space = device.space(SPACE)
        space.subscribe()
        wire = await joined(peer, 1)
        await wire.delta(0, 1, [["notes", "n1", 1, 1, {"body": ["text", [0, [[1, first]]]]}]])
        await space.wait_complete()
        editor = editor_of(space)
        before = editor.client_id
        editor.insert(4, " more")
        made = editor.commit()
        ((n, nonce, *_, operations),) = (await wire.expect(p.PUSH, skipping=(p.ACK,)))["changes"]
        await wire.outcomes([n, nonce, "applied", 2])
        assert (await made.outcome()).seq == 2
        await wire.delta(1, 2, [["notes", "n1", 2, 0, {"body": ["text", [1, [[2, operations[0][4]]]]]}]])
        await wire.delta(2, 3, [["notes", "n1", 3, 2, {}]])
        await wire.delta(3, 4, [["notes", "n1", 4, 1, {"body": ["text", [0, [[4, first]]]]}]])
        await device.wait_until(lambda: space.text_field("notes", "n1", "body").updates() == [first])
        assert str(editor_of(space)) == "base"
        editor.refresh()
        assert str(editor) == "base more" and editor.client_id != before
        push = await wire.expect(p.PUSH, skipping=(p.ACK,))
        assert shown_by(first, push["changes"][0][4][0][4]) == "base more"


async def test_an_editor_is_an_editor_of_texts(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with device_at(tmp_path, Peer(), online=False) as device:
        space = device.space(SPACE)
        space.create("notes", "n1", {"title": "reg"})
        with pytest.raises(InvalidInput, match="title is a reg, not a text"):
            space.text_field("notes", "n1", "title").updates()
        with pytest.raises(InvalidInput, match="at least one"):
            space.text_field("notes", "n1", "body").update(b"")
        editor = editor_of(space)
        assert editor.commit() is None
        editor.insert(0, "hi 😀 you")
        editor.commit()
        editor.delete(3, 2)
        assert editor.commit() is not None, "a deletion is an edit, too"
        assert editor.commit() is None
        assert str(editor_of(space)) == "hi you"


@pytest.mark.parametrize("seed", range(10))
async def test_two_that_edit_offline_come_to_one_text(seed: int, tmp_path: Path, autojump_clock: MockClock) -> None:
    random = Random(seed)
    fields = []
    async with (
        device_at(tmp_path / "a", Peer(), online=False) as a,
        device_at(tmp_path / "b", Peer(), online=False) as b,
    ):
        for device in (a, b):
            device.space(SPACE).create("notes", "n1")
            fields.append(device.space(SPACE).text_field("notes", "n1", "body"))
        editors, sent = [editing.TextEditor(field) for field in fields], [0, 0]
        for _ in range(40):
            who = random.randrange(2)
            editor = editors[who]
            if str(editor) and random.random() < 0.3:
                at = random.randrange(len(str(editor)))
                editor.delete(at, random.randint(1, len(str(editor)) - at))
            else:
                editor.insert(random.randint(0, len(str(editor))), random.choice(("a", "é", "😀b")))
            if random.random() < 0.5:
                editor.commit()
            if random.random() < 0.1:
                editors[who] = editing.TextEditor(fields[who]) if editor.commit() is None else editor
            if random.random() < 0.2:
                given = fields[1 - who].updates()[sent[1 - who] :]
                sent[1 - who] += len(given)
                if given:
                    fields[who].update(*given)
                editor.refresh()
        for who in (0, 1, 0, 1):
            editors[who].commit()
            given = fields[1 - who].updates()
            if given:
                fields[who].update(*given)
            editors[who].refresh()
        assert str(editors[0]) == str(editors[1]) == shown_by(*fields[0].updates(), *fields[1].updates())


updates = st.lists(st.integers(1, 3), min_size=1, max_size=12)


@given(updates, st.data())
def test_what_is_told_twice_is_kept_once(sizes: list[int], data: st.DataObject) -> None:
    every = [[seq, bytes([seq, i])] for seq, size in enumerate(sizes, 1) for i in range(size)]
    kept = None
    has = 0
    while has < len(sizes):
        told_from, to = data.draw(st.integers(0, has)), data.draw(st.integers(has + 1, len(sizes)))
        whole_from = told_from if kept else 0  # nothing is before it
        kept = grown(kept, [whole_from, [item for item in every if told_from < item[0] <= to]])
        has = to
        assert kept == [0, [item for item in every if item[0] <= has]]
        assert rev_of(kept) == has


@pytest.mark.parametrize("is_all_lost", (True, False))
def test_what_follows_a_part_that_was_lost_is_not_taken_for_the_whole(tmp_path: Path, is_all_lost: bool) -> None:
    """All that is left of the document changes, so nothing else of it tells that it is not what it was."""
    store = Store(tmp_path, entropy=os.urandom, durability="off")
    first, last = [2, b"one"], [4, b"two"]
    flag, epoch = {"f": ("flag", True)}, b"E" * 16
    with store.transaction() as tx:
        replica.join(tx, "s")
        replica.take_subscribed(tx, m.Subscribed("s", epoch, 0, 0, "writer", "live"))
        fields = {"t": ("text", [0, [first]]), **flag}
        docs = (m.DocumentEntry("c", "1", 2, m.RESET, fields),)
        replica.take_delta(tx, m.Delta("s", epoch, 0, 0, 2, 2, bytes(8), docs, True))
        if is_all_lost:
            tx.drop_document("s", ("c", "1"))
        else:
            tx.put_document("s", DocumentRow("c", "1", 2, flag))
        total = sum_bytes(document_sum("c", "1", 4, {"t": ("text", [0, [first, last]]), **flag}))
        docs = (m.DocumentEntry("c", "1", 4, m.PATCH, {"t": ("text", [2, [last]]), **flag}),)
        told = m.Delta("s", epoch, 2, 2, 4, 4, bytes(8), docs, True, None, total)
        assert replica.take_delta(tx, told).what == "doubt", "so it compares"
        assert dict(tx.document("s", ("c", "1")).fields) == flag, "and what it compares is not what the server has"
    store.close()


def test_a_long_text_is_kept_short() -> None:
    doc, sent = pycrdt.Doc(), []
    text = doc.get("text", type=pycrdt.Text)
    kept: Any = None
    for seq in range(1, 1_200):
        before = doc.get_state()
        text.insert(0, str(seq % 10))
        sent.append(doc.get_update(before))
        kept = grown(kept, [seq - 1, [[seq, sent[-1]]]])
    assert len(kept[1]) < 1_025
    assert rev_of(kept) == 1_199
    assert shown_by(*(update for _, update in kept[1])) == str(text)


# -- what is looked at before a library reads it ----------------------------------------------------------------------


@cache
def of_all_kinds() -> list[bytes]:
    """Updates with each kind of content that a Yjs document can have, and that pycrdt makes."""
    doc = pycrdt.Doc()
    updates = []

    def made(*edits: Any) -> None:
        for edit in edits:
            before = doc.get_state()
            edit()
            updates.append(bytes(doc.get_update(before)))

    text, array = doc.get("text", type=pycrdt.Text), doc.get("array", type=pycrdt.Array)
    entries, page = doc.get("map", type=pycrdt.Map), doc.get("xml", type=pycrdt.XmlFragment)
    values = [None, True, False, 1, -70, 2**40, 1.5, 1e300, "é𝄞", b"bytes", [1, [2, {"deep": []}]], {"a": {"b": "c"}}]
    made(
        lambda: text.insert(0, "Ein Text", {"bold": True, "size": 1.5}),
        lambda: text.insert_embed(2, {"image": "a.png"}),
        lambda: text.format(1, 4, {"italic": True}),
        lambda: text.clear(),
        lambda: array.extend(values),
        lambda: array.append(pycrdt.Map({"key": pycrdt.Text("in it")})),
        lambda: array.append(pycrdt.Doc()),
        lambda: array.pop(1),
        lambda: entries.update({f"k{number}": value for number, value in enumerate(values)}),
        lambda: entries.update({"array": pycrdt.Array([pycrdt.Array()])}),
        lambda: page.children.append(pycrdt.XmlElement("p", {"class": "x"}, [pycrdt.XmlText("words")])),
    )
    return [*updates, bytes(doc.get_update()), pycrdt.merge_updates(*updates[::2])]


def test_what_a_library_writes_passes_and_no_part_of_it_does() -> None:
    updates = of_all_kinds()
    for update in updates:
        assert checked(update) == update
        for size in range(len(update)):
            with pytest.raises(ValueError, match=r"byte \d+: "):
                checked(update[:size])
        with pytest.raises(ValueError, match="follow the end"):
            checked(update + b"\x00")


@given(st.binary(max_size=60), st.integers(0, 12), st.integers(0, 200))
def test_bytes_that_pass_are_read_or_refused_by_the_library(noise: bytes, which: int, at: int) -> None:
    update = of_all_kinds()[which]
    at %= len(update)
    damaged = update[:at] + noise + update[at + len(noise) :]
    try:
        checked(damaged)
    except ValueError as refused:
        assert str(refused).startswith("byte ")
        return
    with suppress(ValueError):
        pycrdt.Doc().apply_update(damaged)


@pytest.mark.parametrize(
    ("hostile", "why"),
    [
        (b"\xf4\x90\x80\x80\x01\x00", "byte 5: 268437620 clients, and 1 bytes are left"),
        (b"\x01\xff\xff\x03\x01\x00\x00", "65535 structs, and 3 bytes are left"),
        (b"\x00\xff\xff\xff\x7f", "268435455 clients with deletions, and 0 bytes are left"),
        (b"\x01\x01\x01\x00\x08\x01\x01t\xff\xff\xff\x7f", "268435455 values"),
        (b"\x01\x01\x01\x00\x08\x01\x01t\x01" + 30_000 * b"\x75\x01" + b"\x7e\x00", "nested deeper than 16"),
        (11 * b"\xff", "longer than 64 bits"),
        (b"\x01\x01\x01\x00\x0b\x01\x01t\x00", "a content of the kind 11; 1 to 9 are known"),
    ],
)
def test_a_text_with_what_would_take_the_memory_or_end_the_process_is_unreadable(hostile: bytes, why: str) -> None:
    class Field:
        def updates(self) -> list[bytes]:
            return [update_of("before"), hostile]

    with pytest.raises(UnreadableText, match=why) as refused:
        editing.TextEditor(Field())
    assert str(refused.value).startswith("update 2 of the text cannot be read: byte ")
    kept = [[1, update_of("before")], [2, hostile]]
    assert shortened(kept, 1) == kept, "it is not merged, and nothing of it is lost"
