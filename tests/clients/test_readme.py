"""The two examples of the client's README, as they stand, against the daemon of the same page."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from tests.e2e.process import running

README = Path(__file__).resolve().parents[2] / "clients/python/README.md"
URL, TOKEN = "ws://127.0.0.1:8740/v1/sync", "/tmp/ann.token"


def test_the_examples_print_what_they_say(tmp_path: Path) -> None:
    blocks = re.findall(r"(?m)(?:^    .*\n|^\n)+", README.read_text())
    programs = [textwrap.dedent(block) for block in blocks if "open_device(" in block and "import" in block]
    assert ["trio" in program for program in programs] == [True, False]
    with running(tmp_path / "daemon") as daemon:
        (tmp_path / "token").write_text(daemon.token("ann", "home/*:writer"))
        for program in programs:
            assert (program.count(URL), program.count(TOKEN)) == (1, 1)
            program = program.replace(URL, daemon.sync_url).replace(TOKEN, str(tmp_path / "token"))
            done = subprocess.run(
                [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            said = [line.partition("#")[2].strip() for line in program.splitlines() if "print(" in line]
            assert done.stdout.splitlines() == [text.partition(",  ")[0].split(", once")[0].strip("'") for text in said]
