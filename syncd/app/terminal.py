"""What commands of the command line share: exit codes, options, and how they come to an answer.

Owns the loading of settings for a command, and asking: the running daemon over its admin socket or, with none, its
store. Must not know any command.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from syncd.app import client, config
from syncd.app.config import Settings
from syncd.store.api import Reader, Store
from syncd.store.lmdb import open_store

FAILED, USAGE, CONFIGURATION, DAMAGED, UNREACHABLE = 1, 2, 3, 4, 5

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(Exception):
    """The command could not do its work. The text says why."""


def settings_options(command: Command) -> Command:
    command = click.option(
        "--state-dir", type=click.Path(path_type=Path), help="The state directory (SYNCD_STATE_DIR)."
    )(command)
    return click.option("--config", "file", type=click.Path(path_type=Path), help="The TOML file (SYNCD_CONFIG).")(
        command
    )


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def loaded(file: Path | None, state_dir: Path | None, extra: Mapping[str, str] | None = None) -> Settings:
    environ = dict(os.environ) | dict(extra or {})
    if state_dir is not None:
        environ["SYNCD_STATE_DIR"] = str(state_dir)
    return config.loaded(file, environ)


def asked(settings: Settings, path: tuple[str, ...], query: Mapping[str, Any], read: Callable[[Reader], T]) -> Any:
    """The daemon's answer; with no daemon, what its store holds."""
    try:
        return client.request(settings.admin_socket, "GET", path, query=query)
    except client.Unreachable:
        if not settings.store_directory.exists():
            raise
        with read_only(settings) as store, store.read() as tx:
            return read(tx)


@contextmanager
def read_only(settings: Settings, directory: Path | None = None) -> Iterator[Store]:
    """The store of a daemon that may run or not; LMDB lets other processes read beside the one that writes."""
    room = settings.config.store
    store = open_store(
        directory or settings.store_directory,
        map_bytes=room.map_bytes,
        map_bytes_max=room.map_bytes_max,
        read_only=True,
    )
    try:
        yield store
    finally:
        store.close()
