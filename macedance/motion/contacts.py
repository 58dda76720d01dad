"""Foot contacts of the motion representation.

Source: EDGE (Tseng et al., CVPR 2023) labels a foot joint in contact while it moves less than 0.01 m a frame at 30 fps;
here the threshold is the speed that this means, so that other frame rates get the same labels.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import pad

from macedance.motion.skeleton import FOOT_JOINTS

CONTACT_SPEED_M_S = 0.3


def foot_contacts(joints: Tensor, fps: float) -> Tensor:
    """Contacts (..., T, 4) in {0, 1} of joints (..., T, 24, 3) in metres, order FOOT_JOINTS, in the joints' dtype.

    A joint is in contact in frame t when it moves slower than 0.3 m/s (3-D norm, no height test) from t to t + 1. The
    last frame has no successor and counts as contact. Needs no up axis.
    """
    feet = joints[..., FOOT_JOINTS, :]
    step = (feet[..., 1:, :, :] - feet[..., :-1, :, :]).norm(dim=-1)
    # Zero displacement after the last frame: labelled contact, as the published data are.
    speed_m_s = pad(step, (0, 0, 0, 1)) * fps
    return (speed_m_s < CONTACT_SPEED_M_S).to(joints.dtype)
