"""Decoders of sound files, block by block, and what a file's header promises.

libsndfile reads wav, flac, ogg, opus and aiff, PyAV the rest (mp3, m4a, aac, video files, ...) and what libsndfile
declines. mp3 goes to PyAV because libsndfile's decoder writes notes about odd headers to stderr, past any logger.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import soundfile

Samples = NDArray[np.float32]

LONGEST_CODEC_FRAME = 4096
"""Samples by which a container's length and the decoded sound may differ without damage."""

_BLOCK_FRAMES = 1 << 18
_SOUNDFILE_MAGIC = (b"RIFF", b"RIFX", b"RF64", b"riff", b"FORM", b"fLaC", b"OggS", b".snd", b"caff")
# Their duration is a guess from the bit rate, nothing that the header promises.
_GUESSED_DURATION = frozenset({"aac", "mp3", "ac3", "eac3", "dts", "loas", "mpegts", "mpeg", "amr"})


class SoundfileReader:
    """Blocks of mono frames from libsndfile."""

    def __init__(self, file: soundfile.SoundFile, path: Path) -> None:
        self._file, self._path = file, path
        self.damaged_packets = 0
        self.rate = int(file.samplerate)

    @classmethod
    def open(cls, path: Path) -> SoundfileReader | None:
        """A reader, or None where libsndfile does not know the format."""
        import soundfile

        with path.open("rb") as file:
            if file.read(4) not in _SOUNDFILE_MAGIC:
                return None
        try:
            return cls(soundfile.SoundFile(path), path)
        except (soundfile.SoundFileError, TypeError):
            return None

    @property
    def promised_frames(self) -> int | None:
        """Frames that the header promises; None where it says nothing."""
        frames = int(self._file.frames)
        if self._file.format in ("WAV", "WAVEX", "AIFF"):
            frames = max(frames, _header_frames(self._path) or 0)
        return frames if 0 < frames < 1 << 40 else None

    def seek(self, frame: int) -> int:
        """Go to a frame, or to the end if there are fewer; returns where."""
        if frame == 0:
            return 0
        import soundfile

        with contextlib.suppress(soundfile.SoundFileError):
            return int(self._file.seek(min(frame, self.promised_frames or frame)))
        return 0

    def blocks(self) -> Iterator[Samples]:
        """Mono blocks up to the end, or up to the first damage."""
        import soundfile

        while True:
            try:
                block = self._file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)
            except soundfile.SoundFileError:
                return
            if len(block) == 0:
                return
            yield block[:, 0].copy() if block.shape[1] == 1 else block.mean(axis=1)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class AvReader:
    """Blocks of mono frames from the first audio stream that PyAV finds."""

    def __init__(self, container: Any, stream: Any, path: Path) -> None:
        self._container, self._stream, self._path = container, stream, path
        self.damaged_packets = 0
        self.rate = int(stream.codec_context.sample_rate or 0)

    @classmethod
    def open(cls, path: Path) -> AvReader | None:
        """A reader, or None where PyAV does not know the format or finds no sound."""
        import av

        try:
            container = av.open(str(path), metadata_errors="ignore")
        except (av.FFmpegError, OSError, ValueError):
            return None
        if not container.streams.audio or not container.streams.audio[0].codec_context.sample_rate:
            container.close()
            return None
        return cls(container, container.streams.audio[0], path)

    @property
    def promised_frames(self) -> int | None:
        """Frames that the container promises; None where it only guesses."""
        if self._container.format.name in _GUESSED_DURATION:
            return _mp3_frames(self._path) if self._container.format.name == "mp3" else None
        if self._stream.duration and self._stream.time_base:
            return round(float(self._stream.duration * self._stream.time_base) * self.rate)
        return round(self._container.duration / 1e6 * self.rate) if self._container.duration else None

    def seek(self, frame: int) -> int:
        """Containers seek to packets, not frames: always 0, the caller drops what comes before."""
        return 0

    def blocks(self) -> Iterator[Samples]:
        """Mono blocks up to the end, or up to the first damage."""
        import av

        resampler = av.AudioResampler(format="fltp", rate=self.rate)
        pending: list[Samples] = []
        for decoded in self._decoded():
            for frame in decoded:
                pending += [part.to_ndarray().mean(axis=0) for part in resampler.resample(frame)]
            if sum(map(len, pending)) >= _BLOCK_FRAMES:
                yield np.concatenate(pending)
                pending = []
        with contextlib.suppress(av.FFmpegError, ValueError):  # nothing was decoded: nothing to flush
            pending += [part.to_ndarray().mean(axis=0) for part in resampler.resample(None)]
        if pending:
            yield np.concatenate(pending)

    def _decoded(self) -> Iterator[list[Any]]:
        """The frames of each packet; a damaged packet is counted and left out, a damaged container ends the sound."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                return
            if packet is None:
                return
            try:
                yield packet.decode()
            except av.FFmpegError:
                self.damaged_packets += 1

    def close(self) -> None:
        """Close the file."""
        self._container.close()


def _header_frames(path: Path) -> int | None:
    """Frames that a WAVE or AIFF header promises: libsndfile reports those that are there instead."""
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] not in (b"RIFF", b"FORM") or len(head) < 12:
            return None
        order, frame_bytes = ("<" if head[:4] == b"RIFF" else ">"), 0
        while len(chunk := file.read(8)) == 8:
            name, size = chunk[:4], struct.unpack(order + "I", chunk[4:])[0]
            if name == b"data":
                # Recorders and pipes that cannot seek leave 0 or the largest number: no promise.
                return size // frame_bytes if frame_bytes and 0 < size < 0x7FFFFFFF else None
            body = file.read(16) if name in (b"fmt ", b"COMM") else b""
            if name == b"COMM" and len(body) == 16:
                return int(struct.unpack(">I", body[2:6])[0])
            if name == b"fmt " and len(body) == 16:
                frame_bytes = struct.unpack("<H", body[12:14])[0]
            file.seek(size + size % 2 - len(body), os.SEEK_CUR)
    return None


def _mp3_frames(path: Path) -> int | None:
    """Frames that the Xing or Info header of an mp3 promises, or None if it has none."""
    with path.open("rb") as file:
        head = file.read(10)
        if len(head) == 10 and head[:3] == b"ID3":  # its size has seven bits a byte
            file.seek(10 + sum(byte << 7 * (3 - place) for place, byte in enumerate(head[6:10])))
        else:
            file.seek(0)
        first = file.read(512)
    found = max(first.find(b"Xing"), first.find(b"Info"))
    if found < 4 or len(first) < found + 12 or first[0] != 0xFF or not first[found + 7] & 1:
        return None
    per_packet = 1152 if first[1] & 0x18 == 0x18 else 576  # MPEG 1, or the half rates of MPEG 2 and 2.5
    return per_packet * int(struct.unpack(">I", first[found + 8 : found + 12])[0])


def lacks_last_page(path: Path) -> bool:
    """True for an Ogg file whose last page is not marked as the last, or is not whole."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - (1 << 17)))
        tail = file.read()
    page = tail.rfind(b"OggS")
    if page < 0 or len(tail) < page + 27:
        return True
    header_end = page + 27 + tail[page + 26]
    body = sum(tail[page + 27 : header_end])
    return not tail[page + 5] & 4 or len(tail) < header_end + body
