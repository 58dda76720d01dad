"""The beats of a song in seconds: those of the features' beat channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macedance.music.audio import Audio
from macedance.music.features import BEATS, Floats, music_features


def beats_of_features(features_TC: Floats, fps: float) -> NDArray[np.float64]:
    """The beats that the beat channel marks.

    Args:
        features_TC: (T, 35), see :func:`macedance.music.features.music_features`.
        fps: Their frames per second.

    Returns:
        (N,) ascending seconds, exact to half a frame.
    """
    return np.flatnonzero(features_TC[:, BEATS.start] > 0) / float(fps)


def beat_times(audio: Audio | str | Path, fps: float = 30, *, cache_dir: Path | None = None) -> NDArray[np.float64]:
    """The beats that librosa's tracker finds (Ellis 2007), from the same tracking as the features' beat channel.

    Args:
        audio: A sound in memory, or a file.
        fps: Frames per second at which they are tracked.
        cache_dir: As for :func:`macedance.music.features.music_features`.

    Returns:
        (N,) ascending seconds; empty where nothing pulses.

    Raises:
        DataError: The sound or the file cannot be used.
    """
    return beats_of_features(music_features(audio, fps, cache_dir=cache_dir), fps)
