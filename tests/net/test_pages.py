"""Shared pages: what one device is given from memory is what it would have read, and never of another place."""

from types import SimpleNamespace
from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from syncd.engine.commands import Attached
from syncd.engine.reading import Cursor
from syncd.net.formats import FORMATS
from syncd.net.pages import ENTRY_BYTES, Page, Pages
from tests.engine.kit import Daemon, device
from tests.engine.test_pages import Writer, whole
from tests.net.harness import SPACE as ROOM
from tests.net.harness import Client, Mirror, world
from tests.oracle.histories import exact
from tests.oracle.replica import Replica

BIG = 1 << 24
BOB = device(2)


def asked(daemon: Daemon, pages: Pages, cursor: Cursor, number: int = 0) -> Page:
    with daemon.store.read() as tx:
        return pages.page(tx, cursor, FORMATS[number])


def at(attached: Attached, complete: int = 0, resume: int | None = None, start: int | None = None) -> Cursor:
    return Cursor(attached.space, attached.space_id, complete, complete if resume is None else resume, start)


def delta_of(data: bytes) -> Any:
    """What a MessagePack frame says."""
    size = data[1]
    _, body = msgpack.unpackb(data[2 if size < 126 else 4 if size == 126 else 10 :])
    names = {"from_": body["from"], "complete": body.get("complete", False), "start": body.get("start")}
    return SimpleNamespace(**{"sum": None} | body | names)


class Returning:
    """A device that reads what is shared, and looks whether it could have been its own."""

    def __init__(self, daemon: Daemon, pages: Pages, page_bytes: int) -> None:
        self.daemon, self.pages, self.page_bytes = daemon, pages, page_bytes
        self.attached, self.replica = daemon.attach(BOB), Replica()

    def read(self) -> bool:
        """One page; whether it was the last."""
        replica, shared_count = self.replica, self.pages.shared_count
        start = replica.start if replica.complete == 0 else None
        cursor = at(self.attached, replica.complete, replica.resume, start)
        page = asked(self.daemon, self.pages, cursor)
        if page.complete or self.pages.shared_count == shared_count or (start is None and cursor.complete == 0):
            assert page == asked(self.daemon, Pages(BIG, self.page_bytes), cursor), "another page than the store has"
        if page.data:
            delta = delta_of(page.data)
            assert (delta.to, delta.complete, delta.start) == (page.to, page.complete, page.start)
            assert replica.receive(delta)
        return page.complete

    def catch_up(self) -> None:
        while not self.read():
            pass


EVENTS = st.lists(st.tuples(st.sampled_from(("write", "read", "read", "begin")), st.integers(0, 3)), max_size=60)


@given(st.integers(0, 2**32), EVENTS, st.sampled_from((1, 100, 300)), st.sampled_from((ENTRY_BYTES, 3000, BIG)))
def test_devices_that_share_pages_between_any_writes_have_what_the_store_has(
    seed: int, events: list[tuple[str, int]], page_bytes: int, bytes_max: int
) -> None:
    """`Replica` checks the sum of each complete state, `Returning` each last page against one that is read anew."""
    daemon = Daemon()
    writer, pages = Writer(daemon, seed), Pages(bytes_max, page_bytes)
    for _ in range(5):
        writer.anything()
    devices = [Returning(daemon, pages, page_bytes) for _ in range(4)]
    for what, number in events:
        if what == "write":
            writer.anything()
        elif what == "begin":
            devices[number] = Returning(daemon, pages, page_bytes)
        else:
            devices[number].read()
        assert pages.bytes <= bytes_max
    for one in devices:
        one.catch_up()
        assert exact(one.replica.documents) == whole(daemon) and one.replica.complete == daemon.head()


def test_the_second_device_at_a_position_costs_no_reading() -> None:
    daemon = Daemon()
    writer, pages = Writer(daemon), Pages(BIG)
    for _ in range(20):
        writer.anything()
    cursor = at(daemon.attach(BOB), 3)
    first = asked(daemon, pages, cursor)
    assert asked(daemon, pages, cursor) is first
    assert (pages.read_count, pages.shared_count) == (1, 1)
    assert asked(daemon, Pages(BIG), cursor) == first


def test_a_write_between_makes_the_last_page_a_new_one() -> None:
    daemon = Daemon()
    writer, pages = Writer(daemon), Pages(BIG)
    writer.write(["create", "c", "a"], ["reg.set", "c", "a", "x", 1])
    attached = daemon.attach(BOB)
    for cursor in (at(attached), at(attached, 1)):
        asked(daemon, pages, cursor)
        writer.write(["reg.set", "c", "a", "x", daemon.head() + 1])
        page = asked(daemon, pages, cursor)
        assert page.to == daemon.head() and delta_of(page.data).docs[0][4]["x"] == ["reg", daemon.head()]
    assert pages.shared_count == 0


