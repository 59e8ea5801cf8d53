"""The application, and serving it on ``[web] host`` and ``port``."""

from __future__ import annotations

import errno
import socket
from urllib.parse import quote

from aiohttp import web

from adapters.web.health import Readiness, add_health_routes
from adapters.web.metrics import Metrics
from adapters.web.setup import PagesSetup
from core.errors import ConfigError


def make_app(readiness: Readiness, metrics: Metrics, pages: PagesSetup | None = None) -> web.Application:
    """An application with health and metrics, open to all who reach the port, and the pages, behind their token."""
    app = web.Application(client_max_size=1 << 20)
    add_health_routes(app, readiness, metrics)
    if pages is not None:
        from adapters.web.pages import add_pages  # templates cost start-up time that only those pay who look at pages

        add_pages(app, pages)
    return app


def page_address(host: str, port: int, token: str) -> str:
    """The URL that opens the pages. For a host that means all addresses of this machine, the one that others reach it by."""
    if host in ("", "0.0.0.0", "::"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # a documentation address: nothing is sent, but the way out is chosen
                host = probe.getsockname()[0]
            except OSError:
                host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={quote(token, safe='')}"


class WebServer:
    """Serves an application until :meth:`stop`."""

    def __init__(self, app: web.Application, host: str, port: int) -> None:
        self._app, self._host, self._port = app, host, port
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port that are served, None before :meth:`start`."""
        return None if self._runner is None or not self._runner.addresses else (self._runner.addresses[0][0], self._runner.addresses[0][1])

    async def start(self) -> None:
        """Raises ConfigError when the address cannot be used."""
        # No access log: paths of pages may carry a token.
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            raise _unusable(self._host, self._port, error) from None
        self._runner = runner

    async def stop(self) -> None:
        """Close connections and port. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()


def _unusable(host: str, port: int, error: OSError) -> ConfigError:
    if error.errno == errno.EADDRINUSE:
        return ConfigError("web", "port", port, "another program uses this port", "Choose another one, or 0 for no pages and no metrics.")
    if error.errno == errno.EACCES:
        return ConfigError("web", "port", port, "ports below 1024 need special rights", "Choose one from 1024 to 65535.")
    return ConfigError("web", "host", host, f"cannot be served ({error.strerror or error})", "Use 127.0.0.1, or an address of this machine.")
