"""An S3 server on loopback, and a proxy before it that loses, refuses, cuts and delays what is said to it.

The server is moto's: it shows the protocol, not S3's speed or consistency.
"""

import http.client
import logging
import random
import socket
import struct
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULT_CODES = {"slow_down": (503, "SlowDown"), "not_implemented": (501, "NotImplemented"), "conflict": (409, "ConditionalRequestConflict")}
FAULTS = ("reset_before", "reset_after", "slow_down", "cut", "stall")  # reset_after: carried out, but the reply is lost; cut: half of it comes


@dataclass
class Rule:
    """Which requests meet a fault: the next `times` whose method and path fit, each with a probability."""

    fault: str
    method: str
    containing: str
    times: float
    chance: float

    def takes(self, method: str, path: str, draw: float) -> bool:
        fits = self.times > 0 and self.method in ("", method) and self.containing in path and draw < self.chance
        self.times -= fits
        return fits


@dataclass
class Proxy:
    """A proxy to an HTTP server. `requests` holds the method and path of all that came; faults are drawn with a fixed seed."""

    server: str  # host:port
    url: str = ""
    latency_seconds: float = 0
    stall_seconds: float = 0
    without: tuple[str, ...] = ()  # headers that are not passed on
    requests: list[tuple[str, str]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # those that happened
    rules: list[Rule] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    draws: random.Random = field(default_factory=lambda: random.Random(0))

    def fail(self, fault: str, method: str = "", containing: str = "", times: float = 1, chance: float = 1.0) -> None:
        self.rules.append(Rule(fault, method, containing, times, chance))

    def reset(self) -> None:
        self.__init__(self.server, self.url)

    def fault_of(self, method: str, path: str) -> str:
        with self.lock:
            self.requests.append((method, path))
            fault = next((rule.fault for rule in self.rules if rule.takes(method, path, self.draws.random())), "")
            if fault:
                self.faults.append(fault)
            return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    proxy: Proxy

    def carry(self) -> None:
        body = self.body()
        fault = self.proxy.fault_of(self.command, self.path)
        time.sleep(self.proxy.latency_seconds)
        if fault == "stall":
            time.sleep(self.proxy.stall_seconds)
        if fault == "reset_before":
            return self.hang_up()
        if fault in FAULT_CODES:
            status, code = FAULT_CODES[fault]
            return self.answer(
                status, [("Content-Type", "application/xml")], f"<Error><Code>{code}</Code><Message>said so</Message></Error>".encode()
            )
        upstream = http.client.HTTPConnection(self.proxy.server, timeout=30)
        try:
            dropped = {"expect", "connection", "transfer-encoding", "content-length", *self.proxy.without}
            upstream.request(self.command, self.path, body, {name: value for name, value in self.headers.items() if name.lower() not in dropped})
            reply = upstream.getresponse()
            content = reply.read()
        finally:
            upstream.close()
        if fault == "reset_after":
            return self.hang_up()
        self.answer(reply.status, reply.getheaders(), content, cut=fault == "cut")

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(chunks)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = carry

    def answer(self, status: int, headers: list[tuple[str, str]], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        length = next((value for name, value in headers if self.command == "HEAD" and name.lower() == "content-length"), str(len(content)))
        for name, value in headers:
            if name.lower() not in ("connection", "content-length", "transfer-encoding"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: len(content) // 2] if cut else content)
        if cut:
            self.hang_up()

    def hang_up(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionAbortedError

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # connections that were hung up on purpose, or by the client


@contextmanager
def proxy_to(server: str) -> Iterator[Proxy]:
    proxy = Proxy(server)
    listener = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": proxy}))
    proxy.url = f"http://127.0.0.1:{listener.server_address[1]}"
    threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield proxy
    finally:
        listener.shutdown()
        listener.server_close()


@contextmanager
def s3_server() -> Iterator[str]:
    """Start a server; give host:port. Buckets are made with `make_bucket`."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # or it prints every request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"{host}:{port}"
    finally:
        server.stop()


@contextmanager
def gs_server(bucket: str) -> Iterator[str]:
    """Start a server of Google's protocol with a bucket; give host:port. Its package is no requirement of the tests."""
    from gcp_storage_emulator.server import create_server

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=bucket)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop()


def ask(server: str, method: str, path: str, body: bytes = b"") -> bytes:
    """Speak to a server directly, past any proxy."""
    with urllib.request.urlopen(urllib.request.Request(f"http://{server}{path}", body, {"Content-Type": "text/plain"}, method=method)) as reply:
        return reply.read()


def make_bucket(server: str, name: str) -> None:
    ask(server, "PUT", f"/{name}")


def fill(bucket: str, keys: Iterable[str]) -> None:
    """Put empty objects into a bucket of this process's server without asking it one by one."""
    from moto.s3.models import s3_backends

    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(bucket, key, b"")


@contextmanager
def credentials_checked(server: str) -> Iterator[None]:
    """Have the server refuse credentials that it does not know, which are all."""
    ask(server, "POST", "/moto-api/reset-auth", b"0")
    try:
        yield
    finally:
        ask(server, "POST", "/moto-api/reset-auth", b"inf")
