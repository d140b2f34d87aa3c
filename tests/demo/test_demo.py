"""The demo as a user starts it: real processes, a real crash, and a verdict that other programs can read."""

import json
import re
import subprocess
import sys
from pathlib import Path


def test_the_smallest_demo_agrees_and_says_so_in_its_last_line_and_its_json(tmp_path: Path) -> None:
    summary = tmp_path / "verdict.json"
    command = [
        sys.executable,
        "-m",
        "syncd.app.cli",
        "demo",
        "--devices",
        "2",
        "--seconds",
        "2",
        "--json",
        str(summary),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    found = re.fullmatch(
        r"AGREED devices=2 changes=(\d+) acknowledged=(\d+) missing=0 restarts=1 checksum=([0-9a-f]{16})", last
    )
    assert found is not None, last
    told = json.loads(summary.read_text())
    assert told["agreed"] is True and told["checksum"] == found[3] and told["changes"] == int(found[1]) > 5
