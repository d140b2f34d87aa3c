"""`syncd-device`: a device on the command line.

Owns arguments and the order of a command's steps; what all commands share is in options.py, what is printed in
lines.py, the `script` command in script.py, signals and presence in signalling.py. Each command opens the store, does
one thing, prints one JSON line per result, and leaves.

Exit codes: 0 done, 1 failed (refused, not found, store error), 2 usage, 5 daemon unreachable.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import click
import trio

from .carriers import Mode
from .device import Device
from .errors import DocumentExists, InvalidInput
from .lines import document_line, lease_line, outcome_line, put_line, refused_line, space_line, status_line
from .operations import Operation, operation, operation_from
from .options import FAILED, JSON, UNREACHABLE, Options, failed, notices, reason, require_url, run
from .policy import State
from .positions import Item
from .reporting import event_command
from .script import Script
from .signalling import print_presence, print_signals, signal_command
from .space import Change, Space
from .values import Value


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--store", type=click.Path(file_okay=False, path_type=Path), envvar="SYNCD_DEVICE_STORE",
              show_envvar=True, help="Directory of the device's store; made if it does not exist.")  # fmt: skip
@click.option("--url", envvar="SYNCD_DEVICE_URL", show_envvar=True,
              help="ws://HOST:PORT/v1/sync or wss://...; without it: offline.")  # fmt: skip
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File that holds the user's token.")  # fmt: skip
@click.option("--binding", type=click.Choice(["msgpack", "json"]), default="msgpack", show_default=True)
@click.option("--transport", type=click.Choice(["auto", "websocket", "poll"]), default="auto", show_default=True,
              help="auto: polls where the network lets no WebSocket through.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), default=10.0, show_default=True,
              help="Seconds that a command waits for the server.")  # fmt: skip
@click.version_option(package_name="syncd-client")
@click.pass_context
def cli(
    ctx: click.Context,
    store: Path | None,
    url: str | None,
    token_file: Path | None,
    binding: Literal["msgpack", "json"],
    transport: Mode,
    timeout_s: float,
) -> None:
    """A syncd device on the command line: one durable replica, online or not.

    Edits are durable in the store when a command returns. Without --url they wait in the outbox; with it, a writing
    command waits for the outcome. Several commands may use one store at once: the first that connects syncs for all.
    Values are JSON; results are one JSON object per line.
    """
    if url is not None and not url.startswith(("ws://", "wss://")):
        raise click.BadParameter(f"{url!r}: expected ws://HOST:PORT/v1/sync or wss://...", param_hint="--url")
    ctx.obj = Options(store, url, token_file, binding, transport, timeout_s)


# -- writing ------------------------------------------------------------------------------------------------------


async def _write(options: Options, space_name: str, operations: Sequence[Operation], *, is_create: bool = False) -> int:
    def commit(space: Space) -> Change:
        if is_create and space.view(*operations[0].key) is not None:
            raise DocumentExists(f"{operations[0].collection}/{operations[0].id} exists in {space_name}")
        return space.commit(operations)

    return await _commit(options, space_name, commit)


async def _commit(options: Options, space_name: str, commit: Callable[[Space], Change]) -> int:
    """Commit, and wait for the outcome as long as the options say."""
    async with options.device(online=options.url is not None) as device:
        space = device.space(space_name)
        change = commit(space)
        if not space.row.is_subscribed:
            space.subscribe()
        row = None
        if options.url is not None:
            with trio.move_on_after(options.timeout_s):
                await device.wait_until(lambda: change.settled() is not None or _is_forbidden(device, space_name))
            row = change.settled()
        if row is not None:
            put_line(outcome_line(row))
            return FAILED if row.seq is None else 0
        queued = {"space": space.name, "n": change.n, "nonce": change.nonce.hex(), "outcome": None}
        put_line({**queued, "outbox": space.outbox_depth})
        if options.url is None:
            return 0
        if device.status.state is State.READY:
            return failed(f"no outcome; the change stays in the outbox{notices(device)}", FAILED)
        return failed(f"{reason(options, device)}; the change stays in the outbox", UNREACHABLE)


def _is_forbidden(device: Device, space: str) -> bool:
    """The server takes nothing here from this user, and gives no outcome either: there is no use in waiting for one."""
    return any(notice.space == space and notice.detail.startswith("forbidden") for notice in device.watchers.notices)


_WORDS = {
    "set": ("reg.set", "Set a field to a value (last writer wins)."),
    "unset": ("reg.unset", "Make a field invisible."),
    "inc": ("counter.inc", "Add an integer to a counter."),
    "add": ("set.add", "Add a value to a set."),
    "remove": ("set.remove", "Remove a value from a set."),
    "put": ("map.put", "Put a value under a key of a map."),
    "drop": ("map.drop", "Drop a key of a map."),
    "restock": ("bounded.restock", "Add units to a stock, or take them out of it."),
    "refund": ("bounded.refund", "Put units back that were taken from a stock."),
    "enable": ("flag.enable", "Enable a flag."),
    "disable": ("flag.disable", "Disable a flag."),
    "delete": ("delete", "Delete a document."),
}
_ARGUMENTS: dict[str, list[tuple[str, Any]]] = {
    "reg.set": [("field", str), ("value", JSON)],
    "counter.inc": [("field", str), ("by", int)],
    "bounded.restock": [("field", str), ("by", int)],
    "bounded.refund": [("field", str), ("units", int)],
    "set.add": [("field", str), ("value", JSON)],
    "set.remove": [("field", str), ("value", JSON)],
    "map.put": [("field", str), ("key", str), ("value", JSON)],
    "map.drop": [("field", str), ("key", str)],
    "delete": [],
}


def _add_writing_command(word: str, name: str, text: str) -> None:
    arguments = _ARGUMENTS.get(name, [("field", str)])

    def write(options: Options, /, space: str, collection: str, id: str, **rest: Value) -> None:
        values = [rest[argument] for argument, _type in arguments]
        run(lambda: _write_checked(options, space, name, collection, id, values))

    params: list[click.Parameter] = [click.Argument([item]) for item in ("space", "collection", "id")]
    params += [click.Argument([argument], type=type_) for argument, type_ in arguments]
    # Without this a negative number or a value that begins with a dash would be taken for an option.
    settings = {"ignore_unknown_options": True}
    callback = click.pass_obj(write)
    cli.add_command(click.Command(word, callback=callback, params=params, help=text, context_settings=settings))


async def _write_checked(
    options: Options, space: str, name: str, collection: str, id: str, values: Sequence[Value]
) -> int:
    return await _write(options, space, [operation(name, collection, id, *values)])


for _word, (_name, _text) in _WORDS.items():
    _add_writing_command(_word, _name, _text)


@cli.command()
@click.argument("space")
@click.argument("collection")
@click.argument("id")
@click.argument("fields", nargs=-1, metavar="[FIELD=JSON]...")
@click.pass_obj
def create(options: Options, space: str, collection: str, id: str, fields: Sequence[str]) -> None:
    """Make a document, and set fields of it, in one change."""
    settings = []
    for field in fields:
        name, equals, text = field.partition("=")
        if not equals:
            raise click.BadParameter(f"{field!r}: expected FIELD=JSON", param_hint="FIELD")
        settings.append((name, JSON.convert(text, None, None)))

    async def main() -> int:
        operations = [operation("create", collection, id)]
        operations += [operation("reg.set", collection, id, name, value) for name, value in settings]
        return await _write(options, space, operations, is_create=True)

    run(main)


@cli.command()
@click.argument("space")
@click.argument("operations", type=JSON)
@click.pass_obj
def commit(options: Options, space: str, operations: Value) -> None:
    """Commit any operations as one change: '[["max.put", "c", "id", "best", 7], ...]'."""
    if not isinstance(operations, list):
        raise click.BadParameter("expected an array of operations", param_hint="OPERATIONS")

    async def main() -> int:
        return await _write(options, space, [operation_from(item) for item in operations])

    run(main)


def _place_arguments(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """SPACE COLLECTION ID FIELD, and places in the list, counted from 0 as it is shown."""

    def decorated(command: Callable[..., None]) -> Callable[..., None]:
        for name in reversed(names):
            command = click.argument(name, type=click.IntRange(min=0))(command)
        for name in ("field", "id", "collection", "space"):
            command = click.argument(name)(command)
        return command

    return decorated


def _element_at(items: Sequence[Item], place: int) -> bytes:
    if place >= len(items):
        raise InvalidInput(f"list: no element {place}; there are {len(items)}, counted from 0")
    return items[place].element


@cli.command("list-insert")
@_place_arguments()
@click.argument("values", nargs=-1, required=True, type=JSON)
@click.option("--at", type=click.IntRange(min=0), help="Place of the first of them, from 0; by default the end.")
@click.pass_obj
def list_insert(
    options: Options, space: str, collection: str, id: str, field: str, values: Sequence[Value], at: int | None
) -> None:
    """Insert VALUES into a list, in their order."""

    def commit(handle: Space) -> Change:
        into = handle.list_field(collection, id, field)
        if at is None:
            return into.append(*values)
        return into.insert(*values, after=_element_at(into.items(), at - 1) if at else None)

    run(lambda: _commit(options, space, commit))


@cli.command("list-move")
@_place_arguments("from_", "to")
@click.pass_obj
def list_move(options: Options, space: str, collection: str, id: str, field: str, from_: int, to: int) -> None:
    """Move the element of a list at place FROM_, counted from 0, to place TO."""

    def commit(handle: Space) -> Change:
        within = handle.list_field(collection, id, field)
        items = within.items()
        element = _element_at(items, from_)
        others = [item for item in items if item.element != element]
        return within.move(element, after=_element_at(others, to - 1) if to else None)

    run(lambda: _commit(options, space, commit))


@cli.command("list-remove")
@_place_arguments("place")
@click.pass_obj
def list_remove(options: Options, space: str, collection: str, id: str, field: str, place: int) -> None:
    """Remove the element of a list at PLACE, counted from 0."""

    def commit(handle: Space) -> Change:
        within = handle.list_field(collection, id, field)
        return within.remove(_element_at(within.items(), place))

    run(lambda: _commit(options, space, commit))


# -- stocks and leases --------------------------------------------------------------------------------------------


def _stock_command(*, is_count_needed: bool) -> Callable[[Callable[..., None]], click.Command]:
    """A command on a stock: SPACE COLLECTION ID FIELD [UNITS]."""

    def made(function: Callable[..., None]) -> click.Command:
        command = click.pass_obj(function)
        units = click.IntRange(min=1)
        command = click.argument("units", type=units, required=is_count_needed)(command)
        for name in ("field", "id", "collection", "space"):
            command = click.argument(name)(command)
        return cli.command()(command)

    return made


@_stock_command(is_count_needed=True)
@click.option("--ttl", "ttl_s", type=click.IntRange(1, 30 * 86_400), help="Seconds after which it ends by itself.")
def lease(options: Options, space: str, collection: str, id: str, field: str, units: int, ttl_s: int | None) -> None:
    """Lease units of a stock, to take them while offline."""
    ttl_ms = None if ttl_s is None else ttl_s * 1000
    run(lambda: _commit(options, space, lambda at: at.lease(collection, id, field, units, ttl_ms=ttl_ms)))


@_stock_command(is_count_needed=False)
@click.option("--uncertain", is_flag=True, help="From the reserve: only the outcome says whether there was enough.")
def take(
    options: Options, space: str, collection: str, id: str, field: str, units: int | None, uncertain: bool
) -> None:
    """Take units by the leases of this device, with certainty (default: 1)."""
    run(lambda: _commit(options, space, lambda at: at.take(collection, id, field, units or 1, certain=not uncertain)))


@_stock_command(is_count_needed=False)
def give(options: Options, space: str, collection: str, id: str, field: str, units: int | None) -> None:
    """Give leased units back (default: all that are left)."""
    run(lambda: _commit(options, space, lambda at: at.give(collection, id, field, units)))


@cli.command()
@click.argument("space")
@click.pass_obj
def leases(options: Options, space: str) -> None:
    """Print each lease of this device: what is left of it, and whether it is certain now."""

    async def main() -> int:
        async with options.device(online=False) as device:
            for held in device.space(space).leases():
                put_line(lease_line(space, held))
            return 0

    run(main)


# -- reading ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("space")
@click.argument("collection")
@click.argument("id")
@click.pass_obj
def get(options: Options, space: str, collection: str, id: str) -> None:
    """Print a document as the view shows it: synced state with the outbox on top."""

    async def main() -> int:
        async with options.device(online=False) as device:
            document = device.space(space).view(collection, id)
            if document is None:
                return failed(f"there is no {collection}/{id} in {space}", FAILED)
            put_line(document_line(space, document))
            return 0

    run(main)


@cli.command(name="list")
@click.argument("space")
@click.argument("collection")
@click.pass_obj
def list_documents(options: Options, space: str, collection: str) -> None:
    """Print each document of a collection, by id."""

    async def main() -> int:
        async with options.device(online=False) as device:
            for document in device.space(space).documents(collection):
                put_line(document_line(space, document))
            return 0

    run(main)


@cli.command()
@click.option("--refused", is_flag=True, help="Also print each refused change with its payload.")
@click.pass_obj
def status(options: Options, refused: bool) -> None:
    """Print outbox depth, positions and checksums, without connecting."""

    async def main() -> int:
        async with options.device(online=False) as device:
            put_line(status_line(device))
            for row in device.spaces() if refused else []:
                for item in device.space(row.name).refused():
                    put_line({"refused": refused_line(item)})
            return 0

    run(main)


# -- syncing ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("spaces", nargs=-1)
@click.pass_obj
def sync(options: Options, spaces: Sequence[str]) -> None:
    """Push and pull until the outbox is empty and SPACES (default: all subscribed) are complete."""
    require_url(options)

    async def main() -> int:
        async with options.device(online=True) as device:
            for name in spaces:
                device.space(name).subscribe()
            handles = [device.space(name) for name in spaces]
            handles = handles or [device.space(row.name) for row in device.spaces() if row.is_subscribed]

            with trio.move_on_after(options.timeout_s) as scope:
                await device.sync(*(space.name for space in handles))
            for space in handles:
                put_line(space_line(device, space))
            if device.status.state in (State.READY, State.DRAINING):
                revoked = [space.name for space in handles if not space.is_complete]
                if scope.cancelled_caught or revoked:
                    return failed(_unfinished(device, revoked), FAILED)
                return 0
            return failed(reason(options, device), UNREACHABLE)

    run(main)


def _unfinished(device: Device, incomplete: Sequence[str]) -> str:
    return f"not complete: {', '.join(incomplete) or 'the outbox'}{notices(device)}"


@cli.command()
@click.argument("spaces", nargs=-1)
@click.option("--presence", is_flag=True, help="Also print who is present in SPACES.")
@click.option("--state", type=JSON, help="Be present in SPACES, with this state: a JSON object.")
@click.pass_obj
def watch(options: Options, spaces: Sequence[str], presence: bool, state: Value) -> None:
    """Stay connected and print each change and signal of SPACES (default: all) until SIGINT or SIGTERM."""
    if state is not None and not isinstance(state, dict):
        raise click.BadParameter("expected a JSON object", param_hint="--state")
    if (presence or state is not None) and not spaces:
        raise click.UsageError("--presence and --state need SPACES")
    require_url(options)

    async def main() -> int:
        async with options.device(online=True) as device:
            for name in spaces:
                device.space(name).subscribe()
                if presence or state is not None:
                    device.space(name).announce(True if state is None else state)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
                nursery.start_soon(_print_statuses, device)
                nursery.start_soon(print_signals, device, spaces)
                for name in spaces if presence or state is not None else ():
                    nursery.start_soon(print_presence, device.space(name))
                await _print_changes(device, spaces)
            return 0

    run(main)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _signal in signals:
            scope.cancel()


async def _print_statuses(device: Device) -> None:
    async for status_now in device.statuses():
        put_line({"event": "state", "state": status_now.state.value, "reason": status_now.reason})


async def _print_changes(device: Device, spaces: Sequence[str]) -> None:
    with device.changes() as changed:
        async for changes in changed:
            for change in changes:
                if spaces and change.space not in spaces:
                    continue
                space = device.space(change.space)
                keys = change.keys
                if keys is None:
                    put_line({"event": "reset", **space_line(device, space)})
                for key in keys or ():
                    document = space.view(*key)
                    line = None if document is None else document_line(space.name, document)
                    put_line({"event": "changed", "space": space.name, "key": key, "document": line})


@cli.command()
@click.option("--after", type=int, help="Print outcomes stored after this position (`at` of an earlier one).")
@click.pass_obj
def script(options: Options, after: int | None) -> None:
    """Read commands as JSON lines from stdin and answer each with a line; print outcomes as events."""

    async def main() -> int:
        async with options.device(online=options.url is not None) as device, trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            await Script(device, after).run()
            nursery.cancel_scope.cancel()
        return 0

    run(main)


cli.add_command(signal_command)
cli.add_command(event_command)


def main() -> None:
    cli()


if __name__ == "__main__":
    main()
