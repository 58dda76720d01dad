"""Pose adherence: does the dancer in a video stand where the driving keypoints put them.

Shapes: T frames, 17 keypoints of COCO: x and y in pixels with y down, confidence. Both clips are in the same pixels and
have the same frames; see ``to_resolution`` for a video of another size.

A driving keypoint counts where its own confidence is at least ``confident``. Of those, one that the detector did not
find with that confidence is a miss: it counts as wrong in PCK and as 0 in OKS, so that a renderer cannot win by hiding
the dancer. It has no distance, so the error is over what was found: read it beside ``missing``.

Sources: PCK, Yang & Ramanan (TPAMI 2013); OKS and its sigmas, the COCO keypoint evaluation (Lin et al., ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from macedance.errors import DataError
from macedance.metrics.keypoints import COCO_17, CONFIDENT

#: COCO's per-keypoint standard deviations, relative to the square root of a person's area.
OKS_SIGMAS = np.array(
    [
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072,
        0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089,
    ]
)  # fmt: skip
#: A person's area as a share of the box around their keypoints, where there is no mask (xtcocotools, MMPose).
AREA_OF_BOX = 0.53
#: A body smaller than this has no size to measure errors by.
_MIN_DIAGONAL_PX = 2.0
ADHERENCE_KEYS: tuple[str, ...] = ("pck_05", "pck_10", "oks", "keypoint_error", "missing", "jitter_ratio")


@dataclass(frozen=True)
class Adherence:
    """How well detected keypoints follow the driving ones; NaN where nothing could be compared.

    Attributes:
        pck_05: Share in [0, 1] of the driving keypoints found within 0.05 of the diagonal of that frame's body box.
        pck_10: The same within 0.10.
        oks: Mean over frames of COCO's object keypoint similarity, in [0, 1].
        keypoint_error: Mean distance of the found keypoints, in diagonals of the body box.
        missing: Share in [0, 1] of the driving keypoints that were not found.
        jitter_ratio: Jerk of the detected keypoints over that of the driving ones, both over the same keypoints and
            frames; 1 is right, above 1 the video trembles. NaN where the driving keypoints have none.
        counts: Key -> number of terms behind it: frames for OKS, keypoints for the others.
        missing_frames: Frames with driving keypoints in which none of them was found.
    """

    pck_05: float
    pck_10: float
    oks: float
    keypoint_error: float
    missing: float
    jitter_ratio: float
    counts: Mapping[str, int]
    missing_frames: int

    def terms(self) -> dict[str, tuple[float, int]]:
        """Key -> (value, number of terms behind it), as a FrameScorer gives it."""
        return {key: (float(getattr(self, key)), self.counts[key]) for key in ADHERENCE_KEYS}


def pose_adherence(
    driving_T173: np.ndarray, detected_T173: np.ndarray, *, fps: float = 30.0, confident: float = CONFIDENT
) -> Adherence:
    """Compare detected with driving keypoints, both (T, 17, 3) in the same pixels.

    Args:
        driving_T173: Where the motion puts the dancer's keypoints.
        detected_T173: Where a detector sees them in the video; zeros where it sees nobody.
        fps: Frames per second of both; cancels out of every value and is only checked.
        confident: Confidence from which a keypoint counts; keypoints of confidence 0 never do.

    Raises:
        DataError: Other shapes, different lengths, numbers that are not finite, or no driving keypoint at all.
    """
    driving, detected = _checked(driving_T173, "driving"), _checked(detected_T173, "detected")
    if len(driving) != len(detected):
        raise DataError(
            f"{len(driving)} frames of driving keypoints, {len(detected)} of detected ones",
            expected="one for each frame of the video",
            fix="drive and detect at the same frame rate, and cut both to the same frames",
        )
    if not fps > 0:
        raise DataError(f"{fps:g} frames per second", expected="more than 0")
    wanted, found = _counts_for(driving, confident), _counts_for(detected, confident)
    diagonal_T = body_diagonals(driving, confident)
    usable_T = np.isfinite(diagonal_T) & (diagonal_T >= _MIN_DIAGONAL_PX)
    wanted &= usable_T[:, None]
    if not wanted.any():
        raise DataError("no driving keypoint counts", expected=f"a body with a confidence of at least {confident:g}")
    found &= wanted
    distance = np.linalg.norm(driving[..., :2] - detected[..., :2], axis=-1)
    relative = np.where(found, distance / np.where(usable_T, diagonal_T, 1.0)[:, None], np.nan)
    total, seen = int(wanted.sum()), int(found.sum())
    oks = object_keypoint_similarity(driving, detected, confident=confident)
    jitter, jitter_terms = jitter_ratio(driving, detected, confident=confident)
    frames = int(wanted.any(axis=1).sum())
    return Adherence(
        pck_05=float((relative[found] <= 0.05).sum() / total),
        pck_10=float((relative[found] <= 0.10).sum() / total),
        oks=float(np.nanmean(oks)),
        keypoint_error=float(relative[found].mean()) if seen else float("nan"),
        missing=1.0 - seen / total,
        jitter_ratio=jitter,
        counts={
            "pck_05": total, "pck_10": total, "oks": frames, "keypoint_error": seen, "missing": total,
            "jitter_ratio": jitter_terms,
        },
        missing_frames=int((wanted.any(axis=1) & ~found.any(axis=1)).sum()),
    )  # fmt: skip


def object_keypoint_similarity(
    driving_T173: np.ndarray, detected_T173: np.ndarray, *, confident: float = CONFIDENT
) -> np.ndarray:
    """COCO's OKS (T,) in [0, 1] of each frame; NaN in a frame without a driving body.

    Mean over the driving keypoints of exp(-d^2 / (2 s^2 k^2)), k = 2 sigma, s^2 = 0.53 of the area of the box around
    the driving keypoints: there is no mask whose area it could be. A keypoint that was not found counts 0.

    Raises:
        DataError: As pose_adherence.
    """
    driving, detected = _checked(driving_T173, "driving"), _checked(detected_T173, "detected")
    wanted = _counts_for(driving, confident)
    found = wanted & _counts_for(detected, confident)
    area_T = AREA_OF_BOX * _body_extents(driving, confident).prod(axis=1)
    usable_T = np.isfinite(area_T) & (area_T >= _MIN_DIAGONAL_PX**2 / 2)
    squared = ((driving[..., :2] - detected[..., :2]) ** 2).sum(axis=-1)
    spread = 2.0 * np.where(usable_T, area_T, 1.0)[:, None] * (2.0 * OKS_SIGMAS) ** 2
    similarity = np.where(found, np.exp(-squared / spread), 0.0)
    counted = np.where(usable_T, wanted.sum(axis=1), 0)
    return np.where(counted > 0, similarity.sum(axis=1) / np.maximum(counted, 1), np.nan)


def jitter_ratio(
    driving_T173: np.ndarray, detected_T173: np.ndarray, *, confident: float = CONFIDENT
) -> tuple[float, int]:
    """Mean norm of the third difference of the detected over that of the driving keypoints, and its number of terms.

    A term is a keypoint in four frames in a row that both clips have. NaN where there is none, or where the driving
    keypoints stand still (under a thousandth of a pixel).

    Raises:
        DataError: As pose_adherence.
    """
    driving, detected = _checked(driving_T173, "driving"), _checked(detected_T173, "detected")
    both = _counts_for(driving, confident) & _counts_for(detected, confident)
    if len(both) < 4:
        return float("nan"), 0
    whole = both[:-3] & both[1:-2] & both[2:-1] & both[3:]
    terms = int(whole.sum())
    if not terms:
        return float("nan"), 0
    jerks = [np.linalg.norm(np.diff(points[..., :2], n=3, axis=0), axis=-1)[whole] for points in (driving, detected)]
    wanted, seen = (float(jerk.mean()) for jerk in jerks)
    return (seen / wanted if wanted > 1e-3 else float("nan")), terms


def body_diagonals(keypoints_T173: np.ndarray, confident: float = CONFIDENT) -> np.ndarray:
    """Diagonal (T,) in pixels of the box around the keypoints that count in each frame; NaN without any."""
    return np.hypot(*_body_extents(keypoints_T173, confident).T)


def to_resolution(keypoints_TK3: np.ndarray, size: tuple[int, int], new_size: tuple[int, int]) -> np.ndarray:
    """Keypoints (T, K, 3) of a picture of ``size`` (width, height) in the pixels of one of ``new_size``.

    Raises:
        DataError: Pictures of different shapes, which no scaling maps onto each other (more than 1% apart).
    """
    scale = np.array(new_size, dtype=np.float64) / np.array(size, dtype=np.float64)
    if abs(scale[0] / scale[1] - 1.0) > 0.01:
        raise DataError(
            f"keypoints of a picture of {size[0]} x {size[1]} for a video of {new_size[0]} x {new_size[1]}",
            expected="the same shape of picture",
        )
    points = np.array(keypoints_TK3, dtype=np.float64)
    points[..., :2] *= scale
    return points


def to_frame_rate(keypoints_TK3: np.ndarray, fps: float, new_fps: float) -> np.ndarray:
    """Keypoints (T, K, 3) at another frame rate: of each new frame's time the nearest old frame's.

    As many seconds as before, to the nearest frame and at least one: what is made of them lasts as long.
    """
    points = np.asarray(keypoints_TK3)
    count = max(1, round(len(points) / fps * new_fps))
    nearest = np.round(np.arange(count) * (fps / new_fps)).astype(int)
    return points[np.minimum(nearest, len(points) - 1)]


def _checked(points: np.ndarray, which: str) -> np.ndarray:
    array = np.asarray(points, dtype=np.float64)
    if array.ndim != 3 or array.shape[1:] != (len(COCO_17), 3) or not len(array):
        raise DataError(f"{which} keypoints have shape {np.shape(points)}", expected="(T, 17, 3): x, y, confidence")
    if not np.isfinite(array).all():
        raise DataError(f"{which} keypoints have NaN or infinite numbers", expected="zeros where nobody was found")
    return array


def _counts_for(points: np.ndarray, confident: float) -> np.ndarray:
    """Which keypoints (T, 17) are there."""
    return (points[..., 2] >= confident) & (points[..., 2] > 0)


def _body_extents(points: np.ndarray, confident: float) -> np.ndarray:
    """Width and height (T, 2) of the box around the keypoints that count; NaN without any."""
    there = _counts_for(points, confident)[..., None]
    low = np.where(there, points[..., :2], np.inf).min(axis=1)
    high = np.where(there, points[..., :2], -np.inf).max(axis=1)
    return np.where(there.any(axis=1), high - low, np.nan)
