"""Members: what `_members` gives and takes, who may write it, and what must not be possible with it."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.changes import parsed_change
from syncd.core.ids import MEMBERS, Dot
from syncd.core.vector import VersionVector
from syncd.engine import roster
from syncd.engine.batch import SERVER_DEVICE, space_row
from syncd.engine.changes import REGRANTS_MAX
from syncd.engine.commands import Attach, Author, Collect, Forget, Lose, Post, Posted, Purge, Push, Pushed, Refused
from syncd.engine.engine import Engine
from syncd.engine.frontier import Retention
from syncd.engine.grants import Grant, Role, role_on
from syncd.engine.members import role_of
from syncd.store import fsck, keys
from syncd.store.tables import HOLDERS
from tests.engine.kit import SPACE, Daemon, api_key, device, one, raw, replica_row
from tests.oracle.members import OWNER, WRITER, Asker, judged, said_of
from tests.oracle.members import role_of as oracle_role
from tests.oracle.oracle import Oracle, Told
from tests.oracle.replica import Replica, sum_of

SERVER = Author(SERVER_DEVICE, None, "server", "", ())
ROLES = {"reader": Role.READER, "writer": Role.WRITER, "owner": Role.OWNER}


def member(user: str, role: Any) -> list[list[Any]]:
    """The operations that make a member, or alter it."""
    return [["create", MEMBERS, user], ["reg.set", MEMBERS, user, "role", role]]


def stated(daemon: Daemon, *operations: Any, author: Author = SERVER, space: str = SPACE) -> Posted:
    return one(daemon.ask(Post(author, space, list(operations), None, None, None)), Posted)


def role(daemon: Daemon, author: Author, space: str = SPACE) -> Role:
    with daemon.store.read() as tx:
        return role_of(tx, author, space)


@given(st.sampled_from(list(Role)), st.sampled_from(["none", "reader", "writer", "owner", "absent", "deleted"]))
def test_a_role_is_the_greater_of_token_and_member_unless_the_member_is_none(granted: Role, said: str) -> None:
    daemon = Daemon()
    stated(daemon, ["create", "c", "x"])
    if said != "absent":
        stated(daemon, *member("ann", "owner" if said == "deleted" else said))
    if said == "deleted":
        stated(daemon, ["delete", MEMBERS, "ann"])
    ann = device(1, role=granted)
    expected = Role.NONE if said == "none" else max(granted, ROLES.get(said, Role.NONE))
    assert role(daemon, ann) == expected
    assert role(daemon, ann, "team/other") == role_on(ann.grants, "team/other"), "a member of one space only"
    assert role(daemon, device(2, user="bob", role=granted)) == granted, "and nobody else"


def test_an_api_key_and_a_user_too_long_for_a_document_id_are_no_members() -> None:
    daemon = Daemon()
    stated(daemon, *member("key:backend", "none"))
    assert role(daemon, api_key()) == Role.OWNER
    long = "\U0001f642" * 128
    assert role(daemon, device(1, user=long, role=Role.READER)) == Role.READER


@pytest.mark.parametrize("value", [3, None, "Owner", "admin", ["owner"], True])
def test_what_is_no_role_gives_none_and_takes_none(value: Any) -> None:
    daemon = Daemon()
    stated(daemon, *member("ann", value))
    assert role(daemon, device(1, role=Role.READER)) == Role.READER


def test_a_grant_by_pattern_stays_what_it_was() -> None:
    daemon = Daemon()
    stated(daemon, *member("ann", "reader"))
    ann = Author(b"\1" * 16, b"\1" * 16, "device", "ann", (Grant("team/*", Role.WRITER),))
    assert role(daemon, ann) == Role.WRITER


# -- changes to members -----------------------------------------------------------------------------------------------

ANN, BOB, CYD = device(1, user="ann"), device(2, user="bob", role=Role.WRITER), device(3, user="cyd", role=Role.NONE)


def said(user: str, value: str, base: int = 0, n: int = 1) -> list[Any]:
    return raw(n, *member(user, value), base=base)


def ended(daemon: Daemon, author: Author, change: Any) -> tuple[str, str | None]:
    (entry,) = daemon.push(author, change).outcomes
    return entry.outcome, (entry.detail or {}).get("reason")


def club() -> Daemon:
    """Ann owns by her token, Bob writes by his; Cyd is nobody. Seq 1 is a document."""
    daemon = Daemon()
    daemon.attach(ANN)
    daemon.attach(BOB)
    daemon.push(ANN, raw(1, ["create", "c", "x"]))
    return daemon


def test_only_owners_alter_members_and_nobody_lifts_itself_up() -> None:
    daemon = club()
    assert ended(daemon, BOB, said("bob", "owner", n=1)) == (
        "forbidden", "members are made and altered by owners, and the author is writer",
    )  # fmt: skip
    lifting = raw(2, *member("bob", "owner"), ["create", "_members", "cyd"])
    assert ended(daemon, BOB, lifting)[0] == "forbidden"
    assert ended(daemon, BOB, raw(3, ["expect", MEMBERS, "bob", "role"]))[0] == "noop", "to look is free"
    assert ended(daemon, ANN, said("bob", "owner", n=2))[0] == "applied"
    assert ended(daemon, BOB, said("cyd", "reader", n=4))[0] == "applied", "an owner now"
    assert daemon.alarms == []


def test_a_change_that_takes_its_authors_role_is_the_last_that_has_it() -> None:
    daemon = club()
    daemon.push(ANN, raw(2, *member("bob", "owner"), *member("dan", "owner")))
    push = daemon.push(BOB, said("bob", "writer", 2, n=1), said("cyd", "reader", 2, n=2), raw(3, ["create", "c", "y"]))
    assert [entry.outcome for entry in push.outcomes] == ["applied", "forbidden", "applied"]


def test_a_change_must_have_seen_the_members_last_change_also_if_it_was_its_deletion() -> None:
    daemon = club()
    daemon.push(ANN, said("cyd", "writer", n=2))  # seq 2
    other = device(4, user="ann")
    daemon.attach(other)
    told = "the member cyd was altered at seq 2, which this change had not seen"
    assert ended(daemon, other, said("cyd", "none", base=1)) == ("precondition", told)
    assert ended(daemon, other, raw(2, ["delete", MEMBERS, "cyd"], base=1)) == ("precondition", told)
    assert ended(daemon, other, raw(3, ["delete", MEMBERS, "cyd"], base=2)) == ("applied", None)  # seq 3
    assert ended(daemon, ANN, said("cyd", "writer", base=2, n=3))[1] == told.replace("2", "3")
    displayed = [[*operation, {"seen": 3}] for operation in member("cyd", "writer")]
    assert ended(daemon, ANN, raw(4, *displayed, base=2)) == ("applied", None), "seen early, on a display"
    check_sound(daemon)


def test_a_field_beside_the_role_is_free_and_counts_as_a_change_of_the_member() -> None:
    daemon = club()
    daemon.push(ANN, raw(2, *member("cyd", "reader"), ["reg.set", MEMBERS, "cyd", "name", "Cyd"]))
    assert daemon.decide().regrants == ()
    assert ended(daemon, ANN, raw(3, ["reg.set", MEMBERS, "cyd", "name", "C."], base=2)) == ("applied", None)
    assert ended(daemon, device(4), raw(1, ["reg.set", MEMBERS, "cyd", "role", "none"], base=2))[0] == "precondition"


@pytest.mark.parametrize(
    "operation",
    [["reg.set", "role", 3], ["reg.set", "role", "admin"], ["reg.set", "role", None], ["flag.enable", "role"],
     ["mv.set", "role", "owner"], ["set.add", "role", "owner"], ["map.put", "role", "a", "owner"]],
)  # fmt: skip
def test_a_role_is_one_of_four_words_in_a_reg(operation: list[Any]) -> None:
    daemon = club()
    verb, *rest = operation
    change = raw(2, ["create", MEMBERS, "cyd"], [verb, MEMBERS, "cyd", *rest])
    assert ended(daemon, ANN, change) == ("invalid", "the field role of a member is a reg: none, reader, writer, owner")


def test_the_last_owner_stays_unless_one_who_owns_by_token_takes_it_away() -> None:
    daemon = club()
    daemon.push(ANN, said("bob", "owner", n=2))
    left = ("precondition", "the change would leave the space without an owner")
    for n, operations in enumerate((
        [["reg.set", MEMBERS, "bob", "role", "writer"]], [["delete", MEMBERS, "bob"]],
        [["reg.unset", MEMBERS, "bob", "role"]],
        [["reg.set", MEMBERS, "bob", "role", "none"], *member("cyd", "writer")],
    ), 1):  # fmt: skip
        assert ended(daemon, BOB, raw(n, *operations, base=2)) == left
    swap = [*member("cyd", "owner"), ["reg.set", MEMBERS, "bob", "role", "reader"]]
    assert ended(daemon, BOB, raw(5, *swap, base=2)) == ("applied", None), "another one in the same change"
    assert ended(daemon, ANN, raw(3, ["delete", MEMBERS, "cyd"], base=3)) == ("applied", None), "Ann owns by her token"
    assert ended(daemon, ANN, said("ann", "none", 4, n=4)) == left, "but does not lock herself out"
    assert ended(daemon, ANN, raw(5, *member("cyd", "owner"), *member("ann", "none"), base=4)) == ("applied", None)
    assert role(daemon, ANN) == Role.NONE and role(daemon, CYD) == Role.OWNER
    check_sound(daemon)


def test_a_delta_ends_at_each_change_of_roles_and_the_deltas_have_no_gap() -> None:
    daemon = club()
    replica = Replica()
    for delta in daemon.deltas:
        assert replica.receive(delta)
    changes = [
        raw(2, ["reg.set", "c", "x", "f", 1]), said("cyd", "reader", n=3), raw(4, ["reg.set", "c", "x", "f", 2]),
        said("bob", "none", n=5), raw(6, ["reg.set", "c", "x", "f", 3], ["create", "c", "y"]),
        said("cyd", "writer", n=7),
    ]  # fmt: skip
    decision = daemon.decide(Push(ANN, SPACE, daemon.epoch(), tuple(parsed_change(change) for change in changes)))
    assert [(delta.from_, delta.to) for delta in decision.deltas] == [(1, 3), (3, 5), (5, 7)]
    assert [(each.seq, each.said) for each in decision.regrants] == [
        (3, (("cyd", Role.READER),)), (5, (("bob", Role.NONE),)), (7, (("cyd", Role.WRITER),)),
    ]  # fmt: skip
    values = [
        [entry.fields.get("f") for entry in delta.docs if entry.collection == "c" and entry.id == "x"]
        for delta in decision.deltas
    ]
    assert values == [[["reg", 1]], [["reg", 2]], [["reg", 3]]], "each says how it was then"
    for delta in decision.deltas:
        assert replica.receive(delta)
        assert delta.sum is not None and int.from_bytes(delta.sum) == sum_of(replica.documents)
    check_sound(daemon)


def test_a_push_of_many_role_changes_is_taken_a_bounded_number_at_a_time() -> None:
    daemon = club()
    changes = [said(f"u{n}", "reader", n=n) for n in range(2, 60)]
    push = daemon.push(ANN, *changes)
    assert len(push.outcomes) == REGRANTS_MAX and push.gap == REGRANTS_MAX + 2
    assert len(daemon.push(ANN, *changes[REGRANTS_MAX:]).outcomes) == REGRANTS_MAX, "and goes on"


# -- who has a copy ---------------------------------------------------------------------------------------------------


def held(daemon: Daemon, author: Author) -> int | str | None:
    """What is known of a device's copy: `-` nothing, None that it may have it, else since when it may not."""
    with daemon.store.read() as tx:
        row = space_row(tx, SPACE)
        assert row is not None
        found = HOLDERS.get(tx, keys.holder(row.id, keys.owner(author.user), author.device))
    return "-" if found is None else found.lost_seq


