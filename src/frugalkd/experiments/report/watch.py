"""The page while results come in, for this machine's browsers: ``frugalkd report --watch``.

The server has two addresses, ``/`` (the page) and ``/version``, and reads no file that a request
names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from frugalkd.errors import FrugalKDError, ReportError
from frugalkd.experiments.report.blocks import Page, short
from frugalkd.experiments.report.collect import collect
from frugalkd.experiments.report.gallery import NOTHING
from frugalkd.experiments.report.page import make_page, render
from frugalkd.runtime.imports import Allowed

HOST = "127.0.0.1"

_SOURCES = ("comparison.json", "results.json")
"""Files that a folder's page is made from."""
_BEGUN = ("run.json", "runs", "teachers")
"""Entries of the folder of a run, or of a comparison, before there are results."""

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Watched:
    """The page of a folder as its files are; where they cannot be read, as they last could.

    Args:
        path: as for :func:`frugalkd.experiments.report.collect`; or a folder that is empty, or
            whose runs are all unfinished: then the page says so.
        allowed: what the gallery may read, fetch and import.

    Raises:
        FrugalKDError: ``path`` holds something that has no page.
    """

    def __init__(self, path: Path, allowed: Allowed = NOTHING):
        self._path, self._allowed = path, allowed
        self._lock = threading.Lock()
        self._seen = self._stamps()
        if self._seen or not _awaits_results(path):
            self._page = self._make()
        else:
            name = short(path.resolve().name)
            detail = "Results appear here as soon as there are some, without reloading the page."
            page = Page(f"{name}: nothing yet", name, "Nothing is done yet.", detail)
            self._page = render(page, watched=True).encode("utf-8", "replace")

    def page(self) -> tuple[bytes, str]:
        """The page in UTF-8, and its version, which changes with the page."""
        with self._lock:
            stamps = self._stamps()
            if stamps != self._seen:
                self._seen = stamps  # before reading: a change meanwhile is read next time
                # A file may be half copied, or gone for now.
                with contextlib.suppress(FrugalKDError, OSError):
                    self._page = self._make()
            return self._page, hashlib.sha256(self._page).hexdigest()[:16]

    def _make(self) -> bytes:
        page = make_page(collect(self._path), self._allowed, watched=True)
        return page.encode("utf-8", "replace")

    def _stamps(self) -> list[tuple[int, int, int]]:
        folder = self._path.is_dir()
        found = []
        for file in [self._path / name for name in _SOURCES] if folder else [self._path]:
            with contextlib.suppress(OSError):
                stat = file.stat()
                found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
        return found


def _awaits_results(path: Path) -> bool:
    if not path.is_dir():
        return False
    found = {entry.name for entry in path.iterdir() if not entry.name.startswith(".")}
    return not found or not found.isdisjoint(_BEGUN)


class Server(ThreadingTCPServer):
    """Serves one page on 127.0.0.1; ``serve_forever()`` until KeyboardInterrupt. A context manager,
    which frees the port (0: any that is free).

    Raises:
        ReportError: the port is taken, or not this user's to take.
    """

    allow_reuse_address = os.name == "posix"  # elsewhere it would share a port that is taken
    daemon_threads = True

    def __init__(self, watched: Watched, port: int):
        self.watched = watched
        try:
            super().__init__((HOST, port), _Handler)
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"({error.strerror})"
            raise ReportError(
                f"cannot serve on port {port} of {HOST}, which {why}: choose another with "
                "--port, or --port 0 for any that is free"
            ) from None
        self.port: int = self.server_address[1]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is not an error."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "frugalkd", ""
    timeout = 10
    error_content_type, error_message_format = "text/plain", "%(code)d %(message)s\n"

    def do_GET(self) -> None:
        # Another site's page may resolve its name to this address, and would then read the answer.
        ports = [f":{self.server.port}", *([""] if self.server.port == 80 else [])]
        names = {name + port for name in (HOST, "localhost") for port in ports}
        hosts = [host.lower() for host in self.headers.get_all("Host", [])]
        if len(hosts) != 1 or hosts[0] not in names:
            self.send_error(403, f"Only for {self.server.url}")
        elif self.path not in ("/", "/version"):
            self.send_error(404)
        else:
            page, version = self.server.watched.page()
            content, kind = (page, "html") if self.path == "/" else (version.encode(), "plain")
            self.send_response(200)
            self.send_header("Content-Type", f"text/{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    do_HEAD = do_GET

    def end_headers(self) -> None:
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a line for every request would bury the one that names the address."""
