"""Quotas: who invents devices, spaces and idempotency keys without end is stopped, durably, and nobody else is."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from syncd.engine.commands import (
    Attach,
    Attached,
    Author,
    Bind,
    Bound,
    Done,
    Event,
    EventResults,
    Idempotency,
    Post,
    Posted,
    PostEvents,
    Pushed,
    Refused,
    RetireDevice,
)
from syncd.engine.quotas import Quotas
from syncd.store import fsck, keys
from syncd.store.tables import HOLDINGS, HoldingsRow
from tests.engine.kit import Daemon, api_key, device, raw

TIGHT = Quotas(3, 4, 2, 4, 2, 5)
LIFETIME_MS = 86_400_000


def held(daemon: Daemon, user: str) -> HoldingsRow | None:
    with daemon.store.read() as tx:
        return HOLDINGS.get(tx, keys.holdings(keys.owner(user)))


def sound(daemon: Daemon) -> bool:
    with daemon.store.read() as tx:
        return not list(fsck.check(tx))


def attach(author: Author, space: str) -> Attach:
    return Attach(author, space, None, 0, 0, None, 0, None)


def post(author: Author, space: str, n: int) -> Post:
    key = Idempotency(n.to_bytes(16), bytes(16), LIFETIME_MS)
    return Post(author, space, [["create", "c", str(n)]], None, None, key)


def event(number: int, subject: str | None = None) -> Event:
    data: Any = None
    if subject is not None:
        data = {"notification": {"title": "t", "body": "b", "category": "c"}}
    return Event(number.to_bytes(16), "/s", str(number), "t", subject, None, data)


def test_a_user_may_have_so_many_devices_and_keeps_those_that_there_are() -> None:
    daemon = Daemon(quotas=TIGHT)
    for number in range(1, 4):
        assert daemon.ask(Bind(device(number))) == Bound()
    refused = daemon.ask(Bind(device(4)))
    assert isinstance(refused, Refused) and refused.reason == "too_many_devices"
    assert daemon.ask(Bind(device(2))) == Bound(), "one that is known"
    assert daemon.ask(Bind(device(5, user="bob"))) == Bound(), "another's"
    assert held(daemon, "ann") == HoldingsRow("ann", 3, 0, 0) and sound(daemon)


def test_a_place_is_free_again_when_a_device_is_retired_but_not_for_ever() -> None:
    """Rows of devices stay: who retired one for each that was added filled the store without end."""
    daemon = Daemon(quotas=TIGHT)
    added = 0
    while added < 50 and daemon.ask(Bind(device(added + 1))) == Bound():
        added += 1
        assert daemon.ask(RetireDevice(device(added).device)) == Done()
    assert added == 3 + 4
    refused = daemon.ask(Bind(device(added + 1)))
    assert isinstance(refused, Refused) and refused.reason == "too_many_devices" and "retired 7" in refused.detail
    assert held(daemon, "ann") == HoldingsRow("ann", 0, 0, 0, 7) and sound(daemon)
    assert daemon.ask(RetireDevice(device(1).device)) == Done(), "once is enough"
    assert held(daemon, "ann") == HoldingsRow("ann", 0, 0, 0, 7)


def test_a_user_may_make_so_many_spaces_and_use_any_that_exist() -> None:
    daemon = Daemon(quotas=TIGHT)
    ann, bob = device(1), device(2, user="bob")
    assert isinstance(daemon.ask(attach(ann, "a/1")), Attached)
    assert isinstance(daemon.push_result(ann, raw(1, ["create", "c", "i"]), space="a/2"), Pushed)
    for refused in (
        daemon.ask(attach(ann, "a/3")), daemon.push_result(ann, raw(1, ["create", "c", "i"]), space="a/3")
    ):  # fmt: skip
        assert isinstance(refused, Refused) and refused.reason == "too_many_spaces"
    assert daemon.epoch("a/3") is None, "nothing of it was made"
    assert isinstance(daemon.ask(attach(bob, "a/3")), Attached), "counted to whom its first write came from"
    assert isinstance(daemon.ask(attach(ann, "a/3")), Attached), "it exists now"
    assert held(daemon, "ann") == HoldingsRow("ann", 1, 2, 0) and sound(daemon)


def test_a_user_over_http_has_the_quota_of_a_user_and_an_api_key_its_own() -> None:
    daemon = Daemon(quotas=TIGHT)
    key, web = api_key(), replace(api_key(201), user="ann")
    for number in range(4):
        assert isinstance(daemon.ask(post(key, f"k/{number}", number)), Posted)
    for number in range(10, 12):
        assert isinstance(daemon.ask(post(web, f"w/{number}", number)), Posted)
    answers = [daemon.ask(post(key, "k/9", 8)), daemon.ask(post(web, "w/9", 9))]
    assert [answer.reason for answer in answers if isinstance(answer, Refused)] == ["too_many_spaces"] * 2
    assert held(daemon, "key:backend") == HoldingsRow("key:backend", 0, 4, 4) and sound(daemon)


def test_remembered_requests_are_bounded_and_go_with_their_lifetime() -> None:
    daemon, key = Daemon(quotas=TIGHT), api_key()
    for number in range(5):
        assert isinstance(daemon.ask(post(key, "k/1", number)), Posted)
    refused = daemon.ask(post(key, "k/1", 5))
    assert isinstance(refused, Refused) and refused.reason == "too_many_keys"
    assert isinstance(daemon.ask(post(key, "k/1", 3)), Posted), "a repetition is answered"
    assert isinstance(daemon.ask(Post(key, "k/1", [["create", "c", "x"]], None, None, None)), Posted), "and one without"
    daemon.now_ms += LIFETIME_MS + 1
    assert isinstance(daemon.ask(post(key, "k/1", 5)), Posted), "those that expired make room"
    assert held(daemon, "key:backend") == HoldingsRow("key:backend", 0, 1, 1) and sound(daemon)


def test_a_batch_of_events_that_would_be_too_many_is_refused_whole() -> None:
    daemon, key = Daemon(quotas=TIGHT), api_key()
    assert isinstance(daemon.ask(PostEvents(key, tuple(event(n) for n in range(3)), LIFETIME_MS)), EventResults)
    refused = daemon.ask(PostEvents(key, tuple(event(n) for n in range(10, 13)), LIFETIME_MS))
    assert isinstance(refused, Refused) and refused.reason == "too_many_keys"
    row = held(daemon, "key:backend")
    assert row is not None and row.idempotency_keys == 3 and sound(daemon)
    again = daemon.ask(PostEvents(key, (event(0), event(1), event(2), event(3), event(3)), LIFETIME_MS))
    assert isinstance(again, EventResults), "what is remembered needs no room"
    assert [status for status, _ in again.results] == ["duplicate"] * 3 + ["accepted", "duplicate"] and sound(daemon)


def test_an_inbox_counts_to_the_key_that_posted_and_one_too_many_is_that_events_own_result() -> None:
    daemon, key = Daemon(quotas=replace(TIGHT, spaces_per_key_max=1)), api_key()
    result = daemon.ask(PostEvents(key, (event(1, "ann"), event(2, "bob"), event(3, "ann")), LIFETIME_MS))
    assert isinstance(result, EventResults)
    assert [status for status, _ in result.results] == ["accepted", "invalid", "accepted"]
    assert held(daemon, "key:backend") == HoldingsRow("key:backend", 0, 1, 2) and sound(daemon)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 9)), max_size=40), st.integers(1, 8))
def test_whatever_is_asked_in_whatever_batches_the_counts_are_what_is_there(
    asked: list[tuple[int, int, int]], size: int
) -> None:
    daemon = Daemon(quotas=TIGHT)
    commands: list[Any] = []
    for kind, number, hours in asked:
        author = device(1 + number, user=f"user {number % 2}")
        commands.append((hours, [
            Bind(author), attach(author, f"s/{number}"), post(api_key(), f"s/{number}", number),
            post(replace(api_key(201), user="user 0"), f"t/{number}", 100 + number),
            PostEvents(api_key(), (event(200 + number, f"user {number}"),), LIFETIME_MS),
            attach(author, f"u/{number}"),
        ][kind]))  # fmt: skip
    for first in range(0, len(commands), size):
        batch = commands[first : first + size]
        daemon.now_ms += sum(hours for hours, _ in batch) * 3_600_000
        daemon.decide(*(command for _, command in batch))
        assert sound(daemon)
        for user, spaces_max in (("user 0", 2), ("user 1", 2), ("key:backend", 4)):
            row = held(daemon, user) or HoldingsRow(user, 0, 0, 0)
            assert row.devices <= 3 and row.spaces <= spaces_max and row.idempotency_keys <= 5
