"""What is kept of a person: told whole, and forgotten so that no byte of their name is left where notifications are."""

import json

from syncd.core.ids import INBOX, PREFERENCES, PROFILE
from syncd.engine import reading
from syncd.engine.commands import ErasedUser, EraseUser
from syncd.notify import erasure
from syncd.store import keys
from tests.engine.kit import one
from tests.notify.kit import DAY_MS, HOUR_MS, Office, ready

NOTIFICATIONS = (
    keys.PROFILE, keys.TIMER, keys.RUN, keys.DECISION, keys.DISPATCH, keys.STANDING, keys.WORKFLOW, keys.VERSION_USE,
    keys.COUNTER,
)  # fmt: skip
NAME = "zoe-4711"


def lived(office: Office, user: str = NAME) -> None:
    """A person of whom everything is kept: sessions, choices, runs that wait, decisions of many kinds, receipts."""
    for _ in range(6):
        office.arrives(user)
        office.event("session.end", user, seconds=120)
        office.passes(5 * HOUR_MS)
    office.sets(PROFILE, "main", user, zone="Europe/Berlin", locale="de")
    office.sets(PREFERENCES, "category:team", user, frequency="daily")
    office.event("article.read", user, topic="football")
    office.event("team.activity", user, author="Ben", verb="wrote", subject="a page", own=False)
    office.event("cart.updated", user, cart_id="7", item="the chair", count=1, total=90)
    office.notify(user, "shop")
    office.passes(3 * HOUR_MS)
    for each in list(office.dispatches(user))[:1]:
        office.receipt(each, "seen", user)
    office.event("cart.updated", user, cart_id="8", item="a lamp", count=1, total=90)


def erase(office: Office, user: str = NAME) -> list[ErasedUser]:
    steps = [one(office.ask(EraseUser(user)), ErasedUser)]
    while steps[-1].is_more:
        office.check()
        steps.append(one(office.ask(EraseUser(user)), ErasedUser))
    return steps


def named(office: Office, user: str) -> list[bytes]:
    """Keys of the tables of notifications in whose key or record the user's id stands."""
    return [
        key for key, record in office.store.image().items()
        if key[:1] in NOTIFICATIONS and (user.encode() in key or user.encode() in record)
    ]  # fmt: skip


def owned(office: Office, user: str) -> list[bytes]:
    """Keys of those tables that belong to the user, by the hash of the id."""
    return [key for key in office.store.image() if key[:1] in NOTIFICATIONS and keys.owner(user) in key]


def test_no_byte_of_a_users_id_is_left_in_the_tables_of_notifications_and_others_lose_nothing() -> None:
    office = Office(ready("cart", "digest", "fitness"))
    lived(office)
    lived(office, "other")
    kept = {key: office.store.image()[key] for key in owned(office, "other")}
    assert named(office, NAME) and len({key[:1] for key in owned(office, NAME)}) == 6, "every table has something"
    steps = erase(office)
    assert named(office, NAME) == [] and owned(office, NAME) == []
    assert sum(step.documents for step in steps) >= 3 and sum(step.rows for step in steps) >= 8
    assert {key: office.store.image()[key] for key in owned(office, "other")} == kept
    office.check()
    office.passes(30 * DAY_MS)  # no timer of theirs is left to fire
    assert named(office, NAME) == [] and office.inbox(NAME) == []
    office.check()


def test_a_mute_that_is_erased_lets_nothing_out() -> None:
    """What waits was decided by choices that go: it must go before them."""
    office = Office(ready("cart"), now="2026-03-02 23:00")
    office.sets(PREFERENCES, "all", quiet_hours="22:00-08:00")
    office.notify(category="shop")
    assert office.outcomes() == ["deferred"] and office.inbox() == []
    erase(office, "ann")
    office.passes(2 * DAY_MS)
    assert office.inbox() == []


def test_many_documents_go_in_steps_of_bounded_length() -> None:
    office = Office()
    for number in range(5):
        office.writes(*[["create", INBOX, f"{number}-{each}"] for each in range(50)])
    steps = erase(office, "ann")
    assert [step.documents for step in steps] == [100, 100, 50, 0]
    with office.store.read() as tx:
        assert not reading.documents(tx, "user/ann", INBOX, None, 10).found


def test_an_export_has_all_that_is_kept_and_is_json() -> None:
    office = Office(ready("cart", "digest", "fitness"))
    lived(office)
    with office.store.read() as tx:
        told = erasure.exported(tx, NAME, office.now_ms)
    json.dumps(told)
    assert told["learned"]["sessions"] == 6 and told["learned"]["affinity"]["football"] > 0
    assert told["documents"][PREFERENCES] == {"category:team": {"frequency": "daily"}}
    assert told["documents"][PROFILE]["main"]["zone"] == "Europe/Berlin"
    assert len(told["runs"]) == len(office.runs(NAME)) and len(told["decisions"]) == len(office.decisions(NAME)) > 1
    assert len(told["deliveries"]) == len(office.dispatches(NAME)) and told["standing"]["user"] == NAME


def test_of_one_who_was_never_heard_of_nothing_is_told_or_erased() -> None:
    office = Office()
    before = office.store.image()
    assert erase(office, "nobody") == [ErasedUser(0, 0, False)]
    assert erase(office, "n" * 500) == [ErasedUser(0, 0, False)]
    assert office.store.image() == before
    with office.store.read() as tx:
        assert erasure.exported(tx, "n" * 500, 0)["learned"] is None


def test_documents_with_leases_are_erased_too() -> None:
    """A device may lease what it likes of its user's own; a document with leases is not deleted."""
    office = Office()
    stock = [INBOX, "1", "left"]
    leases = [["bounded.lease", *stock, number.to_bytes(16), 1, None] for number in range(600)]
    office.writes(["create", INBOX, "1"], ["bounded.restock", *stock, 600], *leases)
    office.writes(["create", INBOX, "2"])
    steps = erase(office, "ann")
    assert [step.documents for step in steps] == [0, 2, 0] and not office.alarms
    with office.store.read() as tx:
        assert not reading.documents(tx, "user/ann", INBOX, None, 10).found


def test_an_export_reads_a_bounded_part_of_what_is_large_and_says_so() -> None:
    office, text = Office(), "x" * 60_000
    for number in range(40):
        office.writes(
            ["create", INBOX, str(number)], *(["reg.set", INBOX, str(number), f"f{j}", text] for j in range(4))
        )
    with office.store.read() as tx:
        told = erasure.exported(tx, "ann", office.now_ms)
    assert 0 < len(told["documents"][INBOX]) < 25 and told["more_documents"]
