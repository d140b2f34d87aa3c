"""The listeners of the daemon, made from its configuration.

Owns what is listened on and what every connection begins with: for clients a header of the PROXY protocol, if they come
through balancers, then TLS, if there is a certificate. Operators' listeners have neither: they are of this machine.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network

from syncd.app.config import Settings, certificate_files
from syncd.app.settings import host_and_port
from syncd.app.systemd import inherited_socket
from syncd.env.ports import Listener
from syncd.env.proxy import ProxyListener
from syncd.env.real import SocketListener, listen_tcp, listen_unix
from syncd.env.tls import BadCertificate, Certificate, TlsListener


class CannotServe(Exception):
    """The daemon could not start, or was told to stop before it was done. The text says why."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """For clients, for operators by TCP, for operators by UNIX socket. `proxied`: has to run, if there is one."""

    clients: Listener
    admin: Listener
    socket: Listener
    proxied: ProxyListener | None

    def close(self) -> None:
        for listener in (self.clients, self.admin, self.socket):
            listener.close()


def listeners(settings: Settings, environ: Mapping[str, str], warn: Callable[[str], None]) -> Listeners:
    """Everything that is listened on. `warn` is told of connections and certificates that are not as they should be.

    Raises `CannotServe`.
    """
    server = settings.config.server
    certificate = _certificate(settings, warn)
    with ExitStack() as stack:
        try:
            inherited = inherited_socket(environ)
        except ValueError as error:
            raise CannotServe(str(error)) from None
        clients = _listen_tcp("server.listen", server.listen) if inherited is None else SocketListener(inherited)
        stack.callback(clients.close)
        proxied = None
        if server.proxies:
            clients = proxied = ProxyListener(clients, [ip_network(text) for text in server.proxies], warn)
        if certificate is not None:
            clients = TlsListener(clients, certificate)
        admin = _listen_tcp("server.admin_listen", server.admin_listen)
        stack.callback(admin.close)
        try:
            socket = listen_unix(settings.admin_socket)
        except OSError as error:
            hint = "; a shorter state directory is needed" if "too long" in str(error) else ""
            raise CannotServe(f"cannot listen on {settings.admin_socket}: {error.strerror or error}{hint}") from None
        stack.pop_all()
    return Listeners(clients, admin, socket, proxied)


def _certificate(settings: Settings, warn: Callable[[str], None]) -> Certificate | None:
    files = certificate_files(settings)
    if files is None:
        return None
    try:
        return Certificate(*files, warn)
    except BadCertificate as error:
        raise CannotServe(f"cannot use the certificate (tls.certificate, tls.private_key): {error}") from None


def _listen_tcp(key: str, text: str) -> Listener:
    host, port = host_and_port(text)
    try:
        return listen_tcp(host, port)
    except OSError as error:
        hint = "; another program listens there, perhaps another syncd" if "in use" in str(error).lower() else ""
        raise CannotServe(f"cannot listen on {text} ({key}): {error.strerror}{hint}") from None


def host_port(listener: Listener) -> str:
    host, port = listener.address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
