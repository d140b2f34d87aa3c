"""Schemas in the configuration: every mistake is named with its place and with what was expected."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.app.config import ConfigError, loaded
from syncd.app.schemas import overlap
from syncd.app.settings import example
from syncd.engine.grants import parsed_grant

RIGHT = """\
[schema.product]
spaces = "shop/*"
collection = "product"
version = 3
oldest = 2
[schema.product.fields]
title = { type = "reg", required = true, values = ["text"], bytes_max = 200 }
price = { type = "reg", values = ["integer"], minimum = 0 }
[[schema.product.step]]
to = 2
renamed = { name = "heading" }
[[schema.product.step]]
to = 3
renamed = { heading = "title" }
defaults = { price = 0 }
"""


def complaints(directory: Path, text: str) -> list[str]:
    file = directory / "syncd.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        loaded(file, {})
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


def test_what_is_written_is_what_is_in_force(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(RIGHT)
    found = loaded(file, {}).schemas
    assert found.of("home/x") == {} == found.of("shop/a/b")
    schema = found.of("shop/a")["product"]
    assert (schema.version, schema.oldest, schema.takes_others) == (3, 2, True)
    assert schema.fields["title"].is_required and schema.fields["price"].minimum == 0
    assert [step.to for step in schema.steps] == [2, 3]


def test_the_schema_of_the_example_file_is_right(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    lines = example().partition("[server]")[0].splitlines()
    file.write_text("\n".join(line[6:] for line in lines if line.startswith("#     ")))
    assert list(loaded(file, {}).schemas.of("shop/1")) == ["product"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"reg", values', '"regg", values', "8:18: schema.product.fields.price.type: got 'regg', expected one of reg"),
        ('spaces = "shop/*"', 'spaces = "shop/**/x"', "2:10: schema.product.spaces: got 'shop/**/x', expected a pat"),
        ('spaces = "shop/*"\n', "", "1:2: schema.product.spaces: got nothing, expected a pattern of spaces"),
        ('= "product"', '= "_members"', "3:14: schema.product.collection: got '_members', expected the name of a col"),
        ("version = 3", 'version = "3"', "4:11: schema.product.version: got '3', expected an integer from 1"),
        ("oldest = 2", "oldest = 4", "5:10: schema.product.oldest: got 4, expected at most the version, 3"),
        ("oldest", "olddest", "5:1: schema.product.olddest: got an unknown key, expected one of collection, fields,"),
        ("bytes_max", "bytes", "7:61: schema.product.fields.title.bytes: got an unknown key, expected one of b"),
        ('["text"]', '["texts"]', "7:51: schema.product.fields.title.values: got 'texts', expected a list of some of"),
        ("oldest = 2", "keep_days = 0", "5:13: schema.product.keep_days: got 0, expected a number above 0 and up to"),
        ("oldest = 2", "keep_days = -0.5", "5:13: schema.product.keep_days: got -0.5, expected a number above 0 and"),
        ("oldest = 2", "keep_days = 3651", "5:13: schema.product.keep_days: got 3651, expected a number above 0 and"),
        ("oldest = 2", "keep_days = nan", "5:13: schema.product.keep_days: got nan, expected a number above 0 and up"),
        ("oldest = 2", "keep_days = inf", "5:13: schema.product.keep_days: got inf, expected a number above 0 and up"),
        ("oldest = 2", "keep_days = true", "5:13: schema.product.keep_days: got True, expected a number above 0 and"),
        ("oldest = 2", 'keep_days = "30d"', "5:13: schema.product.keep_days: got '30d', expected a number above 0 and"),
        ("minimum = 0", "minimum = true", "8:57: schema.product.fields.price.minimum: got True, expected a number"),
        ("minimum = 0", "minimum = 9, maximum = 1", "8:57: schema.product.fields.price.minimum: got 9, expected at"),
        ('type = "reg", values = ["integer"]', 'type = "flag"', "8:36: schema.product.fields.price.minimum: expected"),
        ("to = 3", "to = 2", "13:6: schema.product.step[1].to: got 2, expected an integer from 3 to the version, 3"),
        ("to = 3", "to = 4", "13:6: schema.product.step[1].to: got 4, expected an integer from 3 to the version, 3"),
        ("price = 0 }", "price = -1 }", "15:22: schema.product.step[1].defaults.price: got -1: the sch"),
        ("price = 0 }", "cost = 0 }", "15:21: schema.product.step[1].defaults.cost: expected a field that the schema"),
        ('"heading" }', '"name" }', "11:20: schema.product.step[0].renamed.name: got 'name', expected a name that is"),
        ("[schema.product.fields]", "[schema.product.fieldss]", "6:2: schema.product.fieldss: got an unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    assert old in RIGHT
    found = complaints(tmp_path, RIGHT.replace(old, new, 1))
    assert found[0].startswith(complaint), found


@pytest.mark.parametrize(("days", "keep_ms"), [("30", 30 * 86_400_000), ("0.5", 43_200_000), ("1e-12", 1)])
def test_how_long_documents_are_kept_is_said_in_days(tmp_path: Path, days: str, keep_ms: int) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(RIGHT.replace("oldest = 2", f"keep_days = {days}"))
    found = loaded(file, {}).schemas
    assert [schema.keep_ms for schema in found.keeping("shop/a")] == [keep_ms] and found.keeping("home/x") == []
    file.write_text(RIGHT)
    assert loaded(file, {}).schemas.keeping("shop/a") == []


def test_two_schemas_for_the_same_documents_are_a_mistake(tmp_path: Path) -> None:
    second = '[schema.other]\nspaces = "shop/**"\ncollection = "product"\n'
    (found,) = complaints(tmp_path, RIGHT + second)
    assert found.startswith("17:10: schema.other.spaces: got 'shop/**', expected spaces that schema.product is not for")
    (tmp_path / "syncd.toml").write_text(RIGHT + second.replace("shop/**", "shop/*/**"))
    assert len(loaded(tmp_path / "syncd.toml", {}).schemas.given) == 2


segments = st.sampled_from(["a", "b", "*"])
patterns = st.tuples(st.lists(segments, min_size=1, max_size=3), st.sampled_from(["", "**"])).map(
    lambda found: "/".join([*found[0], *([found[1]] if found[1] else [])])
)


@given(patterns, patterns, st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map("/".join), max_size=20))
def test_patterns_that_do_not_overlap_match_no_space_together(one: str, other: str, spaces: list[str]) -> None:
    first, second = parsed_grant(one, "reader"), parsed_grant(other, "reader")
    together = [space for space in spaces if first.matches(space) and second.matches(space)]
    assert overlap(one, other) == overlap(other, one)
    assert overlap(one, other) or not together
