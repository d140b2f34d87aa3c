"""The conformance runners find nothing wrong with the daemon and the reference client, in processes of their own."""

import os
import sys
from pathlib import Path

import pytest

from protocol.conformance import client, server
from tests.e2e.process import running

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("is_polled", [False, True], ids=["websocket", "polls"])
async def test_the_daemon_conforms(tmp_path: Path, capsys: pytest.CaptureFixture[str], is_polled: bool) -> None:
    with running(tmp_path) as daemon:
        token = daemon.token("ann", "conformance/**:owner")
        failures = await server.run(server.Server(daemon.sync_url, token, "conformance", is_polled))
        assert failures == 0, capsys.readouterr().out
        assert daemon.stop() == 0


@pytest.mark.parametrize("shell", ["trio", "asyncio"])
async def test_the_reference_client_conforms(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, shell: str
) -> None:
    """Over real sockets, in a process of its own: the three sessions with the most steps at the edge of the core.

    All of them run without sockets in test_client_vectors; `python -m protocol.conformance.client` plays all of them.
    """
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "clients/python"))))
    for name in ("resume-in-the-middle", "goaway", "void-after-gap"):
        failures = await client.run([sys.executable, "-m", "tests.protocol.adapter", shell], name)
        assert failures == 0, capsys.readouterr().out


async def test_the_reference_client_conforms_over_polls(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One script over real sockets; test_poll_vectors plays all of them in virtual time."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "clients/python"))))
    command = [sys.executable, "-m", "tests.protocol.adapter", "asyncio"]
    assert await client.run(command, "request-doubled", is_polled=True) == 0, capsys.readouterr().out
