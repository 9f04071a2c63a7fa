"""The connection: HTTP/1.1 as the server speaks it, with an end to headers that never end."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0
"""A request whose headers take longer to arrive is cut, so that slow senders cannot hold the connections."""


def url_of(host: str, port: int) -> str:
    """Where an address is asked; one of IPv6 stands in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class TimedProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose request line and headers take longer than HEADER_SECONDS; the server's own timeout covers idle
    connections only, and ends with the first byte of a request."""

    _headers_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection has to begin."""
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Bytes came: begin or end the waiting."""
        super().data_received(data)
        self._expect_headers()

    def on_response_complete(self) -> None:
        """The next request may have begun already."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is None:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        """Count from the first moment of a request on; once its headers are there, stop."""
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._headers_due is None and not self.transport.is_closing():
            self._headers_due = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _too_slow(self) -> None:
        self._headers_due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()