def low(daemon: Daemon, author: Author) -> int | None:
    with daemon.store.read() as tx:
        row = replica_row(tx, SPACE, author.device)
    return None if row is None else row.low


def test_a_denied_members_devices_lose_their_low_water_and_are_listed_until_they_have_purged() -> None:
    daemon = club()
    second = device(5, user="bob", role=Role.WRITER)
    daemon.attach(second)
    assert (held(daemon, BOB), low(daemon, BOB)) == (None, 0)
    daemon.push(ANN, said("bob", "none", n=2))
    for each in (BOB, second):
        assert (held(daemon, each), low(daemon, each)) == (2, None)
    refused = one(daemon.ask(attach_of(BOB)), Refused)
    assert (refused.reason, refused.seq) == ("forbidden", 2)
    daemon.ask(Purge(BOB, SPACE))
    assert (held(daemon, BOB), held(daemon, second)) == ("-", 2)
    daemon.push(ANN, said("bob", "reader", 2, n=3))
    daemon.attach(second)
    assert (held(daemon, second), low(daemon, second)) == (None, 3), "it starts anew"
    daemon.ask(Purge(second, SPACE))
    assert held(daemon, second) is None, "a confirmation that comes late does not make it forgotten"
    check_sound(daemon)


def test_a_stranger_learns_nothing_and_one_who_lost_a_token_is_listed_when_it_comes() -> None:
    daemon = club()
    daemon.push(ANN, said("cyd", "none", n=2))
    refused, unknown = one(daemon.ask(attach_of(CYD)), Refused), one(daemon.ask(attach_of(CYD, "team/none")), Refused)
    assert (refused.detail, refused.seq) == (unknown.detail.replace("team/none", SPACE), None)
    bare = Author(BOB.device, BOB.installation, "device", "bob", ())
    assert one(daemon.ask(attach_of(bare)), Refused).seq is None
    assert (held(daemon, bare), low(daemon, bare)) == (0, None)
    daemon.ask(attach_of(bare))
    daemon.ask(Lose(BOB, SPACE))
    daemon.attach(BOB)
    assert held(daemon, BOB) is None
    daemon.ask(Lose(BOB, SPACE))
    assert held(daemon, BOB) is None, "one who may read loses nothing"
    daemon.ask(Lose(bare, SPACE))
    assert held(daemon, bare) == 0
    check_sound(daemon)


