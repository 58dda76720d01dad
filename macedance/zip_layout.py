"""Reads where the parts of a zip archive lie, in the one layout that leaves every reader no choice.

A zip archive can be laid out so that two readers find other parts in it: an end record that points at another table,
two tables, a name twice. What was looked at would then not be what is loaded. Here only the plain layout passes: parts
without gaps from the first byte on, the table, the end records, nothing else.

Source of the layout: PKWARE's APPNOTE 6.3; of torch's habits (descriptors behind the parts, padding in the extra field
of the local header, zip64 records always): its writer, miniz.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import IO

_END, _LOCATOR, _END64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
_CENTRAL, _LOCAL = struct.Struct("<4s6H3L5H2L"), struct.Struct("<4s5H3L2H")
_DESCRIPTOR, _DESCRIPTOR64 = struct.Struct("<4s3L"), struct.Struct("<4sL2Q")
_ZIP64_FIELD = 1
_ALL_ONES = 0xFFFFFFFF
_HAS_DESCRIPTOR, _UTF8 = 0x8, 0x800
_NAME = re.compile(r"[A-Za-z0-9_.+=@ -]+(?:/[A-Za-z0-9_.+=@ -]+)*")


class LayoutError(ValueError):
    """The archive is not laid out in the plain way."""


@dataclass(frozen=True)
class Part:
    """A file in an archive: where its bytes lie."""

    name: str
    start: int
    size: int


@dataclass(frozen=True)
class _Entry:
    name: str
    flags: int
    size: int
    offset: int


def archive_parts(file: IO[bytes]) -> list[Part]:
    """The parts of an archive, in their order.

    Args:
        file: The archive, from its first byte to its last; it can be sought in.

    Raises:
        LayoutError: Another layout; what of it is said.
    """
    file_size = file.seek(0, 2)
    count, start, size, end = _end_records(file, file_size)
    if start + size != end:
        raise LayoutError("its table does not lie where its end record says")
    entries = _table(_read(file, start, size), count)
    names = [entry.name.lower() for entry in entries]  # torch finds parts without regard to case
    if len(set(names)) != len(names):
        raise LayoutError("two parts of the archive have one name")
    parts: list[Part] = []
    offsets = [*(entry.offset for entry in entries), start]
    if offsets[0] != 0:
        raise LayoutError("there is something before its first part")
    for entry, following in zip(entries, offsets[1:], strict=True):
        parts.append(_part(file, entry, following))
    return parts


def _read(file: IO[bytes], start: int, size: int) -> bytes:
    file.seek(max(start, 0))
    found = file.read(size) if start >= 0 else b""
    if len(found) != size:
        raise LayoutError("it is cut short")
    return found


def _end_records(file: IO[bytes], file_size: int) -> tuple[int, int, int, int]:
    """Number of parts, offset and size of the table, and where the first end record begins."""
    end = file_size - _END.size
    magic, disk, table_disk, here, count, size, start, comment = _END.unpack(_read(file, end, _END.size))
    if magic != b"PK\x05\x06" or comment or disk or table_disk or here != count:
        raise LayoutError("it does not end as torch ends archives")
    if end < _LOCATOR.size:
        return count, start, size, end
    found = _LOCATOR.unpack(_read(file, end - _LOCATOR.size, _LOCATOR.size))
    if found[0] != b"PK\x06\x07":
        return count, start, size, end
    end64 = end - _LOCATOR.size - _END64.size
    if found[1:] != (0, end64, 1):
        raise LayoutError("its end records do not follow each other")
    large = _END64.unpack(_read(file, end64, _END64.size))
    if large[:2] != (b"PK\x06\x06", _END64.size - 12) or large[4:6] != (0, 0) or large[6] != large[7]:
        raise LayoutError("its end records are not as torch writes them")
    for small, big, most in ((count, large[7], 0xFFFF), (size, large[8], _ALL_ONES), (start, large[9], _ALL_ONES)):
        if small not in (big, most):
            raise LayoutError("its end records differ")
    return large[7], large[9], large[8], end64


def _table(content: bytes, count: int) -> list[_Entry]:
    entries = []
    position = 0
    while position < len(content):
        if len(content) - position < _CENTRAL.size:
            raise LayoutError("its table is cut short")
        (magic, _, _, flags, method, _, _, _, packed, size, name_size, extra_size, comment, disk, _, _, offset) = (
            _CENTRAL.unpack_from(content, position)
        )
        position += _CENTRAL.size
        name = content[position : position + name_size]
        extra = content[position + name_size : position + name_size + extra_size]
        position += name_size + extra_size
        if magic != b"PK\x01\x02" or comment or disk or position > len(content):
            raise LayoutError("its table is not as torch writes it")
        if method or flags & ~(_HAS_DESCRIPTOR | _UTF8):
            raise LayoutError("a part is packed or encrypted, which is not as torch writes them")
        size, packed, offset = _with_zip64(extra, [size, packed, offset])
        if size != packed:
            raise LayoutError("a part has two sizes")
        entries.append(_Entry(_decoded(name), flags, size, offset))
    if len(entries) != count or not entries:
        raise LayoutError("its table has another number of parts than its end record says")
    return entries


def _with_zip64(extra: bytes, values: list[int]) -> list[int]:
    """Size, packed size and offset of a table's entry, those of all ones from its extra field."""
    wanted = values.count(_ALL_ONES)
    if not extra and not wanted:
        return values
    # Nothing else than the field that is needed: readers differ in what they make of more.
    if not wanted or struct.pack("<HH", _ZIP64_FIELD, 8 * wanted) != extra[:4] or len(extra) != 4 + 8 * wanted:
        raise LayoutError("a part's extra field is not as torch writes it")
    large = iter(struct.unpack(f"<{wanted}Q", extra[4:]))
    return [next(large) if value == _ALL_ONES else value for value in values]


def _decoded(name: bytes) -> str:
    text = name.decode("ascii", errors="replace")
    if not _NAME.fullmatch(text) or ".." in text.split("/"):
        raise LayoutError(f"a part has the name {text[:40]!r}")
    return text


def _part(file: IO[bytes], entry: _Entry, following: int) -> Part:
    """Compare a part's own header with the table's, and its end with the beginning of what follows."""
    magic, _, flags, method, _, _, _, packed, size, name_size, extra_size = _LOCAL.unpack(
        _read(file, entry.offset, _LOCAL.size)
    )
    name = _read(file, entry.offset + _LOCAL.size, name_size)
    if magic != b"PK\x03\x04" or method or flags != entry.flags or name != entry.name.encode():
        raise LayoutError(f"the part {entry.name} is another than its table says")
    start = entry.offset + _LOCAL.size + name_size + extra_size
    end = start + entry.size
    described = bool(flags & _HAS_DESCRIPTOR)
    if not described and {packed, size} - {entry.size, _ALL_ONES}:
        raise LayoutError(f"the part {entry.name} has two sizes")
    gap = following - end
    if gap != 0 if not described else not _is_descriptor(_read(file, end, gap) if 0 < gap <= 24 else b"", entry.size):
        raise LayoutError(f"there is something behind the part {entry.name}, or it overlaps the next")
    return Part(entry.name, start, entry.size)


def _is_descriptor(content: bytes, size: int) -> bool:
    for form in (_DESCRIPTOR, _DESCRIPTOR64):
        if len(content) == form.size:
            magic, _, packed, plain = form.unpack(content)
            return bool(magic == b"PK\x07\x08" and packed == plain == size)
    return False
