"""What the command line prints: tables and progress for people, JSON for programs.

Owns the form of every output. Must not fetch anything. JSON goes to stdout as one document; what is only for people
(hints, progress) goes to stderr, so that output can be piped.
"""

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from syncd.app.config import Settings
from syncd.core.ids import user_space
from syncd.net.auth import Principal
from syncd.store.api import Reader
from syncd.store.fsck import check

PIPED_COLUMNS = 20_000  # of a table that goes to no terminal: a cell that is longer goes on in the next line
FINDINGS_MAX = 100  # shown; a damaged page shows as thousands of findings, of which the first ones tell enough


def json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def ready_line(ready: Mapping[str, Any]) -> None:
    """The one line that whoever started the daemon waits for."""
    click.echo(json.dumps(ready, separators=(",", ":")))
    sys.stdout.flush()


def development(ready: Mapping[str, Any], user: str, token_file: Path, *, is_kept: bool) -> None:
    """How to use a daemon that was started for development."""
    http, socket, space = f"http://{ready['http']}", f"ws://{ready['http']}/v1/sync", user_space(user)
    kept = "kept" if is_kept else "removed at the end"
    device = "syncd-device" if shutil.which("syncd-device") else Path(sys.executable).with_name("syncd-device")
    click.echo(f"""\
syncd runs for development
  devices   {socket}
  backends  {http}/v1/   (what there is: {http}/docs)
  status    http://{ready["admin"]}/admin/status
  state     {token_file.parent}   ({kept})
  token     {token_file}   (user {user}, owner of {space}, for 7 days)

Try it:
  {device} --store {token_file.parent}/phone --url {socket} \\
      --token-file {token_file} create {space} task 1 title='"milk"'
  curl -s -H "Authorization: Bearer $(cat {token_file})" \\
      {http}/v1/spaces/{quote(space, safe="")}/documents

(Ctrl-C stops it)""")
    sys.stdout.flush()


def configuration(settings: Settings, kids: Sequence[str], as_json: bool) -> None:
    facts = {
        "file": None if settings.file is None else str(settings.file),
        "state_directory": str(settings.state_directory),
        "keys": list(kids),
        "config": settings.config.model_dump(mode="json"),
        "workflows": dict(settings.definitions.versions),
    }
    if as_json:
        click.echo(json_text(facts))
        return
    click.echo(f"file        {facts['file'] or 'none: defaults and variables'}")
    click.echo(f"state       {settings.state_directory}")
    click.echo(f"listen      {settings.config.server.listen}")
    click.echo(f"admin       {settings.config.server.admin_listen}, {settings.admin_socket}")
    generated = f"none: {settings.generated_key} will be made at the first start"
    click.echo(f"token keys  {', '.join(kids) or generated}")
    click.echo(f"workflows   {', '.join(sorted(settings.definitions.versions)) or 'none'}")
    click.echo("The configuration is right.")


def principal(found: Principal, as_json: bool) -> None:
    grants = {grant.pattern: grant.role.name.lower() for grant in found.grants}
    if as_json:
        facts = {"user": found.user, "grants": grants, "expires_ms": found.expires_ms, "token_id": found.token_id}
        click.echo(json_text(facts))
        return
    click.echo(f"user     {found.user}")
    click.echo(f"expires  {_time(found.expires_ms)}")
    for pattern, role in grants.items():
        click.echo(f"grant    {role} of {pattern}")