def test_an_owner_that_denies_itself_loses_its_copy_like_everyone_else() -> None:
    daemon = club()
    daemon.push(ANN, raw(2, *member("bob", "owner"), *member("ann", "none")), raw(3, ["create", "c", "y"]))
    assert (held(daemon, ANN), low(daemon, ANN)) == (2, None)
    assert ended(daemon, ANN, raw(4, ["create", "c", "z"]))[0] == "forbidden"
    check_sound(daemon)


def test_the_deletion_of_a_member_is_remembered_below_the_floor_and_no_change_to_it_is_late() -> None:
    daemon = club()
    daemon.push(ANN, said("cyd", "writer", n=2), raw(3, ["delete", MEMBERS, "cyd"]), raw(4, ["create", "c", "y"]))
    daemon.engine = Engine(Random(1).randbytes, retention=Retention(recent_ms=0, history_ms=0, lapse_ms=1))
    daemon.now_ms += 10
    for _ in range(3):
        daemon.ask(Collect(SPACE))
    with daemon.store.read() as tx:
        row = space_row(tx, SPACE)
    assert row is not None and row.floor == 4
    assert daemon.decide().late_count == 0
    assert ended(daemon, device(4), said("cyd", "owner", base=1))[0] == "precondition"
    expect = Push(
        device(4), SPACE, daemon.epoch(), (parsed_change(raw(2, ["expect", MEMBERS, "dan", "role"], base=1)),)
    )
    decision = daemon.decide(expect)
    assert one(decision.results[0], Pushed).outcomes[0].outcome == "noop" and decision.late_count == 0
    check_sound(daemon)


