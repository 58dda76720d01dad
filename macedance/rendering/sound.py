"""The sound track of a video: any music file, from a given second, for an exact number of samples.

Shapes: N samples, two channels. Sound is streamed: a one-hour song needs no more memory than a second of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from macedance.errors import DataError

SAMPLE_RATE = 48_000


@runtime_checkable
class Sound(Protocol):
    """Music in memory, such as ``macedance.music.audio.Audio`` or a song of the built-in corpus."""

    @property
    def samples(self) -> np.ndarray:
        """(N,) mono or (N, channels) float32 in [-1, 1]."""

    @property
    def sample_rate(self) -> int:
        """Samples per second."""


Music = Path | str | Sound


class SoundTrack:
    """Stereo float samples at SAMPLE_RATE, taken from music in order and padded by silence when it ends.

    Args:
        music: A file that PyAV decodes, or sound in memory.
        start_s: Where the track starts in the music, seconds, at least 0.

    Raises:
        DataError: no sound can be read from the file, or it ends before ``start_s``.
    """

    def __init__(self, music: Music, start_s: float = 0.0) -> None:
        if not np.isfinite(start_s) or start_s < 0:
            raise DataError(f"music cannot start at {start_s} s", expected="0 or more")
        self._where = str(music) if isinstance(music, Path | str) else "sound in memory"
        self._blocks = _file_blocks(Path(music)) if isinstance(music, Path | str) else _memory_blocks(music)
        self._held_2N = np.zeros((2, 0), dtype=np.float32)
        self._ended = False
        skip = round(start_s * SAMPLE_RATE)
        while skip > 0 and not self._ended:
            self._fill(1)
            dropped = min(skip, self._held_2N.shape[1])
            self._held_2N = self._held_2N[:, dropped:]
            skip -= dropped
        self._fill(1)
        if self._held_2N.shape[1] == 0:
            raise DataError(f"the music ends before second {start_s:g}", where=self._where, expected="a later end")

    def _fill(self, count: int) -> None:
        """Hold at least ``count`` samples, or all that are left."""
        parts, held = [self._held_2N], self._held_2N.shape[1]
        while held < count and not self._ended:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
            else:
                parts.append(block)
                held += block.shape[1]
        if len(parts) > 1:
            self._held_2N = np.concatenate(parts, axis=1)

    def read(self, count: int) -> np.ndarray:
        """The next ``count`` samples (2, count), float32."""
        self._fill(count)
        taken, self._held_2N = self._held_2N[:, :count], self._held_2N[:, count:]
        return np.pad(taken, ((0, 0), (0, count - taken.shape[1])))


def _file_blocks(path: Path) -> Iterator[np.ndarray]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise DataError("the file has no sound", where=path, expected="a music file")
            resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
            for frame in container.decode(audio=0):
                # A cut in the time stamps is not our concern: samples are played one after the other.
                frame.pts = None
                for part in resampler.resample(frame):
                    yield part.to_ndarray().astype(np.float32, copy=False)
            for part in resampler.resample(None):
                yield part.to_ndarray().astype(np.float32, copy=False)
    except (av.FFmpegError, OSError) as error:
        raise DataError(
            f"the music cannot be read ({error})", where=path, expected="a sound file (wav, flac, mp3, ogg, m4a)"
        ) from error


def _memory_blocks(sound: Sound) -> Iterator[np.ndarray]:
    import av

    samples = np.atleast_2d(np.asarray(sound.samples, dtype=np.float32).T)
    layout = "mono" if len(samples) == 1 else "stereo"
    resampler = av.AudioResampler(format="fltp", layout="stereo", rate=SAMPLE_RATE)
    block = 1 << 16
    for start in range(0, samples.shape[1], block):
        part = np.ascontiguousarray(samples[:2, start : start + block])
        frame = av.AudioFrame.from_ndarray(part, format="fltp", layout=layout)
        frame.sample_rate = int(sound.sample_rate)
        for ready in resampler.resample(frame):
            yield ready.to_ndarray().astype(np.float32, copy=False)
    for ready in resampler.resample(None):
        yield ready.to_ndarray().astype(np.float32, copy=False)
