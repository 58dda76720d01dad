"""Foot contact in a video against foot contact in the motion that drives it.

Shapes: T frames, 24 joints of SMPL in metres (y up), 17 keypoints of COCO in pixels (y down). A mask is (T, 2) bool,
left foot and right foot.

A video has no metres: one is the length in pixels that the clip's median torso gives it (TORSO_M of the rest pose). It
has no floor either: the lower ankle of the last and next half second stands on it, which a step towards the camera
moves slowly and a jump does not.
"""

from __future__ import annotations

import numpy as np

from macedance.errors import DataError
from macedance.metrics.keypoints import TORSO_M, KeypointClip, body_in_torso_lengths

_ANKLES, _TOES = (7, 8), (10, 11)
_COCO_ANKLES = (15, 16)
#: A foot of the driving motion touches the floor below this height and this speed.
CONTACT_HEIGHT_M = 0.05
CONTACT_SPEED_M_S = 0.15
#: The same for an ankle in a video, which rolls over a standing foot and trembles. Chosen on 24 dances of the built-in
#: corpus: their projected joints agree with the motion's own contacts to an IoU of .95 before a camera that stands, .92
#: before one that follows the dancer, .94 with a pixel of noise at 640 pixels (feet always down: .76). On 10 videos of
#: 5 other dances BlazePose's keypoints reach .96 and the projected joints .97 (feet always down: .87).
VIDEO_HEIGHT_M = 0.10
VIDEO_SPEED_M_S = 0.20
_FLOOR_WINDOW_S = 0.5
_SMOOTHING_S = 0.04


def contact_mask_of_joints(joints_TJ3: np.ndarray, fps: float, *, up_axis: int = 1) -> np.ndarray:
    """Which feet (T, 2) of joints (T, J, 3) in metres stand on the floor in each frame.

    The toe joint is at most 0.05 m above the floor, the 1st percentile of the height of both toe joints over the clip,
    and moves slower than 0.15 m/s (3-D, central differences).

    Raises:
        DataError: Other shapes, fewer than three frames, or numbers that are not finite.
    """
    joints = np.asarray(joints_TJ3, dtype=np.float64)
    if joints.ndim != 3 or joints.shape[2] != 3 or joints.shape[1] < 12 or len(joints) < 3:
        raise DataError(f"joints have shape {joints.shape}", expected="(T, J, 3) in SMPL's order, T at least 3")
    if not np.isfinite(joints).all():
        raise DataError("joints have NaN or infinite numbers")
    toes = joints[:, _TOES]
    height = toes[..., up_axis] - np.percentile(toes[..., up_axis], 1)
    speed = np.linalg.norm(np.gradient(toes, axis=0), axis=-1) * fps
    return (height <= CONTACT_HEIGHT_M) & (speed < CONTACT_SPEED_M_S)


def contact_mask_of_keypoints(
    keypoints_T173: np.ndarray, fps: float, camera_px: np.ndarray | None = None
) -> np.ndarray:
    """Which feet (T, 2) of keypoints (T, 17, 3) in pixels look as if they stood on the floor.

    An ankle is at most 0.10 m above the lower ankle of the half second before and after, and slower than 0.20 m/s
    (central differences after a Gaussian of 0.04 s), in metres by the torso's length. Keypoints of low confidence are
    filled in over time.

    Args:
        keypoints_T173: Keypoints in pixels with y down.
        fps: Frames per second.
        camera_px: Movement (T - 1, 2) of the background in pixels from each frame to the next, which is taken out.

    Raises:
        DataError: Other shapes, fewer than three frames, or no frame with a whole torso.
    """
    from scipy.ndimage import minimum_filter1d

    ankles = _ankles_m(keypoints_T173, fps, camera_px)
    reach = max(1, round(_FLOOR_WINDOW_S * fps))
    floor = minimum_filter1d(ankles[..., 1].min(axis=1), 2 * reach + 1, mode="nearest")
    return (ankles[..., 1] - floor[:, None] <= VIDEO_HEIGHT_M) & (_speeds(ankles, fps) < VIDEO_SPEED_M_S)


