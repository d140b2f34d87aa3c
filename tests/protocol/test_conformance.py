"""The conformance runner finds nothing wrong with the daemon, in a process of its own."""

from pathlib import Path

import pytest

from protocol.conformance import server
from tests.e2e.process import running


async def test_the_daemon_conforms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with running(tmp_path) as daemon:
        token = daemon.token("ann", "conformance/**:owner")
        failures = await server.run(server.Server(daemon.sync_url, token, "conformance"))
        assert failures == 0, capsys.readouterr().out
        assert daemon.stop() == 0
