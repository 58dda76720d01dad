"""Keypoints of a video, and the body that they make up, in torso lengths.

Shapes: T frames, K keypoints of the source, 17 of COCO. Source coordinates are pixels with y down, the third column is
the detector's confidence in [0, 1]; a missing person is a frame of zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from macedance.errors import DataError
from macedance.motion.files import checked_array, checked_beats, checked_fps
from macedance.motion.skeleton import NUM_JOINTS, OFFSETS_M

#: COCO's order: nose, eyes, ears, shoulders, elbows, wrists, hips, knees, ankles, left before right.
COCO_17: tuple[int, ...] = tuple(range(17))
#: Where the 17 stand in the 25 of easy_ViTPose, which puts the neck at 5 and the hip centre at 14.
COCO_25: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18)
#: Keypoints below this confidence are filled in from the frames around them.
CONFIDENT = 0.3

_LSHOULDER, _RSHOULDER, _LELBOW, _RELBOW, _LWRIST, _RWRIST = 5, 6, 7, 8, 9, 10
_LHIP, _RHIP, _LKNEE, _RKNEE, _LANKLE, _RANKLE = 11, 12, 13, 14, 15, 16
_TORSO = (_LSHOULDER, _RSHOULDER, _LHIP, _RHIP)
#: Height of the shoulders over the hips in the SMPL rest pose: turns torso lengths into metres for thresholds.
TORSO_M = (
    sum(OFFSETS_M[j][1] for j in (3, 6, 9))
    + (OFFSETS_M[13][1] + OFFSETS_M[16][1] + OFFSETS_M[14][1] + OFFSETS_M[17][1] - OFFSETS_M[1][1] - OFFSETS_M[2][1])
    / 2
)


@dataclass(frozen=True)
class KeypointLayout:
    """The order in which a source writes its keypoints.

    Args:
        name: Name in files and reports.
        count: Number K of keypoints.
        coco: Row of each of COCO's 17.
    """

    name: str
    count: int
    coco: tuple[int, ...]


#: COCO's 17; easy_ViTPose's 25; and the 25 that begin with COCO's 17, as MACE-Dance's scripts take them to be.
LAYOUTS: dict[str, KeypointLayout] = {
    layout.name: layout
    for layout in (
        KeypointLayout("coco_17", 17, COCO_17),
        KeypointLayout("coco_25", 25, COCO_25),
        KeypointLayout("coco_17_plus_8", 25, COCO_17),
    )
}
_BY_COUNT = {17: LAYOUTS["coco_17"], 25: LAYOUTS["coco_25"]}


@dataclass(frozen=True)
class KeypointClip:
    """Keypoints of one person in a clip of video.

    Args:
        keypoints: (T, K, 3): two coordinates in pixels, confidence.
        fps: Frames per second.
        genre: Genre label.
        music_beats_s: Beats of its music, seconds from the first frame.
        name: Name of the clip, unique within a set.
        song: Name of its music; None where it is not known.
        layout: Order of the keypoints; None: coco_17 for 17, coco_25 for 25.
        axes: ``yx`` where the first coordinate is the row, as in easy_ViTPose's files.

    Raises:
        DataError: Wrong shape, numbers that are not finite, or a number of keypoints that the layout does not have.
    """

    keypoints: np.ndarray
    fps: float
    genre: str | None = None
    music_beats_s: np.ndarray | None = None
    name: str = ""
    song: str | None = None
    layout: KeypointLayout | None = None
    axes: Literal["xy", "yx"] = "xy"

    def __post_init__(self) -> None:
        shape = np.shape(self.keypoints)
        count = shape[1] if len(shape) == 3 else -1
        layout = self.layout or _BY_COUNT.get(count)
        if layout is None or layout.count != count:
            known = ", ".join(f"{known.name} ({known.count})" for known in LAYOUTS.values())
            raise DataError(f"keypoints have shape {shape}", expected=f"(T, K, 3) in one of the layouts {known}")
        if self.axes not in ("xy", "yx"):
            raise DataError(f"axes is {self.axes!r}", expected="xy or yx")
        object.__setattr__(self, "layout", layout)
        object.__setattr__(self, "keypoints", checked_array(self.keypoints, "keypoints", (count, 3)))
        object.__setattr__(self, "fps", checked_fps(self.fps))
        if self.music_beats_s is not None:
            object.__setattr__(self, "music_beats_s", checked_beats(self.music_beats_s))


def coco_keypoints(clip: KeypointClip) -> np.ndarray:
    """COCO's 17 (T, 17, 3) of a clip, float64: x, y, confidence, in pixels with y down."""
    layout = clip.layout
    assert layout is not None  # set by the clip itself
    points = clip.keypoints[:, layout.coco].astype(np.float64)
    return points[..., [1, 0, 2]] if clip.axes == "yx" else points


