"""The past on the command line: history, show, revert and audit, beside a daemon and without one."""

import json
import signal
from pathlib import Path

from syncd.store import keys
from syncd.store.lmdb import open_store
from syncd.store.tables import ENTRIES
from tests.e2e.process import run, running
from tests.e2e.test_process import asked

ROOM = 1 << 30


def _typed(update: str) -> list[object]:
    return ["text.update", "notes", "n", "body", {"$b": update}]


def test_the_past_of_a_document_is_shown_reverted_and_audited(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with running(state) as daemon:
        token = daemon.token("42", "shop:writer")
        for number in range(3):
            create = [["create", "orders", "1"]] if number == 0 else []
            change = {"operations": [*create, ["reg.set", "orders", "1", "step", number]]}
            status, told = asked(f"{daemon.url}/v1/spaces/shop/changes", token, change)
            assert status == 200 and told["outcome"] == "applied"
        assert json.loads(daemon.run("show", "shop", "orders/1", "--at", "1", "--json"))["fields"] == {"step": 0}
        reverted = json.loads(daemon.run("revert", "shop", "orders/1", "--at", "2", "--json"))
        assert (reverted["outcome"], reverted["seq"], reverted["left"]) == ("applied", 4, [])
        found = json.loads(daemon.run("history", "shop", "orders/1", "--json"))
        assert [change["seq"] for change in found["changes"]] == [4, 3, 2, 1] and found["known_from"] == 0
        assert found["changes"][0]["kind"] == "server"
        lines = [json.loads(line) for line in daemon.run("audit", "shop").splitlines()]
        assert [line["seq"] for line in lines] == [1, 2, 3, 4] and all(line["checked"] for line in lines)
        user, server = lines[0]["device"], lines[3]["device"]
        assert lines[2]["vector"] == {user: 3} and lines[3]["vector"] == {user: 3, server: 1}
        late = [json.loads(line) for line in daemon.run("audit", "shop", "--since", "3").splitlines()]
        assert late == lines[3:]
        (traced,) = json.loads(daemon.run("trace", f"{user}:2", "--json"))
        assert (traced["space"], traced["outcome"], traced["seq"]) == ("shop", "applied", 2)
        assert traced["acknowledged_by"] == traced["not_yet_by"] == []  # backends acknowledge nothing
        (place,) = json.loads(daemon.run("trace", user, "--space", "shop", "--json"))
        assert (place["highest"], place["head"]) == (3, 4)
        token = daemon.token("42", "pad:writer")
        for operations in (
            [["create", "notes", "n"], _typed("AQ")],
            [["reg.set", "notes", "n", "of", 1]],
            [_typed("Ag")],
        ):
            assert asked(f"{daemon.url}/v1/spaces/pad/changes", token, {"operations": operations})[0] == 200
        reverted = json.loads(daemon.run("revert", "pad", "notes/n", "--at", "1", "--json"))
        assert reverted["outcome"] == "applied" and [each["field"] for each in reverted["left"]] == ["body"]
        shown = daemon.run("revert", "pad", "notes/n", "--at", "1").splitlines()
        assert shown[1].startswith("The field body is not as it was: updates came since seq 1, and only an editor")
        daemon.signal(signal.SIGTERM)
        assert daemon.process.wait(20) == 0
    assert "is live (rev 4)" in run(state, "history", "shop", "orders/1").stdout
    assert run(state, "show", "shop", "orders/1", "--at", "0").returncode == 1
    assert run(state, "show", "shop", "orders/1", "--at", "5").returncode == 1
    assert run(state, "history", "shop", "orders/2").returncode == 1
    assert run(state, "trace", f"{user}:9").returncode == 1 and run(state, "trace", "x").returncode == 2
    store = open_store(state / "store", map_bytes=ROOM, map_bytes_max=ROOM)
    with store.write() as tx:
        key, entry = next(iter(ENTRIES.scan(tx, keys.device_log_range(1, 1, 1))))
        ENTRIES.put(tx, key, entry._replace(nonce=bytes(8)))
    store.close()
    broken = run(state, "audit", "shop")
    assert broken.returncode == 4 and "the chain is broken at seq 2" in broken.stderr
    assert run(state, "audit", "shop", "--since", "2").returncode == 0
