"""schemathesis against a running daemon: requests drawn from the OpenAPI file that the daemon itself serves.

`make openapi` installs it and runs this; in `make test-long` it runs where it is installed.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import Daemon, running

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,missing_required_header,use_after_free"
)
# Long polls that wait for nothing, or a run would take as long as all its waits together.
CONFIG = '[parameters]\n"query.wait" = 0\n'
EXAMPLES_MAX = 30  # for each operation and phase
RUN_S = 600.0


def run(daemon: Daemon, directory: Path, credentials: str, *only: str) -> None:
    (directory / "schemathesis.toml").write_text(CONFIG)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{daemon.url}/v1/openapi.json", *only),
            # The binding of a conversation, not resources: GET /v1/sync is the WebSocket's upgrade.
            *("--exclude-path", "/v1/sync", "--exclude-path", "/v1/sync/messages"),
            *("--header", f"Authorization: Bearer {credentials}", "--checks", CHECKS),
            *("--max-examples", str(EXAMPLES_MAX), "--seed", "1"),
            *("--generation-database", "none", "--no-color", "--continue-on-failure"),
        ],
        capture_output=True, text=True, timeout=RUN_S, cwd=directory,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert "generated" in done.stdout, done.stdout[-2000:]


@pytest.mark.long
def test_no_request_is_answered_by_what_the_openapi_file_does_not_describe(tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        pytest.skip("SCHEMATHESIS DID NOT RUN: it is not installed (make openapi)")
    with running(tmp_path / "state") as daemon:
        run(daemon, tmp_path, daemon.token("42", "**:owner"))
        # A token may not post events: an API key reaches what lies behind the 403.
        secret = daemon.run("apikey", "create", "tester", "--scope", "events:write")
        run(daemon, tmp_path, secret, "--include-path", "/v1/events")
        # Nor define workflows, read decisions and reports, or erase people.
        scopes = ("notifications:read", "workflows:write", "users:erase", "changes:write:user/*")
        secret = daemon.run("apikey", "create", "ops", *(item for scope in scopes for item in ("--scope", scope)))
        run(daemon, tmp_path, secret, "--include-path-regex", r"^/v1/(workflows|users|decisions|reports)|^/opt-out")
        assert daemon.process.poll() is None
        assert "Traceback" not in daemon.log.read_text()
