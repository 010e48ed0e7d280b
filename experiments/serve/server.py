"""The HTTP server around the API: address, signals, time for a request to come, end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from dream.errors import ConfigError, shown
from experiments.ending import say
from experiments.serve.batches import Batches
from experiments.serve.service import Service
from experiments.serve.web import Limits, make_app


class Server(uvicorn.Server):
    """A server that SIGTERM and Ctrl-C end once: what was asked is answered first."""

    def stop(self) -> None:
        """End soon; any thread may call it."""
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Listen to signals while it runs; they are not raised again when it has ended."""
        before = {
            number: signal.signal(number, self.handle_exit) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class TimedProtocol(H11Protocol):
    """HTTP/1.1 with a limit of time for the head of a request, which uvicorn's own has not: clients that send
    none, or half of one, would hold their connections until no other client gets one."""

    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop()

    def _await_head(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._limit is None:
            self._limit = self.loop.call_later(self.timeout_keep_alive, self.transport.close)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


def _bound(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        ConfigError: it is taken, or none of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            "`--host` and `--http` must be an address of this machine and a free port; got "
            f"{shown(host)} and {port}: {error}."
        ) from None


def serve(service: Service, host: str, port: int, limits: Limits, token: str | None) -> int:
    """Serve until SIGTERM or Ctrl-C; return the exit code.

    Raises:
        ConfigError: it cannot listen at this address.
    """
    sock = _bound(host, port)
    batches = Batches(service, limits.queue)
    config = uvicorn.Config(
        make_app(service, batches, limits, token),
        host,
        port,
        http=TimedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        limit_concurrency=limits.connections,
        timeout_keep_alive=int(limits.seconds) or 1,
        timeout_graceful_shutdown=int(limits.seconds) or 1,
    )
    server = Server(config)
    batches.on_defect = server.stop
    # connections inherit it; without, the body of an answer waits for the client to acknowledge its head
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.listen(config.backlog)  # before the address is told
    say(f"dream: serves http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}")
    try:
        server.run([sock])
    finally:
        batches.stop()
        sock.close()
    if batches.defect is not None:  # whoever watches over the process starts it again from the last flush
        raise batches.defect
    return 0
