"""Workflows of a configuration in a real daemon: taken over at the start and by SIGHUP, refused with their mistakes."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import Daemon, StartFailed, running
from tests.e2e.test_process import asked

READY = Path(__file__).resolve().parents[2] / "conf" / "workflows"
ASKED_MAX = 2_000  # requests until a signal has had its effect: some seconds


def workflows(daemon: Daemon, key: str) -> dict[str, Any]:
    status, answer = asked(f"{daemon.url}/v1/workflows", key)
    assert status == 200
    return {each["name"]: each for each in answer["workflows"]}


def logged(daemon: Daemon, message: str, before: int) -> dict[str, Any]:
    """The line of the log, behind the first `before` of the kind, that tells of a reload."""
    for _ in range(ASKED_MAX):
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
        found = [line for line in lines if line["message"].startswith(message)]
        if len(found) > before:
            return dict(found[before])
        asked(f"{daemon.url}/healthz")  # which lets it work
    raise AssertionError(f"no {message!r} in {daemon.log.read_text()}")


def test_a_start_and_a_hangup_take_over_what_is_configured_and_a_mistake_changes_nothing(tmp_path: Path) -> None:
    shutil.copytree(READY, tmp_path / "workflows")
    file, cart = tmp_path / "syncd.toml", tmp_path / "workflows" / "cart.toml"
    file.write_text('[policy]\nquiet_hours = "22:00-08:00"\n')
    options = ("--config", str(file))
    with running(tmp_path / "state", options=options) as daemon:
        key = daemon.run("apikey", "create", "ops", "--scope", "notifications:read")
        found = workflows(daemon, key)
        assert sorted(found) == ["breaking", "cart", "nudge", "sign_in", "team"]
        assert all(each["active"] == each["configured"] for each in found.values())
        text = cart.read_text()
        cart.write_text(text.replace('delay = "1h"', 'delay = "2h"'))
        daemon.signal(signal.SIGHUP)
        assert logged(daemon, "reloaded", 0)["workflows"] == ["cart"]
        changed = workflows(daemon, key)
        assert changed["cart"]["active"] != found["cart"]["active"] and changed["team"] == found["team"]
        cart.write_text(text.replace('"count > 0"', '"count > "'))
        daemon.signal(signal.SIGHUP)
        (problem,) = logged(daemon, "the configuration is not reloaded", 0)["problems"]
        assert problem.startswith(f"{cart}:19:53: workflow.cart.trigger.where: expected a value")
        assert workflows(daemon, key) == changed
        assert daemon.stop() == 0
    with pytest.raises(StartFailed) as refused, running(tmp_path / "state", options=options):
        pass
    assert refused.value.code == 3 and f"{cart}:19:53: " in refused.value.stderr


SCHEMA = """\
[schema.task]
spaces = "user/*"
collection = "task"
version = {version}
fields = {{ title = {{ values = ["text"], bytes_max = {most} }} }}
"""


def test_a_hangup_takes_over_schemas_and_what_is_there_stays(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text(SCHEMA.format(version=1, most=20))

    def posted(title: str) -> dict[str, Any]:
        operations = [["create", "task", title], ["reg.set", "task", title, "title", title]]
        url = f"{daemon.url}/v1/spaces/user%2F42/changes"
        status, answer = asked(url, daemon.token("42"), {"operations": operations})
        assert status == 200
        return dict(answer)

    with running(tmp_path / "state", options=("--config", str(file))) as daemon:
        assert posted("buy some milk")["outcome"] == "applied"
        file.write_text(SCHEMA.format(version=2, most=4))
        daemon.signal(signal.SIGHUP)
        assert logged(daemon, "reloaded", 0)["schemas"] is True
        refused = posted("buy bread")
        assert refused["outcome"] == "too_large"
        assert refused["detail"]["schema"] == {"name": "task", "version": 2, "rule": "bytes_max", "field": "title"}
        file.write_text(SCHEMA.format(version=3, most=0))
        daemon.signal(signal.SIGHUP)
        (problem,) = logged(daemon, "the configuration is not reloaded", 0)["problems"]
        assert problem.startswith(f"{file}:5:53: schema.task.fields.title.bytes_max: got 0, expected an integer from 1")
        assert posted("eggs")["outcome"] == "applied"
        url = f"{daemon.url}/v1/spaces/user%2F42/documents/task/buy%20some%20milk"
        assert asked(url, daemon.token("42"))[1]["fields"]["title"] == "buy some milk"
