"""Presets: the conventions under which features of a dance are computed and compared.

Shapes: B clips, T frames, J = 24 joints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from macedance.metrics.functional.frechet import Standardization, standardization
from macedance.metrics.functional.geometric import NUM_FEATURES, geometric_features
from macedance.metrics.functional.kinetic import Acceleration, kinetic_features, kinetic_features_convolved

Centring = Literal["none", "first_root", "root_relative"]

#: Half the width of the smoothing of kinetic features: two frames of 30-fps data.
SMOOTHING_S = 2.0 / 30.0


@dataclass(frozen=True)
class MotionPreset:
    """Conventions of the distribution metrics (fid_k, fid_g, div_k, div_g); the defaults are those of ``clean``.

    Args:
        name: Name in reports.
        num_joints: The first so many joints are used; 22 leaves out the hands.
        centring: ``first_root``: minus the first frame's root. ``root_relative``: then all joints but the root minus
            the root of their own frame. ``none``: as they are.
        quarter_turn: Turn the joints by 90 degrees about z first (x' = -y, y' = x), as MACE-Dance's released script.
        convolved: The vectorised kinetic features of MEGADance, kinetic_features_convolved.
        kinetic_dims: The first so many kinetic features are kept.
        kinetic_frame_s: Seconds between frames for the kinetic features; None takes the clip's own.
        half_window: Frames on either side of the kinetic smoothing; None takes 1/15 s.
        acceleration: See kinetic_features.
        geometric_frame_s: Seconds between frames for the geometric features; None takes the clip's own.
        std_ddof: 1 for the unbiased standard deviation of the reference, 0 for the population's.
        std_eps: Added to it.
        dead_std: Dimensions below it are dropped and counted; None keeps all.
    """

    name: str
    num_joints: int = 24
    centring: Centring = "first_root"
    quarter_turn: bool = False
    convolved: bool = False
    kinetic_dims: int = 72
    kinetic_frame_s: float | None = None
    half_window: int | None = None
    acceleration: Acceleration = "correct"
    geometric_frame_s: float | None = None
    std_ddof: int = 1
    std_eps: float = 0.0
    dead_std: float | None = 1e-6

    @property
    def geometric_dims(self) -> int:
        """Number of geometric features."""
        return NUM_FEATURES

    def placed(self, joints: Tensor) -> Tensor:
        """Joints (..., T, 24, 3) turned, cut to ``num_joints`` and centred, float64."""
        joints = joints.double()
        if self.quarter_turn:
            joints = torch.stack([-joints[..., 1], joints[..., 0], joints[..., 2]], dim=-1)
        joints = joints[..., : self.num_joints, :]
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
        half = max(1, round(SMOOTHING_S * fps)) if self.half_window is None else self.half_window
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

    def standardization(self, reference: Tensor) -> Standardization:
        """Standardisation by reference features (n, D).

        Raises:
            DataError: Fewer than two clips.
        """
        return standardization(reference, ddof=self.std_ddof, eps=self.std_eps, dead_std=self.dead_std)


#: Seconds and metres, never frames; correct acceleration; dead dimensions dropped. The default everywhere.
CLEAN = MotionPreset(name="clean")
