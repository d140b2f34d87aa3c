"""Backups that are made while no daemon runs, or while it takes nothing."""

import fcntl
import json
import socket
import threading
from pathlib import Path
from random import Random

from syncd.core.changes import parsed_change
from syncd.engine.commands import Push, Pushed
from syncd.engine.engine import Engine
from syncd.engine.epochs import backed_up_ms, safe_seq
from syncd.store.lmdb import open_store
from tests.app.test_cli import MIB, run
from tests.engine.kit import SPACE, device, one, raw, space_rows


def pushed(directory: Path, n: int) -> tuple[int, int, int | None]:
    """One more change, by a daemon that runs for a moment: the head, what devices are told is safe, and when a backup
    was made last."""
    store = open_store(directory / "store", map_bytes=MIB, map_bytes_max=64 * MIB)
    change = parsed_change(raw(n, ["create", "c", str(n)]))
    with store.write() as tx:
        one(Engine(Random(n).randbytes).decide(tx, 1_000, [Push(device(1), SPACE, None, (change,))]).results[0], Pushed)
    with store.read() as tx:
        ((_, row),) = space_rows(tx)
        told = row.head, safe_seq(tx, row, row.head), backed_up_ms(tx)
    store.close()
    return told


def test_what_is_backed_up_while_no_daemon_runs_is_safe_and_what_comes_after_it_is_not(tmp_path: Path) -> None:
    """It was told to nobody: devices believed that there are no backups, and kept nothing of what a restore lost."""
    assert pushed(tmp_path, 1) == (1, 1, None)
    made = run(tmp_path, "backup", str(tmp_path / "backup"), "--json")
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    assert told["is_told"] and told["spaces"] == 1
    assert pushed(tmp_path, 2) == (2, 1, told["made_ms"])


def test_a_store_that_somebody_has_is_not_written_to(tmp_path: Path) -> None:
    pushed(tmp_path, 1)
    with open(tmp_path / "store" / "daemon.lock", "r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = run(tmp_path, "backup", str(tmp_path / "backup"), "--json")
    assert made.exit_code == 0 and not json.loads(made.stdout)["is_told"]
    assert pushed(tmp_path, 2) == (2, 2, None)


def test_a_backup_that_the_daemon_does_not_want_to_hear_of_is_one_all_the_same(tmp_path: Path) -> None:
    """The command failed, although the backup had been checked and had its name: a timer raised an alarm for it."""
    pushed(tmp_path, 1)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "admin.sock"))
        listener.listen()

        def refuse() -> None:
            with listener.accept()[0] as asked:
                request = b""
                while not request.endswith(b"}"):
                    request += asked.recv(65536)
                asked.sendall(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")

        thread = threading.Thread(target=refuse)
        thread.start()
        made = run(tmp_path, "backup", str(tmp_path / "backup"), "--json")
        thread.join()
    assert made.exit_code == 0 and not json.loads(made.stdout)["is_told"], made.output
    assert run(tmp_path, "fsck", "--directory", str(tmp_path / "backup")).exit_code == 0


def test_what_the_system_refuses_is_one_line_and_an_exit_code(tmp_path: Path) -> None:
    pushed(tmp_path, 1)
    (tmp_path / "file").write_text("in the way")
    made = run(tmp_path, "backup", str(tmp_path / "file" / "backup"))
    assert made.exit_code == 1
    assert made.stderr == f"error: {tmp_path / 'file'}: file exists\n"