def test_the_roster_names_members_and_those_who_have_not_confirmed() -> None:
    daemon = club()
    daemon.push(ANN, said("bob", "none", n=2), said("cyd", "reader", n=3), raw(4, ["create", MEMBERS, "dan"]))
    daemon.push(ANN, raw(5, ["delete", MEMBERS, "cyd"]))
    with daemon.store.read() as tx:
        assert roster.members(tx, SPACE) == [
            {"user": "bob", "role": "none", "seq": 2}, {"user": "dan", "role": None, "seq": 0},
        ]  # fmt: skip
        assert roster.unpurged(tx, SPACE) == [
            {"user": "bob", "device": BOB.device.hex(), "seq": 2, "since_ms": daemon.now_ms}
        ]
        assert roster.members(tx, "none") == roster.unpurged(tx, "none") == []
    daemon.ask(Purge(BOB, SPACE))
    with daemon.store.read() as tx:
        assert roster.unpurged(tx, SPACE) == []


def test_a_copy_that_is_given_up_is_listed_no_more() -> None:
    daemon = club()
    daemon.ask(Forget(BOB, SPACE))
    assert held(daemon, BOB) == "-"
    check_sound(daemon)


@pytest.mark.parametrize(("after_ms", "outcome"), [(0, "applied"), (499, "applied"), (500, "forbidden")])
def test_what_comes_within_the_grace_after_a_denial_is_taken_and_no_more(after_ms: int, outcome: str) -> None:
    daemon = club()
    daemon.engine = Engine(Random(1).randbytes, revocation_grace_ms=500)
    daemon.push(BOB, raw(1, ["create", "c", "y"]))
    daemon.push(ANN, said("bob", "owner", n=2))
    daemon.push(ANN, said("bob", "none", 3, n=3))
    daemon.now_ms += after_ms
    (entry,) = daemon.push(BOB, raw(2, ["reg.set", "c", "x", "f", 1], base=1)).outcomes
    assert entry.outcome == outcome and entry.detail is None, "details only to those who may read"
    assert ended(daemon, BOB, said("bob", "owner", 4, n=3))[0] == "forbidden", "no grace makes an owner"
    assert one(daemon.ask(attach_of(BOB)), Refused).reason == "forbidden"


