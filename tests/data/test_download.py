"""Fetching over https: what is refused, what is capped, and how each failure reads."""

from __future__ import annotations

import socket
import threading
import time
from functools import partial
from typing import Any

import pytest

from aevb_engine.data.download import DownloadError, fetch, open_https
from tests.patience import patience


def test_body_and_progress(server: Any) -> None:
    body = bytes(range(256)) * 1000
    calls: list[tuple[str, int, int | None]] = []
    url = server.serve("a", body)
    assert fetch(url, len(body), "getting a", lambda *call: calls.append(call), server.opener) == body
    assert calls[-1] == ("getting a", len(body), len(body))
    done = [call[1] for call in calls]
    assert len(done) > 2
    assert done == sorted(done)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/a", "ftp://example.org/a", "file:///etc/hostname", "a"])
def test_only_https_by_default(url: str) -> None:
    with pytest.raises(DownloadError, match="only https is accepted"):
        fetch(url, 10, "a")


def test_loopback_permission_is_for_loopback_alone() -> None:
    with pytest.raises(DownloadError, match="only https"):
        fetch("http://example.org/a", 10, "a", opener=partial(open_https, loopback_http=True))


@pytest.mark.parametrize("target", ["http://example.org/b", "file:///etc/hostname", "ftp://example.org/b"])
def test_redirect_away_from_https_is_refused(server: Any, target: str) -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", target)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with pytest.raises(DownloadError, match=r"redirected to .*only https|HTTP status 302"):
        fetch(server.script("a", redirect), 10, "a", opener=server.opener)


def test_allowed_redirect_is_followed(server: Any) -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", server.base + "b")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.serve("b", b"here")
    assert fetch(server.script("a", redirect), 10, "a", opener=server.opener) == b"here"


def test_endless_redirects_end(server: Any) -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", server.base + "a")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with pytest.raises(DownloadError, match="HTTP status 302"):
        fetch(server.script("a", redirect), 10, "a", opener=server.opener)


def test_status(server: Any) -> None:
    with pytest.raises(DownloadError, match="HTTP status 404"):
        fetch(server.base + "absent", 10, "a", opener=server.opener)


def test_announced_size_above_the_cap(server: Any) -> None:
    calls: list[Any] = []
    with pytest.raises(DownloadError, match="announces 11 bytes, more than the 10"):
        fetch(server.serve("a", b"x" * 11), 10, "a", lambda *call: calls.append(call), server.opener)
    assert calls == []


def test_endless_body_stops_at_the_cap(server: Any) -> None:
    sent, hung_up = [0], threading.Event()

    def endless(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
                sent[0] += 65536
        finally:
            hung_up.set()

    with pytest.raises(DownloadError, match="sends more than the 100000 bytes"):
        fetch(server.script("a", endless), 100_000, "a", opener=server.opener)
    assert hung_up.wait(patience())
    assert sent[0] < 50_000_000  # what the sockets buffered, not what a server wants to send


def test_cut_connection(server: Any) -> None:
    def cut(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b"x" * 400)

    with pytest.raises(DownloadError, match="connection cut after 400 of 1000 bytes"):
        fetch(server.script("a", cut), 2000, "a", opener=server.opener)


def test_silence_times_out(server: Any) -> None:
    over = threading.Event()

    def silent(handler: Any) -> None:
        over.wait(patience())

    try:
        with pytest.raises(DownloadError, match="timed out"):
            fetch(server.script("a", silent), 10, "a", opener=server.opener, timeout=0.1)
    finally:
        over.set()


def test_trickle_ends_at_the_time_limit(server: Any) -> None:
    def trickle(handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b"x" * 70_000)
            time.sleep(0.02)

    with pytest.raises(DownloadError, match="too slow: "):
        fetch(server.script("a", trickle), 10**8, "a", opener=server.opener, time_limit=0.1)


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(DownloadError, match=r"(?i)connection refused"):
        fetch(f"http://127.0.0.1:{port}/", 10, "a", opener=partial(open_https, loopback_http=True))


def test_certificates_are_checked(server: Any) -> None:
    with pytest.raises(DownloadError, match=r"(?i)ssl|tls"):
        fetch(server.serve("a", b"x").replace("http:", "https:"), 10, "a", opener=server.opener)


def test_no_cause_has_two_lines(server: Any) -> None:
    def nonsense(handler: Any) -> None:
        handler.wfile.write(b"what\nis this\n\n")

    with pytest.raises(DownloadError) as caught:
        fetch(server.script("a", nonsense), 10, "a", opener=server.opener)
    assert "\n" not in str(caught.value)
