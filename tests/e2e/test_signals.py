"""A signal by the command line: the daemon hands it back, and the command ends at once with what others heard."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import running

LIMIT_S = 60.0
SPACE = "team/board"


@pytest.mark.parametrize(("grant", "code"), [("team/*:writer", 0), ("team/*:reader", 1)])
def test_a_signal_is_told_and_the_command_ends(tmp_path: Path, grant: str, code: int) -> None:
    with running(tmp_path / "daemon") as daemon:
        token = tmp_path / "token"
        token.write_text(daemon.token("ann", grant))
        options = ["--store", str(tmp_path / "phone"), "--url", daemon.sync_url, "--token-file", str(token)]
        ended = subprocess.run(
            [sys.executable, "-m", "syncd_client.cli", *options, "--timeout", "30", "signal", SPACE, "typing", "true"],
            capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
    assert ended.returncode == code, ended.stderr
    if code == 0:
        told = json.loads(ended.stdout)
        assert (told["key"], told["value"], told["user"], told["own"]) == ("typing", True, "ann", True)
    else:
        assert "not taken" in ended.stderr and "writer" in ended.stderr
