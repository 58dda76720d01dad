"""How near a video comes to the true one where its person is: pooled errors over a dilated mask.

Shapes: T frames, H rows, W columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.videos import PerVideoMetric, VideoScore
from macedance.models.appearance_expert.vae_training import dilated, psnr
from macedance.vision.video import Video

NO_PERSON = "no mask of the clip shows a person: it is the mask.npy of its sample"


def person_psnr(made_THW3: np.ndarray, true_THW3: np.ndarray, mask_THW: np.ndarray) -> float:
    """Peak signal to noise in dB over the dilated mask of all frames together; NaN where the mask is empty.

    Args:
        made_THW3: uint8, RGB.
        true_THW3: The true frames, likewise.
        mask_THW: bool, True where the person is.

    Raises:
        DataError: They differ in shape.
    """
    if made_THW3.shape != true_THW3.shape or mask_THW.shape != true_THW3.shape[:3]:
        raise DataError(
            f"frames of shape {made_THW3.shape} and {true_THW3.shape}, a mask of {mask_THW.shape}", expected="one size"
        )
    person = dilated(torch.from_numpy(np.ascontiguousarray(mask_THW))[None])
    return float(psnr(_pixels(made_THW3), _pixels(true_THW3), person))


class PersonPsnr(PerVideoMetric):
    """``psnr_mask``: see `person_psnr`; clips come in through ``update_pair``.

    Args:
        kwargs: As PerVideoMetric.
    """

    keys = ("psnr_mask",)
    undefined = {"psnr_mask": NO_PERSON}

    def scorer(self, video: Video) -> Any:
        """There is none for a single video.

        Raises:
            DataError: Always.
        """
        raise DataError("psnr_mask of a single video", where=video.name, expected="two videos, through update_pair")

    def update_pair(
        self, made_THW3: np.ndarray, true_THW3: np.ndarray, mask_THW: np.ndarray | None, video_id: int
    ) -> None:
        """Take a clip into account; one without a mask has no value, and is counted as such.

        Raises:
            DataError: As `person_psnr`.
        """
        value = float("nan") if mask_THW is None else person_psnr(made_THW3, true_THW3, mask_THW)
        self.update(VideoScore({"psnr_mask": (value, 0 if np.isnan(value) else len(made_THW3))}), video_id)


def _pixels(frames_THW3: np.ndarray) -> Tensor:
    """As (1, 3, T, H, W) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(frames_THW3)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
