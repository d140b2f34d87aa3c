"""The daemon as a process: its ready line, its signals, its exit codes, and what a kill leaves behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, TextMessage
from wsproto.events import Request as WebSocketRequest

from syncd.app.systemd import LISTEN_FDS_START
from tests.e2e.process import COMMAND, STOP_S, Daemon, StartFailed, environment, run, running


def asked(url: str, secret: str | None = None, body: object = None) -> tuple[int, Any]:
    """(status, JSON) of one HTTP request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=STOP_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def created(daemon: Daemon, document_id: str) -> dict[str, Any]:
    operations = [["create", "task", document_id], ["reg.set", "task", document_id, "title", "buy milk"]]
    url = f"{daemon.url}/v1/spaces/user%2F42/changes"
    status, answer = asked(url, daemon.token("42"), {"operations": operations})
    assert (status, answer["outcome"]) == (200, "applied")
    return dict(answer)


def test_the_ready_line_is_the_only_output_and_tells_where_it_listens(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert daemon.pid == daemon.process.pid
        assert asked(f"{daemon.url}/readyz")[0] == 200
        assert asked(f"http://{daemon.admin}/readyz")[0] == 200
        assert daemon.stop() == 0
        assert daemon.process.stdout is not None
        assert daemon.process.stdout.read() == b""
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    assert [line["message"] for line in lines if line["level"] != "info"] == []
    assert lines[-1]["message"] == "stopped"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as daemon:
        daemon.signal(number)
        assert daemon.wait() == 0
    assert not (tmp_path / "admin.sock").exists()


def greeted(daemon: Daemon) -> socket.socket:
    """A device that said hello and was welcomed, and does nothing any more."""
    host, _, port = daemon.http.rpartition(":")
    sock = socket.create_connection((host, int(port)), STOP_S)
    websocket = WSConnection(ConnectionType.CLIENT)
    sock.sendall(websocket.send(WebSocketRequest(daemon.http, "/v1/sync", subprotocols=["syncd.v1.json"])))
    hello = {"device": "01" * 16, "installation": "02" * 16, "token": daemon.token("42"), "time": 0}
    is_sent = False
    while True:
        data = sock.recv(65536)
        assert data, "the daemon closed the connection"
        websocket.receive_data(data)
        for event in websocket.events():
            if isinstance(event, AcceptConnection) and not is_sent:
                sock.sendall(websocket.send(TextMessage(json.dumps([[1, hello]]))))
                is_sent = True
            if isinstance(event, TextMessage):
                assert json.loads(event.data)[0][0] == 32, "welcome"
                return sock


def told_ms(device: socket.socket) -> int:
    """The `retry_after_ms` of the goaway that is sent next."""
    data = device.recv(65536)
    while (found := re.search(rb'\[43,\{[^}]*"retry_after_ms":(\d+)', data)) is None:
        more = device.recv(65536)
        assert more, "the daemon closed the connection"
        data += more
    return int(found[1])


def test_a_second_signal_stops_it_at_once(tmp_path: Path) -> None:
    with running(tmp_path, {"SYNCD_DRAIN__DEADLINE_MS": "600000"}) as daemon, greeted(daemon) as device:
        daemon.signal(signal.SIGTERM)
        # The drain has begun: come back when the next daemon listens, in the first slot of 2.5 ms.
        assert 3_000 <= told_ms(device) <= 3_002
        assert json.loads(daemon.run("status", "--json"))["reasons"] == ["the daemon is stopping"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 1
    assert "stopped at once by a second signal, SIGTERM" in daemon.log.read_text()


def test_what_was_acknowledged_outlives_a_kill(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        position = created(daemon, "1")["position"]
        daemon.kill()
    with running(tmp_path) as daemon:
        url = f"{daemon.url}/v1/spaces/user%2F42/documents/task/1"
        status, document = asked(url, daemon.token("42"))
        assert (status, document["fields"], document["rev"]) == (200, {"title": "buy milk"}, 1)
        assert created(daemon, "2")["position"].partition("@")[2] == position.partition("@")[2]
        assert run(tmp_path, "fsck").stdout == "The store is sound.\n"


def test_a_second_daemon_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        with pytest.raises(StartFailed) as caught, running(tmp_path):
            pass
        assert caught.value.code == 1
        assert f"another daemon (process {daemon.pid}) has the store in {tmp_path / 'store'}" in caught.value.stderr
        assert asked(f"{daemon.url}/readyz")[0] == 200, "the first one goes on"


def test_an_address_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StartFailed) as caught, running(tmp_path, {"SYNCD_LISTEN": address}):
            pass
    assert caught.value.code == 1
    assert f"cannot listen on {address} (server.listen): Address already in use" in caught.value.stderr


def test_a_mistake_in_the_configuration_ends_it_with_3_and_its_place(tmp_path: Path) -> None:
    file = tmp_path / "syncd.toml"
    file.write_text("[log]\nlevel = 8740\n")
    with pytest.raises(StartFailed) as caught, running(tmp_path, options=("--config", str(file))):
        pass
    assert caught.value.code == 3
    assert f'{file}:2:9: log.level: got 8740, expected "debug", ' in caught.value.stderr


def test_a_damaged_store_ends_it_with_4_and_advice(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        created(daemon, "1")
        daemon.stop()
    data = tmp_path / "store" / "data.mdb"
    data.write_bytes(data.read_bytes().replace(b"buy milk", b"buy silk"))
    found = run(tmp_path, "fsck")
    assert found.returncode == 4
    assert "wrong checksum" in found.stdout
    with running(tmp_path) as daemon:
        with pytest.raises(OSError):  # the process is gone before it could answer wrongly
            created(daemon, "1")
        assert daemon.wait() == 4
    assert "error: the store is damaged: the record under key " in daemon.log.read_text()
    assert "run `syncd fsck`" in daemon.log.read_text()


def test_it_does_not_start_without_assertions(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-O", *COMMAND[1:], "serve"], env=environment(tmp_path), capture_output=True, text=True,
        timeout=STOP_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "start Python without -O" in done.stderr


def test_backends_and_operators_by_the_command_line(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        secret = daemon.run("apikey", "create", "shop", "--scope", "changes:write:user/*")
        body = {"operations": [["create", "task", "9"]]}
        url = f"{daemon.url}/v1/spaces/user%2F42/changes"
        assert asked(url, secret, body)[0] == 200
        assert [key["name"] for key in json.loads(daemon.run("apikey", "list", "--json"))] == ["shop"]
        assert run(tmp_path, "apikey", "create", "shop", "--scope", "events:write").returncode == 1
        daemon.run("apikey", "revoke", "shop")
        assert asked(url, secret, body)[0] == 401
        created(daemon, "1")
        token = daemon.run("token", "--user", "42")
        assert asked(f"{daemon.url}/v1/spaces/user%2F42/documents", token)[0] == 200
        assert json.loads(daemon.run("status", "--json"))["spaces"] == 1
        online = daemon.run("explain", "user/42", "task/1", "title", "--json")
        assert json.loads(online)["fields"]["title"]["value"] == "buy milk"
        daemon.stop()
    assert run(tmp_path, "explain", "user/42", "task/1", "title", "--json").stdout.strip() == online
    stopped = run(tmp_path, "status")
    assert (stopped.returncode, stopped.stderr.startswith("error: no daemon answers on ")) == (5, True)


def test_secrets_and_data_are_not_on_the_operators_port(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        assert asked(f"http://{daemon.admin}/admin/status")[0] == 200
        for path in ("apikeys", "explain?space=a&collection=b&id=c", "deadletters?space=a"):
            assert asked(f"http://{daemon.admin}/admin/{path}")[0] == 404
        assert (tmp_path / "admin.sock").stat().st_mode & 0o777 == 0o600


def test_a_socket_of_systemd_is_served_and_readiness_is_reported(tmp_path: Path) -> None:
    """As `conf/syncd.socket` and Type=notify do it: an inherited descriptor 3 and a datagram socket."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified,
    ):
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(STOP_S)
        starter = (  # LISTEN_PID is the daemon's own process, so it is set after the fork
            "import os, sys;"
            f"os.dup2({listening.fileno()}, {LISTEN_FDS_START});"
            f"os.set_inheritable({LISTEN_FDS_START}, True);"
            "os.environ['LISTEN_PID'] = str(os.getpid());"
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        systemd = {"LISTEN_FDS": "1", "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
        with subprocess.Popen(
            [sys.executable, "-c", starter, *COMMAND[1:], "serve"], env=environment(tmp_path, systemd),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[listening.fileno()],
        ) as process:  # fmt: skip
            assert process.stdout is not None
            ready = json.loads(process.stdout.readline())
            assert ready["http"] == f"127.0.0.1:{listening.getsockname()[1]}"
            assert asked(f"http://{ready['http']}/readyz")[0] == 200
            heard = {notified.recv(1000).split(b"\n")[0] for _ in range(3)}
            assert heard == {b"READY=1", b"WATCHDOG=1"}
            with greeted(Daemon(process, tmp_path, tmp_path / "log", ready)) as device:
                os.kill(process.pid, signal.SIGTERM)
                assert 3_000 <= told_ms(device) <= 3_003, "those who come at once would wait, and be a crowd"
            assert process.wait(STOP_S) == 0
            last = b""
            while not last.startswith(b"STOPPING=1"):
                last = notified.recv(1000)


def test_a_development_daemon_prints_what_works_and_leaves_nothing(tmp_path: Path) -> None:
    environ = environment(tmp_path) | {"TMPDIR": str(tmp_path)}
    del environ["SYNCD_STATE_DIR"]
    options = ("run", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--user", "a/b")
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen([*COMMAND, *options], env=environ, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(process.kill)  # a failure below must not wait for a daemon that serves on
        assert process.stdout is not None
        shown: list[str] = []
        while not shown or shown[-1] != "(Ctrl-C stops it)":
            line = process.stdout.readline()
            assert line, "it ended before it was ready"
            shown.append(line.strip())
        (url,) = [line for line in shown if line.startswith("http://") and line.endswith("/documents")]
        (token_file,) = [Path(line.split()[1]) for line in shown if line.startswith("token")]
        status, _ = asked(url, token_file.read_text().strip())
        assert status == 404, "the token is accepted; the space does not exist yet"
        process.send_signal(signal.SIGINT)
        assert process.wait(STOP_S) == 0
    assert list(tmp_path.iterdir()) == []
