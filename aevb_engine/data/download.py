"""Fetch bytes over https: a cap on their number, time-outs, and one short cause for whatever goes wrong."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import IO, Protocol
from urllib.parse import urlsplit

from aevb_engine.data.dataset import Progress

TIMEOUT = 20.0  # seconds without a byte
TIME_LIMIT = 1800.0  # seconds for a whole file
_BLOCK = 1 << 16


class DownloadError(Exception):
    """Why one mirror did not deliver, in a few words."""


class Response(Protocol):
    """What is needed of an answer: its body in blocks, its announced length, and to be closed."""

    headers: http.client.HTTPMessage

    def read(self, amount: int, /) -> bytes:
        """The next at most ``amount`` bytes; empty at the end."""
        ...

    def close(self) -> None:
        """Release the connection."""
        ...


Opener = Callable[[str, float], Response]


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects to allowed addresses only."""

    def __init__(self, loopback_http: bool) -> None:
        self.loopback_http = loopback_http

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Refuse a redirect that leaves https before any byte is sent there."""
        _check_address(newurl, self.loopback_http, "redirected to ")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str, loopback_http: bool, what: str = "") -> None:
    parts = urlsplit(url)
    loopback = parts.scheme == "http" and parts.hostname == "127.0.0.1"
    if parts.scheme == "https" or (loopback_http and loopback):
        return
    raise DownloadError(f"{what}{parts.scheme or 'no scheme'}://, only https is accepted")


def open_https(url: str, timeout: float, *, loopback_http: bool = False) -> Response:
    """Open ``url``; anything but https is refused, also behind a redirect.

    ``loopback_http`` is for tests alone: http to 127.0.0.1 is then accepted too.
    """
    _check_address(url, loopback_http)
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _SecureRedirects(loopback_http),
    ]
    handlers.append(urllib.request.HTTPHandler() if loopback_http else urllib.request.ProxyHandler())
    director = urllib.request.OpenerDirector()  # no file, ftp or data handlers
    for handler in handlers:
        director.add_handler(handler)
    director.addheaders = [("User-Agent", "aevb-engine")]
    response: Response = director.open(url, timeout=timeout)
    return response


def fetch(
    url: str,
    most: int,
    what: str,
    progress: Progress | None = None,
    opener: Opener = open_https,
    timeout: float = TIMEOUT,
    time_limit: float = TIME_LIMIT,
) -> bytes:
    """The body at ``url``, at most ``most`` bytes; DownloadError with a short cause otherwise.

    ``progress`` is called with (what, bytes so far, announced length or None).
    """
    deadline = time.monotonic() + time_limit
    try:
        response = opener(url, timeout)
        try:
            return _body(response, most, what, progress, deadline)
        finally:
            response.close()
    except urllib.error.HTTPError as error:
        error.close()
        raise DownloadError(f"HTTP status {error.code}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(_cause(error)) from error


def _body(response: Response, most: int, what: str, progress: Progress | None, deadline: float) -> bytes:
    announced = response.headers.get("Content-Length", "")
    total = int(announced) if announced.isascii() and announced.isdigit() else None
    if total is not None and total > most:
        raise DownloadError(f"announces {total} bytes, more than the {most} that the file may have")
    data = bytearray()
    while block := response.read(_BLOCK):
        data += block
        if len(data) > most:
            raise DownloadError(f"sends more than the {most} bytes that the file may have")
        if time.monotonic() > deadline:
            raise DownloadError(f"too slow: {len(data)} bytes when the time was up")
        if progress is not None:
            progress(what, len(data), total)
    if total is not None and len(data) < total:
        raise DownloadError(f"connection cut after {len(data)} of {total} bytes")
    return bytes(data)


def _cause(error: Exception) -> str:
    """One short line for an error of the network."""
    reason: object = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "timed out"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    text = " ".join(str(reason).split())
    return text[:100] or type(reason).__name__