def contact_iou(first_T2: np.ndarray, second_T2: np.ndarray) -> float:
    """Intersection over union in [0, 1] of two contact masks (T, 2), both feet pooled; NaN where neither has contact.

    Raises:
        DataError: Different shapes.
    """
    first, second = np.asarray(first_T2, dtype=bool), np.asarray(second_T2, dtype=bool)
    if first.shape != second.shape or first.ndim != 2 or first.shape[1] != 2:
        raise DataError(
            f"contact masks of shapes {first.shape} and {second.shape}", expected="(T, 2) of the same frames"
        )
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def contact_error(wanted_T2: np.ndarray, seen_T2: np.ndarray) -> float:
    """1 - IoU of the contacts of the driving motion and those seen in the video; NaN where neither has any.

    Raises:
        DataError: Different shapes.
    """
    return 1.0 - contact_iou(wanted_T2, seen_T2)


def contact_error_of_video(
    joints_TJ3: np.ndarray,
    keypoints_T173: np.ndarray,
    fps: float,
    *,
    camera_px: np.ndarray | None = None,
    up_axis: int = 1,
) -> float:
    """Contact error in [0, 1] of a video's keypoints (T, 17, 3) against its driving joints (T, J, 3).

    The value of keypoints that the joints themselves project to is not 0: an ankle in a picture knows less than a toe
    in space. Compare arms with each other, or with that value.

    Raises:
        DataError: As the two masks, or different lengths.
    """
    return contact_error(
        contact_mask_of_joints(joints_TJ3, fps, up_axis=up_axis),
        contact_mask_of_keypoints(keypoints_T173, fps, camera_px),
    )


def skate_speed(
    keypoints_T173: np.ndarray, contact_T2: np.ndarray, fps: float, camera_px: np.ndarray | None = None
) -> float:
    """Mean speed of the ankles in a video while the driving motion has their feet on the floor, metres by torso per s.

    NaN where the mask has no contact.

    Raises:
        DataError: As contact_mask_of_keypoints, or a mask of other frames.
    """
    speed = _speeds(_ankles_m(keypoints_T173, fps, camera_px), fps)
    contact = np.asarray(contact_T2, dtype=bool)
    if contact.shape != speed.shape:
        raise DataError(f"a contact mask of shape {contact.shape}", expected=f"{speed.shape}, as the keypoints")
    return float(speed[contact].mean()) if contact.any() else float("nan")


def _ankles_m(keypoints_T173: np.ndarray, fps: float, camera_px: np.ndarray | None) -> np.ndarray:
    """Smoothed ankles (T, 2, 2): x right, y up, in metres by the torso, in a picture that stands still."""
    from scipy.ndimage import gaussian_filter1d

    points = np.array(keypoints_T173, dtype=np.float64)
    if points.ndim != 3 or points.shape[1:] != (17, 3) or len(points) < 3:
        raise DataError(f"keypoints have shape {points.shape}", expected="(T, 17, 3), T at least 3")
    if camera_px is not None:
        shifts = np.asarray(camera_px, dtype=np.float64)
        if shifts.shape != (len(points) - 1, 2):
            raise DataError(f"camera movement of shape {shifts.shape}", expected=f"({len(points) - 1}, 2)")
        points[1:, :, :2] -= np.cumsum(shifts, axis=0)[:, None]
    body = body_in_torso_lengths(KeypointClip(points, fps))
    return gaussian_filter1d(body[:, _COCO_ANKLES, :2] * TORSO_M, _SMOOTHING_S * fps, axis=0, mode="nearest")


def _speeds(points_m: np.ndarray, fps: float) -> np.ndarray:
    return np.linalg.norm(np.gradient(points_m, axis=0), axis=-1) * fps
