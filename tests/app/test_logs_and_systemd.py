"""Log lines, the conversation with systemd, and the unit files."""

import io
import json
import logging
import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from syncd.app import logs
from syncd.app.systemd import Notifier, inherited_socket

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged, with the logging of the test run put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    text = io.StringIO()
    logs.start("info", text)
    yield text
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def test_a_line_is_one_json_object_with_the_fields_of_the_caller(stream: io.StringIO) -> None:
    logging.getLogger("a.b").warning("it is %s", "so\nindeed", extra={"space": "user/42", "n": 7})
    (line,) = stream.getvalue().splitlines()
    shown = json.loads(line)
    assert shown.pop("time").endswith("Z")
    assert shown == {"level": "warning", "logger": "a.b", "message": "it is so\nindeed", "space": "user/42", "n": 7}


def test_an_exception_stays_in_its_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("a").exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: broken" in json.loads(line)["error"]


def test_levels_below_the_configured_one_are_silent(stream: io.StringIO) -> None:
    logging.getLogger("a").debug("chatter")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("secret", ["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl", "sk_" + "A" * 43])
def test_no_secret_leaves_by_a_log(stream: io.StringIO, secret: str) -> None:
    logging.getLogger("a").error("got %s", secret, extra={"header": f"Bearer {secret}"})
    assert secret not in stream.getvalue()
    assert json.loads(stream.getvalue())["message"] == "got [secret]"


def test_a_line_has_a_bounded_length(stream: io.StringIO) -> None:
    logging.getLogger("a").error("x" * 1_000_000, extra={"y": "z" * 1_000_000})
    assert len(stream.getvalue()) <= logs.LINE_CHARACTERS_MAX + 1
    assert json.loads(stream.getvalue())["level"] == "error"


# -- systemd ----------------------------------------------------------------------------------------------------------


def test_without_systemd_nothing_is_said() -> None:
    with Notifier({}) as notifier:
        notifier.notify("READY=1")
    assert inherited_socket({}) is None


@pytest.mark.parametrize("is_abstract", [False, True])
def test_messages_reach_the_socket_that_is_named(tmp_path: Path, is_abstract: bool) -> None:
    name = f"@syncd-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name.replace("@", "\0"))
        with Notifier({"NOTIFY_SOCKET": name}) as notifier:
            notifier.notify("READY=1", "STATUS=on")
        assert heard.recv(100) == b"READY=1\nSTATUS=on"


def test_a_systemd_that_went_away_disturbs_nobody(tmp_path: Path) -> None:
    with Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}) as notifier:
        notifier.notify("READY=1")


def test_a_life_sign_goes_out_also_when_there_are_no_more_file_descriptors(tmp_path: Path) -> None:
    """Each message made a socket of its own, and failed with EMFILE: the daemon ended for want of a descriptor that its
    listener knows how to wait for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        with Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")}) as notifier:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            try:
                notifier.notify("WATCHDOG=1")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert heard.recv(100) == b"WATCHDOG=1"


async def test_life_signs_come_twice_in_an_interval(tmp_path: Path, autojump_clock: MockClock) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "30000000"}
        with Notifier(environ) as notifier, trio.move_on_after(59):
            await notifier.run_watchdog()
        assert [heard.recv(100) for _ in range(4)] == [b"WATCHDOG=1"] * 4
        with pytest.raises(BlockingIOError):
            heard.recv(100)


@pytest.mark.parametrize("environ", [{}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}])
async def test_no_life_signs_are_sent_to_whoever_does_not_want_them(environ: dict[str, str]) -> None:
    with Notifier(environ) as notifier:
        await notifier.run_watchdog()


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    assert inherited_socket({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None


def test_more_than_one_inherited_socket_is_refused() -> None:
    with pytest.raises(ValueError, match="got '2' sockets, expected 1"):
        inherited_socket({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "2"})


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed: units NOT checked"
)
def test_the_unit_files_are_valid(tmp_path: Path) -> None:
    """On copies whose ExecStart names a program that exists here."""
    service = (ROOT / "conf" / "syncd.service").read_text().replace("/usr/local/bin/syncd", "/bin/true")
    (tmp_path / "syncd.service").write_text(service)
    shutil.copy(ROOT / "conf" / "syncd.socket", tmp_path)
    units = [str(tmp_path / name) for name in ("syncd.service", "syncd.socket")]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
