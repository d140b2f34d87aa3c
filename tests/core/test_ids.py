"""Names of spaces, documents and fields, positions, and the patterns of grants."""

import re
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from syncd.core.ids import (
    NAME_BYTES_MAX,
    SPACE_BYTES_MAX,
    BadName,
    Position,
    check_id,
    check_name,
    check_space,
    parse_position,
    segment,
    user_space,
)
from syncd.engine.grants import Grant, Role, parsed_grant, role_on

users = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
segments = st.from_regex(r"[A-Za-z0-9_~-]{1,4}", fullmatch=True)
space_names = st.lists(segments, min_size=1, max_size=4).map("/".join)


@given(users)
@example(".")
@example("..")
@example("a/b")
@example("%2F")
@example("é")
def test_any_user_id_is_one_segment_and_no_two_share_one(user: str) -> None:
    encoded = segment(user)
    assert check_space(encoded) == encoded and "/" not in encoded
    assert unquote(encoded) == user, "so the encoding is injective"
    if user not in (".", ".."):
        assert encoded == quote(user, safe="~")


@given(users)
def test_the_space_of_a_user_is_a_space_or_refused_for_its_length(user: str) -> None:
    try:
        assert user_space(user) == check_space(f"user/{segment(user)}")
    except BadName:
        assert len(f"user/{segment(user)}") > SPACE_BYTES_MAX


@pytest.mark.parametrize(
    "name",
    [
        "", "/", "a/", "/a", "a//b", ".", "..", "a/../b", "a/.", "a b", "a%2f", "a%2", "a%", "é", "a\n", "a\x00", "a*",
        "x" * 201, "/".join("a" * 17), 7, None, b"a",
    ],
)  # fmt: skip
def test_what_is_no_space_name(name: object) -> None:
    with pytest.raises(BadName):
        check_space(name)


@pytest.mark.parametrize(
    "name", ["a", "user/42", "...", "a/.b", "%2E", "%00", "A-Z_~.0", "x" * 200, "/".join("a" * 16)]
)
def test_what_is_a_space_name(name: str) -> None:
    assert check_space(name) == name


@given(st.text(max_size=200))
@example("x" * NAME_BYTES_MAX)
@example("x" * (NAME_BYTES_MAX + 1))
@example("é" * (NAME_BYTES_MAX // 2 + 1))
@example("\x7f")
@example("\x9f")
@example("\xa0")
@example("\ud800")
def test_a_name_is_utf8_of_bounded_length_without_control_characters(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0
    is_good = 0 < size <= NAME_BYTES_MAX and not re.search("[\x00-\x1f\x7f-\x9f]", name)
    if is_good:
        assert check_name(name, "a field") == name
    else:
        with pytest.raises(BadName, match="a field"):
            check_name(name, "a field")


@given(st.binary(min_size=16, max_size=16), st.integers(0, 2**53 - 1))
def test_a_position_reads_back(epoch: bytes, seq: int) -> None:
    assert parse_position(str(Position(epoch, seq))) == Position(epoch, seq)


@given(st.text(st.sampled_from("0123456789abcdefABCDEF@ +-_\n٣"), max_size=60))
@example("1@" + "0" * 32)
@example("٣@" + "0" * 32)
@example("9007199254740992@" + "0" * 32)
@example("1@" + "0" * 32 + "\n")
@example("1@" + "A" * 32)
def test_what_is_no_position_is_refused(text: str) -> None:
    try:
        position = parse_position(text)
    except BadName:
        return
    assert re.fullmatch(r"[0-9]+@[0-9a-f]{32}", text) and 0 <= position.seq <= 2**53 - 1


@pytest.mark.parametrize("value", [b"", b"x" * 15, b"x" * 17, "x" * 16, bytearray(16), None])
def test_an_id_is_sixteen_bytes(value: object) -> None:
    with pytest.raises(BadName):
        check_id(value, "a device")


# -- grants -----------------------------------------------------------------------------------------------------------


def by_regex(pattern: str, space: str) -> bool:
    """The definition: `*` stands for one segment, `**` at the end for one or more."""
    parts = pattern.split("/")
    text = "/".join("[^/]+" if p == "*" else "[^/]+(/[^/]+)*" if p == "**" else re.escape(p) for p in parts)
    return re.fullmatch(text, space) is not None


patterns = st.tuples(st.lists(st.sampled_from(("a", "b", "*")), max_size=3), st.sampled_from(("a", "*", "**"))).map(
    lambda parts: "/".join([*parts[0], parts[1]])
)


@given(patterns, st.lists(st.sampled_from("abc"), min_size=1, max_size=5).map("/".join))
@example("**", "a")
@example("a/**", "a")
def test_a_pattern_matches_what_its_definition_says(pattern: str, space: str) -> None:
    assert parsed_grant(pattern, "reader").matches(space) == by_regex(pattern, space)


@given(space_names, space_names)
def test_a_space_name_is_a_pattern_for_itself_only(name: str, other: str) -> None:
    assert parsed_grant(name, "owner").matches(name)
    assume(name != other)
    assert not parsed_grant(name, "owner").matches(other)


@pytest.mark.parametrize("pattern", ["", "**/a", "a/**/b", "a*", "***", "a//b", "../*", "*/.."])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(BadName):
        parsed_grant(pattern, "reader")


@pytest.mark.parametrize("role", ["", "admin", "OWNER "])
def test_what_is_no_role(role: str) -> None:
    with pytest.raises(BadName):
        parsed_grant("*", role)


@given(st.lists(st.builds(Grant, patterns, st.sampled_from(Role)), max_size=5), st.sampled_from(("a", "a/b", "c")))
def test_the_greatest_matching_grant_counts(grants: list[Grant], space: str) -> None:
    matching = [grant.role for grant in grants if by_regex(grant.pattern, space)]
    assert role_on(grants, space) == max(matching, default=Role.NONE)