def uncertain_keypoints(clip: KeypointClip) -> int:
    """How many of the T x 17 keypoints are below CONFIDENT and therefore filled in by ``body_in_torso_lengths``."""
    return int((coco_keypoints(clip)[..., 2] < CONFIDENT).sum())


def body_in_torso_lengths(clip: KeypointClip) -> np.ndarray:
    """The body (T, 17, 3), float64: x right, y up, z 0, in the clip's median torso length, from the first mid-hip.

    Keypoints below CONFIDENT are interpolated linearly over time from the frames that have them; one that no frame has
    stays with the middle of the hips. The torso goes from the middle of the hips to that of the shoulders.

    Raises:
        DataError: No frame with both shoulders and both hips, or a torso without length; says the clip's name.
    """
    points = coco_keypoints(clip)
    seen = points[..., 2] >= CONFIDENT
    whole = seen[:, _TORSO].all(axis=1)
    if not whole.any():
        raise DataError(
            "no frame shows both shoulders and both hips",
            where=clip.name or None,
            expected=f"confidence of at least {CONFIDENT:g}",
        )
    filled = _filled(points[..., :2], seen)
    hips = filled[:, (_LHIP, _RHIP)].mean(axis=1)
    never = ~seen.any(axis=0)
    filled[:, never] = hips[:, None]
    torso = filled[:, (_LSHOULDER, _RSHOULDER)].mean(axis=1) - hips
    length = float(np.median(np.linalg.norm(torso[whole], axis=1)))
    if length < 1e-6:
        raise DataError("the torso has no length", where=clip.name or None, expected="shoulders above hips")
    body = np.zeros((len(filled), len(COCO_17), 3))
    body[..., :2] = (filled - hips[0]) / length * np.array([1.0, -1.0])
    return body


def smpl_like(body: np.ndarray) -> np.ndarray:
    """COCO bodies (..., 17, 3) as 24 joints in SMPL's order (..., 24, 3), for features that name such joints.

    The spine is divided evenly between the middles of the hips and of the shoulders, the head is the nose, hands are
    wrists and toes are ankles.
    """
    hips = (body[..., _LHIP, :] + body[..., _RHIP, :]) / 2
    shoulders = (body[..., _LSHOULDER, :] + body[..., _RSHOULDER, :]) / 2
    joints = np.empty((*body.shape[:-2], NUM_JOINTS, 3))
    for joint, share in ((0, 0.0), (3, 0.25), (6, 0.5), (9, 0.75), (12, 1.0)):
        joints[..., joint, :] = hips + share * (shoulders - hips)
    joints[..., 15, :] = body[..., 0, :]
    for joint, row in {
        1: _LHIP, 2: _RHIP, 4: _LKNEE, 5: _RKNEE, 7: _LANKLE, 8: _RANKLE, 10: _LANKLE, 11: _RANKLE,
        13: _LSHOULDER, 14: _RSHOULDER, 16: _LSHOULDER, 17: _RSHOULDER, 18: _LELBOW, 19: _RELBOW,
        20: _LWRIST, 21: _RWRIST, 22: _LWRIST, 23: _RWRIST,
    }.items():  # fmt: skip
        joints[..., joint, :] = body[..., row, :]
    return joints


def _filled(points: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Points (T, 17, 2) with those not seen interpolated from those that are."""
    filled = points.copy()
    time = np.arange(len(points))
    for joint in np.flatnonzero(~seen.all(axis=0) & seen.any(axis=0)):
        have = seen[:, joint]
        for axis in range(2):
            filled[:, joint, axis] = np.interp(time, time[have], points[have, joint, axis])
    return filled
