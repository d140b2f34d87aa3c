"""Dead letters: what their authors and operators do with them. And the retirement of device ids.

Owns who sees a letter and who touches it, replay and drop of one, and what brings back a document that was ended.
Letters are written where changes are decided (`changes.py`). Must not know HTTP.

A letter belongs to the user or API key whose device made the change. Its author lists, reads, replays and drops it; an
owner of the space reads all of the space's, and touches only its own: an owner can write what a letter says as a change
of its own, while a letter that somebody else dropped would be lost to its author. The server, which stands for
operators, does everything.

A letter is replayed as a change of whoever asks, by what that one may do now: for operators that is the server itself
(slot 0). It has the base and the time of the change that was refused: so it wins over nothing that its author had not
seen, and loses to what came later. A document that was ended comes back as it was, made anew at the head. Whoever edits
a letter replays other operations in its name.

Invariants: L1 a letter is replayed once: who asks again is told the outcome of the first time. L2 a replay that is
refused is a letter of its own, so nothing is lost by trying. L3 a letter that the asker may not see is answered like
one that never was; who may ask is judged in the transaction that answers. L4 a replay gives nobody a right that it
lacks.
"""

from typing import Any, NamedTuple

from syncd.core.changes import Change, parsed_change
from syncd.core.ids import NONCE_BYTES, Position
from syncd.core.values import decoded
from syncd.engine.batch import Batch, SpaceWork, space_row
from syncd.engine.commands import Author, Done, DropLetter, Posted, Refused, ReplayLetter, Result
from syncd.engine.grants import Role
from syncd.engine.members import role_at
from syncd.engine.posting import authored
from syncd.store import keys
from syncd.store.api import Reader
from syncd.store.tables import DEVICES, LETTERS, LetterRow

CHANGE, LOST = "change", "lost"  # kinds; `lost`: numbers that a restored server never saw and no device holds any more
LOOKED_MAX = 200  # letters read for one page
LOOKED_BYTES_MAX = 1024 * 1024  # of their payloads, of which each may have 256 KiB: some 2 ms
_EDIT = "it cannot be replayed as it is: give the operations"


class Letter(NamedTuple):
    """A letter as somebody sees it. `user`: whose it is, as the store names users and API keys."""

    number: int
    user: str
    row: LetterRow


class LetterPage(NamedTuple):
    """`next`: the number from which on there may be more; None at the end. A page may be empty before the end: most of
    the letters that were looked at may be others'."""

    letters: list[Letter]
    next: int | None


def listed(tx: Reader, author: Author, space: str, first: int, limit: int) -> LetterPage:
    """The letters that somebody sees, from the number `first` on, oldest first."""
    found: list[Letter] = []
    row = space_row(tx, space)
    role = role_at(tx, author, space, row)
    if row is None or role < Role.READER:
        return LetterPage(found, None)
    bounds = keys.letter(row.id, first), keys.space_range(keys.LETTER, row.id)[1]
    size = 0
    for count, (key, letter) in enumerate(LETTERS.scan(tx, bounds), 1):
        number, user, size = keys.parse_letter(key)[1], _user(tx, letter), size + len(letter.payload)
        if role >= Role.OWNER or user == author.user:
            found.append(Letter(number, user, letter))
        is_enough = len(found) == limit or count == LOOKED_MAX or size > LOOKED_BYTES_MAX
        if is_enough and number + 1 < row.letter_next:
            return LetterPage(found, number + 1)
    return LetterPage(found, None)


def seen(tx: Reader, author: Author, space: str, number: int) -> Letter | None:
    """The letter, if it is there and somebody sees it."""
    row = space_row(tx, space)
    letter = None if row is None else LETTERS.get(tx, keys.letter(row.id, number))
    if row is None or letter is None:
        return None
    role, user = role_at(tx, author, space, row), _user(tx, letter)
    is_seen = role >= Role.OWNER or (role >= Role.READER and user == author.user)
    return Letter(number, user, letter) if is_seen else None


def _user(tx: Reader, letter: LetterRow) -> str:
    device = DEVICES.get(tx, keys.device(letter.device))
    assert device is not None, "who pushes is bound, and the rows of devices stay"
    return device.user


def _touched(
    batch: Batch, command: ReplayLetter | DropLetter, needed: Role
) -> Refused | tuple[SpaceWork, LetterRow, Role]:
    """The letter that somebody may touch, and its role."""
    author, space = command.author, command.space
    role = batch.role(author, space)
    if role < needed:
        return Refused("forbidden", f"this needs the role {needed.name.lower()} on {space}")
    work = batch.space(space)
    row = None if work is None else LETTERS.get(batch.tx, keys.letter(work.row.id, command.number))
    is_own = author.kind == "server" or (row is not None and _user(batch.tx, row) == author.user)
    if work is None or row is None or not (is_own or role >= Role.OWNER):
        return Refused("unknown", f"there is no dead letter {command.number} in {space}")
    if not is_own:
        return Refused("forbidden", f"only its author replays or drops the dead letter {command.number}")
    return work, row, role


def replayed(batch: Batch, command: ReplayLetter) -> Result:
    """Replay a letter, or other operations in its place."""
    found = _touched(batch, command, Role.WRITER)
    if isinstance(found, Refused):
        return found
    work, row, role = found
    if row.replay is None:
        operations = command.operations if command.operations is not None else _operations(row)
        if operations is None:
            return Refused("invalid", f"the letter holds a {row.kind}, not operations; {_EDIT}")
        base = min(row.base, work.head) if row.kind == CHANGE else work.head
        checked = parsed_change([1, bytes(NONCE_BYTES), base, row.stamp, operations])
        if not isinstance(checked, Change):
            return Refused("invalid", f"{getattr(checked, 'reason', 'these are no operations')}; {_EDIT}")
        batch.device_made(command.author)
        stamp = row.stamp if row.kind == CHANGE else None
        entry = authored(batch, work, command.author, role, base, operations, stamp)
        row, key = (
            row._replace(replay=[entry.outcome, entry.seq, entry.detail]),
            keys.letter(work.row.id, command.number),
        )
        if LETTERS.get(batch.tx, key) is not None:  # else a letter of the replay's own has just pushed it out
            LETTERS.put(batch.tx, key, row)
    outcome, seq, detail = row.replay or ()
    return Posted(outcome, seq, detail, Position(work.row.epoch, work.head))


def dropped(batch: Batch, command: DropLetter) -> Result:
    found = _touched(batch, command, Role.READER)
    if isinstance(found, Refused):
        return found
    batch.tx.delete(keys.letter(found[0].row.id, command.number))
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
