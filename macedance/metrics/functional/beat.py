"""Beat alignment: how near to the beats of its music a dance comes to rest.

Shapes: T frames, J joints, N beats. Times are in seconds; arrays are numpy float64.

Source: Li et al., "AI Choreographer" (ICCV 2021), and Siyao et al., "Bailando" (CVPR 2022), sec. 4.1; both count in
frames, which ties the score to the frame rate. Here widths are in seconds; published ones are had by passing frames for
seconds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from macedance.errors import DataError

#: Width of the Gaussian that smooths the speed, and of the one that scores a distance.
SMOOTHING_S = 0.1
TOLERANCE_S = 0.1


def mean_joint_speed(joints: np.ndarray, fps: float) -> np.ndarray:
    """Mean speed of the joints (..., T - 1), m/s, of positions (..., T, J, 3); entry t stands at (t + 0.5) / fps s.

    Raises:
        DataError: Fewer than two frames.
    """
    joints = np.asarray(joints, dtype=np.float64)
    if joints.ndim < 3 or joints.shape[-3] < 2 or joints.shape[-1] != 3:
        raise DataError(f"joints have shape {joints.shape}", expected="(..., T, J, 3) with at least 2 frames")
    return np.linalg.norm(np.diff(joints, axis=-3), axis=-1).mean(axis=-1) * fps


def speed_minima(speed: np.ndarray, sigma_frames: float) -> np.ndarray:
    """Mask (..., T) of the strict local minima of speeds (..., T) smoothed by a Gaussian; the ends are none."""
    from scipy.ndimage import gaussian_filter1d

    smooth = gaussian_filter1d(np.asarray(speed, dtype=np.float64), sigma_frames, axis=-1)
    minima = np.zeros(smooth.shape, dtype=bool)
    middle = smooth[..., 1:-1]
    minima[..., 1:-1] = (middle < smooth[..., :-2]) & (middle < smooth[..., 2:])
    return minima


def motion_beats(joints: np.ndarray, fps: float, *, sigma_s: float = SMOOTHING_S) -> np.ndarray:
    """Times (N,) in seconds at which the mean joint speed of one clip (T, J, 3) has a minimum.

    Raises:
        DataError: Fewer than two frames.
    """
    minima = speed_minima(mean_joint_speed(joints, fps), sigma_s * fps)
    return (np.flatnonzero(minima) + 0.5) / fps


def alignment_scores(beats: np.ndarray, targets: np.ndarray, sigma: float = TOLERANCE_S) -> np.ndarray:
    """exp(-d^2 / (2 sigma^2)) for each of ``beats`` (N,), d its distance to the nearest of the sorted ``targets`` (M,).

    All zero where there is no target.
    """
    beats, targets = np.asarray(beats, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if targets.size == 0:
        return np.zeros(beats.shape)
    after = np.searchsorted(targets, beats)
    distance = np.minimum(
        np.abs(beats - targets[np.maximum(after - 1, 0)]), np.abs(beats - targets[np.minimum(after, targets.size - 1)])
    )
    return np.exp(-(distance**2) / (2.0 * sigma**2))


def beat_alignment(beats: np.ndarray, targets: np.ndarray, sigma: float = TOLERANCE_S) -> float:
    """Mean of alignment_scores; NaN without any beat.

    From music to motion (``beats`` of the music) it is ``bas``, the other way round ``bas_motion``.
    """
    return float(alignment_scores(beats, targets, sigma).mean()) if np.size(beats) else float("nan")


def within(beats: np.ndarray, duration_s: float) -> np.ndarray:
    """The beats in [0, duration_s), sorted."""
    beats = np.sort(np.asarray(beats, dtype=np.float64))
    return beats[(beats >= 0.0) & (beats < duration_s)]


def shuffled_alignment(
    dances: Sequence[np.ndarray],
    music: Sequence[np.ndarray],
    songs: Sequence[Hashable],
    durations_s: Sequence[float],
    sigma: float = TOLERANCE_S,
) -> np.ndarray:
    """Chance level of ``bas``: each dance's mean score (n,) against the beats of every clip with ANOTHER song.

    Args:
        dances: Motion beats of each clip, sorted.
        music: Music beats of each clip; empty where it has none.
        songs: Song of each clip.
        durations_s: Length of each clip; another song's beats beyond a dance's end do not count for it.
        sigma: Width of the tolerance.

    NaN where no other song has a beat within the dance.
    """
    count = len(dances)
    codes = {song: code for code, song in enumerate(dict.fromkeys(songs))}
    song = np.array([codes[name] for name in songs], dtype=np.int64)
    lengths = [len(beats) for beats in music]
    owner = np.repeat(np.arange(count), lengths)
    times = np.concatenate([np.asarray(beats, dtype=np.float64) for beats in music]) if count else np.zeros(0)
    result = np.full(count, np.nan)
    for index, dance in enumerate(dances):
        usable = (song[owner] != song[index]) & (times >= 0.0) & (times < durations_s[index])
        clips = owner[usable]
        beats_per_clip = np.bincount(clips, minlength=count)
        score_per_clip = np.bincount(clips, alignment_scores(times[usable], dance, sigma), minlength=count)
        heard = beats_per_clip > 0
        if heard.any():
            result[index] = (score_per_clip[heard] / beats_per_clip[heard]).mean()
    return result
