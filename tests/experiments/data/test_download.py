"""Test the downloader against a real server on the loopback interface."""

import contextlib
import errno
import gzip
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from experiments.data import download
from experiments.data.download import RemoteFile, download_dataset, fetch
from experiments.harness.errors import UserError

CONTENT = np.random.default_rng(0).bytes(400_000)
NAME = "letters/greek.bin.gz"
REPOSITORY = Path(__file__).parents[3]


class Server(ThreadingHTTPServer):
    """Serve CONTENT; the attributes choose the server's faults."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.understands_ranges = True
        self.tells_length = True
        self.stops_after: int | None = None
        self.sends: int | None = None
        self.stalls = False
        self.trickles = False
        self.holds_back = False
        self.release = threading.Event()
        self.status: int | None = None
        self.redirect: str | None = None
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/greek.bin.gz"


class Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        asked = self.headers["Range"]
        self.server.ranges.append(asked)
        if self.server.holds_back:
            self.server.release.wait(10)
        if self.server.redirect and self.path != "/moved":
            self.answer(302, Location=self.server.redirect)
        elif self.server.status:
            self.answer(self.server.status)
        else:
            self.send_content(asked if self.server.understands_ranges else None)

    def answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_content(self, asked: str | None) -> None:
        content = self.server.content
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if start >= len(content):
            self.answer(416, Content_Range=f"bytes */{len(content)}")
            return
        length = {"Content_Length": str(len(content) - start)} if self.server.tells_length else {}
        span = {"Content_Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        self.answer(206 if asked else 200, **length, **(span if asked else {}))
        end = self.server.stops_after
        if self.server.sends is not None or self.server.trickles:
            end = start + (self.server.sends or 0)
        with contextlib.suppress(ConnectionError):  # whoever reads may have left
            self.wfile.write(content[start:end])
            self.wfile.flush()
        if self.server.trickles:
            self.trickle(content[end:])
        if self.server.stalls:
            self.server.release.wait(10)

    def trickle(self, content: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            for place in range(len(content)):
                self.wfile.write(content[place : place + 1])
                self.wfile.flush()
                if self.server.release.wait(0.02):
                    return

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RECURRENT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "data"


def remote(url: str, sha256: str = hashlib.sha256(CONTENT).hexdigest()) -> RemoteFile:
    return RemoteFile(NAME, url, sha256, len(CONTENT))


def error_of(file: RemoteFile, destination: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(file)
    message = str(caught.value)
    assert file.path in message
    assert file.url in message
    assert str(destination) in message
    assert "\n" not in message
    assert not destination.is_file()
    return message


def leave_part(folder: Path, content: bytes) -> Path:
    part = folder / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(content)
    return part


def test_download_then_local_copy(server: Server, folder: Path, capsys: pytest.CaptureFixture):
    path = fetch(remote(server.url))
    assert path == folder / NAME
    assert path.read_bytes() == CONTENT
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"downloading {NAME} (0.4 MB) from {server.url}\n"
    assert fetch(remote(server.url)) == path
    assert server.ranges == [None]
    assert not list(path.parent.glob("*.part"))
    assert capsys.readouterr().err == ""


def test_without_a_content_length(server: Server):
    server.tells_length = False
    assert fetch(remote(server.url)).read_bytes() == CONTENT


def test_bar_on_a_terminal(server: Server, monkeypatch: pytest.MonkeyPatch):
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(remote(server.url))
    assert NAME in terminal.getvalue()
    assert "400k/400k" in terminal.getvalue()


def test_bar_of_a_resumed_download_starts_where_it_was(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    leave_part(folder, CONTENT[:200_000])
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    fetch(remote(server.url))
    assert "200k/400k" in terminal.getvalue()


@pytest.mark.parametrize("held", [1, 150_000, len(CONTENT) - 1])
def test_resume_asks_for_the_rest_only(
    server: Server, folder: Path, held: int, capsys: pytest.CaptureFixture
):
    part = leave_part(folder, CONTENT[:held])
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={held}-"]
    assert not part.exists()
    assert "resumed at" in capsys.readouterr().err


def test_server_without_ranges_restarts(server: Server, folder: Path):
    server.understands_ranges = False
    leave_part(folder, b"x" * 1000)
    assert fetch(remote(server.url)).read_bytes() == CONTENT


@pytest.mark.parametrize("extra", [b"", b"and more"])
def test_part_that_is_whole_or_longer_restarts(server: Server, folder: Path, extra: bytes):
    leave_part(folder, CONTENT + extra)
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT + extra)}-", None]


@pytest.mark.fault("S3")
def test_wrong_content_is_removed_and_a_retry_works(server: Server, folder: Path):
    server.content = bytes(len(CONTENT))
    message = error_of(remote(server.url), folder / NAME)
    assert hashlib.sha256(server.content).hexdigest() in message
    assert hashlib.sha256(CONTENT).hexdigest() in message
    assert not (folder / f"{NAME}.part").exists()
    server.content = CONTENT
    assert fetch(remote(server.url)).read_bytes() == CONTENT


@pytest.mark.fault("S3")
def test_a_page_in_place_of_the_file_does_not_cost_the_part(server: Server, folder: Path):
    server.content, server.understands_ranges = b"<html>Sign in to the network</html>", False
    part = leave_part(folder, CONTENT[:5000])
    message = error_of(remote(server.url), folder / NAME)
    assert "it would have 35 bytes, expected 400000" in message
    assert part.read_bytes() == CONTENT[:5000]


@pytest.mark.fault("S3")
def test_a_server_that_sends_without_end_is_left(server: Server, folder: Path):
    server.tells_length, server.content = False, CONTENT * 40
    message = error_of(remote(server.url), folder / NAME)
    assert "the server sends more than the file has" in message
    assert not (folder / f"{NAME}.part").exists()


@pytest.mark.fault("S3")
def test_a_server_that_sends_a_byte_now_and_then_is_left(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.2)
    server.trickles = True
    message = error_of(remote(server.url), folder / NAME)
    assert re.search(r"only \d+ bytes came in 0 s", message)
    assert len(server.ranges) == 5
    held = (folder / f"{NAME}.part").read_bytes()
    assert held == CONTENT[: len(held)] != b""


@pytest.mark.fault("S3")
def test_a_server_that_sends_much_and_then_a_byte_now_and_then_is_left(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.2)
    server.sends, server.trickles = 60_000, True
    assert "bytes came in" in error_of(remote(server.url), folder / NAME)
    assert len(server.ranges) <= 5


@pytest.mark.fault("S3")
@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_server_whose_answer_has_no_end_is_left(
    head: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.3)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(ConnectionError):
                connection.recv(1000)
                while not over.wait(0.02):
                    connection.sendall(head if head.endswith(b"\n\r\n") else b"x")

        sending = pool.submit(trickle)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        begun = time.monotonic()
        assert "no answer came in 0.3 s" in error_of(remote(url), folder / NAME)
        assert time.monotonic() - begun < 20
        over.set()
        sending.result()


@pytest.mark.fault("S3")
def test_a_lost_connection_is_gone_on_with(
    server: Server, folder: Path, capsys: pytest.CaptureFixture
):
    server.sends = 150_000
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=150000-", "bytes=300000-"]
    assert "150000 of 400000 bytes; going on from 0.1 MB" in capsys.readouterr().err


def test_part_of_another_file_is_removed_and_a_retry_works(server: Server, folder: Path):
    part = leave_part(folder, b"x" * 1000)
    assert "SHA-256" in error_of(remote(server.url), folder / NAME)
    assert not part.exists()
    assert fetch(remote(server.url)).read_bytes() == CONTENT


@pytest.mark.fault("S3")
def test_connection_closed_early_keeps_the_part_for_the_retry(server: Server, folder: Path):
    server.stops_after = 250_000
    message = error_of(remote(server.url), folder / NAME)
    assert "250000 of 400000 bytes" in message
    assert (folder / f"{NAME}.part").read_bytes() == CONTENT[:250_000]
    server.stops_after = None
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=250000-", "bytes=250000-"]


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_http_errors(server: Server, folder: Path, status: int):
    server.status = status
    part = leave_part(folder, CONTENT[:100])
    assert f"HTTP Error {status}" in error_of(remote(server.url), folder / NAME)
    assert part.read_bytes() == CONTENT[:100]


def test_range_not_satisfiable_without_a_range(server: Server, folder: Path):
    server.status = 416
    assert "HTTP Error 416" in error_of(remote(server.url), folder / NAME)
    assert len(server.ranges) == 1


def test_unreachable_port(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    message = error_of(remote(f"http://127.0.0.1:{port}/x"), folder / NAME)
    assert "Connection refused" in message


def test_silent_server(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        message = error_of(remote(url), folder / NAME)
        assert "timed out" in message or "no answer came in 0.1 s" in message


def test_server_that_stalls_half_way(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.2)
    server.stalls, server.stops_after = True, 200_000
    assert "timed out" in error_of(remote(server.url), folder / NAME)
    server.stalls, server.stops_after = False, None
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    resumed_from = re.fullmatch(r"bytes=(\d+)-", server.ranges[1] or "")
    assert resumed_from
    assert 0 < int(resumed_from[1]) <= 200_000


def test_a_server_that_does_not_speak_http(folder: Path):
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as pool:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 smtp ready\r\n")

        greeting = pool.submit(greet)
        error_of(remote(f"http://127.0.0.1:{listener.getsockname()[1]}/x"), folder / NAME)
        greeting.result()


def test_redirect_within_http(server: Server):
    server.redirect = "/moved"
    assert fetch(remote(server.url)).read_bytes() == CONTENT


@pytest.mark.parametrize("scheme", ["file", "ftp", "data"])
def test_no_scheme_but_http(server: Server, folder: Path, tmp_path: Path, scheme: str):
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    url = "data:," if scheme == "data" else f"{scheme}://{secret}"
    error_of(remote(url), folder / NAME)
    server.redirect = url
    error_of(remote(server.url), folder / NAME)


def test_malformed_urls(folder: Path):
    for url in ("greek.bin.gz", "http://127.0.0.1:port/x", "http://[::1/x", "http://"):
        error_of(remote(url), folder / NAME)


@pytest.mark.parametrize("name", ["greek.bin.gz", "greek.bin"])
def test_a_local_file_is_used_without_download_or_hash(folder: Path, name: str):
    local = folder / "letters" / name
    local.parent.mkdir(parents=True)
    local.write_bytes(gzip.compress(b"packed anew"))
    assert fetch(remote("http://127.0.0.1:1/never-asked")) == local


@pytest.mark.parametrize(("missing", "told"), [(0, ""), (1000, "399,000 bytes"), (-1, "400,001")])
def test_a_text_of_another_size_is_used_and_spoken_of_once(
    folder: Path, capsys: pytest.CaptureFixture, missing: int, told: str
):
    local = folder / "letters" / "greek.txt"
    local.parent.mkdir(parents=True)
    local.write_bytes((CONTENT + b"?")[: len(CONTENT) - missing])
    file = remote("http://127.0.0.1:1/never-asked")._replace(path="letters/greek.txt")
    assert [fetch(file), fetch(file)] == [local, local]
    err = capsys.readouterr().err
    assert err.count("\n") == bool(told)
    assert told in err
    assert not told or f"{local} has" in err


def test_a_data_folder_that_is_a_file(folder: Path):
    folder.write_text("not a folder")
    message = error_of(remote("http://127.0.0.1:1/never-asked"), folder / NAME)
    assert "RECURRENT_DATA_DIR" in message
    assert folder.read_text() == "not a folder"


def test_a_data_folder_that_is_not_writable(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # Patched, because tests may run as a superuser, whom permissions do not restrict.
    monkeypatch.setattr(Path, "mkdir", refuse)
    message = error_of(remote("http://127.0.0.1:1/never-asked"), folder / NAME)
    assert "cannot be written (Permission denied)" in message


def test_a_full_disk(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    assert "No space left on device" in error_of(remote(server.url), folder / NAME)


@pytest.mark.fault("S3")
def test_killed_half_way_then_retry(server: Server, folder: Path):
    server.stalls, server.stops_after = True, 300_000
    code = f"from experiments.data.download import *; fetch(RemoteFile{tuple(remote(server.url))})"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    part = folder / f"{NAME}.part"
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    held = part.stat().st_size
    assert 0 < held <= 300_000
    assert not (folder / NAME).exists()
    server.stalls, server.stops_after = False, None
    assert fetch(remote(server.url)).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={held}-"]


def test_concurrent_downloads_wait_for_each_other(server: Server, capsys: pytest.CaptureFixture):
    server.holds_back = True
    deadline = time.monotonic() + 10
    err = ""
    with ThreadPoolExecutor() as pool:
        paths = [pool.submit(fetch, remote(server.url)) for _ in range(4)]
        while err.count("waiting for another process") < 3 and time.monotonic() < deadline:
            err += capsys.readouterr().err
            time.sleep(0.01)
        server.release.set()
        assert {path.result().read_bytes() for path in paths} == {CONTENT}
    assert server.ranges == [None]


def test_download_dataset(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    table = {"bundled": (), "greek": (remote(server.url),)}
    monkeypatch.setattr(download, "REMOTE_FILES", table)
    assert download_dataset("greek") == [folder / NAME]
    assert download_dataset("bundled") == []
    assert "bundled needs no download" in capsys.readouterr().err
    assert download_dataset("all") == [folder / NAME]
    with pytest.raises(UserError, match=r"bundled, greek, all\. Did you mean \"greek\""):
        download_dataset("greeks")
    with pytest.raises(UserError, match=r"no data set '\.\./x'"):
        download_dataset("../x")


def test_the_table_is_well_formed():
    for name, files in download.REMOTE_FILES.items():
        for file in files:
            folder, _, rest = file.path.partition("/")
            assert name in folder or folder == "time_series"  # which the archives' sets share
            assert re.fullmatch(r"[\w.-]+", rest)
            assert file.url.startswith("https://")
            assert file.url.endswith(f"/{rest}")
            assert re.fullmatch("[0-9a-f]{64}", file.sha256)


def test_an_archive_is_known_by_its_contents_and_its_size_is_a_bound(server: Server, folder: Path):
    file = remote(server.url)._replace(size=2 * len(CONTENT), sha256="ab" * 32)
    with pytest.raises(UserError, match="has SHA-256 cd"):
        fetch(file._replace(hashed=lambda path: "cd" * 32))
    assert not (folder / NAME).exists()
    assert fetch(file._replace(hashed=lambda path: "ab" * 32)).read_bytes() == CONTENT
    (folder / NAME).unlink()
    with pytest.raises(UserError, match="failed"):
        fetch(file._replace(hashed=lambda path: "ab" * 32, size=len(CONTENT) - 1))
