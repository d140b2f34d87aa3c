"""Signals and presence on the command line.

Owns the command `signal` and what `watch` prints of both. A signal is told to whoever listens; that it was, its sender
knows when it hears itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import click
import trio

from .codec import json_value
from .device import Device
from .lines import put_line
from .live import Present, Signal
from .options import FAILED, JSON, UNREACHABLE, Options, failed, notices, reason, require_url, run
from .policy import State
from .space import Space
from .values import Value


def signal_line(signal: Signal) -> dict[str, Value]:
    told = {"space": signal.space, "key": signal.key, "value": json_value(signal.value), "user": signal.user}
    return {**told, "ref": signal.ref.hex(), "own": signal.is_own}


def present_line(member: Present) -> dict[str, Value]:
    return {"user": member.user, "ref": member.ref.hex(), "state": json_value(member.state), "own": member.is_own}


@click.command("signal")
@click.argument("space")
@click.argument("key")
@click.argument("value", type=JSON, default="null")
@click.option("--ttl", "ttl_s", type=float, help="Seconds for which it means anything; by default 10.")
@click.pass_obj
def signal_command(options: Options, space: str, key: str, value: Value, ttl_s: float | None) -> None:
    """Tell a VALUE under a KEY to every device that listens to SPACE now. Nothing is stored."""
    require_url(options)

    async def main() -> int:
        async with options.device(online=True) as device:
            handle = device.space(space)
            handle.subscribe()
            is_heard = False
            with handle.signals() as heard, trio.move_on_after(options.timeout_s):
                await device.wait_until(lambda: handle.can_signal or _is_refused(device, space))
                if handle.signal(key, value, ttl_s=ttl_s):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_stop_when_refused, device, space, nursery.cancel_scope)
                        async for signal in heard:
                            if signal.is_own and signal.key == key:
                                put_line(signal_line(signal))
                                is_heard = True
                                nursery.cancel_scope.cancel()
            if is_heard:
                return 0
            if device.status.state is State.READY:
                return failed(f"the signal was not taken{notices(device)}", FAILED)
            return failed(reason(options, device), UNREACHABLE)

    run(main)


def _is_refused(device: Device, space: str) -> bool:
    return any(
        notice.space == space and notice.what in ("signal", "revoked", "error") for notice in device.watchers.notices
    )


async def _stop_when_refused(device: Device, space: str, scope: trio.CancelScope) -> None:
    await device.wait_until(lambda: _is_refused(device, space))
    scope.cancel()


async def print_signals(device: Device, spaces: Sequence[str]) -> None:
    with device.signals() as heard:
        async for signal in heard:
            if not spaces or signal.space in spaces:
                put_line({"event": "signal", **signal_line(signal)})


async def print_presence(space: Space) -> None:
    async for members in space.presence():
        told = [present_line(member) for member in members]
        put_line({"event": "presence", "space": space.name, "count": space.present_count, "members": told})
