"""Commands about the past: what a document was, who changed it, and the audit of a space.

Owns these commands and how their answers look. They read the store by themselves, beside a running daemon as well as
without one, as `syncd fsck` does: a long look costs the daemon nothing, and no transaction is held for longer than a
step. Only a revert asks the daemon, as it writes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from syncd.app import client, show
from syncd.app.config import Settings
from syncd.app.terminal import FAILED, Failure, json_option, loaded, read_only, settings_options
from syncd.core.ids import check_name, check_space
from syncd.core.sums import CHAIN_START, chained
from syncd.core.values import decoded
from syncd.engine.batch import DocumentName, space_row
from syncd.engine.history import LISTED_MAX, NotTouched, Past, Rewind, listed, told, writer
from syncd.store import keys
from syncd.store.api import Reader, Store, StoreDamaged
from syncd.store.tables import ENTRIES, LOG, REPLICAS, SLOTS, SPACE_NAMES, LogRow
from syncd.wire.codec import json_value

AUDIT_STEP = 100  # changes read in one transaction: those of 256 KiB are a few MB, and no page of LMDB is kept for long
_SEQ = click.IntRange(0, 2**53 - 1)


@click.command(short_help="Show who changed a document.")
@click.argument("space")
@click.argument("document", metavar="COLLECTION/ID")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, LISTED_MAX))
@click.option("--from", "start", type=click.IntRange(1, 2**53 - 1), help="Go on with this change.")
@settings_options
@json_option
def history(
    space: str, document: str, limit: int, start: int | None, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Show the changes that touched a document, newest first, as far back as the log is kept; also those that lost."""
    name = _name(space, document)
    with read_only(_existing(loaded(file, state_dir))) as store, store.read() as tx:
        row = space_row(tx, space)
        try:
            page = listed(tx, space, name, start, limit)
        except NotTouched as error:
            raise Failure(str(error)) from None
        changes = [] if row is None else [json_value(change) for change in told(tx, row.id, page.changes)]
    if page.state == "absent":
        raise Failure(f"{space} has no document {document}, and remembers none")
    found = {"collection": name[0], "id": name[1], "state": page.state, "rev": page.rev, "changes": changes}
    found |= {"next": page.next, "known_from": page.known_from}
    if as_json:
        click.echo(show.json_text(found))
        return
    click.echo(f"{document} in {space} is {page.state} (rev {page.rev}).")
    show.printed(show.changes_table(changes))
    if page.next is not None:
        click.echo(f"more: --from {page.next}")
    elif page.known_from:
        click.echo(f"What came before seq {page.known_from} is not kept any more.")


@click.command("show", short_help="Show a document, as it is or was.")
@click.argument("space")
@click.argument("document", metavar="COLLECTION/ID")
@click.option("--at", type=_SEQ, help="As of this seq.")
@settings_options
@json_option
def show_document(
    space: str, document: str, at: int | None, file: Path | None, state_dir: Path | None, as_json: bool
) -> None:
    """Show the fields of a document, as it is or as it was as of a seq."""
    name = _name(space, document)
    with read_only(_existing(loaded(file, state_dir))) as store:
        past = _past(store, space, name, at)
    assert past.document is not None, "what is not there was refused"
    shown = past.document.visible()
    found = {"collection": name[0], "id": name[1], "rev": past.document.rev}
    found |= {"fields": {field: json_value(value) for field, (_, value) in shown.items()}}
    found |= {"types": {field: kind for field, (kind, _) in shown.items()}}
    if as_json:
        click.echo(show.json_text(found))
        return
    click.echo(f"{document} in {space}, rev {past.document.rev}")
    for field, (kind, value) in sorted(shown.items()):
        click.echo(f"  {field} ({kind}) = {show.json_text(json_value(value))}")


