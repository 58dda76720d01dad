"""The presets: ``clean``, for joints and for keypoints, and the five published conventions with their flaws.

Shapes: B clips, T frames, J = 24 joints, K keypoints.

A published preset applies its constants (frame times, widths in frames) to the frames as they come; nothing is
resampled. What its paper does not print is given all the same: ``bas_motion`` and ``bas_shuffled`` with its constants,
``foot_skating`` (but for LODGE's), ``pbc`` and ``jerk`` as in ``clean``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from macedance.errors import ConfigError
from macedance.metrics.conventions import SCALARS, BeatConvention, Clip, Measured, Preset, Window, no_scalars, points_of
from macedance.metrics.functional.foot import (
    foot_skating,
    foot_skating_published,
    physical_body_contact,
    physical_foot_contact,
)
from macedance.metrics.functional.geometric import geometric_features
from macedance.metrics.functional.kinetic import Acceleration, kinetic_features, kinetic_features_convolved
from macedance.metrics.functional.planar import (
    NUM_KEYPOINTS,
    planar_geometric_features,
    planar_kinetic_features,
)
from macedance.metrics.functional.plausibility import bone_length_variation, floor_penetration_m
from macedance.metrics.functional.smoothness import mean_jerk
from macedance.metrics.keypoints import COCO_17, TORSO_M, KeypointClip, body_in_torso_lengths, smpl_like
from macedance.motion.files import JointClip

Centring = Literal["none", "first_root", "root_relative"]

#: Half the width of the smoothing of kinetic features: two frames of 30-fps data.
SMOOTHING_S = 2.0 / 30.0
#: PFC as published counts displacements per frame: what seconds are turned into at this rate.
PFC_FPS = 30.0


@dataclass(frozen=True)
class MotionPreset(Preset):
    """Conventions for 3-D joints; the defaults are those of ``clean``.

    Args:
        num_joints: The first so many joints are used for features; 22 leaves out the hands.
        centring: ``first_root``: minus the first frame's root. ``root_relative``: then all joints but the root minus
            the root of their own frame. ``none``: as they are.
        quarter_turn: Turn the joints by 90 degrees about z first (x' = -y, y' = x), as MACE-Dance's released script.
        convolved: The vectorised kinetic features of MEGADance, kinetic_features_convolved.
        kinetic_frame_s: Seconds between frames for the kinetic features; None takes the clip's own.
        half_window: Frames on either side of the kinetic smoothing; None takes 1/15 s.
        acceleration: See kinetic_features.
        geometric_frame_s: Seconds between frames for the geometric features; None takes the clip's own.
        per_frame_pfc: PFC from displacements per frame, whatever the frame rate.
        pfc_up_axis: Axis that PFC takes for the upward one, after the quarter turn.
        published_skating: LODGE's ratio, the feet apart, instead of ours.
    """

    num_joints: int = 24
    centring: Centring = "first_root"
    quarter_turn: bool = False
    convolved: bool = False
    kinetic_frame_s: float | None = None
    half_window: int | None = None
    acceleration: Acceleration = "correct"
    geometric_frame_s: float | None = None
    per_frame_pfc: bool = False
    pfc_up_axis: int = 1
    published_skating: bool = False

    def turned(self, joints: Tensor) -> Tensor:
        """Joints (..., T, 24, 3) in float64, turned if the convention turns them."""
        joints = joints.double()
        if not self.quarter_turn:
            return joints
        return torch.stack([-joints[..., 1], joints[..., 0], joints[..., 2]], dim=-1)

    def placed(self, joints: Tensor) -> Tensor:
        """Joints (..., T, 24, 3) turned, cut to ``num_joints`` and centred, float64."""
        joints = self.turned(joints)[..., : self.num_joints, :]
        if self.centring == "none":
            return joints
        joints = joints - joints[..., :1, :1, :]
        if self.centring == "first_root":
            return joints
        root = joints[..., :1, :]
        return torch.cat([root, joints[..., 1:, :] - root], dim=-2)

    def kinetic(self, joints: Tensor, fps: float) -> Tensor:
        """Kinetic features (..., kinetic_dims) of joints (..., T, 24, 3) in metres.

        Raises:
            DataError: Fewer than three frames.
        """
        frame_s = 1.0 / fps if self.kinetic_frame_s is None else self.kinetic_frame_s
        half = _half_window(fps) if self.half_window is None else self.half_window
        placed = self.placed(joints)
        if self.convolved:
            features = kinetic_features_convolved(placed, frame_s, half_window=half)
        else:
            features = kinetic_features(placed, frame_s, acceleration=self.acceleration, half_window=half)
        return features[..., : self.kinetic_dims]

    def geometric(self, joints: Tensor, fps: float) -> Tensor:
        """Geometric features (..., 32) of joints (..., T, 24, 3) in metres.

        Raises:
            DataError: Fewer than two frames.
        """
        frame_s = 1.0 / fps if self.geometric_frame_s is None else self.geometric_frame_s
        return geometric_features(self.placed(joints), frame_s)

    def check(self, clip: Clip) -> None:
        """Joints are read."""
        if not isinstance(clip, JointClip):
            raise self.unsuitable(clip, "joints, or poses and trans")

    def points(self, clip: Clip) -> np.ndarray:
        """The joints (T, 24, 3)."""
        return points_of(clip)

    def measure(self, points: Tensor, fps: float) -> Measured:
        """Features, numbers and beats of joints (B, T, 24, 3)."""
        joints = points.double()
        pfc_fps = PFC_FPS if self.per_frame_pfc else fps
        if self.published_skating:
            left, right = foot_skating_published(joints).unbind(-1)
        else:
            left = right = foot_skating(joints, fps)
        scalars = no_scalars(joints) | {
            "skating_left": left,
            "skating_right": right,
            "pfc": physical_foot_contact(self.turned(joints), pfc_fps, up_axis=self.pfc_up_axis),
            "pbc": physical_body_contact(joints, fps),
            "jerk": mean_jerk(joints, fps),
            "bone_length_variation": bone_length_variation(joints),
            "floor_penetration_m": torch.stack([floor_penetration_m(clip) for clip in joints]),
        }
        return Measured(
            self.kinetic(joints, fps),
            self.geometric(joints, fps),
            torch.stack([scalars[name] for name in SCALARS], dim=-1),
            self.beat.motion_beats(joints.numpy(), fps),
        )


@dataclass(frozen=True)
class CleanKeypoints(Preset):
    """``clean`` for keypoints: COCO's 17 in torso lengths, confidence-masked, from the first frame's mid-hip.

    Kinetic features are those of ``clean`` on the 17 keypoints, in torso lengths and seconds. Geometric features are
    the 3-D ones on the flat body with the torso of the SMPL rest pose; those that need a third dimension are dead and
    dropped by the reference's statistics.
    """

    @property
    def missing_reason(self) -> str:
        """Keypoints are neither in metres nor above a floor."""
        return "needs 3-D joints in metres"

    def check(self, clip: Clip) -> None:
        """Keypoints of a body with a torso are read."""
        self.points(clip)

    def points(self, clip: Clip) -> np.ndarray:
        """The body (T, 17, 3) in torso lengths."""
        if not isinstance(clip, KeypointClip):
            raise self.unsuitable(clip, "keypoints")
        return body_in_torso_lengths(clip)

    def measure(self, points: Tensor, fps: float) -> Measured:
        """Features, jerk (torso lengths/s^3) and beats of bodies (B, T, 17, 3)."""
        body = points.double()
        scalars = no_scalars(body) | {"jerk": mean_jerk(body, fps)}
        lifted = torch.from_numpy(smpl_like(body.numpy()) * TORSO_M)
        return Measured(
            kinetic_features(body, 1.0 / fps, half_window=_half_window(fps)),
            geometric_features(lifted, 1.0 / fps),
            torch.stack([scalars[name] for name in SCALARS], dim=-1),
            self.beat.motion_beats(body.numpy(), fps),
        )


@dataclass(frozen=True)
class PublishedKeypoints(Preset):
    """MACE-Dance's released 2-D protocol: pixels, the rows and columns of the file as they stand."""

    @property
    def missing_reason(self) -> str:
        """Keypoints are neither in metres nor above a floor."""
        return "not part of the published 2-D protocol"

    def check(self, clip: Clip) -> None:
        """Keypoints are read, in the number of the released scripts."""
        if not isinstance(clip, KeypointClip) or clip.keypoints.shape[1] != NUM_KEYPOINTS:
            raise self.unsuitable(clip, f"{NUM_KEYPOINTS} keypoints")

    def points(self, clip: Clip) -> np.ndarray:
        """The keypoints (T, 25, 3), zero in the place of the confidence."""
        points = points_of(clip).astype(np.float64)
        points[..., 2] = 0.0
        return points

    def measure(self, points: Tensor, fps: float) -> Measured:
        """Features and beats of keypoints (B, T, 25, 3)."""
        points = points.double()
        scalars = no_scalars(points)
        return Measured(
            planar_kinetic_features(points),
            planar_geometric_features(points),
            torch.stack([scalars[name] for name in SCALARS], dim=-1),
            self.beat.motion_beats(points.numpy(), fps),
        )


