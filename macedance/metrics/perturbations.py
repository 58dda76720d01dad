"""Ways to make a dance worse by a known amount: the dose of a dose-response.

A perturbation keeps the number of frames, and its shape over time depends on the seed and the clip's name only: the
levels of one kind are the same disturbance, larger and larger.

Shapes: T frames, J = 24 joints. Radians, metres, seconds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from macedance.errors import ConfigError, DataError
from macedance.motion.files import JointClip, Motion
from macedance.motion.rotations import axis_angle_from_matrix, matrix_from_axis_angle

Danced = Motion | JointClip

NUM_LEVELS = 3
#: The noise of a pose drifts over this time; jitter has no memory at all.
NOISE_CORRELATION_S = 0.25
SLIDE_CORRELATION_S = 0.5
#: Jitter moves the whole body by this much for each degree of its joints.
JITTER_M_PER_DEGREE = 0.004


@dataclass(frozen=True)
class Perturbation:
    """A kind of disturbance.

    Args:
        name: Name in reports and arms.
        what: What it does, one clause.
        unit: Of the sizes.
        sizes: One for each level, growing.
        apply: (dance, size, generator) -> the disturbed dance.
    """

    name: str
    what: str
    unit: str
    sizes: tuple[float, float, float]
    apply: Callable[[Danced, float, np.random.Generator], Danced]


def perturb(dance: Danced, kind: str, level: int, *, seed: int = 0, name: str = "") -> Danced:
    """A disturbed copy of a dance, of as many frames.

    Args:
        dance: A Motion, or joint positions where the kind can disturb those.
        kind: A name of PERTURBATIONS.
        level: 1, 2 or 3, the largest.
        seed: Of the disturbance, together with ``name`` and ``kind``.
        name: Name of the clip, so that two clips are not disturbed alike.

    Raises:
        ConfigError: An unknown kind or level.
        DataError: Joints without rotations for a kind that turns joints.
    """
    if kind not in PERTURBATIONS:
        raise ConfigError(f"unknown perturbation {kind!r}", expected=f"one of {', '.join(PERTURBATIONS)}")
    if level not in range(1, NUM_LEVELS + 1):
        raise ConfigError(f"level {level} of {kind}", expected=f"1 to {NUM_LEVELS}")
    chosen = PERTURBATIONS[kind]
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{name}".encode("utf-8", "backslashreplace"), digest_size=16).digest()
    return chosen.apply(dance, chosen.sizes[level - 1], np.random.default_rng(int.from_bytes(digest, "big")))


def _noise(dance: Danced, size_deg: float, rng: np.random.Generator) -> Danced:
    """Each joint but the root drifts about its true rotation by ``size_deg`` (standard deviation about each axis)."""
    motion = _with_rotations(dance, "noise")
    drift = _smooth_normal(rng, (motion.num_frames, motion.poses.shape[1], 3), NOISE_CORRELATION_S * motion.fps)
    drift[:, 0] = 0.0
    return _turned(motion, np.deg2rad(size_deg) * drift)


def _jitter(dance: Danced, size_deg: float, rng: np.random.Generator) -> Danced:
    """Every joint and the whole body tremble, each frame by itself."""
    motion = _with_rotations(dance, "jitter")
    shaken = _turned(motion, np.deg2rad(size_deg) * rng.standard_normal(motion.poses.shape))
    shift = JITTER_M_PER_DEGREE * size_deg * rng.standard_normal(motion.trans.shape)
    return replace(shaken, trans=motion.trans + shift.astype(np.float32))


def _foot_slide(dance: Danced, size_m_s: float, rng: np.random.Generator) -> Danced:
    """The body glides over the floor with a mean speed of ``size_m_s`` in a slowly turning direction."""
    frames = dance.num_frames if isinstance(dance, Motion) else len(dance.joints)
    velocity = _smooth_normal(rng, (frames, 2), SLIDE_CORRELATION_S * dance.fps)
    # The dose is exact: every clip slides by this much, not by this much on the average of clips.
    velocity *= size_m_s / max(float(np.linalg.norm(velocity[1:], axis=1).mean()), 1e-9) if frames > 1 else 0.0
    path = np.cumsum(velocity, axis=0) / dance.fps
    shift = np.zeros((frames, 3), dtype=np.float32)
    shift[:, 0], shift[:, 2] = (path - path[0]).T
    if isinstance(dance, JointClip):
        return replace(dance, joints=dance.joints + shift[:, None])
    own = None if dance.joints is None else dance.joints + shift[:, None]
    return replace(dance, trans=dance.trans + shift, joints=own)


def _time_stretch(dance: Danced, factor: float, _: np.random.Generator) -> Danced:
    """The dance played ``factor`` times more slowly to the same music, cut to its length."""
    frames = dance.num_frames if isinstance(dance, Motion) else len(dance.joints)
    if isinstance(dance, Motion):
        # Sampled more densely, then played at the old rate. Beats are the music's and stay.
        slow = replace(dance.resampled(dance.fps * factor), fps=dance.fps)
        return replace(slow.slice(0, frames), music_beats_s=dance.music_beats_s) if slow.num_frames > frames else slow
    position = np.arange(frames) / factor
    before = np.minimum(position.astype(np.int64), max(frames - 2, 0))
    after = np.minimum(before + 1, frames - 1)
    weight = (position - before)[:, None, None]
    return replace(dance, joints=(1 - weight) * dance.joints[before] + weight * dance.joints[after])


#: Name -> kind. Sizes go from what is hardly seen to what nobody overlooks.
PERTURBATIONS: dict[str, Perturbation] = {
    kind.name: kind
    for kind in (
        Perturbation("noise", "joints drift about their true rotations", "degrees", (5.0, 10.0, 20.0), _noise),
        Perturbation("jitter", "joints and body tremble from frame to frame", "degrees", (1.0, 2.0, 4.0), _jitter),
        Perturbation("foot_slide", "the body glides over the floor", "m/s", (0.15, 0.3, 0.6), _foot_slide),
        Perturbation("time_stretch", "the dance is slowed down", "times", (1.1, 1.25, 1.5), _time_stretch),
    )
}


def _with_rotations(dance: Danced, kind: str) -> Motion:
    if isinstance(dance, Motion):
        return dance
    raise DataError(
        f"{kind} turns joints, and this dance holds positions only",
        where=dance.name or None,
        expected="poses (T, 24, 3) and trans (T, 3)",
    )


def _turned(motion: Motion, turns_TJ3: np.ndarray) -> Motion:
    """The motion with each joint turned further about its own axes; its joints then follow from the rotations."""
    local = matrix_from_axis_angle(torch.from_numpy(motion.poses).double())
    turned = local @ matrix_from_axis_angle(torch.from_numpy(turns_TJ3))
    return replace(motion, poses=axis_angle_from_matrix(turned).float().numpy(), joints=None)


def _smooth_normal(rng: np.random.Generator, shape: tuple[int, ...], sigma_frames: float) -> np.ndarray:
    """Gaussian noise (T, ...) of unit variance, low-passed over time by a Gaussian of ``sigma_frames``."""
    from scipy.ndimage import gaussian_filter1d

    reach = math.ceil(4 * sigma_frames)
    white = rng.standard_normal((shape[0] + 2 * reach, *shape[1:]))
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1.0
    power = float(np.square(gaussian_filter1d(impulse, max(sigma_frames, 1e-3))).sum())
    smooth = gaussian_filter1d(white, max(sigma_frames, 1e-3), axis=0)[reach : reach + shape[0]]
    return np.asarray(smooth / math.sqrt(power))