@click.command(short_help="Make a document what it was.")
@click.argument("space")
@click.argument("document", metavar="COLLECTION/ID")
@click.option("--at", required=True, type=_SEQ, help="As of this seq.")
@settings_options
@json_option
def revert(space: str, document: str, at: int, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Make a document what it was as of a seq, by a new change of the server on top of all that came since; what
    cannot be brought back is named."""
    collection, document_id = _name(space, document)
    body = {"space": space, "collection": collection, "id": document_id, "at": at}
    found = client.request(loaded(file, state_dir).admin_socket, "POST", ("admin", "revert"), body=body)
    show.reverted(document, at, found, as_json)
    if found.get("seq") is None and found["outcome"] != "noop":
        raise click.exceptions.Exit(FAILED)


@click.command(short_help="Print every change of a space, and check their chain.")
@click.argument("space")
@click.option("--since", default=0, show_default=True, type=_SEQ, help="Only what came after this seq.")
@settings_options
def audit(space: str, since: int, file: Path | None, state_dir: Path | None) -> None:
    """Print one JSON line for each accepted change of a space: its dot, what it had seen, its times, the version vector
    of the space after it, its outcome and its operations, or that they are trimmed. Each link of the chain is checked
    on the way; exit code 4 if one is broken."""
    check_space(space)
    with read_only(_existing(loaded(file, state_dir))) as store:
        for line in audited(store, space, since):
            click.echo(show.json_text(line))


@click.command(short_help="Follow a change, or a device.")
@click.argument("what", metavar="DEVICE[:N]")
@click.option("--space", help="Only in this space.")
@settings_options
@json_option
def trace(what: str, space: str | None, file: Path | None, state_dir: Path | None, as_json: bool) -> None:
    """Follow a change: what became of it in each space that has it, and which devices have acknowledged it since. Of a
    device without a number: where it stands in each space."""
    text, _, number = what.partition(":")
    device = bytes.fromhex(text) if re.fullmatch(r"[0-9a-f]{32}", text) else b""
    if not device or not (number == "" or re.fullmatch(r"[1-9][0-9]{0,15}", number, re.ASCII)):
        raise click.BadParameter(f"got {what!r}, expected 32 hexadecimal digits, or these and :N", param_hint="DEVICE")
    found: list[dict[str, Any]] = []
    with read_only(_existing(loaded(file, state_dir))) as store, store.read() as tx:
        for _, (name,) in SPACE_NAMES.scan(tx, keys.table_range(keys.SPACE_NAME)):
            if space in (None, name):
                found += _traced(tx, name, device, int(number or 0))
    if not found:
        raise Failure(f"nothing is known of {what}" + (f" in {space}" if space else ""))
    if as_json:
        click.echo(show.json_text(found))
        return
    for each in found:
        show.facts(each, as_json=False)


def _traced(tx: Reader, space: str, device: bytes, n: int) -> list[dict[str, Any]]:
    row = space_row(tx, space)
    replica = None if row is None else REPLICAS.get(tx, keys.replica(row.id, device))
    if row is None or replica is None or n > replica.highest:
        return []
    if not n:
        place = {"highest": replica.highest, "settled": replica.settled, "applied": replica.applied, "head": row.head}
        return [{"space": space, **place, "low_water": replica.low, "seen_ms": replica.seen_ms}]
    entry = ENTRIES.get(tx, keys.device_log(row.id, replica.slot, n))
    traced: dict[str, Any] = {"space": space, "n": n, "outcome": "trimmed", "is_settled": n <= replica.settled}
    if entry is None:
        return [traced]
    traced |= {"outcome": entry.outcome, "seq": entry.seq, "base": entry.base, "stamp_ms": entry.stamp}
    detail = dict(entry.detail or {})
    detail.pop("leases", None)  # certificates are for their holder alone
    traced["detail"] = json_value(detail)
    if entry.seq is not None:
        log = LOG.get(tx, keys.log(row.id, entry.seq))
        traced["received_ms"] = None if log is None else log.time
        others = [
            (keys.parse_replica(key)[1].hex(), other)
            for key, other in REPLICAS.scan(tx, keys.space_range(keys.REPLICA, row.id))
            if other.low is not None
        ]
        traced["acknowledged_by"] = [name for name, other in others if other.applied >= entry.seq]
        traced["not_yet_by"] = [name for name, other in others if other.applied < entry.seq]
    return [traced]


def audited(store: Store, space: str, since: int) -> Iterator[dict[str, Any]]:
    """The lines of an audit. Raises `StoreDamaged` at a link of the chain that is broken."""
    vector: dict[str, int] | None = None
    chain: bytes | None = None
    seq, head = since, since + 1
    while seq < head:
        lines: list[dict[str, Any]] = []
        with store.read() as tx:
            row = space_row(tx, space)
            if row is None:
                raise Failure(f"there is no space {space}")
            head = row.head
            if vector is None:
                vector = _vector(tx, row.id, row.slot_next, since)
                first = next(LOG.scan(tx, (keys.log(row.id, max(1, seq)), keys.log(row.id, head + 1))), None)
                if first is None:
                    return
                kept = keys.parse_log(first[0])[1]
                chain = CHAIN_START if seq == 0 and kept == 1 else first[1].chain if kept == seq else None
                seq = max(seq, kept - 1)
            for _ in range(AUDIT_STEP):
                if seq >= head:
                    break
                seq += 1
                log = LOG.get(tx, keys.log(row.id, seq))
                if log is None and seq < row.floor:
                    chain = None  # its time was over meanwhile
                    continue
                if log is None:
                    raise StoreDamaged(f"the log has no row for seq {seq}")
                line, chain = _line(tx, row.id, seq, log, chain)
                vector[line["device"]] = line["n"]
                lines.append(line | {"vector": dict(sorted(vector.items()))})
        yield from lines


def _line(tx: Reader, space_id: int, seq: int, log: LogRow, before: bytes | None) -> tuple[dict[str, Any], bytes]:
    """One change, and the chain value after it. `before`: the one before it, if that is known."""
    by = writer(tx, space_id, log.slot)
    entry = ENTRIES.get(tx, keys.device_log(space_id, log.slot, log.n))
    if entry is not None and before is not None and chained(before, by.device, log.n, entry.nonce) != log.chain:
        raise StoreDamaged(f"the chain is broken at seq {seq}: it does not follow from the change before")
    line: dict[str, Any] = {"seq": seq, "device": by.device.hex(), "user": by.user, "n": log.n, "time": log.time}
    line |= {"chain": log.chain.hex(), "checked": entry is not None and before is not None}
    if entry is None:
        return line | {"trimmed": True}, log.chain
    line |= {"base": entry.base, "stamp": entry.stamp, "eff": min(entry.stamp, log.time), "outcome": entry.outcome}
    if entry.context:
        line["context"] = [[former[0].hex(), former[1], former[2]] for former in entry.context]
    if entry.payload is None:
        return line | {"trimmed": True}, log.chain
    return line | {"operations": json_value(decoded(entry.payload))}, log.chain


def _vector(tx: Reader, space_id: int, slots: int, seq: int) -> dict[str, int]:
    """device -> highest n accepted up to a seq, as far as the device logs tell."""
    vector = {}
    for slot in range(slots) if seq else ():
        named, highest = SLOTS.get(tx, keys.slot(space_id, slot)), 0
        for key, entry in ENTRIES.scan(tx, keys.device_log_range(space_id, slot, 0)):
            if entry.seq is not None and entry.seq > seq:
                break
            if entry.seq is not None:
                highest = keys.parse_device_log(key)[2]
        if named is not None and highest:
            vector[named[0].hex()] = highest
    return vector


def _past(store: Store, space: str, name: DocumentName, at: int | None) -> Past:
    rewind: Rewind | None = None
    while True:
        with store.read() as tx:
            row = space_row(tx, space)
            if row is None:
                raise Failure(f"there is no space {space}")
            if at is not None and at > row.head:
                raise Failure(f"seq {at} lies beyond the head {row.head}")
            if rewind is None:
                rewind = Rewind(space, name, row.head if at is None else at)
            found = rewind.step(tx)
        if found is not None:
            break
    if found.known_from is not None:
        raise Failure(f"what {name[0]}/{name[1]} was then is not kept any more; known from seq {found.known_from} on")
    if not found.is_live:
        was = "was deleted" if found.document is not None else "did not exist"
        raise Failure(f"as of seq {rewind.seq} {name[0]}/{name[1]} {was}")
    return found


def _name(space: str, text: str) -> DocumentName:
    check_space(space)
    collection, slash, document_id = text.partition("/")
    if not slash:
        raise click.BadParameter(f"got {text!r}, expected COLLECTION/ID", param_hint="'COLLECTION/ID'")
    return check_name(collection, "a collection"), check_name(document_id, "a document id")


def _existing(settings: Settings) -> Settings:
    if not settings.store_directory.exists():
        raise Failure(f"there is no store in {settings.store_directory}")
    return settings


COMMANDS = (history, show_document, revert, audit, trace)
