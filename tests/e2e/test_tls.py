"""The real process with a certificate, and behind a balancer: devices and backends come through both."""

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.request
from ipaddress import ip_address
from pathlib import Path

import pytest
import trustme

from tests.e2e.process import STOP_S, Daemon, StartFailed, environment, running

CA = trustme.CA()
PROXY = b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes([203, 0, 113, 9, 127, 0, 0, 1]) + b"\xc3\x50\x22\x24"
ASK = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def configured(directory: Path) -> dict[str, str]:
    """Variables for a daemon with a certificate for 127.0.0.1, whose files stand beside its state directory."""
    made = CA.issue_cert("127.0.0.1")
    certificate, key = directory / "chain.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    made.private_key_pem.write_to_path(key)
    CA.cert_pem.write_to_path(directory / "ca.pem")
    return {"SYNCD_TLS__CERTIFICATE": str(certificate), "SYNCD_TLS__PRIVATE_KEY": str(key)}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def device(daemon: Daemon, directory: Path, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    token = directory / "token"
    token.write_text(daemon.token("ann", "home/*:writer"))
    url = f"wss://{daemon.http}/v1/sync"
    options = ["--store", str(directory / name), "--url", url, "--token-file", str(token)]
    return subprocess.run(
        [sys.executable, "-m", "syncd_client.cli", *options, *command],
        env=os.environ | {"SSL_CERT_FILE": str(directory / "ca.pem")}, capture_output=True, text=True, timeout=STOP_S,
    )  # fmt: skip


def test_devices_and_backends_come_over_tls_and_plain_text_gets_no_answer(tmp_path: Path) -> None:
    with running(tmp_path / "state", configured(tmp_path)) as daemon:
        for name, command in (("phone", ("create", "home/cart", "item", "milk")), ("tablet", ("sync", "home/cart"))):
            done = device(daemon, tmp_path, name, *command)
            assert done.returncode == 0, done.stderr
        done = device(daemon, tmp_path, "tablet", "get", "home/cart", "item", "milk")
        assert json.loads(done.stdout)["id"] == "milk"
        with urllib.request.urlopen(f"https://{daemon.http}/readyz", context=trusting(), timeout=STOP_S) as response:
            assert response.status == 200
        host, _, port = daemon.http.rpartition(":")
        with socket.create_connection((host, int(port)), STOP_S) as plain:
            plain.sendall(ASK)
            assert b"HTTP" not in plain.recv(100)
        assert json.loads(daemon.run("status", "--json"))["tls"] is True
        assert daemon.stop() == 0
    assert [line for line in daemon.log.read_text().splitlines() if '"level":"error"' in line] == []


def test_behind_a_balancer_tls_begins_after_the_header_and_others_are_cut_off(tmp_path: Path) -> None:
    extra = configured(tmp_path) | {"SYNCD_SERVER__PROXIES": '["127.0.0.1"]'}
    with running(tmp_path / "state", extra) as daemon:
        host, _, port = daemon.http.rpartition(":")
        with socket.create_connection((host, int(port)), STOP_S) as sock:
            sock.sendall(PROXY)
            with trusting().wrap_socket(sock, server_hostname="127.0.0.1") as encrypted:
                encrypted.sendall(ASK)
                assert encrypted.recv(12) == b"HTTP/1.1 200"
        with socket.create_connection((host, int(port)), STOP_S) as sock, pytest.raises(OSError):
            trusting().wrap_socket(sock, server_hostname="127.0.0.1")
        assert daemon.stop() == 0
    assert "127.0.0.1 begins with no PROXY header" in daemon.log.read_text()


def test_limits_go_by_the_address_that_the_balancer_names(tmp_path: Path) -> None:
    extra = {"SYNCD_SERVER__PROXIES": '["127.0.0.0/8"]', "SYNCD_SERVER__CONNECTIONS_PER_ADDRESS_MAX": "1"}
    with running(tmp_path / "state", extra) as daemon:
        host, _, port = daemon.http.rpartition(":")

        def answer(client: bytes, holding: list[socket.socket]) -> bytes:
            sock = socket.create_connection((host, int(port)), STOP_S)
            holding.append(sock)
            sock.sendall(PROXY[:16] + client + PROXY[20:] + ASK.replace(b"Connection: close\r\n", b""))
            return sock.recv(12)

        held: list[socket.socket] = []
        try:
            first, second = ip_address("203.0.113.9").packed, ip_address("203.0.113.10").packed
            assert answer(first, held) == b"HTTP/1.1 200"
            assert answer(first, held) == b"HTTP/1.1 503"
            assert answer(second, held) == b"HTTP/1.1 200"
        finally:
            for sock in held:
                sock.close()


@pytest.mark.parametrize("missing", ["SYNCD_TLS__PRIVATE_KEY", "SYNCD_TLS__CERTIFICATE", ""])
def test_a_bad_certificate_is_told_by_check_and_stops_the_start(tmp_path: Path, missing: str) -> None:
    extra = configured(tmp_path)
    if missing:
        del extra[missing]
        expected = f"tls.{missing.rpartition('__')[2].lower()}"
    else:
        (tmp_path / "chain.pem").write_text("none")
        expected = str(tmp_path / "chain.pem")
    with pytest.raises(StartFailed, match=expected), running(tmp_path / "state", extra):
        pass
    checked = subprocess.run(
        [sys.executable, "-m", "syncd.app.cli", "check"], env=environment(tmp_path / "state", extra),
        capture_output=True, text=True, timeout=STOP_S,
    )  # fmt: skip
    assert checked.returncode == 3
    assert expected in checked.stderr