def api_keys(found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("name", "scopes", "made", "revoked")
    for key in found:
        revoked = _time(key["revoked_ms"]) if key["revoked_ms"] is not None else ""
        table.add_row(key["name"], "\n".join(key["scopes"]), _time(key["created_ms"]), revoked)
    _print(table, "there are no API keys", bool(found))


def status(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, value in found.items():
        if isinstance(value, Mapping):
            for inner, item in value.items():
                table.add_row(f"{name} {_label(inner)}", _shown(inner, item))
        else:
            table.add_row(_label(name), _shown(name, value))
    printed(table)


def explanation(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    click.echo(f"{found['collection']}/{found['id']} in {found['space']}: {found['sentence']}")
    for name, key in found.get("unique", {}).items():
        click.echo(f"It holds the unique key {json_text(key)} under the name {name}.")
    for field, facts in found["fields"].items():
        value = json_text(facts["value"]) if facts["visible"] else "not visible"
        click.echo(f"\n{field} ({facts['type']}) = {value}")
        click.echo(f"  {facts['sentence']}")
    if found["refused"]:
        click.echo()
    for letter in found["refused"]:
        click.echo(f"dead letter {letter['letter']}: {letter['sentence']}")


def changes_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """Changes with what they had seen and what became of them."""
    table = _table("seq", "when", "user", "device", "n", "had read up to", "outcome", "operations")
    for change in changes:
        operations = "\n".join(json_text(operation) for operation in change["operations"])
        table.add_row(
            str(change["seq"]), _time(change["time"]), change["user"], change["device"][:8], str(change["n"]),
            str(change["base"]), change["outcome"], operations,
        )  # fmt: skip
    return table


def reverted(document: str, at: int, found: Mapping[str, Any], as_json: bool) -> None:
    """What came of a revert, and a sentence for each thing that it had to leave."""
    if as_json:
        click.echo(json_text(found))
        return
    left = found["left"]
    but = ", but for what follows" if left else ""
    if found.get("seq") is not None:
        click.echo(f"Change {found['seq']} makes {document} what it was as of seq {at}{but}.")
    elif found["outcome"] == "noop":
        click.echo(f"Nothing had to be changed: {document} is what it was as of seq {at}{but}.")
    else:
        reason = (found.get("detail") or {}).get("reason", "")
        click.echo(f"Nothing was changed: {found['outcome']}{reason and f', {reason}'}.")
    for each in left:
        what = f"The field {each['field']}" if "field" in each else f"The unique key under the name {each['unique']}"
        click.echo(f"{what} is not as it was: {each['reason']}.")


def letters(space: str, found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("letter", "when", "kind", "device", "n", "reason", "what")
    for letter in found:
        what = json_text(letter["payload"])
        if letter["collection"] is not None:
            what = f"{letter['collection']}/{letter['document_id']}: {what}"
        table.add_row(
            str(letter["letter"]), _time(letter["at_ms"]), letter["kind"], letter["device"][:8], str(letter["n"]),
            letter["reason"], what,
        )  # fmt: skip
    _print(table, f"there are no dead letters in {space}", bool(found))


def facts(found: Mapping[str, Any], as_json: bool) -> None:
    """One thing, a line for each of its facts."""
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("", "")
    for name, value in found.items():
        is_plain = isinstance(value, str | int) and not name.endswith("_ms")
        table.add_row(_label(name), str(value) if is_plain or name.endswith("_ms") else json_text(value))
    _print(table, "", is_filled=True)


def devices(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("device", "user", "installation", "bound", "retired")
    for each in found["devices"]:
        retired = "" if each["retired_ms"] is None else _time(each["retired_ms"])
        table.add_row(each["device"], each["user"], each["installation"] or "", _time(each["bound_ms"]), retired)
    _print(table, "there are no such devices", bool(found["devices"]))
    if found["after"] is not None:
        click.echo(f"There may be more: --after {found['after']}")


def consumers(space: str, found: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("owner", "consumer", "position", "head", "lag", "used")
    for consumer in found:
        lag = "expired" if consumer["lag"] is None else f"{consumer['lag']:,}"
        # Within one epoch the numbers tell all; the epoch has 32 digits.
        position, head = (consumer[name].partition("@")[0] for name in ("position", "head"))
        table.add_row(consumer["owner"], consumer["name"], position, head, lag, _time(consumer["used_ms"]))
    _print(table, f"there are no consumers in {space}", bool(found))


def leases(space: str, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("document", "field", "lease", "device", "left", "of", "ends")
    for lease in found["leases"]:
        ends = "strict" if lease["until_ms"] is None else _time(lease["until_ms"])
        where = f"{lease['collection']}/{lease['id']}"
        table.add_row(where, lease["field"], lease["lease"], lease["device"], str(lease["left"]), str(lease["k"]), ends)
    _print(table, f"there are no leases in {space}", bool(found["leases"]))
    if found["frozen_until_ms"] is not None:
        until = _time(found["frozen_until_ms"])
        click.echo(f"restored: the reserves give nothing out until {until}, or `syncd leases release {space}`")
    if found["next"] is not None:
        click.echo(f"more: --after {found['next']}")


def members(space: str, found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(found))
        return
    table = _table("user", "role", "since seq")
    for member in found["members"]:
        table.add_row(member["user"], member["role"] or "-", str(member["seq"]))
    _print(table, f"there are no members in {space}: its tokens say who may what", bool(found["members"]))
    if found["unpurged"]:
        click.echo()
        table = _table("not confirmed as deleted: device", "user", "seq", "since")
        for held in found["unpurged"]:
            table.add_row(held["device"], held["user"], str(held["seq"] or "token"), _time(held["since_ms"]))
        _print(table, "", True)


class _Counting:
    """A reader that counts the rows that are read, for the progress display."""

    def __init__(self, tx: Reader, advance: Callable[[], object]) -> None:
        self._tx, self._advance = tx, advance

    def get(self, key: bytes) -> bytes | None:
        self._advance()
        return self._tx.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        for item in self._tx.scan(start, stop):
            self._advance()
            yield item

    def last(self, start: bytes, stop: bytes) -> tuple[bytes, bytes] | None:
        self._advance()
        return self._tx.last(start, stop)


def fsck(tx: Reader, as_json: bool) -> int:
    """Check a store, with progress on a terminal. Returns the number of findings, of which the first are shown."""
    # A store of unknown shape has no percentage: each row is read by as many checks as it has relations. The count
    # moves, which is what a waiting operator wants to see.
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} rows read"), TimeElapsedColumn())
    findings: list[dict[str, str]] = []
    count = 0
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fsck", total=None)
        for finding in check(_Counting(tx, lambda: progress.advance(task))):
            count += 1
            if len(findings) < FINDINGS_MAX:
                findings.append({"table": finding.table, "key": finding.key, "problem": finding.problem})
    if as_json:
        click.echo(json_text({"findings": findings, "count": count}))
        return count
    for shown in findings:
        click.echo(f"{shown['table']} {shown['key']}: {shown['problem']}")
    more = f", of which the first {len(findings)} are shown" if count > len(findings) else ""
    click.echo(f"{count} problems found{more}." if count else "The store is sound.")
    return count


def copied(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(facts))
        return
    click.echo(f"{facts['directory']}: {facts['spaces']:,} spaces, {facts['bytes'] / 2**20:,.1f} MiB, checked.")
    if not facts["is_told"]:
        click.echo("Neither a daemon nor its store could be told of it; the next backup tells devices.")


def restored(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json_text(facts))
        return
    click.echo(f"Restored {facts['spaces']:,} spaces, each with a new epoch. Start the daemon: devices do the rest.")
    if facts["replaced"] is not None:
        click.echo(f"The old store is {facts['replaced']}; remove it when you are sure.")


@contextmanager
def working(what: str, total: Callable[[], float | None], done: Callable[[], float]) -> Iterator[None]:
    """A progress bar on a terminal, while something else works; `done` and `total` are looked at now and then."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    if not console.is_terminal:
        yield
        return
    over = threading.Event()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def look() -> None:
            while not over.wait(0.2):
                progress.update(task, completed=done(), total=total())

        looker = threading.Thread(target=look, daemon=True)
        looker.start()
        try:
            yield
        finally:
            over.set()
            looker.join()


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table, nothing: str, is_filled: bool) -> None:
    printed(table if is_filled else nothing)


def printed(shown: Table | str) -> None:
    """As wide as the terminal; where there is none, as wide as it is: what is piped is cut by nobody but its reader."""
    # Without markup: a name may hold square brackets, which are nobody's colours.
    console = Console(highlight=False, markup=False)
    if console.is_terminal or "COLUMNS" in os.environ:
        console.print(shown)
        return
    console = Console(highlight=False, markup=False, width=PIPED_COLUMNS)
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())  # a column is as wide as its longest cell


def _time(at_ms: int | None) -> str:
    if at_ms is None:
        return "never"
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")


def _label(name: str) -> str:
    """The name of a value without its unit, which stands at the value."""
    return name.removesuffix("_at_ms").removesuffix("_ms").removesuffix("_bytes").replace("_", " ")


def _shown(name: str, value: object) -> str:
    """A value of the status, in a unit for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {count:,}" for key, count in sorted(value.items())) or "none"
    if isinstance(value, list):
        return "\n".join(str(item) for item in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and name.endswith("_bytes"):
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, int) and name == "uptime_ms":
        minutes, seconds = divmod(value // 1000, 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}h {minutes:02}m {seconds:02}s"
    if isinstance(value, int) and name.endswith("_at_ms"):
        return _time(value)
    if isinstance(value, int) and name.endswith("_ms"):
        return f"{value:,} ms"
    return f"{value:,}" if isinstance(value, int) and name != "pid" else str(value)
