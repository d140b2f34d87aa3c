"""The configuration: which source wins, and that every mistake is named with its place."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncd.app import config, settings, toml
from syncd.app.config import ConfigError, dotted, keys, loaded
from syncd.app.settings import Config, example

ROOT = Path(__file__).resolve().parents[2]
COMMENTED = re.compile(r"^# (\w+ = .*)$", re.M)


def written(directory: Path, text: str) -> Path:
    file = directory / "syncd.toml"
    file.write_text(text)
    return file


def problems(directory: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    file = written(directory, text)
    with pytest.raises(ConfigError) as caught:
        loaded(file, environ or {})
    return [problem.removeprefix(f"{file}:") for problem in caught.value.problems]


# -- the example file -------------------------------------------------------------------------------------------------


def test_the_example_file_is_the_generated_one() -> None:
    assert (ROOT / "conf" / "syncd.toml").read_text() == example()


def test_the_example_file_lists_exactly_the_keys_that_exist(tmp_path: Path) -> None:
    active = COMMENTED.sub(r"\1", example().partition("# [[auth.key]]")[0])
    active += COMMENTED.sub(r"\1", example().partition("# [[auth.key]]")[2].partition("\n\n")[2])
    shown = {dotted(path) for path in toml.document(active).places if len(path) == 2 and path[1] != "*"}
    assert shown == {f"{section}.{key}" for section, key, _ in keys()}


def test_the_example_file_with_every_key_active_gives_the_defaults(tmp_path: Path) -> None:
    head, _, rest = example().partition("# [[auth.key]]")
    active = COMMENTED.sub(r"\1", head) + COMMENTED.sub(r"\1", rest.partition("\n\n")[2])
    assert loaded(written(tmp_path, active), {}).config == Config()


def test_the_example_of_a_token_key_is_right(tmp_path: Path) -> None:
    block = "# [[auth.key]]" + example().partition("# [[auth.key]]")[2].partition("\n\n")[0]
    found = loaded(written(tmp_path, re.sub("^# ", "", block, flags=re.M)), {}).config.auth.key
    assert [(key.kid, key.algorithm) for key in found] == [("2026", "EdDSA")]


def test_every_key_says_what_it_takes_and_why() -> None:
    for section, key, field in keys():
        assert field.description, f"{section}.{key} has no reason"
        assert settings.expectation(field)


# -- complaints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[server]\nlissten = 'x'", "2:1: server.lissten: got an unknown key, expected one of "),
        ("[server]\n  listen = 'x'", '2:12: server.listen: got "x", expected HOST:PORT'),
        ("server.listen = 'x:99999'", '1:17: server.listen: got "x:99999", expected HOST:PORT'),
        ("[store]\nmap_bytes = '5'", '2:13: store.map_bytes: got "5", expected an integer from 16_777_216 to '),
        ("[store]\nmap_bytes = 5", "2:13: store.map_bytes: got 5, expected an integer from 16_777_216 to "),
        ("[auth]\nleeway_ms = true", "2:13: auth.leeway_ms: got true, expected an integer from 0 to 300_000 (milli"),
        ("[limits]\nsubscriptions_max = 1.5", "2:21: limits.subscriptions_max: got 1.5, expected an integer from 1 "),
        ("[log]\nlevel = 'loud'", '2:9: log.level: got "loud", expected "debug", "info", "warning" or "error"'),
        ("# é\n[server]\norigins = ['https://é', 'ftp://x']", '3:12: server.origins[0]: got "https://é", expected a l'),
        ("[[auth.key]]\nkid = 'a'\nalgorithm = 'none'\nfile = 'f'", '3:13: auth.key[0].algorithm: got "none", expec'),
        ("[[auth.key]]\nkid = 'a'\nalgorithm = 'EdDSA'", "1:3: auth.key[0].file: got nothing, expected the path of"),
        ("[auth]\nkey = 5", "2:7: auth.key: got 5, expected an array of tables"),
        ("auth.key = [5]", "1:13: auth.key[0]: got 5, expected a table"),
        ("server = 5", "1:10: server: got 5, expected a table"),
        ("servr.listen = ''", "1:1: servr: got an unknown key, expected one of auth, category, drain, "),
        ("a = \n", "1:5: no valid TOML: invalid value"),
        ("[server]\nlisten = 'a'\nlisten = 'b'", "3:13: no valid TOML: cannot overwrite a value"),
        ("[server", "1:8: no valid TOML: expected ']' at the end of a table declaration"),
    ],
)
def test_a_mistake_is_named_with_line_column_key_and_what_was_expected(
    tmp_path: Path, text: str, complaint: str
) -> None:
    found = problems(tmp_path, text)
    assert found[0].startswith(complaint), found


def test_an_unknown_key_that_resembles_a_known_one_is_answered_by_that_one(tmp_path: Path) -> None:
    assert problems(tmp_path, "[server]\nlissten = 'x'")[0].endswith("; did you mean 'listen'?")


def test_all_mistakes_are_named_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "[log]\nlevel = 1\n[server]\nlisten = 1\nx = 1\n[[auth.key]]\nkid = 1"
    places = [problem.split(" ")[0] for problem in problems(tmp_path, text)]
    assert places[:4] == ["2:9:", "4:10:", "5:1:", "7:7:"]


def test_relations_between_keys_are_checked(tmp_path: Path) -> None:
    text = "[store]\nmap_bytes_max = 16_777_216\n[reconnect]\nbackoff_max_ms = 1_000\nbackoff_ms = 2_000"
    assert problems(tmp_path, text) == [
        "1:2: store.map_bytes: got 1073741824, expected at most store.map_bytes_max, 16777216",
        "5:14: reconnect.backoff_ms: got 2000, expected at most reconnect.backoff_max_ms, 1000",
    ]


def test_two_token_keys_of_one_id_are_refused(tmp_path: Path) -> None:
    block = "[[auth.key]]\nkid = 'a'\nalgorithm = 'EdDSA'\nfile = 'f'\n"
    assert problems(tmp_path, block * 2) == ['6:7: auth.key[1].kid: got "a", expected an id that no other key has']


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml: cannot be read: No such file"):
        loaded(tmp_path / "nothing.toml", {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "syncd.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(ConfigError, match="got no UTF-8 at byte 5"):
        loaded(tmp_path / "syncd.toml", {})


# -- notifications ----------------------------------------------------------------------------------------------------

WORKFLOW = """\
[category.shop]
caps = ["1 / 24h"]
[template.reminder]
title = "Still thinking about {item}?"
[workflow.cart]
category = "shop"
trigger = { event = "cart.updated", where = "count > 0" }
[[workflow.cart.step]]
send = { templates = ["reminder"] }
"""


def test_workflows_of_the_directory_beside_the_file_join_those_within_it(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    for file in (ROOT / "conf" / "workflows").glob("*.toml"):
        (tmp_path / "workflows" / file.name).write_text(file.read_text())
    renamed = WORKFLOW.replace("shop", "mine").replace("workflow.cart", "workflow.mine").replace("reminder", "other")
    policy = "[policy]\ncaps = ['4 / 24h']\nquiet_hours = '22:00-08:00'\n"
    found = loaded(written(tmp_path, policy + renamed), {"SYNCD_POLICY__HOLDOUT": "0.05"}).definitions
    assert sorted(found.versions) == ["breaking", "cart", "mine", "nudge", "sign_in", "team"]
    assert found.policy.holdout == 0.05 and str(found.policy.quiet_hours) == "22:00-08:00"


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('"1 / 24h"', '"1 a day"', "2:9: category.shop.caps[0]: a cap is written COUNT / SPAN such as '2 / 24h'"),
        ("title", "titel", "4:1: template.reminder.titel: an unknown key"),
        ('"count > 0"', '"count > "', "7:53: workflow.cart.trigger.where: expected a value, found 'the end'"),
        ('"count > 0"', "'''\na == \n?x'''", "9:1: workflow.cart.trigger.where: expected a value, a name or an ope"),
        ('"count > 0"', r'"\u0061 == \"x\" > 0"', "7:62: workflow.cart.trigger.where: comparisons do not chain"),
        ('"shop"', '"shed"', "6:12: workflow.cart.category: no category 'shed' is defined; there are: shop"),
        ('["reminder"]', '["reminder", "x"]', "9:35: workflow.cart.step[0].send.templates[1]: no template 'x' is def"),
        ("[[workflow.cart.step]]", "[[workflow.cart.stop]]", "8:3: workflow.cart.stop: an unknown key"),
        ("[[workflow.cart.step]]", "[[workflow.cart.stop]]", "5:2: workflow.cart.step: expected a value, found nothi"),
    ],
)
def test_a_mistake_in_a_workflow_is_named_with_its_place_within_conditions_too(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    assert old in WORKFLOW
    text = WORKFLOW.replace(old, new, 1)
    assert any(each.startswith(complaint) for each in problems(tmp_path, text)), problems(tmp_path, text)
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "cart.toml").write_text(text)
    assert any(each.startswith(f"{tmp_path}/workflows/cart.toml:{complaint}") for each in problems(tmp_path, ""))


def test_a_name_that_two_files_define_and_what_defines_no_notification_are_refused(tmp_path: Path) -> None:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "a.toml").write_text(WORKFLOW + "[log]\nlevel = 'info'\n")
    again = f"{tmp_path}/workflows/a.toml"
    assert problems(tmp_path, "\n" + WORKFLOW) == [
        f"{again}:1:2: category.shop: is defined already, at {tmp_path}/syncd.toml:2:2",
        f"{again}:3:2: template.reminder: is defined already, at {tmp_path}/syncd.toml:4:2",
        f"{again}:5:2: workflow.cart: is defined already, at {tmp_path}/syncd.toml:6:2",
        f"{again}:10:2: log: got a table, expected tables of policy, category, workflow, template",
    ]


@given(st.text(max_size=12), st.data())
def test_a_place_within_a_text_is_that_of_its_character_however_it_is_written(text: str, data: st.DataObject) -> None:
    hex_escaped = "".join(f"\\U{ord(character):08x}" for character in text)
    escapable = text.replace("\\", "\\\\").replace('"', '\\"')
    for body in (f'"{hex_escaped}"', f'"""\n{hex_escaped}"""', f'"""{escapable}"""', f'"{escapable}"', f"'{text}'"):
        try:
            found = toml.document(f"# é\nkey = {body}\n")
        except toml.TomlError:
            continue  # control characters, quotes and line feeds do not stand everywhere
        if found.values["key"] != text or not text:
            continue  # what TOML makes of line ends is not ours to say
        index = data.draw(st.integers(0, len(text) - 1))
        line, column = found.within(("key",), index)
        rest = "\n".join(found.text.split("\n")[line - 1 :])[column - 1 :]
        assert rest.startswith((text[index], f"\\U{ord(text[index]):08x}", "\\" + text[index]))


# -- variables --------------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from([f"SYNCD_{section.upper()}__{key.upper()}" for section, key, _ in keys()] + ["SYNCD_A__B"])


@given(st.dictionaries(NAMES, st.text(min_size=1, max_size=30), max_size=4))
def test_whatever_the_variables_hold_is_taken_or_complained_about_by_name(environ: dict[str, str]) -> None:
    try:
        loaded(None, environ)
    except ConfigError as error:
        assert all(any(problem.startswith(name) for name in environ) for problem in error.problems)


@given(VALUES, st.sampled_from([(section, key) for section, key, _ in keys()] + [("auth", "key")]))
def test_whatever_value_a_key_has_it_is_taken_or_complained_about(value: Any, path: tuple[str, str]) -> None:
    sources = config._Sources({path[0]: {path[1]: value}}, {})
    try:
        Config.model_validate(sources.values)
    except ValueError as error:
        for detail in error.errors():  # type: ignore[attr-defined]
            assert ": got " in sources.complaint(detail)


# -- sources ----------------------------------------------------------------------------------------------------------


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[server]\nlisten = '127.0.0.1:1'\nconnections_max = 7\norigins = ['https://a']")
    environ = {"SYNCD_LISTEN": "[::1]:2", "SYNCD_SERVER__ORIGINS": '["https://b"]'}
    server = loaded(file, environ).config.server
    assert (server.listen, server.connections_max, server.origins) == ("[::1]:2", 7, ("https://b",))


def test_a_wrong_variable_is_named_and_not_the_file(tmp_path: Path) -> None:
    text = "[keepalive]\nping_ms = 20_000"
    found = problems(tmp_path, text, {"SYNCD_KEEPALIVE__PING_MS": "1"})
    assert found == [
        "SYNCD_KEEPALIVE__PING_MS: keepalive.ping_ms: got 1, expected an integer from 15_000 to 600_000 (milliseconds)"
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("SYNCD_S\udcf9RVER__LISTEN", "127.0.0.1:0"), ("SYNCD_LISTEN", "127.0.0.1\udcff:0")]
)
def test_a_variable_that_is_no_utf8_is_refused_in_printable_words(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(None, {name: value})
    (problem,) = caught.value.problems
    assert problem.encode().endswith(b"no UTF-8, expected text in name and value")


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("SYNCD_STATE_DR", "SYNCD_STATE_DR: got an unknown variable; did you mean SYNCD_STATE_DIR?"),
        ("SYNCD_SERVER__LISTE", "SYNCD_SERVER__LISTE: server.liste: got an unknown key, expected one of admin_listen"),
        (
            "SYNCD_SEVER__LISTEN",
            "SYNCD_SEVER__LISTEN: sever: got an unknown key, expected one of auth, category, drain",
        ),
    ],
)
def test_a_misspelt_variable_is_refused(name: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(None, {name: "1"})
    assert str(caught.value).startswith(complaint)


def test_variables_of_other_programs_are_left_alone() -> None:
    assert loaded(None, {"SYNCD_TOKEN": "x", "SYNCDX": "y", "SYNCD_LISTEN": ""}).config == Config()


def test_text_in_a_variable_needs_no_quotes_and_is_not_read_as_a_number() -> None:
    assert loaded(None, {"SYNCD_AUTH__ISSUER": "42"}).config.auth.issuer == "42"


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"SYNCD_STATE_DIR": "/a", "STATE_DIRECTORY": "/b", "XDG_STATE_HOME": "/c", "HOME": "/d"}, "/a"),
        ({"STATE_DIRECTORY": "/b:/x", "XDG_STATE_HOME": "/c", "HOME": "/d"}, "/b"),
        ({"XDG_STATE_HOME": "/c", "HOME": "/d"}, "/c/syncd"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/d"}, "/d/.local/state/syncd"),
        ({"HOME": "/d"}, "/d/.local/state/syncd"),
    ],
)
def test_the_state_directory_is_the_nearest_that_is_named(environ: dict[str, str], directory: str) -> None:
    assert loaded(None, environ).state_directory == Path(directory)


def test_with_no_file_at_all_only_this_machine_can_connect() -> None:
    server = loaded(None, {}).config.server
    assert (server.listen, server.admin_listen) == ("127.0.0.1:8740", "127.0.0.1:8741")


# -- secrets ----------------------------------------------------------------------------------------------------------

KEY = "[[auth.key]]\nkid = 'a'\nalgorithm = 'HS256'\nfile = 'secret'\n"


def test_a_secret_is_looked_up_among_credentials_before_the_directory_of_the_file(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (tmp_path / "secret").write_text("b" * 40 + "\n")
    file = written(tmp_path, KEY)
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert config.token_keys(loaded(file, environ))[0].verifying == b"b" * 40
    (credentials / "secret").write_text("a" * 40)
    assert config.token_keys(loaded(file, environ))[0].verifying == b"a" * 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "No such file or directory"), ("short", "at least 32 bytes"), ("-----BEGIN PUBLIC KEY-----" * 3, "no PEM")],
)
def test_a_secret_that_cannot_be_used_is_named_without_being_told(
    tmp_path: Path, content: str | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / "secret").write_text(content)
    with pytest.raises(ConfigError) as caught:
        config.token_keys(loaded(written(tmp_path, KEY), {}))
    assert str(caught.value).startswith('auth.key[0].file: got "secret", expected a readable key: ')
    assert reason in str(caught.value)
    assert "short" not in str(caught.value)


def test_the_generated_key_is_made_once_and_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    found = loaded(None, {"SYNCD_STATE_DIR": str(tmp_path)})
    assert config.verifying_keys(found) == ()
    assert config.ensure_generated_key(found, lambda size: b"x" * size)
    assert not config.ensure_generated_key(found, lambda size: b"y" * size)
    assert found.generated_key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["token.key"]
    key = config.signing_key(found, None)
    assert (key.kid, len(key.signing)) == ("generated", 44)


def test_a_public_key_cannot_sign(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "secret").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    found = loaded(written(tmp_path, KEY.replace("HS256", "EdDSA")), {})
    with pytest.raises(ConfigError, match=r"auth\.key: got a, expected a secret or private key, which can sign"):
        config.signing_key(found, None)
