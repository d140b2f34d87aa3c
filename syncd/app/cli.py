"""The command line: `syncd`.

Owns the commands, their options, and the one place that maps errors to exit codes. Must not decide anything about data:
it asks the running daemon over its admin socket, or reads the store by itself when none runs.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 configuration refused, 4 store damaged, 5 no daemon answers.
"""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NoReturn

import click

from syncd.app import VERSION, admin, backups, client, config, daemon, looking, people, show
from syncd.app.config import ConfigError, Settings
from syncd.app.listening import CannotServe
from syncd.app.settings import example
from syncd.app.terminal import CONFIGURATION, DAMAGED, FAILED, UNREACHABLE, Failure
from syncd.app.terminal import asked as _asked
from syncd.app.terminal import json_option as _json_option
from syncd.app.terminal import loaded as _loaded
from syncd.app.terminal import read_only as _read_only
from syncd.app.terminal import settings_options as _settings_options
from syncd.core.ids import BadName
from syncd.engine.grants import Grant, parsed_grant
from syncd.env.real import SystemClock, SystemEntropy
from syncd.env.tls import BadCertificate, server_context
from syncd.net.auth import Authenticator, BadKey, Unauthenticated, sign_token
from syncd.store.api import StoreDamaged, StoreError

DAMAGED_ADVICE = """\
The store holds something that was not written so, or the disk failed. Nothing is served from it, so that nothing wrong
spreads; devices keep their unsent changes. Keep a copy of the directory; run `syncd fsck` to see what is affected;
check the disk (dmesg, smartctl); then restore the last good backup, or start with an empty directory."""


class _Group(click.Group):
    """All errors that commands raise on purpose become one line on stderr and an exit code here."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ConfigError as error:
            self._end(CONFIGURATION, str(error))
        except StoreDamaged as error:
            self._end(DAMAGED, f"the store is damaged: {error}\n{DAMAGED_ADVICE}")
        except client.Unreachable as error:
            self._end(UNREACHABLE, str(error))
        except (StoreError, client.RequestRefused, CannotServe, Failure, BadName, BadKey) as error:
            self._end(FAILED, str(error))
        except OSError as error:
            if error.filename is None:  # no file that an operator could look at; a closed pipe is click's matter
                raise
            self._end(FAILED, f"{error.filename}: {(error.strerror or str(error)).lower()}")

    @staticmethod
    def _end(code: int, message: str) -> NoReturn:
        click.echo(f"error: {message}", err=True)
        raise click.exceptions.Exit(code)


class _Duration(click.ParamType[int]):
    """`30s`, `15m`, `1h`, `7d` -> milliseconds"""

    name = "duration"
    _units: Mapping[str, int] = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        found = re.fullmatch(r"(\d{1,9})(ms|s|m|h|d)", value, re.ASCII)
        if found is None or int(found[1]) == 0:
            self.fail(f"got {value!r}, expected a duration such as 30s, 15m, 1h or 7d", param, ctx)
        return int(found[1]) * self._units[found[2]]


class _GrantType(click.ParamType[Grant]):
    """`user/42:owner`"""

    name = "pattern:role"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Grant:
        pattern, colon, role = value.rpartition(":")
        if not colon:
            self.fail(
                f"got {value!r}, expected SPACE-PATTERN:ROLE such as 'user/42:owner' or 'shop/**:reader'", param, ctx
            )
        try:
            return parsed_grant(pattern, role)
        except BadName as error:
            self.fail(str(error), param, ctx)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Offline-first sync daemon: one process, one LMDB file, nothing lost.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 configuration refused, 4 store damaged, 5 no daemon answers.
    """


# -- the daemon -------------------------------------------------------------------------------------------------------


@cli.command()
@_settings_options
def serve(file: Path | None, state_dir: Path | None) -> None:
    """Run the daemon. Prints one JSON line when ready; logs go to stderr. SIGTERM drains and stops it."""
    _serve(_loaded(file, state_dir), show.ready_line)


