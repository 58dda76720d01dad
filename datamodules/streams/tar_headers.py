"""Tar headers, read without unpacking anything.

A plain header is parsed here, some ten times faster than tarfile does it; whatever is unusual (a long or prefixed
name, a binary size, a checksum of old programs) is left to tarfile, so both accept the same files.
"""

from __future__ import annotations

import tarfile
from typing import NamedTuple

BLOCK = tarfile.BLOCKSIZE
ZEROS = bytes(BLOCK)
_EXTENDED = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)


class Member(NamedTuple):
    """One header: the member's name, the bytes of its data, and whether it is a regular file or an extension."""

    name: str
    size: int
    regular: bool
    extended: bool


def padded(size: int) -> int:
    """Bytes that `size` bytes of data take in a tar."""
    return -(-size // BLOCK) * BLOCK


def parse_header(block: bytes) -> Member:
    """The header in a block of 512 bytes.

    Raises:
        tarfile.HeaderError: Not a header: cut short, zeros, or a wrong checksum.
    """
    member = _parse_plain(block)
    if member is not None:
        return member
    header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    return Member(header.name, header.size, header.type in _REGULAR, header.type in _EXTENDED)


def _parse_plain(block: bytes) -> Member | None:
    """The header where it is a plain one with the usual checksum, else None."""
    if len(block) != BLOCK or block[345] or block[124] & 0x80:
        return None
    stored, kind = block[148:156], block[156:157]
    try:
        # The checksum's own eight bytes count as blanks.
        if int(stored.rstrip(b"\0 "), 8) != sum(block) - sum(stored) + 8 * 32:
            return None
        size = int(block[124:136].rstrip(b"\0 ") or b"0", 8)
        name = block[: block.index(0)].decode("ascii") if not block[99] else block[:100].decode("ascii")
    except ValueError:
        return None
    if size < 0 or name.endswith("/"):
        return None
    return Member(name, size, kind in _REGULAR, kind in _EXTENDED)