def test_pages_of_other_spaces_positions_formats_and_epochs_are_others() -> None:
    daemon = Daemon()
    writer, pages = Writer(daemon), Pages(BIG, page_bytes=1)
    for name in "abcd":
        writer.write(["create", "c", name])
    daemon.push(device(1), [1, b"12345678", 0, 1, [["create", "c", "z"]]], space="team/other")
    mine, other = daemon.attach(BOB), daemon.attach(BOB, space="team/other")
    cursors = [at(mine), at(mine, 1), at(mine, 1, 2), at(mine, 0, 2, 3), at(mine, 0, 2, 4), at(other)]
    seen = [asked(daemon, pages, cursor, number).data for cursor in cursors for number in range(len(FORMATS))]
    assert pages.shared_count == 0 and pages.read_count == len(seen)
    again = [asked(daemon, pages, cursor, number).data for cursor in cursors for number in range(len(FORMATS))]
    assert again == seen and pages.read_count == len(seen)
    anew = Daemon(seed=1)  # a store with the same names and numbers and another epoch
    Writer(anew).write(["create", "c", "q"])
    page = asked(anew, pages, at(anew.attach(BOB)))
    assert delta_of(page.data).epoch == anew.epoch() != daemon.epoch()


def test_what_is_kept_is_bounded_and_the_page_that_was_used_last_stays() -> None:
    daemon = Daemon()
    writer = Writer(daemon)
    for name in "abcdef":
        writer.write(["create", "c", name], ["reg.set", "c", name, "x", "text" * 100])
    attached = daemon.attach(BOB)
    size = len(asked(daemon, Pages(BIG), at(attached, 5)).data) + ENTRY_BYTES
    pages = Pages(3 * size, page_bytes=1)
    for resume in (1, 2, 3, 1, 4, 1):
        asked(daemon, pages, at(attached, 1, resume))
        assert pages.bytes <= 3 * size
    assert (pages.read_count, pages.shared_count) == (4, 2)
    asked(daemon, pages, at(attached, 1, 2))
    assert pages.read_count == 5, "the one that was not used for longest is gone"


def test_what_nobody_may_have_any_more_is_not_kept() -> None:
    """A soak grew by a megabyte an hour: last pages of heads that had passed, until the cache would be full."""
    daemon = Daemon()
    writer, pages = Writer(daemon), Pages(BIG, page_bytes=300)
    writer.write(["create", "c", "a"], ["reg.set", "c", "a", "x", "text" * 100])
    writer.write(["create", "c", "b"], ["reg.set", "c", "b", "x", "text" * 100])
    attached = daemon.attach(BOB)
    kept = []
    for number in range(30):
        head = daemon.head()
        for cursor in (at(attached), at(attached, head - 1), at(attached, 0, head - 1, head)):
            asked(daemon, pages, cursor)
        kept.append(pages.bytes)
        writer.write(["reg.set", "c", "a", "x", f"{number:04}"])
    assert len(set(kept[2:])) == 1, kept
    one = Pages(1)  # in which nothing can be kept
    for _ in range(2):
        asked(daemon, one, at(attached))
        writer.write(["reg.set", "c", "a", "x", daemon.head()])
    assert one.bytes == 0


def test_nothing_to_say_is_not_kept() -> None:
    daemon = Daemon()
    pages = Pages(BIG)
    page = asked(daemon, pages, at(daemon.attach(BOB)))
    assert (page.data, page.complete, pages.bytes) == (b"", True, 0)


# -- on connections ---------------------------------------------------------------------------------------------------


async def test_returning_devices_get_the_same_bytes_whatever_their_role(autojump_clock: MockClock) -> None:
    async with world() as w:
        writer = await w.client(1)
        await writer.push(*[writer.change(["create", "notes", f"{i}"]) for i in range(50)])
        await writer.expect("outcomes")
        received = []
        for number, role in ((2, "owner"), (3, "reader"), (4, "writer")):
            client = Client(w.connect(), number)
            await client.upgrade()
            await client.greet(w.token(f"u{number}", role))
            mirror = Mirror()
            assert (await client.subscribe())["role"] == role
            mirror.take(message := await client.expect("delta"))
            received.append(message.body)
            assert len(mirror.documents) == 50
        assert received[0] == received[1] == received[2]


async def test_who_may_not_read_gets_no_page_that_lies_ready(autojump_clock: MockClock) -> None:
    async with world() as w:
        writer, reader = await w.client(1), await w.client(2)
        await writer.push(writer.change(["create", "notes", "a"]))
        await writer.expect("outcomes")
        await reader.subscribe()
        await reader.expect("delta")
        stranger = Client(w.connect(), 3)
        await stranger.upgrade()
        await stranger.greet(w.token("stranger", pattern="elsewhere/**"))
        await stranger.send("subscribe", space=ROOM, epoch=None, complete=0, resume=0, settled=0)
        assert (await stranger.receive()).name == "revoked"
