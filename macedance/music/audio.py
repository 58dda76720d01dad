"""Sound files in and out: mono float32 samples at the file's own rate.

Decoding goes block by block (:mod:`macedance.music.decoders`), so memory is that of the mono result whatever the number
of channels and the length.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from macedance.errors import DataError
from macedance.music.decoders import LONGEST_CODEC_FRAME, AvReader, Samples, SoundfileReader, lacks_last_page

_LOG = logging.getLogger(__name__)

MIN_DURATION_S = 0.5
"""Anything shorter is refused: no beat fits into it."""
SILENCE_PEAK = 1e-4
"""A peak (of full scale 1) below this is silence: -80 dB."""

_MIN_RATE_HZ, _MAX_RATE_HZ = 4000, 768_000
_MAX_PEAK = 1e9
_MOST_BELIEVED_FRAMES = 1 << 29
_LOST_SHARE, _LOST_S = 0.02, 0.1


@dataclass(frozen=True)
class Audio:
    """Mono sound.

    Args:
        samples: (N,) float32, full scale is 1.
        sample_rate: Samples per second.

    Raises:
        DataError: Not one-dimensional float32, or a sample rate outside 4..768 kHz.
    """

    samples: Samples
    sample_rate: int

    def __post_init__(self) -> None:
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            found = f"{self.samples.dtype} of shape {self.samples.shape}"
            raise DataError(f"samples are {found}", expected="(N,) float32", fix="Audio.from_array(samples, rate)")
        if not _MIN_RATE_HZ <= self.sample_rate <= _MAX_RATE_HZ:
            raise DataError(f"sample rate {self.sample_rate} Hz", expected="8 to 96 kHz (4 to 768 are read)")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / self.sample_rate

    @staticmethod
    def from_array(samples: NDArray[Any], sample_rate: int, *, where: str | Path | None = None) -> Audio:
        """Sound from memory, checked as a file would be.

        Args:
            samples: (N,) or (N, channels), floating point of full scale 1 or any signed or unsigned integer type.
            sample_rate: Samples per second.
            where: What to name in an error.

        Raises:
            DataError: Empty, shorter than 0.5 s, silent, or with NaN or infinite samples.
        """
        array = np.asarray(samples)
        if array.ndim not in (1, 2) or array.dtype.kind not in "fiu":
            raise DataError(
                f"samples of type {array.dtype} and shape {array.shape}", where=where, expected="(N,) or (N, channels)"
            )
        if array.dtype.kind in "iu":
            info = np.iinfo(array.dtype)
            zero = 0 if array.dtype.kind == "i" else (int(info.max) + 1) // 2
            array = (array.astype(np.float64) - zero) / (int(info.max) - zero + 1)
        mono = array if array.ndim == 1 else array.mean(axis=1)
        audio = Audio(np.ascontiguousarray(mono, dtype=np.float32), int(sample_rate))
        _check(audio, where)
        return audio

    def resampled(self, sample_rate: int) -> Audio:
        """The sound at another rate (soxr, high quality: the same numbers as librosa.load)."""
        if sample_rate == self.sample_rate:
            return self
        import soxr

        count = math.ceil(len(self.samples) * sample_rate / self.sample_rate)
        out = soxr.resample(self.samples, self.sample_rate, sample_rate, quality="HQ")
        if len(out) < count:
            out = np.pad(out, (0, count - len(out)))
        return Audio(np.ascontiguousarray(out[:count], dtype=np.float32), sample_rate)

    def slice(self, start_s: float, stop_s: float) -> Audio:
        """The part between two times, cut at the ends of the sound; a view, nothing is copied."""
        start, stop = (min(max(0, round(t * self.sample_rate)), len(self.samples)) for t in (start_s, stop_s))
        return Audio(self.samples[start:stop], self.sample_rate)


def load_audio(
    path: str | Path, *, start_s: float = 0.0, duration_s: float | None = None, sample_rate: int | None = None
) -> Audio:
    """Read a sound file, or the sound of a video file, as mono.

    Channels are averaged. A file whose header promises more than can be decoded (2% and 0.1 s more), an Ogg file
    without its last page and an undecodable rest are refused as truncated. An mp3 or raw aac stream without a length in
    its header cannot be told from a shorter song: what decodes of it is used.

    Args:
        path: wav, flac, ogg, opus, mp3, aiff, m4a and whatever else libsndfile or PyAV decode.
        start_s: Where to start, seconds.
        duration_s: How much to read (the end of the file cuts it); None reads to the end.
        sample_rate: Resample to this rate; None keeps the file's.

    Returns:
        The sound, peak as in the file.

    Raises:
        DataError: Missing, a folder, unreadable, empty, not audio, truncated, shorter than 0.5 s (the part asked for),
            silent (peak below 1e-4), NaN or infinite samples, or a start beyond the end.
    """
    path = Path(path)
    if not (math.isfinite(start_s) and start_s >= 0):
        raise DataError(f"start {start_s} s is negative", where=path, expected="0 or more seconds")
    if duration_s is not None and not (math.isfinite(duration_s) and duration_s > 0):
        raise DataError(f"length {duration_s} s", where=path, expected="more than 0 seconds")
    _check_readable(path)
    reader = SoundfileReader.open(path) or AvReader.open(path)
    if reader is None:
        raise DataError(
            "not a sound file (or damaged)", where=path, expected="wav, flac, ogg, opus, mp3, m4a, aac or aiff"
        )
    with contextlib.closing(reader):
        rate = reader.rate
        if not _MIN_RATE_HZ <= rate <= _MAX_RATE_HZ:
            raise DataError(f"sample rate {rate} Hz", where=path, expected="8 to 96 kHz")
        start = round(start_s * rate)
        stop = None if duration_s is None else round((start_s + duration_s) * rate)
        samples, decoded = _collect(reader, start, stop)
        promised, damaged = reader.promised_frames, reader.damaged_packets
    if promised is not None and 0 < decoded - promised <= LONGEST_CODEC_FRAME and isinstance(reader, AvReader):
        # The last codec frame is padded; the container says how much of it is sound.
        samples, decoded = samples[: max(0, promised - start)], promised
    if decoded == 0:
        raise DataError("no sound can be decoded (empty or damaged)", where=path, expected="at least 0.5 s")
    if stop is None or decoded < stop:
        missing = 0 if promised is None else promised - decoded
        if promised is not None and missing > max(_LOST_SHARE * promised, _LOST_S * rate):
            found = f"truncated file: {decoded / rate:.2f} of {promised / rate:.2f} s can be decoded"
            raise DataError(found, where=path, fix="copy or download it again")
        if lacks_last_page(path):
            found = f"truncated file: it breaks off after {decoded / rate:.2f} s"
            raise DataError(found, where=path, fix="copy or download it again")
    if len(samples) == 0:
        raise DataError(
            f"start {start_s:g} s is beyond the end", where=path, expected=f"less than {decoded / rate:.2f} s"
        )
    audio = Audio(samples, rate)
    _check(audio, path)
    if damaged:
        _LOG.warning("%s: %d damaged packets left out", path, damaged)
    return audio if sample_rate is None else audio.resampled(sample_rate)


def write_audio(path: str | Path, samples: NDArray[np.floating], sample_rate: int) -> None:
    """Write 16-bit wav or flac (by suffix), under a temporary name first.

    Args:
        path: ``.wav`` or ``.flac``.
        samples: (N,) or (N, channels), within -1..1.
        sample_rate: Samples per second.

    Raises:
        DataError: Another suffix, samples beyond full scale or not finite, or a folder that cannot be written.
    """
    import soundfile

    path = Path(path)
    formats = {".wav": "WAV", ".flac": "FLAC"}
    if path.suffix.lower() not in formats:
        raise DataError(f"cannot write {path.suffix or 'a file without suffix'}", where=path, expected=".wav or .flac")
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if not peak <= 1.0:
        raise DataError(f"samples reach {peak:g}", where=path, expected="-1..1", fix="divide them by their peak")
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:40]}-", suffix=path.suffix)
        os.close(handle)
        soundfile.write(temporary, samples, sample_rate, format=formats[path.suffix.lower()], subtype="PCM_16")
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError("cannot write sound", where=path, fix=str(error)) from error
    finally:
        if temporary:
            Path(temporary).unlink(missing_ok=True)


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current


def _check_readable(path: Path) -> None:
    if not path.exists():
        raise DataError("no such file", where=path, expected="a sound file")
    if path.is_dir():
        raise DataError("is a folder", where=path, expected="a sound file")
    if not os.access(path, os.R_OK):
        raise DataError("cannot be read", where=path, fix="check its permissions")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError("empty file", where=path, expected="a sound file")


def _check(audio: Audio, where: str | Path | None) -> None:
    if audio.duration_s < MIN_DURATION_S:
        raise DataError(f"only {audio.duration_s:.3f} s of sound", where=where, expected=f"at least {MIN_DURATION_S} s")
    low, high = float(audio.samples.min()), float(audio.samples.max())  # a NaN wins both
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError("NaN or infinite samples", where=where, expected="finite sound", fix="export it again")
    peak = max(-low, high)
    if peak < SILENCE_PEAK:
        raise DataError(f"silence (peak {peak:.1e})", where=where, expected=f"a peak of at least {SILENCE_PEAK:g}")
    if peak > _MAX_PEAK:
        raise DataError(f"samples reach {peak:.1e}", where=where, expected="full scale 1", fix="export it again")


def _collect(reader: SoundfileReader | AvReader, start: int, stop: int | None) -> tuple[Samples, int]:
    """The mono frames start..stop of a reader, and the number of frames decoded from the beginning of the file."""
    position = reader.seek(start)
    if stop is not None and position >= stop:
        return np.zeros(0, dtype=np.float32), position
    # Room for what the header promises: the sound is held once. One that promises too little costs a copy, one that
    # promises far too much is not believed.
    promised = reader.promised_frames or 0
    room = min(promised if stop is None else min(promised, stop), _MOST_BELIEVED_FRAMES) - start
    samples, filled = np.empty(max(0, room), dtype=np.float32), 0
    for block in reader.blocks():
        part = block[max(0, start - position) : None if stop is None else stop - position]
        position += len(block)
        if filled + len(part) > len(samples):
            grown = np.empty(max(2 * len(samples), filled + len(part)), dtype=np.float32)
            grown[:filled] = samples[:filled]
            samples = grown
        samples[filled : filled + len(part)] = part
        filled += len(part)
        if stop is not None and position >= stop:
            break
    # A view of a little spare room is cheaper than a copy; it is never written to, so never paid for.
    return samples[:filled], position
