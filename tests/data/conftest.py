"""Fixtures of the data set tests: the original data where present, and a small server to download from."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from aevb_engine.data.download import Opener, open_https

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture(scope="session")
def original_data() -> Path:
    """The folder of the original data sets; the test is skipped where there is none."""
    here = Path(os.environ.get("AEVB_DATA_DIR") or Path(__file__).parents[3] / "shared" / "data")
    if not (here / "mnist").is_dir():
        pytest.skip(f"no original data in {here}; set AEVB_DATA_DIR")
    return here.resolve()


@pytest.fixture(autouse=True)
def _own_folders(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's data folders or writes into the user's cache."""
    if "original_data" in request.fixturenames:
        request.getfixturevalue("original_data")  # looked up before the environment is cleared
    monkeypatch.delenv("AEVB_DATA_DIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Server:
    """An HTTP server on 127.0.0.1: ``answers`` maps paths to what they do, ``asked`` lists the requests."""

    def __init__(self, port: int) -> None:
        self.base = f"http://127.0.0.1:{port}/"
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.opener: Opener = partial(open_https, loopback_http=True)

    def serve(self, path: str, body: bytes) -> str:
        """Answer ``path`` with ``body``; returns its address."""

        def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        return self.script(path, answer)

    def script(self, path: str, answer: Answer) -> str:
        """Answer ``path`` by calling ``answer`` with the request handler; returns its address."""
        self.answers["/" + path] = answer
        return self.base + path


@pytest.fixture
def server() -> Iterator[Server]:
    """A server for one test; unknown paths are 404."""
    state: list[Server] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state[0].asked.append(self.path)
            answer = state[0].answers.get(self.path)
            try:
                if answer is None:
                    self.send_error(404)
                else:
                    answer(self)
            except OSError:
                pass  # the client hung up: what several tests want

        def log_message(self, *args: object) -> None:
            """Silent."""

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http_server.daemon_threads = True
    state.append(Server(http_server.server_address[1]))
    thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state[0]
    finally:
        http_server.shutdown()
        thread.join()
        http_server.server_close()
