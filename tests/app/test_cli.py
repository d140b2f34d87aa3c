"""The command line without a daemon: usage, tokens, configuration, exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from syncd.app.cli import DAMAGED_ADVICE, cli
from syncd.app.settings import example
from syncd.store.lmdb import open_store

MIB = 2**20


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A state directory with the key that a daemon would have made."""
    (tmp_path / "token.key").write_text("k" * 44 + "\n")
    return tmp_path


def run(directory: Path, *arguments: str, stdin: str | None = None, **variables: str) -> Result:
    environment = {"SYNCD_STATE_DIR": str(directory), "SYNCD_CONFIG": "", **variables}
    return CliRunner().invoke(cli, arguments, env=environment, input=stdin)


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_token_prints_nothing_but_the_secret_and_inspect_accepts_it(directory: Path) -> None:
    issued = run(
        directory, "token", "--user", "42", "--grant", "shop/**:reader", "--grant", "user/42:owner", "--ttl", "15m"
    )
    assert (issued.exit_code, issued.stderr, issued.stdout.count("\n")) == (0, "", 1)
    shown = json.loads(run(directory, "token", "inspect", "--json", stdin=issued.stdout).stdout)
    assert (shown["user"], shown["grants"]) == ("42", {"shop/**": "reader", "user/42": "owner"})


def test_a_token_without_grants_owns_the_space_of_its_user(directory: Path) -> None:
    issued = run(directory, "token", "--user", "a b")
    shown = json.loads(run(directory, "token", "inspect", issued.stdout.strip(), "--json").stdout)
    assert shown["grants"] == {"user/a%20b": "owner"}


def test_a_token_for_the_configured_issuer_and_audience_is_accepted_there(directory: Path) -> None:
    variables = {"SYNCD_AUTH__ISSUER": "https://login.example", "SYNCD_AUTH__AUDIENCE": "sync"}
    issued = run(directory, "token", "--user", "42", **variables)
    assert run(directory, "token", "inspect", issued.stdout.strip(), **variables).exit_code == 0
    assert run(directory, "token", "inspect", issued.stdout.strip()).exit_code == 1


def test_a_token_that_is_not_accepted_is_answered_with_the_reason_and_never_repeated(directory: Path) -> None:
    secret = run(directory, "token", "--user", "42").stdout.strip()
    altered = secret[:-2] + ("AA" if secret[-2:] != "AA" else "BB")
    found = run(directory, "token", "inspect", altered)
    assert (found.exit_code, found.stdout) == (1, "")
    assert found.stderr == "error: the token is not accepted: bad_signature: the signature of the token is wrong\n"


def test_without_a_key_nothing_is_signed_and_none_is_made(tmp_path: Path) -> None:
    found = run(tmp_path, "token", "--user", "42")
    assert found.exit_code == 3
    assert "`syncd serve` makes it at its first start" in found.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--user", "42", "--ttl", "1"], "got '1', expected a duration such as 30s, 15m, 1h or 7d"),
        (["--user", "42", "--ttl", "0s"], "got '0s', expected a duration"),
        (["--user", "42", "--grant", "user/42"], "got 'user/42', expected SPACE-PATTERN:ROLE"),
        (["--user", "42", "--grant", "user/42:king"], "a role is reader, writer or owner, not 'king'"),
        (["--user", "42", "--grant", "user/**/a:owner"], "is no space pattern"),
        ([], "missing option '--user'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_says_what_was_expected(
    directory: Path, arguments: list[str], complaint: str
) -> None:
    found = run(directory, "token", *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert complaint in " ".join(found.stderr.split())


def test_a_bad_user_is_refused(directory: Path) -> None:
    assert run(directory, "token", "--user", "").exit_code == 1


# -- configuration ----------------------------------------------------------------------------------------------------


def test_check_shows_what_is_in_force(directory: Path) -> None:
    shown = json.loads(run(directory, "check", "--json", SYNCD_LISTEN="127.0.0.1:9").stdout)
    assert shown["state_directory"] == str(directory)
    assert shown["config"]["server"]["listen"] == "127.0.0.1:9"
    assert shown["keys"] == ["generated"]
    assert "kkkk" not in json.dumps(shown)


def test_check_names_every_mistake_and_exits_with_3(directory: Path) -> None:
    found = run(directory, "check", SYNCD_LISTEN="x", SYNCD_LOG__LEVEL="loud")
    assert (found.exit_code, found.stdout, found.stderr.count(": got ")) == (3, "", 2)


def test_check_reads_the_keys_too(directory: Path) -> None:
    key = "[{kid = 'a', algorithm = 'HS256', file = '/nowhere'}]"
    found = run(directory, "check", SYNCD_AUTH__KEY=key)
    assert found.exit_code == 3
    assert "No such file or directory" in found.stderr


def test_check_prints_the_example(directory: Path) -> None:
    assert run(directory, "check", "--example").stdout == example()


def test_an_option_wins_over_a_variable(directory: Path, tmp_path: Path) -> None:
    found = run(directory, "check", "--json", "--state-dir", str(tmp_path / "other"))
    assert json.loads(found.stdout)["state_directory"] == str(tmp_path / "other")


# -- without a daemon -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [("status",), ("apikey", "create", "a", "--scope", "admin"), ("apikey", "revoke", "a"), ("apikey", "list")],
)
def test_what_needs_a_daemon_exits_with_5_if_there_is_none(directory: Path, arguments: tuple[str, ...]) -> None:
    found = run(directory, *arguments)
    assert (found.exit_code, found.stdout) == (5, "")
    assert found.stderr.startswith(f"error: no daemon answers on {directory}/admin.sock: ")


