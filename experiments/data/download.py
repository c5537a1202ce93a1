"""Download files, verify their SHA-256, and keep them in the data folder."""

import contextlib
import fcntl
import functools
import hashlib
import os
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.error import HTTPError

from experiments.data.archive import contents_hash
from experiments.data.cache import data_dir
from experiments.harness.errors import UserError, unknown

_TIMEOUT_SECONDS = 30.0  # without a byte
_SLOWEST = 1000.0  # bytes a second on average, in each such time
_ATTEMPTS = 5  # at going on where a connection was lost, as long as each brings more
_CHUNK_BYTES = 2**16


class _WrongSize(ValueError):
    """Say that a server sends more than the file has, so that what was kept of it is wrong."""


class RemoteFile(NamedTuple):
    """Describe a file to download.

    Attributes:
      path: where the file is kept, relative to `data_dir()`.
      url: the http or https address.
      sha256: the hash of the file as distributed, in lower-case hexadecimal digits.
      size: the bytes of the file as distributed, of which no server may send more.
      hashed: ``file -> hash``, for an archive that is packed anew for each download and whose
        contents are hashed instead; its size is only a bound. None for the hash of the file.
    """

    path: str
    url: str
    sha256: str
    size: int
    hashed: Callable[[Path], str] | None = None


def _mnist(name: str, sha256: str, size: int) -> RemoteFile:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}"
    return RemoteFile(f"mnist/{name}", url, sha256, size)


def _scan(name: str, sha256: str, size: int) -> RemoteFile:
    url = f"https://raw.githubusercontent.com/brendenlake/SCAN/master/simple_split/{name}"
    return RemoteFile(f"scan/{name}", url, sha256, size)


def _series(name: str, sha256: str, size: int) -> RemoteFile:
    url = f"https://raw.githubusercontent.com/aeon-toolkit/aeon/v1.0.0/aeon/datasets/data/{name}"
    return RemoteFile(f"time_series/{name.rpartition('/')[2]}", url, sha256, size)


# A data set without files is part of an installed package.
REMOTE_FILES: dict[str, tuple[RemoteFile, ...]] = {
    "digits": (),
    "pydoc": (),
    "shakespeare": (
        RemoteFile(
            "tinyshakespeare/input.txt",
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            1115394,
        ),
    ),
    "jsb": (
        RemoteFile(
            "jsb/jsb-chorales-quarter.json",
            "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/master/jsb-chorales-quarter.json",
            "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91",
            407200,
        ),
    ),
    "scan": (
        _scan(
            "tasks_train_simple.txt",
            "941bb8a088c5f53ceff12fde902dc008933cf0c4203cc672c47b5f79d73262dd",
            3267938,
        ),
        _scan(
            "tasks_test_simple.txt",
            "1fe1c8f5a19d0dc40e41bab94278f45f66f3dc415a978bd29855a23440610fc6",
            812450,
        ),
    ),
    "cmudict": (
        RemoteFile(
            "cmudict/cmudict.dict",
            "https://raw.githubusercontent.com/cmusphinx/cmudict/master/cmudict.dict",
            "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22",
            3618488,
        ),
    ),
    "JapaneseVowels": (
        _series(
            "JapaneseVowels/JapaneseVowels_TRAIN.ts",
            "68a430eabd919cc77f40b1f5f3bc0dcafacc1486bca9260785aeb7d262cc78cd",
            487971,
        ),
        _series(
            "JapaneseVowels/JapaneseVowels_TEST.ts",
            "b3d41d6a0ca3bcad3afb9ca7d4365382aa51341e2e58bae2a574babdda5b9462",
            649132,
        ),
    ),
    "GunPoint": (
        _series(
            "GunPoint/GunPoint_TRAIN.ts",
            "f842401779fd9800d247d8b33121a1a4643710a19b24917dbdd9a060ca8630d5",
            84188,
        ),
        _series(
            "GunPoint/GunPoint_TEST.ts",
            "79332750788a6227b325b96bd0d70130c8eb707b9731f8d7dec62b7a7d36017e",
            252305,
        ),
    ),
    "ItalyPowerDemand": (
        _series(
            "ItalyPowerDemand/ItalyPowerDemand_TRAIN.ts",
            "341269cb7e6cef96846b30e774580beec79addb93848ba360145219115a74b7c",
            18300,
        ),
        _series(
            "ItalyPowerDemand/ItalyPowerDemand_TEST.ts",
            "26122451f87dd0387ef90b18bc8a86c041371b8a1c068004922b939971247144",
            274054,
        ),
    ),
    "ArrowHead": (
        _series(
            "ArrowHead/ArrowHead_TRAIN.ts",
            "a83c470aaf611a5f5284377cce27a5fc9f6292bc3d110257b0fd4905ced5ee72",
            100357,
        ),
        _series(
            "ArrowHead/ArrowHead_TEST.ts",
            "5417dab42626d41df5e435bb22458c2df40dfad4bcd3b59559bbe72e20e84904",
            484894,
        ),
    ),
    "OSULeaf": (
        _series(
            "OSULeaf/OSULeaf_TRAIN.ts",
            "86b9d6e860414ffd26cebc62fff84ffb37fa588ef3e5bf79e4094a437c36ddfc",
            953148,
        ),
        _series(
            "OSULeaf/OSULeaf_TEST.ts",
            "6c549dd354f9e42d5985fa5fab75321ca9acefc7873457e71467fc8a31f107ce",
            1152821,
        ),
    ),
    "m1_yearly": (
        _series(
            "m1_yearly_dataset/m1_yearly_dataset.tsf",
            "12866731b810af595e4d4c74e87597a7846eb3b4667ef884a67a7e9126bf5412",
            30362,
        ),
    ),
    "fsdd": (
        RemoteFile(
            "fsdd/v1.0.10.tar.gz",
            "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz",
            "45a9b976ba3397a2fd5c70a9f2e43c34f442a3a6be47392ecfc41174b678f37e",
            2**26,
            contents_hash,
        ),
    ),
    "mnist": (
        _mnist(
            "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            9912422,
        ),
        _mnist(
            "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            28881,
        ),
        _mnist(
            "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            1648877,
        ),
        _mnist(
            "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            4542,
        ),
    ),
}


