"""What all commands of `syncd-device` share: the options, values in JSON, and the way to an exit code.

Must not know any command.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import orjson
import trio

from .carriers import Mode
from .codec import value_from_json
from .device import Device
from .errors import DocumentExists, InvalidInput, SyncdError
from .shell import Token
from .trio_shell import open_device
from .values import Value

FAILED, USAGE, UNREACHABLE = 1, 2, 5


@dataclass(frozen=True, slots=True)
class Options:
    store: Path | None
    url: str | None
    token_file: Path | None
    binding: Literal["msgpack", "json"]
    transport: Mode
    timeout_s: float

    @asynccontextmanager
    async def device(self, *, online: bool) -> AsyncIterator[Device]:
        if self.store is None:  # not an option that click requires, or `syncd-device COMMAND --help` would want it
            raise click.UsageError("the option --store DIR is missing (or SYNCD_DEVICE_STORE)")
        token: Token = None
        if self.token_file is not None:
            # A file is read anew for each connection: another program may renew it. A pipe can be read only once.
            token = self.token if self.token_file.is_file() else self.token()
        async with open_device(
            self.store, url=self.url, token=token, binding=self.binding, transport=self.transport, online=online
        ) as device:
            yield device

    def token(self) -> str:
        assert self.token_file is not None
        return self.token_file.read_text().strip()


class JsonValue(click.ParamType[Any]):
    name = "JSON"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Value:
        try:
            return value_from_json(orjson.loads(value))
        except (orjson.JSONDecodeError, InvalidInput) as error:
            self.fail(f"{value!r} is not a JSON value ({error}); text needs quotes: '\"text\"'", param, ctx)


JSON = JsonValue()


def run(main: Callable[[], Awaitable[int]]) -> None:
    """Run a command and leave with its exit code; errors that were foreseen are one line on stderr."""
    try:
        code = trio.run(main)
    except DocumentExists as error:
        code = failed(str(error), FAILED)
    except InvalidInput as error:
        code = failed(str(error), USAGE)
    except SyncdError as error:
        code = failed(str(error), FAILED)
    except BaseExceptionGroup as group:
        # A task of the device failed: the disk, mostly. A mistake in this program keeps its traceback.
        known, unknown = group.split(SyncdError)
        if known is None or unknown is not None:
            raise
        code = failed("; ".join(str(error) for error in known.exceptions), FAILED)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def failed(text: str, code: int) -> int:
    click.echo(f"error: {text}", err=True)
    return code


def reason(options: Options, device: Device) -> str:
    """Why there is no connection, and to where; some reasons name the URL themselves."""
    told = device.status.reason
    return told if options.url is None or options.url in told else f"{options.url}: {told}"


def notices(device: Device) -> str:
    return "".join(f"; {notice.what} {notice.space or ''}: {notice.detail}" for notice in device.watchers.notices)


def require_url(options: Options) -> None:
    if options.url is None:
        raise click.UsageError("this command needs --url")