def test_a_store_without_a_daemon_is_read_directly(directory: Path) -> None:
    open_store(directory / "store", map_bytes=16 * MIB, map_bytes_max=16 * MIB).close()
    assert run(directory, "apikey", "list").stdout == "there are no API keys\n"
    assert run(directory, "deadletters", "list", "user/42").stdout == "there are no dead letters in user/42\n"
    assert run(directory, "fsck").stdout == "The store is sound.\n"
    absent = run(directory, "explain", "user/42", "task/1")
    assert (absent.exit_code, absent.stdout.startswith("task/1 in user/42: It does not exist")) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (("explain", "a//b", "task/1"), 1, "a space name is 1-16 segments"),
        (("explain", "user/42", "task"), 2, "got 'task', expected COLLECTION/ID"),
        (("deadletters", "list", "user/42", "--limit", "0"), 2, "not in the range"),
    ],
)
def test_a_wrong_name_is_answered_with_what_was_expected(
    directory: Path, arguments: tuple[str, ...], code: int, complaint: str
) -> None:
    open_store(directory / "store", map_bytes=16 * MIB, map_bytes_max=16 * MIB).close()
    found = run(directory, *arguments)
    assert (found.exit_code, found.stdout) == (code, "")
    assert complaint in found.stderr


def test_fsck_without_a_store_fails_with_a_reason(directory: Path) -> None:
    found = run(directory, "fsck")
    assert (found.exit_code, found.stderr) == (1, f"error: there is no store in {directory}/store\n")


def test_a_file_that_is_no_store_is_not_touched(directory: Path) -> None:
    (directory / "store").mkdir()
    (directory / "store" / "data.mdb").write_bytes(b"precious" * 1024)
    found = run(directory, "fsck")
    assert found.exit_code in (1, 4)
    assert (directory / "store" / "data.mdb").read_bytes() == b"precious" * 1024


def test_the_advice_names_commands_that_exist() -> None:
    assert "`syncd fsck`" in DAMAGED_ADVICE and "fsck" in cli.commands


def test_every_command_that_prints_data_can_print_json() -> None:
    silent = {"serve", "run", "demo", "revoke", "drop", "retire", "end", "release", "confirm-clock"}
    silent |= {"export", "audit"}  # which print nothing but JSON
    groups = {"token", "apikey", "deadletters", "devices", "leases"}
    for name, command in cli.commands.items():
        for inner_name, inner in [(name, command), *getattr(command, "commands", {}).items()]:
            options = {option for parameter in inner.params for option in parameter.opts}
            assert "--json" in options or inner_name in silent | (groups - {"token"}), f"{name} {inner_name}"