def download_dataset(name: str) -> list[Path]:
    """Download the missing files of one data set, or of all data sets.

    Args:
      name: a key of `REMOTE_FILES`, or `all`.

    Returns:
      The paths of the local files. For a data set that needs no download the list is empty, and a
      message on stderr says so.

    Raises:
      UserError: if there is no such data set, or a file is neither present nor downloadable.
    """
    if name == "all":
        return [path for each in REMOTE_FILES for path in download_dataset(each)]
    if name not in REMOTE_FILES:
        raise UserError(unknown("data set", name, [*REMOTE_FILES, "all"]))
    if not REMOTE_FILES[name]:
        _say(f"{name} needs no download: it comes with an installed package.")
    return [fetch(file) for file in REMOTE_FILES[name]]


def fetch(file: RemoteFile) -> Path:
    """Return the local path of a file, downloading it if it is missing.

    An existing file is used without checking its hash, because mirrors may have compressed it
    again; an uncompressed copy (the name without `.gz`) is accepted as well. Where its size shows
    that it is not the file as distributed, one line on stderr says so. A download is
    written to `NAME.part`, resumed where the connection is lost, in this call or a later one, and
    renamed only once its hash is correct, so a file under its final name is always complete. A
    server that sends nothing for half a minute, less than a thousand bytes a second, or more than
    the file has, is not waited for.

    Raises:
      UserError: if the file cannot be downloaded, has the wrong hash, or cannot be written. The
        message names the file, its URL, and where to put it by hand.
    """
    destination = data_dir() / file.path
    local = _local_copy(destination)
    if local:
        _note_another_size(file, local)
        return local
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(_only_writer(destination.parent))
        except OSError as error:
            raise _unwritable(file, destination, error) from error
        return _local_copy(destination) or _download(file, destination)


def _local_copy(destination: Path) -> Path | None:
    candidates = [destination]
    if destination.suffix == ".gz":
        candidates.append(destination.with_suffix(""))
    # Unlike Path.is_file, this returns False in a folder without access instead of raising.
    return next((path for path in candidates if os.path.isfile(path)), None)


@functools.cache  # to say it once in a process
def _note_another_size(file: RemoteFile, local: Path) -> None:
    """Say that a text, which no mirror compresses, may be cut off without looking like it."""
    if file.hashed or file.path.endswith(".gz"):
        return
    found = _size(local)
    if found != file.size:
        _say(
            f"{local} has {found:,} bytes, as distributed {file.size:,}: it was cut off, or is a "
            "file of your own."
        )


