"""Members: what `_members` gives and takes, who may write it, and what must not be possible with it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.core.ids import MEMBERS
from syncd.engine.batch import SERVER_DEVICE
from syncd.engine.commands import Author, Post, Posted
from syncd.engine.grants import Grant, Role, role_on
from syncd.engine.members import role_of
from tests.engine.kit import SPACE, Daemon, api_key, device, one

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
