"""The peers: other servers that fan out over WebSocket, each started here on loopback with a configuration of its own.

Owns how each is started, and what its clients say and hear (the bytes for `peers.c`). A peer is used if its program is
installed; nothing is installed here. None of them decides, stores or syncs what passes; that is the comparison's point.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

from bench import workload
from bench.measure import pin
from bench.native import Failed

START_S, STOP_S = 10.0, 5.0
TOPIC = "fanout"


@dataclass(frozen=True, slots=True)
class Role:
    """What a connection sends first: the upgrade, then `hello`; it is ready when `ready` has come inside a frame."""

    upgrade: bytes
    hello: bytes = b""
    ready: bytes = b""


@dataclass(frozen=True, slots=True)
class Peer:
    """`package`: Debian's. `is_found`: whether it can be started. `start`: writes its configuration into a directory
    and gives the command and the variables it needs. `message_bytes`: of a message as a subscriber gets it, inside
    the WebSocket frame; `ack_bytes` 0: an acknowledgement is a frame, of whatever size. `publish`: the n-th message."""

    name: str
    package: str
    is_found: Callable[[], bool]
    start: Callable[[Path, int], tuple[list[str], Mapping[str, str]]]
    publisher: Role
    subscriber: Role
    message_bytes: int
    ack_bytes: int
    publish: Callable[[int], bytes]


def text(n: int) -> bytes:
    """The n-th message: the text that the publisher of `fanout` sets a field to."""
    message: str = workload.single_field_change(n, 1)[4][-1][4]
    return message.encode()


TEXT_BYTES = len(text(2))


class Running:
    """A peer's process, as a context manager."""

    def __init__(self, peer: Peer, directory: Path, core: int) -> None:
        directory.mkdir()
        self.port = _free_port()
        command, variables = peer.start(directory, self.port)
        self._name, self._log = peer.name, (directory / "log").open("w+")
        self._process = subprocess.Popen(
            command, env=os.environ | dict(variables), preexec_fn=partial(pin, core), cwd=directory,
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip
        try:
            self._wait_listening()
        except Failed:
            self._stop()
            raise

    @property
    def pids(self) -> list[int]:
        """The process and its children: nginx serves in a child."""
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _wait_listening(self) -> None:
        due_s = time.monotonic() + START_S
        while time.monotonic() < due_s:
            if self._process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        self._log.seek(0)
        raise Failed(f"{self._name} did not start: {self._log.read()[-1000:].strip()}")

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _program(name: str) -> str | None:
    """A server's program; those of the system are not on everybody's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _upgrade(path: str, subprotocol: str | None = None) -> bytes:
    chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{chosen}\r\n"
    ).encode()


# -- nchan ------------------------------------------------------------------------------------------------------------

_NCHAN_MODULES = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))


def _nchan_module() -> Path | None:
    return next((path for folder in _NCHAN_MODULES if (path := folder / "ngx_nchan_module.so").exists()), None)


def _start_nchan(directory: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    module, program = _nchan_module(), _program("nginx")
    assert module is not None and program is not None
    temporary = "\n".join(
        f"  {name}_temp_path {directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (directory / "nginx.conf").write_text(
        f"load_module {module};\n{user}daemon off;\nworker_processes 1;\nworker_rlimit_nofile 20000;\n"
        f"pid {directory}/pid;\nerror_log {directory}/error.log warn;\n"
        "events { worker_connections 15000; }\n"
        f"http {{\n  access_log off;\n{temporary}\n"
        # Enough messages are kept for the publishes in flight; none is kept for those who come later.
        "  nchan_message_buffer_length 1000;\n  nchan_message_timeout 30s;\n"
        f"  server {{\n    listen 127.0.0.1:{port};\n    tcp_nodelay on;\n"
        f"    location = /pub {{ nchan_publisher websocket; nchan_channel_id {TOPIC}; }}\n"
        f"    location = /sub {{ nchan_subscriber websocket; nchan_channel_id {TOPIC};"
        " nchan_subscriber_first_message newest; }\n  }\n}\n"
    )
    return [program, "-p", str(directory), "-e", f"{directory}/error.log", "-c", f"{directory}/nginx.conf"], {}


# -- NATS -------------------------------------------------------------------------------------------------------------


def _start_nats(directory: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    program = _program("nats-server")
    assert program is not None
    (directory / "nats.conf").write_text(
        'host: "127.0.0.1"\nport: -1\nping_interval: "30m"\nmax_connections: 100000\nlogtime: false\n'
        f'websocket {{ host: "127.0.0.1"; port: {port}; no_tls: true; compression: false }}\n'
    )
    return [program, "-c", str(directory / "nats.conf")], {"GOMAXPROCS": "1"}  # it has one core


# Ready is who has got the server's first PING, two seconds after the greeting: it must not come among the messages.
def _nats_hello(is_verbose: bool, *lines: str) -> bytes:
    connect = '{"verbose":%s,"pedantic":false,"echo":true,"protocol":0}' % ("true" if is_verbose else "false")
    return workload.client_frame("".join(f"{line}\r\n" for line in (f"CONNECT {connect}", *lines)).encode())


def _nats_publish(n: int) -> bytes:
    return workload.client_frame(f"PUB {TOPIC} {TEXT_BYTES}\r\n".encode() + text(n) + b"\r\n")


# -- Mosquitto --------------------------------------------------------------------------------------------------------


def _start_mosquitto(directory: Path, port: int) -> tuple[list[str], Mapping[str, str]]:
    program = _program("mosquitto")
    assert program is not None
    user = "user root\n" if os.geteuid() == 0 else ""
    (directory / "mosquitto.conf").write_text(
        # Some versions 2.0 do not start with a WebSocket listener alone, and bind one to an address only with IPv4.
        f"{user}listener 0 {directory}/socket\nlistener {port} 127.0.0.1\nsocket_domain ipv4\nprotocol websockets\n"
        "allow_anonymous true\npersistence false\nset_tcp_nodelay true\nmax_queued_messages 0\n"
        "log_type error\nlog_type warning\n"
    )
    return [program, "-c", str(directory / "mosquitto.conf")], {}


def _mqtt(kind: int, *parts: bytes) -> bytes:
    """An MQTT packet (3.1.1, section 2); all of ours are short."""
    body = b"".join(parts)
    assert len(body) < 16_384
    size = bytes([len(body)]) if len(body) < 128 else bytes([len(body) & 0x7F | 0x80, len(body) >> 7])
    return bytes([kind]) + size + body


def _mqtt_text(value: str) -> bytes:
    return len(value).to_bytes(2) + value.encode()


_MQTT_CONNECT = _mqtt(0x10, _mqtt_text("MQTT"), b"\x04\x02\0\0", _mqtt_text(""))  # clean session, no keep-alive
_MQTT_SUBSCRIBE = _mqtt(0x82, b"\0\x01", _mqtt_text(TOPIC), b"\0")  # QoS 0


def _mqtt_publish(n: int) -> bytes:
    packet_id = (n % 65_535 + 1).to_bytes(2)
    return workload.client_frame(_mqtt(0x32, _mqtt_text(TOPIC), packet_id, text(n)))  # QoS 1: it is acknowledged


PEERS = (
    Peer(
        "nchan", "libnginx-mod-nchan", lambda: _nchan_module() is not None and _program("nginx") is not None,
        _start_nchan, Role(_upgrade("/pub")), Role(_upgrade("/sub")), TEXT_BYTES, 0,
        lambda n: workload.client_frame(text(n)),
    ),
    Peer(
        "NATS", "nats-server", lambda: _program("nats-server") is not None, _start_nats,
        Role(_upgrade("/"), _nats_hello(True), b"PING\r\n"),
        Role(_upgrade("/"), _nats_hello(False, f"SUB {TOPIC} 1"), b"PING\r\n"),
        len(f"MSG {TOPIC} 1 {TEXT_BYTES}\r\n") + TEXT_BYTES + 2, len("+OK\r\n"), _nats_publish,
    ),
    Peer(
        "Mosquitto", "mosquitto", lambda: _program("mosquitto") is not None, _start_mosquitto,
        Role(_upgrade("/mqtt", "mqtt"), workload.client_frame(_MQTT_CONNECT), b"\x20\x02\0\0"),
        Role(
            _upgrade("/mqtt", "mqtt"), workload.client_frame(_MQTT_CONNECT) + workload.client_frame(_MQTT_SUBSCRIBE),
            b"\x90\x03\0\x01\0",
        ),
        len(_mqtt(0x30, _mqtt_text(TOPIC), text(2))), 4, _mqtt_publish,
    ),
)  # fmt: skip
