"""At rest: does everyone hold the same, and is it what the definitions say?

S7 every device = the server = the oracle, by checksum and by document. S8 a device lost none of its changes. S11 one
without a grant holds nothing. S12 a first download gives what live deltas gave. S13 fsck. S17 each change has one
outcome, the same on both sides.
"""

from typing import TYPE_CHECKING, Any

from syncd.engine import reading
from syncd.engine.batch import space_row
from syncd.engine.reading import Cursor
from syncd.store import keys
from syncd_client.store import OUTCOMES_PER_SPACE_MAX
from tests.oracle.histories import exact
from tests.oracle.replica import Replica, sum_of
from tests.sim.auditor import Recorded, Violation

if TYPE_CHECKING:
    from tests.sim.device import SimDevice
    from tests.sim.world import World


def unfinished(world: "World") -> list[str]:
    """What has not come to rest yet."""
    left = []
    with world.server.store.read() as tx:
        rows = {name: row for name in world.auditor.spaces if (row := space_row(tx, name)) is not None}
        places = {
            (name, device.name) for name, row in rows.items() for device in world.devices
            if device.client is not None and tx.get(keys.replica(row.id, device.id)) is not None
        }  # fmt: skip
    epochs = {name: row.epoch for name, row in rows.items()}
    for device in world.devices:
        client = device.client
        if client is None:
            left.append(f"{device.name} is off")
            continue
        for row in client.spaces():
            may_read, may_write = world.may_read(device, row.name), world.may_write(device, row.name)
            head = world.auditor.space(row.name).oracle.head
            depth = client.space(row.name).outbox_depth
            # One who may not write and never had a place there is owed no outcome; who may read is told `forbidden`.
            has_place = may_read and (row.name, device.name) in places
            is_owed = may_write or has_place or (device.id, 1) in world.auditor.space(row.name).recorded
            if depth and is_owed:
                left.append(f"{device.name} has {depth} changes of {row.name} ({client.status})")
            # A restored store may have lost what it keeps, which it hears where it asks.
            if may_write and row.epoch != epochs.get(row.name, row.epoch) and client.store.kept(row.name):
                left.append(f"{device.name} keeps changes of an epoch of {row.name} that is over ({client.status})")
            if row.is_subscribed and may_read and not (row.complete == row.resume == head):
                left.append(f"{device.name} is at {row.complete} of {head} in {row.name} ({client.status})")
            if row.is_subscribed and not may_read and (row.complete or row.resume):
                left.append(f"{device.name} still holds {row.name}, which it may not read")
    return left


def check_everything(world: "World") -> None:
    world.server.check_store()
    for name in sorted(world.auditor.spaces):
        _check_server(world, name)
    for device in world.devices:
        _check_device(world, device)


def _check_server(world: "World", name: str) -> None:
    """A first download from the store, page by page, is what the oracle says."""
    audit = world.auditor.space(name)
    replica = Replica()
    with world.server.store.read() as tx:
        row = space_row(tx, name)
        if row is None:
            if audit.oracle.head:
                raise Violation("S1", f"{name}: the space is gone", "server")
            return
        cursor = Cursor(name, row.id, 0, 0, None)
        while True:
            delta = reading.page(tx, cursor)
            if not replica.receive(delta):
                raise Violation("S12", f"{name}: the pages of a first download leave a gap", "server")
            if delta.complete:
                break
            cursor = Cursor(name, row.id, 0, delta.to, delta.start)
    if replica.complete != audit.oracle.head:
        raise Violation("S2", f"{name}: the head is {replica.complete}, by the auditor {audit.oracle.head}", "server")
    _check_state(name, "the server", replica.documents, audit.oracle.state(), "server")


def _check_state(space: str, who: str, got: dict[Any, Any], wanted: dict[Any, Any], *nodes: str) -> None:
    got_exact, wanted_exact = exact(got), exact(wanted)
    if got_exact == wanted_exact:
        return
    keys = [key for key in sorted({*got_exact, *wanted_exact}) if got_exact.get(key) != wanted_exact.get(key)]
    shown = [f"{key}: {got.get(key)} instead of {wanted.get(key)}" for key in keys[:2]]
    raise Violation("S7", f"{space}: {who} has {'; '.join(shown)}", *nodes)


def _check_device(world: "World", device: "SimDevice") -> None:
    client = device.client
    assert client is not None
    for row in client.spaces():
        audit = world.auditor.space(row.name)
        space = client.space(row.name)
        documents = {
            (document.collection, document.id): (
                document.rev, {name: [document.types[name], value] for name, value in document.fields.items()},
            )
            for document in space.synced()
        }  # fmt: skip
        if row.is_subscribed and world.may_read(device, row.name):
            wanted = audit.oracle.state()
            _check_state(row.name, device.name, documents, wanted, device.name, "server")
            if int.from_bytes(space.checksum) != sum_of(wanted):
                raise Violation("S7", f"{row.name}: the checksum that {device.name} keeps is wrong", device.name)
        elif row.is_subscribed and documents:
            raise Violation("S11", f"{device.name} holds documents of {row.name}, which it may not read", device.name)
        _check_outcomes(world, device, row.name)


def _is_excused(world: "World", device: "SimDevice", space: str, nonce: bytes, is_offered: bool) -> bool:
    """A restored store lost this change: its device has it no more, or may not push it again."""
    own = device.id
    lost = [
        each for (name, author, _), each in world.auditor.lost.items()
        if name == space and author == own and each.entry.nonce == nonce
    ]  # fmt: skip
    is_barred = is_offered and not world.may_write(device, space)
    return world.auditor.is_gone(space, nonce) or (bool(lost) and is_barred)


def _check_outcomes(world: "World", device: "SimDevice", space: str) -> None:
    """Every change that was committed on this machine ended once, as the server has it, whatever id it went under."""
    client, audit = device.client, world.auditor.space(space)
    assert client is not None
    own = device.id  # it is read from the store each time
    recorded: dict[bytes, list[Recorded]] = {}
    forgotten: set[bytes] = set()  # answered so long ago that the client keeps it no more
    known_from = client.space(space).row.next_n - OUTCOMES_PER_SPACE_MAX
    for (author, n), entry in audit.recorded.items():
        recorded.setdefault(entry.nonce, []).append(entry)
        if author == own and n < known_from:
            forgotten.add(entry.nonce)
    held = {entry.nonce for entry in client.store.outbox(space)}
    kept = {entry.nonce for entry in client.store.kept(space)}
    for (name, nonce), made in world.auditor.made.items():
        if name != space or made.by != device.name:
            continue
        durable, told = recorded.get(nonce, []), client.store.outcome_of(space, nonce)
        if not durable and _is_excused(world, device, space, nonce, nonce in held | kept):
            continue
        # What is recorded of a copied device's change may be its twin's, who had a place in the space.
        if told is None and not (durable and not device.is_cloned) and not world.may_write(device, space):
            if nonce not in held:
                raise Violation("S8", f"{device.name} lost a change of {space} that it may not push", device.name)
            continue
        # A copy of its store may have pushed what it holds as well: then there are two of it.
        if len(durable) > 1 and not device.is_cloned:
            raise Violation("S2", f"{space}: a change of {device.name} was recorded as {durable}", device.name)
        if told is None and nonce in forgotten:
            continue
        known = None if told is None else Recorded(told.nonce, told.outcome, told.seq)
        if known not in durable:
            raise Violation(
                "S17", f"{space}: {device.name} knows {known} of {nonce.hex()}, the server has {durable}", device.name
            )
