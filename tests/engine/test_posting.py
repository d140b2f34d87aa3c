"""Backends: a post is carried out once per Idempotency-Key, an event at most once per (source, id)."""

from typing import Any

import pytest

from syncd.core.ids import INBOX, Position
from syncd.engine import reading
from syncd.engine.commands import (
    Author,
    CreateKey,
    Done,
    Event,
    EventResults,
    Expired,
    Idempotency,
    Post,
    Posted,
    PostEvents,
    Refused,
    RevokeKey,
)
from syncd.engine.grants import Grant, Role
from syncd.store import fsck, keys
from syncd.store.tables import EXPIRIES, IDEMPOTENCY
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw, replica_row

KEY = api_key()
INC = [["create", "c", "i"], ["counter.inc", "c", "i", "n", 1]]
DAY_MS = 86_400_000


def post(daemon: Daemon, operations: Any = INC, **more: Any) -> Any:
    where: dict[str, Any] = {"author": KEY, "space": SPACE, "base": None, "if_match": None, "idempotency": None, **more}
    return daemon.ask(Post(operations=operations, **where))


def counter(daemon: Daemon) -> Any:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        found = reading.document(tx, SPACE, "c", "i")
    return found and found.fields.get("n")


def idempotency(name: int = 1, request: int = 1) -> Idempotency:
    return Idempotency(bytes([name]) * 16, bytes([request]) * 16, DAY_MS)


def test_a_post_is_settled_at_once() -> None:
    daemon = Daemon()
    posted = one(post(daemon), Posted)
    assert (posted.outcome, posted.seq, posted.detail) == ("applied", 1, None)
    assert posted.position == Position(daemon.epoch() or b"", 1)
    refused = one(post(daemon, [["reg.set", "c", "none", "f", 1]]), Posted)
    assert (refused.outcome, refused.seq, refused.position.seq) == ("gone", None, 1)
    assert counter(daemon) == 1


def test_a_repeated_post_is_answered_and_not_repeated() -> None:
    daemon = Daemon()
    first = post(daemon, idempotency=idempotency())
    post(daemon)
    assert post(daemon, idempotency=idempotency()) == first and counter(daemon) == 2
    assert one(post(daemon, idempotency=idempotency(request=2)), Refused).reason == "idempotency_reuse"
    assert one(post(daemon, idempotency=idempotency(name=2)), Posted).seq == 3


def test_an_idempotency_key_lives_as_long_as_stated_and_leaves_nothing() -> None:
    daemon = Daemon()
    post(daemon, idempotency=idempotency())
    daemon.now_ms += DAY_MS - 1
    post(daemon, idempotency=idempotency())
    assert counter(daemon) == 1
    daemon.now_ms += 2
    daemon.decide()
    with daemon.store.read() as tx:
        for table, prefix in ((IDEMPOTENCY, keys.IDEMPOTENCY), (EXPIRIES, keys.EXPIRY)):
            assert not list(table.scan(tx, keys.table_range(prefix)))
    post(daemon, idempotency=idempotency())
    assert counter(daemon) == 2


def test_without_a_base_a_post_has_seen_the_head_and_with_one_it_merges() -> None:
    daemon = Daemon()
    epoch = one(post(daemon, [["create", "c", "i"], ["reg.set", "c", "i", "f", 1]]), Posted).position.epoch
    assert one(post(daemon, [["reg.set", "c", "i", "f", 2]]), Posted).outcome == "applied"
    assert one(post(daemon, [["reg.set", "c", "i", "f", 3]], base=Position(epoch, 1)), Posted).outcome == "merged"
    assert one(post(daemon, INC, base=Position(epoch, 9)), Refused).reason == "bad_position"
    assert isinstance(post(daemon, INC, base=Position(b"e" * 16, 1)), Expired)


def test_if_match_refuses_what_has_moved() -> None:
    daemon = Daemon()
    position = one(post(daemon), Posted).position
    match = ("c", "i", position)
    second = one(post(daemon, INC[1:], if_match=match), Posted)
    assert second.outcome == "applied"
    assert one(post(daemon, INC[1:], if_match=match), Refused).reason == "if_match"
    post(daemon, [["create", "c", "other"]])
    assert one(post(daemon, INC[1:], if_match=("c", "i", second.position)), Posted).outcome == "applied"
    assert one(post(daemon, INC[1:], if_match=("c", "none", position)), Refused).reason == "if_match"
    assert counter(daemon) == 3


def test_a_post_needs_the_role_writer() -> None:
    daemon = Daemon()
    reader = Author(KEY.device, None, "key", "key:backend", (Grant("**", Role.READER),))
    assert one(post(daemon, author=reader), Refused).reason == "forbidden"
    assert daemon.store.image() == {}


