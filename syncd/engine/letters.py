"""Dead letters: what operators do with them. And the retirement of device ids.

Owns replay and drop of a letter, and what brings back a document that was ended. Letters are written where changes are
decided (`changes.py`); who may ask is decided by whoever asks.

A letter is replayed as a change of the server's own (slot 0), with the base and the time of the change that was
refused: so it wins over nothing that its author had not seen, and loses to what came later. A document that was ended
comes back as it was, made anew at the head. Whoever edits a letter replays other operations in its name.

Invariants: L1 a letter is replayed once: who asks again is told the outcome of the first time. L2 a replay that is
refused is a letter of its own, so nothing is lost by trying.
"""

from typing import Any

from syncd.core.changes import Change, parsed_change
from syncd.core.ids import NONCE_BYTES, Position
from syncd.core.values import decoded
from syncd.engine.batch import Batch
from syncd.engine.commands import Done, DropLetter, Posted, Refused, ReplayLetter, Result, RetireDevice
from syncd.engine.grants import Role
from syncd.engine.posting import SERVER, authored
from syncd.store import keys
from syncd.store.tables import DEVICES, LETTERS, LetterRow

CHANGE, LOST = "change", "lost"  # kinds; `lost`: numbers that a restored server never saw and no device holds any more
_EDIT = "it cannot be replayed as it is: give the operations"


def replayed(batch: Batch, command: ReplayLetter) -> Result:
    """Replay a letter, or other operations in its place."""
    work = batch.space(command.space)
    row = None if work is None else LETTERS.get(batch.tx, keys.letter(work.row.id, command.number))
    if work is None or row is None:
        return Refused("unknown", f"there is no dead letter {command.number} in {command.space}")
    if row.replay is None:
        operations = command.operations if command.operations is not None else _operations(row)
        if operations is None:
            return Refused("invalid", f"the letter holds a {row.kind}, not operations; {_EDIT}")
        base = min(row.base, work.head) if row.kind == CHANGE else work.head
        checked = parsed_change([1, bytes(NONCE_BYTES), base, row.stamp, operations])
        if not isinstance(checked, Change):
            return Refused("invalid", f"{getattr(checked, 'reason', 'these are no operations')}; {_EDIT}")
        entry = authored(batch, work, SERVER, Role.OWNER, base, operations, row.stamp if row.kind == CHANGE else None)
        row = row._replace(replay=[entry.outcome, entry.seq, entry.detail])
        LETTERS.put(batch.tx, keys.letter(work.row.id, command.number), row)
    outcome, seq, detail = row.replay or ()
    return Posted(outcome, seq, detail, Position(work.row.epoch, work.head))


def dropped(batch: Batch, command: DropLetter) -> Result:
    work = batch.space(command.space)
    if work is None or not batch.tx.delete(keys.letter(work.row.id, command.number)):
        return Refused("unknown", f"there is no dead letter {command.number} in {command.space}")
    return Done()


def retired(batch: Batch, command: RetireDevice) -> Result:
    """From now on nothing new is taken from the id. Its row stays, as do its outcomes; its low-water lapses like that
    of any device that is gone."""
    key = keys.device(command.device)
    row = DEVICES.get(batch.tx, key)
    if row is None or row.kind != "device":
        return Refused("unknown", f"there is no device {command.device.hex()}")
    if row.retired_ms is None:
        DEVICES.put(batch.tx, key, row._replace(retired_ms=batch.now_ms))
        held = batch.holdings(row.user)
        batch.hold(held._replace(devices=held.devices - 1))
    return Done()


def _operations(row: LetterRow) -> list[Any] | None:
    """What a letter holds as operations; None if it is no such thing."""
    payload = decoded(row.payload)
    if row.kind == CHANGE:
        return payload if isinstance(payload, list) else None
    if row.kind != "document" or not isinstance(payload, dict):
        return None
    document = [row.collection, row.document_id]
    operations: list[Any] = [["create", *document]]
    for name, (kind, value) in sorted(payload.items()):
        made = _restored(kind, [*document, name], value)
        if made is None:
            return None
        operations += made
    return operations


def _restored(kind: str, where: list[Any], value: Any) -> list[Any] | None:
    """The operations that give a field the value which a delta showed of it."""
    match kind:
        case "reg":
            return [["reg.set", *where, value]]
        case "counter":
            return [["counter.inc", *where, value]] if value else []
        case "max" | "min":
            return [[f"{kind}.put", *where, value]]
        case "mv":
            return [["mv.set", *where, value[0]]]
        case "set":
            return [["set.add", *where, item] for item in value]
        case "flag":
            return [["flag.enable" if value else "flag.disable", *where]]
        case "map":
            return [["map.put", *where, key, item] for key, item in value.items()]
    return None