@cli.command(short_help="Run a daemon for development.")
@click.option("--state-dir", type=click.Path(path_type=Path), help="Keep the data here; else it goes with the process.")
@click.option("--listen", default="127.0.0.1:8740", show_default=True, help="For clients and backends.")
@click.option("--admin-listen", default="127.0.0.1:8741", show_default=True, help="For health and status.")
@click.option("--user", default="42", show_default=True, help="Whom the printed token is for.")
def run(state_dir: Path | None, listen: str, admin_listen: str, user: str) -> None:
    """Run a daemon for development: a key and a store of its own, and a token to try it with."""
    overrides = {"SYNCD_LISTEN": listen, "SYNCD_ADMIN_LISTEN": admin_listen, "SYNCD_LOG__LEVEL": "warning"}
    with _directory(state_dir) as directory:
        settings = _loaded(None, directory, overrides)

        def announce(ready: Mapping[str, Any]) -> None:
            token = sign_token(config.signing_key(settings, None), user, (), 7 * 86400.0, SystemClock().now_ms())
            file = directory / "token"
            file.touch(mode=0o600)
            file.write_text(token + "\n")
            show.development(ready, user, file, is_kept=state_dir is not None)

        _serve(settings, announce)


@contextmanager
def _directory(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        yield kept
        return
    directory = Path(tempfile.mkdtemp(prefix="syncd-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _serve(settings: Settings, announce: Callable[[Mapping[str, Any]], None]) -> None:
    if not __debug__:
        raise Failure("assertions are part of syncd's safety: start Python without -O and PYTHONOPTIMIZE")
    daemon.main(settings, os.environ, announce)


@cli.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Watch it at work, in a minute.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Six devices, an unreliable network, a crash: what was acknowledged is there."""
    from syncd.app.demo import main  # only here: no other command needs what the demo imports

    if find_spec("syncd_client") is None:
        raise Failure(
            "the demo's devices are reference clients, and none is installed for this Python;"
            f" install it from the source tree: {sys.executable} -m pip install ./clients/python"
        )
    raise click.exceptions.Exit(main(list(arguments)))


@cli.command(short_help="Check the configuration.")
@_settings_options
@_json_option
@click.option("--example", "is_example", is_flag=True, help="Print a file with every key, its default and its reason.")
def check(file: Path | None, state_dir: Path | None, as_json: bool, is_example: bool) -> None:
    """Tell whether the configuration is right, and what is in force."""
    if is_example:
        click.echo(example(), nl=False)
        return
    settings = _loaded(file, state_dir)
    keys = config.verifying_keys(settings)
    files = config.certificate_files(settings)
    if files is not None:
        try:
            server_context(*files)
        except BadCertificate as error:
            raise config.ConfigError([f"tls.certificate, tls.private_key: {error}"]) from None
    show.configuration(settings, [key.kid for key in keys], as_json)


@cli.command()
@_json_option
def version(as_json: bool) -> None:
    """Print the version."""
    click.echo(show.json_text({"version": VERSION}) if as_json else f"syncd {VERSION}")


# -- tokens and API keys ----------------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True, short_help="Issue a token for a user.")
@click.option("--user", help="Whom the token is for.")
@click.option("--grant", "grants", multiple=True, type=_GrantType(), help="PATTERN:ROLE; none: owner of user/USER.")
@click.option("--ttl", "ttl_ms", default="1h", show_default=True, type=_Duration(), help="How long it is valid.")
@click.option("--kid", help="The key to sign with; else the first that can.")
@_settings_options
@_json_option
@click.pass_context
def token(
    ctx: click.Context,
    user: str | None,
    grants: Sequence[Grant],
    ttl_ms: int,
    kid: str | None,
    file: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> None:
    """Issue a token for a user and print it; nothing else is printed. Needs no daemon, only its key."""
    if ctx.invoked_subcommand is not None:
        return
    if user is None:
        raise click.UsageError("missing option '--user'", ctx)
    settings = _loaded(file, state_dir)
    auth, now_ms = settings.config.auth, SystemClock().now_ms()
    secret = sign_token(
        config.signing_key(settings, kid), user, grants, ttl_ms / 1000, now_ms,
        issuer=auth.issuer or None, audience=auth.audience or None, token_id=SystemEntropy().token(8).hex(),
    )  # fmt: skip
    click.echo(show.json_text({"token": secret, "user": user, "expires_ms": now_ms + ttl_ms}) if as_json else secret)


@token.command("inspect")
@click.argument("text", metavar="[TOKEN]", default="-")
@_settings_options
@_json_option
def inspect_token(text: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Verify a token and show what it allows. Without TOKEN, or with '-', it is read from stdin."""
    settings = _loaded(file, state_dir)
    secret = (sys.stdin.read() if text == "-" else text).strip()
    auth = settings.config.auth
    checker = Authenticator(
        config.verifying_keys(settings), issuer=auth.issuer or None, audience=auth.audience or None,
        leeway_ms=auth.leeway_ms,
    )  # fmt: skip
    try:
        principal = checker.token(secret, SystemClock().now_ms())
    except Unauthenticated as error:
        raise Failure(f"the token is not accepted: {error}") from None
    show.principal(principal, as_json)


@cli.group()
def apikey() -> None:
    """API keys of backends."""


@apikey.command("create")
@click.argument("name")
@click.option("--scope", "scopes", multiple=True, required=True, help="events:write, changes:write:PATTERN, ...")
@_settings_options
@_json_option
def create_key(name: str, scopes: Sequence[str], file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Make an API key and print its secret, which is shown only now."""
    body = {"name": name, "scopes": list(scopes)}
    made = client.request(_loaded(file, state_dir).admin_socket, "POST", ("admin", "apikeys"), body=body)
    click.echo(show.json_text(made) if as_json else made["secret"])


@apikey.command("list")
@_settings_options
@_json_option
def list_keys(file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show all API keys, without their secrets."""
    found = _asked(_loaded(file, state_dir), ("admin", "apikeys"), {}, lambda tx: {"keys": admin.api_keys(tx)})
    show.api_keys(found["keys"], as_json)


@apikey.command("revoke")
@click.argument("name")
@_settings_options
def revoke_key(name: str, file: Path | None, state_dir: Path | None) -> None:
    """End an API key; requests with it are refused from now on."""
    client.request(_loaded(file, state_dir).admin_socket, "DELETE", ("admin", "apikeys", name))


# -- looking ----------------------------------------------------------------------------------------------------------


@cli.command()
@_settings_options
@_json_option
def status(file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show how the running daemon is."""
    found = client.request(_loaded(file, state_dir).admin_socket, "GET", ("admin", "status"))
    show.status(found, as_json)


@cli.command(short_help="Tell why a document is as it is.")
@click.argument("space")
@click.argument("document", metavar="COLLECTION/ID")
@click.argument("field", required=False)
@_settings_options
@_json_option
def explain(
    space: str, document: str, field: str | None, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Tell why a document, or one field of it, is as it is: who wrote it, what it met, what gave way. Or, with
    `decision ID`, why a notification was sent or not."""
    if space == "decision" and "/" not in document:
        people.explain_decision(document, file, state_dir, as_json)
        return
    collection, document_id = _document(document)
    query = {"space": space, "collection": collection, "id": document_id, "field": field}
    found = _asked(
        _loaded(file, state_dir), ("admin", "explain"), query,
        lambda tx: admin.explanation(tx, space, collection, document_id, field),
    )  # fmt: skip
    show.explanation(found, as_json)
    if found["state"] == "absent" or (field is not None and field not in found["fields"]):
        raise click.exceptions.Exit(FAILED)


@cli.command(short_help="Show who follows a space, and how far behind.")
@click.argument("space")
@_settings_options
@_json_option
def consumers(space: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the named consumers of a space: whose they are, where they stand, and how far behind the head."""
    where, query = ("admin", "consumers"), {"space": space}
    found = _asked(_loaded(file, state_dir), where, query, lambda tx: {"consumers": admin.consumers_of(tx, space)})
    show.consumers(space, found["consumers"], as_json)


@cli.command(short_help="Show who may what in a space, and which revoked devices have not confirmed.")
@click.argument("space")
@_settings_options
@_json_option
def members(space: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the members of a space, and the devices that lost the right to read it and have not confirmed a purge."""
    where, query = ("admin", "members"), {"space": space}
    found = _asked(_loaded(file, state_dir), where, query, lambda tx: admin.members_of(tx, space))
    show.members(space, found, as_json)


@cli.group()
def deadletters() -> None:
    """What was refused or gave way, and is kept."""


@deadletters.command("list")
@click.argument("space")
@click.option("--from", "first", default=0, show_default=True, type=click.IntRange(0, 2**53 - 1), help="Letter number.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, admin.LETTERS_PAGE_MAX))
@_settings_options
@_json_option
def list_letters(space: str, first: int, limit: int, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the dead letters of a space, oldest first."""
    show.letters(space, _letters(_loaded(file, state_dir), space, first, limit, None), as_json)


def _letters(settings: Settings, space: str, first: int, limit: int, kind: str | None) -> list[dict[str, Any]]:
    """Dead letters by as many pages as it takes: one that has looked at much may end early."""
    found: list[dict[str, Any]] = []
    start: int | None = first
    while start is not None and len(found) < limit:
        place, left = start, limit - len(found)
        query = {"space": space, "from": place, "limit": left} | ({} if kind is None else {"kind": kind})
        read = partial(admin.dead_letters, space=space, first=place, limit=left, kind=kind)
        page = _asked(settings, ("admin", "deadletters"), query, read)
        found, start = found + page["letters"], page.get("next")
    return found


@deadletters.command("show")
@click.argument("space")
@click.argument("letter", type=click.IntRange(0, 2**53 - 1))
@_settings_options
@_json_option
def show_letter(space: str, letter: int, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show one dead letter whole, and what came of its replay."""
    found = _asked(
        _loaded(file, state_dir), ("admin", "deadletters", str(letter)), {"space": space},
        lambda tx: next(iter(admin.dead_letters(tx, space, letter, 1)["letters"]), None),
    )  # fmt: skip
    if found is None or found["letter"] != letter:
        raise Failure(f"there is no dead letter {letter} in {space}")
    show.facts(found, as_json)


@deadletters.command("replay")
@click.argument("space")
@click.argument("letter", type=click.IntRange(0, 2**53 - 1))
@click.option("--operations", type=click.File(), help="A JSON file with other operations in their place; '-' is stdin.")
@_settings_options
@_json_option
def replay_letter(
    space: str, letter: int, operations: IO[str] | None, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Replay a dead letter as a change of the server, and print its outcome. A letter is replayed once; asked again,
    this prints the outcome of the first time."""
    try:
        body = {} if operations is None else {"operations": json.load(operations)}
    except ValueError as error:
        raise Failure(f"the operations are no JSON: {error}") from None
    told = client.request(
        _loaded(file, state_dir).admin_socket, "POST", ("admin", "deadletters", str(letter)),
        query={"space": space}, body=body,
    )  # fmt: skip
    show.facts(told, as_json)


@deadletters.command("drop")
@click.argument("space")
@click.argument("letter", type=click.IntRange(0, 2**53 - 1))
@_settings_options
def drop_letter(space: str, letter: int, file: Path | None, state_dir: Path | None) -> None:
    """Drop a dead letter for good."""
    path = ("admin", "deadletters", str(letter))
    client.request(_loaded(file, state_dir).admin_socket, "DELETE", path, query={"space": space})


@cli.command(short_help="Show what a restore lost for good.")
@click.argument("space")
@_settings_options
@_json_option
def lost(space: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the changes of a space that neither the restored backup nor their device has any more: from n to n."""
    show.letters(space, _letters(_loaded(file, state_dir), space, 0, admin.LETTERS_PAGE_MAX, "lost"), as_json)


@cli.group()
def devices() -> None:
    """Device ids, and who uses them."""


@devices.command("list")
@click.option("--user", help="Only the devices of this user.")
@click.option("--after", default="", help="Go on behind this device id.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, admin.DEVICES_PAGE_MAX))
@_settings_options
@_json_option
def list_devices(
    user: str | None, after: str, limit: int, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Show devices with their user and installation, by id."""
    query = {"user": user, "after": after or None, "limit": limit}
    read = lambda tx: admin.devices(tx, user, after, limit)  # noqa: E731
    show.devices(_asked(_loaded(file, state_dir), ("admin", "devices"), query, read), as_json)


@devices.command("retire")
@click.argument("device")
@_settings_options
def retire_device(device: str, file: Path | None, state_dir: Path | None) -> None:
    """Take nothing new from a device id. A device that still runs goes on under another id: to shut it out, end its
    token, or the user's role."""
    client.request(_loaded(file, state_dir).admin_socket, "DELETE", ("admin", "devices", device))


@cli.command(short_help="Check every record of the store.")
@_settings_options
@_json_option
@click.option("--directory", type=click.Path(path_type=Path), help="Check this backup instead of the store.")
def fsck(directory: Path | None, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Check every record of the store and how they fit together. Works beside a running daemon."""
    with _read_only(_loaded(file, state_dir), directory) as store, store.read() as tx:
        count = show.fsck(tx, as_json)
    if count:
        raise click.exceptions.Exit(DAMAGED)


@cli.group()
def leases() -> None:
    """Leases of stocks: what devices hold, and what an operator may do about it."""


@leases.command("list")
@click.argument("space")
@click.option("--after", default="", help="Go on behind this place, as the page before said.")
@_settings_options
@_json_option
def list_leases(space: str, after: str, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Show the leases of a space: which device holds how much, and until when."""
    found = _asked(
        _loaded(file, state_dir), ("admin", "leases"), {"space": space, "after": after},
        lambda tx: admin.leases_of(tx, space, after),
    )  # fmt: skip
    show.leases(space, found, as_json)


@leases.command("end")
@click.argument("space")
@click.argument("document", metavar="COLLECTION/ID")
@click.argument("field")
@click.argument("lease")
@_settings_options
def end_lease(space: str, document: str, field: str, lease: str, file: Path | None, state_dir: Path | None) -> None:
    """End a lease: what is left of it can be sold by others. Its device was certain of it until now: end the lease of
    one that will not come back."""
    collection, document_id = _document(document)
    body = {"space": space, "collection": collection, "id": document_id, "field": field, "lease": lease}
    client.request(_loaded(file, state_dir).admin_socket, "POST", ("admin", "leases", "end"), body=body)


@leases.command("release")
@click.argument("space")
@_settings_options
def release_leases(space: str, file: Path | None, state_dir: Path | None) -> None:
    """Let the stocks of a space that was restored from a backup be sold again, before the longest ttl has passed: what
    devices hold that the backup does not know becomes a deficit if it is sold twice."""
    body = {"space": space}
    client.request(_loaded(file, state_dir).admin_socket, "POST", ("admin", "leases", "release"), body=body)


@leases.command("confirm-clock")
@_settings_options
def confirm_clock(file: Path | None, state_dir: Path | None) -> None:
    """Confirm that the clock of this machine is right, after it jumped or the daemon was down for long: leases whose
    time is over by it then end. `syncd_lease_clock_lag_seconds` shows how much waits for this."""
    client.request(_loaded(file, state_dir).admin_socket, "POST", ("admin", "leases", "confirm-clock"), body={})


def _document(text: str) -> tuple[str, str]:
    collection, slash, document_id = text.partition("/")
    if not slash:
        raise click.BadParameter(f"got {text!r}, expected COLLECTION/ID", param_hint="'COLLECTION/ID'")
    return collection, document_id


@cli.command(short_help="Copy the store while it is in use.")
@click.argument("directory", type=click.Path(path_type=Path))
@_settings_options
@_json_option
def backup(directory: Path, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Make a backup in the new DIRECTORY, beside a running daemon or without one; it is checked before it gets its
    name. From the first one on, devices keep what no backup has yet, and offer it again to a restored server."""
    show.copied(backups.backup(_loaded(file, state_dir), directory), as_json)


@cli.command(short_help="Put a backup in the place of the store.")
@click.argument("directory", type=click.Path(path_type=Path))
@_settings_options
@_json_option
@click.confirmation_option(prompt="Every device falls back to this backup. Replace the store?")
def restore(directory: Path, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Put the backup in DIRECTORY in the place of the store. The daemon must be stopped. The old store is kept beside
    the new one; each space begins a new epoch, to which devices bring what they still hold."""
    show.restored(backups.restore(_loaded(file, state_dir), directory), as_json)


for _command in (*people.COMMANDS, *looking.COMMANDS):
    cli.add_command(_command)


def main() -> NoReturn:
    """The installed command."""
    cli(prog_name="syncd")
    sys.exit(0)


if __name__ == "__main__":
    main()