def test_a_grace_ends_also_where_the_clock_was_ahead_when_it_began() -> None:
    """T stands still until the true clock has come so far, and the grace is measured by what passes."""
    daemon = club()
    daemon.engine = Engine(Random(1).randbytes, revocation_grace_ms=500)
    daemon.now_ms += 1_000_000
    daemon.push(BOB, raw(1, ["create", "c", "y"]))
    daemon.now_ms -= 1_000_000
    daemon.push(ANN, said("bob", "none", n=2))
    daemon.now_ms += 499
    assert daemon.outcome(BOB, raw(2, ["create", "c", "z"])) == "applied"
    daemon.now_ms += 1
    assert daemon.outcome(BOB, raw(3, ["create", "c", "w"])) == "forbidden"


def test_without_a_grace_nothing_is_taken_after_a_denial() -> None:
    daemon = club()
    daemon.push(ANN, said("bob", "none", n=2))
    assert ended(daemon, BOB, raw(1, ["create", "c", "y"]))[0] == "forbidden"


def attach_of(author: Author, space: str = SPACE) -> Attach:
    return Attach(author, space, None, 0, 0, None, 0, None)


def check_sound(daemon: Daemon) -> None:
    assert daemon.alarms == []
    with daemon.store.read() as tx:
        assert list(fsck.check(tx)) == []


