"""Reading remote files: http(s) by itself, everything else through fsspec; stalls and drops are tried again.

A failure that may pass (a dropped or stalled connection, a busy server, a body cut short) is a `PassingFault`, tried
again with growing pauses and in the end a TransportError, which says nothing against the data; one that will not pass
(missing, forbidden) is a DataError at once.
"""

from __future__ import annotations

import base64
import http.client
import logging
import random
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from macedance.errors import ConfigError, DataError, DependencyError, TransportError

_LOG = logging.getLogger(__name__)
_BLOCK = 1 << 20
_RANGE_BYTES = 8 << 20  # of one request to an object store
_SLOWEST_BYTES_PER_S = 1024  # below it for a whole timeout a connection counts as stalled
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_Result = TypeVar("_Result")


class PassingFault(Exception):
    """A failure that may be gone at the next try."""


class WrongContent(PassingFault):
    """The server answers whole, with other bytes than the manifest promises: in the end a fault of the data."""


class MissingFile(DataError):
    """The server says that there is no such file."""


def is_url(text: str) -> bool:
    """Whether a corpus is named by a URL rather than by a path."""
    return bool(_URL.match(text))


def join_url(url: str, name: str) -> str:
    """`url` with `name` behind its path; a query (a signature) stays at the end."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{name}"))


def parent_url(url: str) -> tuple[str, str]:
    """The URL of the folder above, and the last name of the path."""
    parts = urlsplit(url)
    folder, _, name = parts.path.rstrip("/").rpartition("/")
    return urlunsplit(parts._replace(path=folder)), name


def shown(url: str) -> str:
    """The URL for messages: without its password and without its query, which may hold a key."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


class RefusedFile(DataError):
    """The server does not let us read the file; some say so of files that they do not have."""


@dataclass(frozen=True)
class Patience:
    """How long a remote read is tried.

    Args:
        tries: Attempts before giving up.
        timeout_s: Seconds without data after which a connection counts as stalled.
        first_wait_s: Pause before the second attempt; it doubles from then on.
        longest_wait_s: Longest pause.
    """

    tries: int = 5
    timeout_s: float = 30.0
    first_wait_s: float = 0.5
    longest_wait_s: float = 20.0

    def __post_init__(self) -> None:
        if self.tries < 1 or not self.timeout_s > 0:
            raise ConfigError(
                f"fetch_tries {self.tries} and fetch_timeout_s {self.timeout_s}", where="data", expected="above 0"
            )

    def pause(self, failed: int) -> None:
        """Wait after the `failed`-th failure; a random part keeps many ranks from asking in step."""
        longest = min(self.first_wait_s * 2 ** (failed - 1), self.longest_wait_s)
        time.sleep(longest * (0.5 + 0.5 * random.Random().random()))


class Transport(Protocol):
    """One way to read remote files."""

    def size(self, url: str) -> int:
        """Bytes of a file."""

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """Bytes [start, stop) of a file; None reads to its end."""

    def blocks(self, url: str, start: int) -> Iterator[bytes]:
        """The file from byte `start` on, piece by piece."""


def retrying(action: Callable[[], _Result], url: str, patience: Patience) -> _Result:
    """What `action` gives, tried again while it fails with a PassingFault.

    Raises:
        TransportError: It failed `patience.tries` times.
    """
    for failed in range(1, patience.tries + 1):
        try:
            return action()
        except PassingFault as fault:
            if failed == patience.tries:
                raise given_up(url, failed, fault) from fault
            _LOG.debug("%s: %s, attempt %d", shown(url), fault, failed)
            patience.pause(failed)
    raise AssertionError("unreachable")


def given_up(url: str, tries: int, fault: PassingFault) -> DataError:
    """The error after the last try: of the data where the server answered in full, else of the way to it."""
    kind = DataError if isinstance(fault, WrongContent) else TransportError
    return kind(
        f"cannot be fetched: {fault}, after {tries} tries",
        where=shown(url),
        expected="a server that answers",
        fix="check the network, or raise data.fetch_tries and data.fetch_timeout_s",
    )


def transport_for(url: str, timeout_s: float) -> Transport:
    """The way to read a URL.

    Raises:
        DependencyError: The package that reads this kind of URL is not installed.
        ConfigError: A kind of URL that nobody reads.
    """
    protocol = url.partition("://")[0].lower()
    return HttpTransport(timeout_s) if protocol in ("http", "https") else FsspecTransport(protocol, timeout_s)


@dataclass(frozen=True)
class HttpTransport:
    """Files of an http(s) server, by ranges where it has them."""

    timeout_s: float

    def size(self, url: str) -> int:
        """Bytes of a file, by HEAD, or from the answer to a GET where HEAD is not allowed."""
        for method in ("HEAD", "GET"):
            with self._ask(url, method=method, refused=(403, 405, 501) if method == "HEAD" else ()) as answer:
                if answer is not None and answer.headers.get("Content-Length") is not None:
                    return int(answer.headers["Content-Length"])
        raise DataError("the server does not say how long the file is", where=shown(url))

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """Bytes [start, stop) of a file; None reads to its end."""
        content = bytearray()
        for block in self._pieces(url, start, stop):
            content += block
            if stop is not None and len(content) > stop - start:
                break
        if stop is not None and len(content) != stop - start:
            raise PassingFault(f"the answer has {len(content)} bytes, not {stop - start}")
        return bytes(content)

    def blocks(self, url: str, start: int) -> Iterator[bytes]:
        """The file from byte `start` on."""
        return self._pieces(url, start, None)

    def _pieces(self, url: str, start: int, stop: int | None) -> Iterator[bytes]:
        wanted = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        with self._ask(url, headers=wanted) as answer:
            assert answer is not None
            length = answer.headers.get("Content-Length")
            remaining = None if length is None else int(length)
            # A server without ranges sends the whole file: what was asked for is cut out of it.
            skip = start if answer.status == 200 else 0
            given, limit = 0, None if stop is None else stop - start
            for block in _paced(answer, self.timeout_s):
                remaining = None if remaining is None else remaining - len(block)
                piece = block[min(skip, len(block)) :]
                skip -= len(block) - len(piece)
                if limit is not None:
                    piece = piece[: limit - given]
                given += len(piece)
                if piece:
                    yield piece
                if given == limit:
                    return
            if remaining:
                raise PassingFault(f"the connection closed {remaining} bytes early")

    def _ask(
        self, url: str, *, method: str = "GET", headers: dict[str, str] | None = None, refused: tuple[int, ...] = ()
    ) -> _Answer:
        parts, given = urlsplit(url), {"Accept-Encoding": "identity", **(headers or {})}
        if parts.username is not None:
            secret = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            given["Authorization"] = f"Basic {base64.b64encode(secret).decode('ascii')}"
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        return _Answer(urllib.request.Request(bare, headers=given, method=method), self.timeout_s, refused)


