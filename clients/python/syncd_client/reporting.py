"""Events on the command line: what the user did, told to the server.

Owns the command `event`.
"""

from __future__ import annotations

import click
import trio

from .device import Device
from .lines import put_line
from .options import FAILED, JSON, UNREACHABLE, Options, failed, notices, reason, run
from .policy import State
from .values import Value


@click.command("event")
@click.argument("name")
@click.argument("data", type=JSON, default="null")
@click.pass_obj
def event_command(options: Options, name: str, data: Value) -> None:
    """Tell what the user did: NAME, and DATA, a map. It waits in the store until there is a server to take it."""
    if data is not None and not isinstance(data, dict):
        raise click.BadParameter("expected a map", param_hint="DATA")

    async def main() -> int:
        is_online = options.url is not None
        async with options.device(online=is_online) as device:
            device.event(name, data)
            if is_online:
                with trio.move_on_after(options.timeout_s):
                    await device.wait_until(lambda: not device.events_waiting or device.status.state is State.STOPPED)
            put_line({"event": name, "waiting": device.events_waiting, "dropped": device.events_dropped})
            return _code(options, device) if is_online else 0

    run(main)


def _code(options: Options, device: Device) -> int:
    if any(notice.what == "event" for notice in device.watchers.notices):
        return failed(f"an event was not taken{notices(device)}", FAILED)
    if not device.events_waiting:
        return 0
    if device.status.state is State.READY:
        return failed("the server takes no more events now; they wait", FAILED)
    return failed(reason(options, device), UNREACHABLE)