def test_posts_of_a_key_are_numbered_and_their_log_is_bounded() -> None:
    daemon = Daemon()
    for _ in range(1100):
        post(daemon, INC[1:] if daemon.head() else INC)
    with daemon.store.read() as tx:
        replica = replica_row(tx, SPACE, KEY.device)
        assert replica is not None and (replica.highest, replica.settled) == (1100, 1100)
        kept = reading.outcomes_after(tx, 1, replica.slot, 0, 10_000).outcomes
    assert [entry.n for entry in kept] == list(range(101, 1101)) and counter(daemon) == 1100


# -- events -----------------------------------------------------------------------------------------------------------


def event(name: int = 1, subject: str | None = "ann", **notification: Any) -> Event:
    content = {"title": "Hello", "body": "World", "category": "news", **notification}
    return Event(bytes([name]) * 16, "shop", str(name), "order.sent", subject, 5, {"notification": content})


def post_events(daemon: Daemon, *events: Event) -> tuple[tuple[str, str | None], ...]:
    return one(daemon.ask(PostEvents(KEY, events, DAY_MS)), EventResults).results


def inbox(daemon: Daemon, user: str = "ann") -> list[dict[str, Any]]:
    with daemon.store.read() as tx:
        assert not list(fsck.check(tx))
        return [found.fields for found in reading.documents(tx, f"user/{user}", INBOX, None, 100).found]


def test_a_notification_lands_in_the_inbox_of_its_subject() -> None:
    daemon = Daemon()
    assert post_events(daemon, event()) == (("accepted", None),)
    wanted = {"title": "Hello", "body": "World", "category": "news", "at": 5, "source": "shop", "event": "1"}
    assert inbox(daemon) == [wanted]
    assert [delta.space for delta in daemon.deltas] == ["user/ann"]


def test_an_event_is_taken_once() -> None:
    daemon = Daemon()
    assert post_events(daemon, event(1), event(2), event(1)) == (
        ("accepted", None),
        ("accepted", None),
        ("duplicate", None),
    )
    assert post_events(daemon, event(2)) == (("duplicate", None),)
    assert len(inbox(daemon)) == 2


def test_an_event_repeated_after_its_key_was_forgotten_does_not_double() -> None:
    daemon = Daemon()
    post_events(daemon, event())
    daemon.now_ms += 2 * DAY_MS
    assert post_events(daemon, event()) == (("accepted", None),)
    assert len(inbox(daemon)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        event(subject=None),
        event(subject="x" * 300),
        event(title=""),
        event(title=None),
        event(title=7),
        event(body="x" * 4001),
        event(more=1),
        event(data=float("nan")),
        event(data="\ud800"),
        event(data="x" * 70_000),
        event(title="\ud800"),
        Event(b"k" * 16, "shop", "1", "t", "ann", None, {"notification": "text"}),
    ],
    ids=range(12),
)
def test_a_bad_notification_is_invalid_and_its_neighbours_are_taken(bad: Event) -> None:
    daemon = Daemon()
    results = post_events(daemon, event(8), bad, event(9))
    assert [status for status, _ in results] == ["accepted", "invalid", "accepted"]
    assert results[1][1], "it says what was expected"
    assert len(inbox(daemon)) == 2 and not daemon.alarms


def test_an_event_without_notification_is_only_remembered() -> None:
    daemon = Daemon()
    plain = Event(b"k" * 16, "shop", "1", "t", None, None, [1])
    assert post_events(daemon, plain) == (("accepted", None),)
    assert post_events(daemon, plain) == (("duplicate", None),)
    assert not daemon.deltas


def test_what_the_user_did_with_a_notification_stays() -> None:
    daemon = Daemon()
    post_events(daemon, event())
    ann = device(1)
    name = bytes([1]) * 16
    change = raw(1, ["reg.set", INBOX, name.hex(), "read", True], base=1)
    assert daemon.outcome(ann, change, space="user/ann") == "applied"
    assert inbox(daemon)[0]["read"] is True


# -- API keys ---------------------------------------------------------------------------------------------------------


def test_a_key_name_is_free_again_after_it_was_revoked() -> None:
    daemon = Daemon()
    create = CreateKey("backend", ("write",), b"h" * 16, b"d" * 16)
    assert daemon.ask(create) == Done()
    assert one(daemon.ask(create), Refused).reason == "exists"
    assert daemon.ask(RevokeKey("backend")) == Done()
    assert one(daemon.ask(RevokeKey("backend")), Refused).reason == "unknown"
    assert daemon.ask(CreateKey("backend", (), b"i" * 16, b"e" * 16)) == Done()