def _half_window(fps: float) -> int:
    return max(1, round(SMOOTHING_S * fps))


_FRAMES = BeatConvention(smoothing=5.0, tolerance=3.0, in_frames=True)

#: Seconds and metres, never frames; correct acceleration; dead dimensions dropped. The default everywhere.
CLEAN = MotionPreset(name="clean")
#: The same for keypoints, which are told by their kind.
CLEAN_KEYPOINTS = CleanKeypoints(name="clean", kinetic_dims=3 * len(COCO_17))
#: Bailando's scripts for AIST++ (also FACT's, but for the root): 20 s at 60 fps, the reference whole.
BAILANDO_AIST = MotionPreset(
    name="bailando_aist", kinetic_frame_s=1 / 60, half_window=2, acceleration="published", geometric_frame_s=1 / 120,
    std_ddof=0, std_eps=1e-10, dead_std=None, per_frame_pfc=True, beat=_FRAMES, published_fps=60.0,
    window=Window(1200, whole_reference=True),
)  # fmt: skip
#: LODGE's scripts for FineDance: 22 joints, all but the root relative to it, the first 1024 frames.
LODGE_FINEDANCE = MotionPreset(
    name="lodge_finedance", num_joints=22, kinetic_dims=66, centring="root_relative", kinetic_frame_s=1 / 60,
    half_window=2, acceleration="published", geometric_frame_s=1 / 120, std_ddof=0, std_eps=1e-10, dead_std=None,
    per_frame_pfc=True, published_skating=True, published_fps=30.0, window=Window(1024),
    beat=BeatConvention(smoothing=5.0, tolerance=3.0, in_frames=True, whole_song=True),
)  # fmt: skip
#: MEGADance's: windows of 1024 frames every 512.
MEGADANCE = MotionPreset(
    name="megadance", convolved=True, kinetic_frame_s=1 / 30, half_window=2, geometric_frame_s=1 / 120,
    std_eps=1e-10, dead_std=None, per_frame_pfc=True, beat=_FRAMES, published_fps=30.0, window=Window(1024, 512),
)  # fmt: skip
#: MACE-Dance's 3-D script: slices of 1200 frames, turned so that the dancer's side is taken for up.
MACE3D = MotionPreset(
    name="mace3d", quarter_turn=True, kinetic_dims=66, convolved=True, kinetic_frame_s=1 / 30, half_window=2,
    geometric_frame_s=1 / 120, std_eps=1e-4, dead_std=None, per_frame_pfc=True, pfc_up_axis=2, beat=_FRAMES,
    published_fps=30.0, window=Window(1200, 1200),
)  # fmt: skip
#: MACE-Dance's 2-D protocol: the first 64 frames at 16 fps, each set standardised by itself.
MACE2D = PublishedKeypoints(
    name="mace2d", kinetic_dims=3 * NUM_KEYPOINTS, std_eps=1e-4, dead_std=None, own_statistics=True,
    published_fps=16.0, window=Window(64, leave_out_shorter=True),
    beat=BeatConvention(smoothing=3.5, tolerance=3.0, in_frames=True, reference_music=True),
)  # fmt: skip

JOINT_PRESETS: dict[str, Preset] = {
    preset.name: preset for preset in (CLEAN, BAILANDO_AIST, LODGE_FINEDANCE, MEGADANCE, MACE3D)
}
KEYPOINT_PRESETS: dict[str, Preset] = {preset.name: preset for preset in (CLEAN_KEYPOINTS, MACE2D)}


def presets_for(names: Sequence[str], clips: Sequence[Clip]) -> list[Preset]:
    """The presets of these names for the kind of these clips, joints or keypoints.

    Raises:
        ConfigError: A name that is unknown, or that reads clips of the other kind.
    """
    planar = bool(clips) and isinstance(clips[0], KeypointClip)
    known, other = (KEYPOINT_PRESETS, JOINT_PRESETS) if planar else (JOINT_PRESETS, KEYPOINT_PRESETS)
    wrong = [name for name in names if name not in known]
    if wrong:
        kind = "keypoints" if planar else "joints"
        why = f"the clips hold {kind}" if all(name in other for name in wrong) else "unknown"
        raise ConfigError(f"preset {', '.join(wrong)}: {why}", expected=f"some of {', '.join(known)}")
    return [known[name] for name in names]