@contextlib.contextmanager
def _only_writer(folder: Path) -> Generator[None]:
    """Create the folder if needed and hold a lock that keeps other downloads out of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another process that is downloading into {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(file: RemoteFile, destination: Path) -> Path:
    part = destination.with_name(f"{destination.name}.part")
    try:
        _save_in_attempts(file, part)
        sha256 = (file.hashed or _sha256)(part)
        if sha256 != file.sha256:
            part.unlink()
            raise _wrong_hash(file, destination, sha256)
        return part.replace(destination)
    except _WrongSize as error:
        part.unlink(missing_ok=True)
        raise _failed(file, destination, error) from error
    except (OSError, HTTPException, ValueError) as error:
        raise _failed(file, destination, error) from error


def _save_in_attempts(file: RemoteFile, part: Path) -> None:
    """Save the file, and go on with it where a connection was lost that has brought some of it."""
    for left in reversed(range(_ATTEMPTS)):
        held = _size(part)
        try:
            return _save(file, part)
        except (OSError, HTTPException) as error:
            if not left or _size(part) <= held:
                raise
            _say(f"{file.path}: {_reason(error)}; going on from {_size(part) / 1e6:.1f} MB")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _save(file: RemoteFile, part: Path) -> None:
    """Append the missing bytes to the part, or rewrite it if the server sends the whole file."""
    held = _size(part)
    with _open_url(file.url, held) as response:
        resumed = response.status == 206
        start = held if resumed else 0
        length = response.length
        if length is not None and start + length != file.size and not file.hashed:
            raise ValueError(f"it would have {start + length} bytes, expected {file.size}")
        with (
            part.open("ab" if resumed else "wb") as stream,
            _progress(file, start, length and start + length) as advance,
        ):
            received = _copy(response, stream, file.size - start, advance)
    if length is not None and received != length:
        raise ConnectionError(
            f"the connection closed after {start + received} of {file.size} bytes"
        )


def _open_url(url: str, offset: int) -> HTTPResponse:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 (the opener allows only http)
    try:
        return _web_only_opener().open(request, timeout=_TIMEOUT_SECONDS)
    except HTTPError as error:
        error.close()
        range_not_satisfiable = error.code == 416
        if range_not_satisfiable and offset:
            return _open_url(url, 0)
        raise


class _InTime(HTTPConnection):
    """Wait for the head of an answer for a limited time, however it trickles."""

    def getresponse(self) -> HTTPResponse:
        late = threading.Event()
        timer = threading.Timer(_TIMEOUT_SECONDS, self._leave, [late])
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        except (OSError, HTTPException, ValueError) as error:
            if late.is_set():
                raise TimeoutError(f"no answer came in {_TIMEOUT_SECONDS:g} s") from error
            raise
        finally:
            timer.cancel()

    def _leave(self, late: threading.Event) -> None:
        late.set()
        with contextlib.suppress(OSError, AttributeError):  # it may be closed meanwhile
            self.sock.shutdown(socket.SHUT_RDWR)


class _SecureInTime(_InTime, HTTPSConnection):
    """Do so over TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_InTime, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_SecureInTime, req)


def _web_only_opener() -> urllib.request.OpenerDirector:
    """Return a URL opener without the standard one's file, ftp and data schemes."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        _Http,
        _Https,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _copy(
    response: HTTPResponse, stream: BinaryIO, most: int, advance: Callable[[int], object]
) -> int:
    """Write what the server sends and return how much that was.

    Raises:
      _WrongSize: if that is more than ``most`` bytes.
      TimeoutError: if it comes too slowly to wait for.
    """
    since, before, received = time.monotonic(), 0, 0
    while chunk := response.read1(_CHUNK_BYTES):
        received += len(chunk)
        if received > most:
            raise _WrongSize("the server sends more than the file has")
        stream.write(chunk)
        advance(len(chunk))
        seconds = time.monotonic() - since
        if seconds > _TIMEOUT_SECONDS:
            if received - before < _SLOWEST * seconds:
                stream.flush()
                raise TimeoutError(f"only {received - before} bytes came in {seconds:.0f} s")
            since, before = time.monotonic(), received
    stream.flush()
    os.fsync(stream.fileno())
    return received


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _progress(
    file: RemoteFile, start: int, total: int | None
) -> Generator[Callable[[int], object]]:
    """Show a progress bar on a terminal, or print one line elsewhere.

    Yields:
      A function to call with the size of each chunk received.
    """
    if not sys.stderr.isatty():
        size = f" ({total / 1e6:.1f} MB)" if total else ""
        resumed = f", resumed at {start / 1e6:.1f} MB" if start else ""
        _say(f"downloading {file.path}{size} from {file.url}{resumed}")
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(
        desc=file.path, initial=start, total=total, unit="B", unit_scale=True, file=sys.stderr
    ) as bar:
        yield bar.update


def _failed(file: RemoteFile, destination: Path, error: Exception) -> UserError:
    return UserError(
        f"{file.path} is missing and its download from {file.url} failed ({_reason(error)}): "
        f"run the same command again once the server can be reached, or put the file at "
        f"{destination}."
    )


def _wrong_hash(file: RemoteFile, destination: Path, sha256: str) -> UserError:
    return UserError(
        f"The download of {file.path} from {file.url} has SHA-256 {sha256}, expected "
        f"{file.sha256}, and was deleted: run the same command again, or put the correct file "
        f"at {destination}."
    )


def _unwritable(file: RemoteFile, destination: Path, error: OSError) -> UserError:
    return UserError(
        f"{file.path} is missing and {destination.parent} cannot be written "
        f"({_reason(error)}): put the file from {file.url} at {destination}, or set "
        f"RECURRENT_DATA_DIR to a writable folder."
    )


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    if isinstance(inner, BaseException):
        return _reason(inner)
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _say(line: str) -> None:
    print(line, file=sys.stderr)