# -- random histories, against the definitions ------------------------------------------------------------------------

USERS = ("ann", "bob", "cyd", "dan")


@pytest.mark.parametrize("seed", range(60))
def test_every_random_history_comes_to_what_the_definitions_say(seed: int) -> None:
    """Five devices of four users and an API key alter members and documents, each from what it has seen; grants by
    token are drawn, too. At each step outcome, seq, op and roles are those of the oracle, and a delta ends where a role
    has changed."""
    random = Random(seed)
    daemon, oracle, prefix = Daemon(seed), Oracle(), [VersionVector()]
    granted = [random.choice((Role.NONE, Role.READER, Role.WRITER, Role.OWNER)) for _ in range(5)]
    granted[0] = Role.OWNER
    authors = [device(i + 1, user=USERS[i % 4], role=granted[i]) for i in range(5)]
    complete, n, own = [0] * 5, [0] * 5, [VersionVector()] * 5
    for author in authors[:1]:
        daemon.attach(author)
    for step in range(60):
        number = random.randrange(5)
        author, asker = authors[number], Asker(authors[number].user, granted[number])
        if random.random() < 0.6:
            complete[number] = random.randint(complete[number], oracle.head)
        operations = random_operations(random)
        base, before = complete[number], {user: said_of(oracle, user) for user in USERS}
        role_before = oracle_role(oracle, asker)
        assert role(daemon, author) == role_before
        result = daemon.push_result(author, raw(n[number] + 1, *operations, base=base, salt=number))
        if isinstance(result, Refused):
            assert result.reason == "forbidden" and role_before < WRITER and n[number] == 0
            continue
        (entry,) = one(result, Pushed).outcomes
        n[number] += 1
        dot = Dot(author.device, n[number])
        if role_before < WRITER:
            assert (entry.outcome, entry.seq) == ("forbidden", None)
            own[number] = own[number].advanced(dot)
            continue
        vector, wires = prefix[base].joined(own[number]), tuple(tuple(each) for each in operations)
        told = Told(dot, vector, (vector,) * len(operations), 0, 0, wires, (base,) * len(operations))
        wanted = judged(oracle, told, asker)
        got = (entry.outcome, entry.seq, (entry.detail or {}).get("op"))
        assert got == (wanted.outcome, wanted.seq, wanted.op), (step, author.user, operations, entry)
        own[number] = own[number].advanced(dot)
        if wanted.seq is not None:
            prefix.append(prefix[-1].advanced(dot))
        after = {user: said_of(oracle, user) for user in USERS}
        for user, author in zip(USERS, authors, strict=False):
            assert int(role(daemon, author)) == oracle_role(oracle, Asker(user, int(author.grants[0].role)))
        if before != after:
            with daemon.store.read() as tx:
                row = space_row(tx, SPACE)
            assert row is not None and row.owner_count == list(after.values()).count(OWNER)
    check_sound(daemon)


def random_operations(random: Random) -> list[list[Any]]:
    user = random.choice(USERS)
    name = random.choice(("none", "reader", "writer", "owner", "owner"))
    roll = random.random()
    if roll < 0.45:
        return member(user, name)
    if roll < 0.6:
        return [["reg.set", MEMBERS, user, "role", name]]
    if roll < 0.7:
        return [["delete", MEMBERS, user]]
    if roll < 0.75:
        return [["reg.unset", MEMBERS, user, "role"]]
    if roll < 0.8:
        return [["reg.set", MEMBERS, user, "name", random.choice("xyz")]]
    if roll < 0.85:
        return [*member(user, name), *member(random.choice(USERS), "owner")]
    if roll < 0.9:
        return [["expect", MEMBERS, user, "role"], ["create", "c", "x"]]
    return [["create", "c", "x"], ["counter.inc", "c", "x", "n", 1]]