class _Answer:
    """A request's answer as a context whose failures are ours; None for a status in `refused`."""

    def __init__(self, request: urllib.request.Request, timeout_s: float, refused: tuple[int, ...]) -> None:
        self._request, self._timeout_s, self._refused = request, timeout_s, refused
        self._open: Any = None

    def __enter__(self) -> Any:
        try:
            self._open = urllib.request.urlopen(self._request, timeout=self._timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in self._refused:
                return None
            raise _status_error(self._request.full_url, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise _passing(error) from error
        except ValueError as error:
            raise ConfigError(f"not a URL ({error})", where=shown(self._request.full_url)) from error
        return self._open

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._open is not None:
            self._open.close()
        if isinstance(error, (OSError, http.client.HTTPException)):
            raise _passing(error) from error


def _paced(answer: Any, timeout_s: float) -> Iterator[bytes]:
    """Pieces as they arrive; a connection that only trickles counts as stalled."""
    since, arrived = time.monotonic(), 0
    while block := answer.read1(_BLOCK):
        yield block
        arrived += len(block)
        passed = time.monotonic() - since
        if passed > timeout_s:
            if arrived < passed * _SLOWEST_BYTES_PER_S:
                raise PassingFault(f"stalled: {arrived} bytes in {passed:.0f} s")
            since, arrived = time.monotonic(), 0


def _passing(error: Exception) -> PassingFault:
    if isinstance(error, PassingFault):
        return error
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return PassingFault("the connection stalled")
    return PassingFault(str(getattr(reason, "strerror", None) or reason or type(error).__name__))


def _status_error(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in _BUSY:
        return PassingFault(f"the server answers {error.code}")
    if error.code in (404, 410):
        return MissingFile("no such file on the server", where=shown(url))
    kind = RefusedFile if error.code in (401, 403) else DataError
    return kind(
        f"the server answers {error.code} {error.reason}",
        where=shown(url),
        expected="a file that may be read",
        fix="check the address and the credentials",
    )


@dataclass(frozen=True)
class FsspecTransport:
    """Files of anything that fsspec reads: s3, gs, memory..."""

    protocol: str
    timeout_s: float

    def __post_init__(self) -> None:
        self._class()

    def _class(self) -> Any:
        import fsspec
        from fsspec.registry import known_implementations

        try:
            return fsspec.get_filesystem_class(self.protocol)
        except ImportError as error:
            package = known_implementations.get(self.protocol, {}).get("class", "").split(".")[0]
            raise DependencyError(
                f"{self.protocol}:// needs the package {package or error.name!r}, which is not installed",
                where="data.shards",
                fix=f"pip install {package or error.name}",
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"nothing reads {self.protocol}:// URLs",
                where="data.shards",
                expected="a folder, or a URL of http, https, s3, gs or another kind that fsspec knows",
            ) from error

    def _call(self, url: str, method: str, *arguments: Any) -> Any:
        """A method of the file system of this process, with a time limit where it can have one."""
        from fsspec.asyn import AsyncFileSystem, sync
        from fsspec.core import url_to_fs

        try:
            # Made per call: file systems are cached by process, so a forked worker gets its own.
            system, path = url_to_fs(url)
            if isinstance(system, AsyncFileSystem):
                return sync(system.loop, getattr(system, f"_{method}"), path, *arguments, timeout=self.timeout_s)
            return getattr(system, method)(path, *arguments)
        except FileNotFoundError as error:
            raise MissingFile("no such file in the store", where=shown(url)) from error
        except PermissionError as error:
            raise RefusedFile(f"may not be read ({error})", where=shown(url), fix="check the credentials") from error
        except Exception as error:
            # Every store raises errors of its own library; none of them is worth less than another try.
            raise PassingFault(f"{type(error).__name__} {error}".strip()) from error

    def size(self, url: str) -> int:
        """Bytes of a file."""
        found = self._call(url, "info").get("size")
        if found is None:
            raise DataError("the store does not say how long the file is", where=shown(url))
        return int(found)

    def read(self, url: str, start: int, stop: int | None) -> bytes:
        """Bytes [start, stop) of a file; None reads to its end."""
        content = self._call(url, "cat_file", start, stop)
        if stop is not None and len(content) != stop - start:
            raise PassingFault(f"the answer has {len(content)} bytes, not {stop - start}")
        return bytes(content)

    def blocks(self, url: str, start: int) -> Iterator[bytes]:
        """The file from byte `start` on."""
        end = self.size(url)
        while start < end:
            block = self.read(url, start, min(start + _RANGE_BYTES, end))
            yield block
            start += len(block)
