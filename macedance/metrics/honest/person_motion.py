"""How much the person in a video moves, and whether what moves stays itself: two things a still video cannot fake.

Shapes: T frames, P pairs of them, H rows, W columns; h, w of the scaled picture. Boxes are left, top, right, bottom.

Person motion: mean length of the flow inside the dancer's box, the camera's movement taken out, in body heights per
second. A body height is the median height of the boxes of the clip. Background inside the box stands still and counts:
on 8 rendered dances the value is 0.46 to 0.64 of the joints' mean speed in the picture and ranks the dances as that
does (rank correlation .98, before a camera that stands and one that follows; of the whole picture .64 to .79). A loose
box holds more background and a taller body: the same dance has .11 in tight boxes and .07 in BlazePose's, which are
wider. Compare values of one detector only.

Warp error: mean absolute difference, in percent of the range of a pixel, between a picture and the next one pulled back
along the flow, over pixels that both show (Lai et al., ECCV 2018, with an absolute difference). A video of
mist has few such pixels: read it beside ``warp_valid``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from macedance.metrics.statistics import Entry
from macedance.metrics.videos import FrameScorer, PerVideoMetric
from macedance.vision.crops import BoxSource, box_of_frame, boxes_of
from macedance.vision.flow import (
    PAIRS_PER_SECOND,
    SHORTER_SIDE,
    PairFlow,
    PicturePair,
    box_mask,
    camera_motion,
    pulled_back,
    visible_in_both,
)
from macedance.vision.video import Video

_MOTION = "person_motion"
_ERROR, _PERSON, _BACKGROUND, _VALID = "warp_error", "warp_error_person", "warp_error_background", "warp_valid"
WARP_KEYS: tuple[str, ...] = (_ERROR, _PERSON, _BACKGROUND, _VALID)
WHOLE_FRAME_NOTE = "no person detector: of the whole picture, in picture heights per second"
_NO_DETECTOR = "no person detector"


def motion_amplitude(
    flow_hw2: np.ndarray, pairs_per_s: float, box: np.ndarray | None = None, body_height_px: float | None = None
) -> float:
    """Mean length of the flow (h, w, 2) in the box, less the camera's, in body heights per second.

    Args:
        flow_hw2: Movement in pixels from a picture to the next.
        pairs_per_s: How many such steps a second has.
        box: The person's in the same pixels; None: the whole picture.
        body_height_px: Of the person; None: the picture's height.

    Returns:
        At least 0; NaN for a box that holds no pixel.
    """
    inside = flow_hw2[box_mask(flow_hw2.shape, box)] if box is not None else flow_hw2.reshape(-1, 2)
    if not len(inside):
        return float("nan")
    residual = np.linalg.norm(inside - camera_motion(flow_hw2, box), axis=-1)
    return float(residual.mean()) * pairs_per_s / (body_height_px or flow_hw2.shape[0])


def person_motion(frames_THW3: np.ndarray, fps: float, boxes_T4: np.ndarray | None = None) -> float:
    """Person motion of a clip (T, H, W, 3) uint8 RGB in body heights per second.

    Args:
        frames_THW3: The pictures.
        fps: Frames per second.
        boxes_T4: The person's box in each; None: of the whole picture, in picture heights per second.

    Returns:
        Mean over pairs of pictures; NaN with fewer than two, or without a box.
    """
    scorer = _FlowScorer(fps, boxes_T4, warp=False)
    scorer.add_pictures(frames_THW3)
    return scorer.result()[_MOTION][0]


def camera_path(frames_THW3: np.ndarray, fps: float, boxes_T4: np.ndarray | None = None) -> np.ndarray:
    """Movement (T - 1, 2) of the background in pixels from each frame to the next, as contact in a video needs it."""
    flow = PairFlow(fps)
    shifts = np.zeros((max(0, len(frames_THW3) - 1), 2))
    for pair in flow.add(frames_THW3):
        box = None if boxes_T4 is None else box_of_frame(boxes_T4, pair.first_frame) * pair.scale
        steps = pair.second_frame - pair.first_frame
        shifts[pair.first_frame : pair.second_frame] = camera_motion(pair.forward_hw2, box) / pair.scale / steps
    return shifts


def warp_errors(pair: PicturePair, box: np.ndarray | None = None) -> dict[str, tuple[float, int]]:
    """Warp error of a pair with its flow back: key of WARP_KEYS -> (sum over pixels, pixels).

    ``warp_valid`` sums the pixels that both pictures show over all pixels. Person and background are what is inside and
    outside the box; both are without a pixel where there is none.
    """
    assert pair.backward_hw2 is not None  # PairFlow was asked for it
    both = visible_in_both(pair.forward_hw2, pair.backward_hw2)
    difference = np.abs(pulled_back(pair.second_hw3, pair.forward_hw2) - pair.first_hw3).mean(axis=-1) / 2.55
    inside = box_mask(both.shape, box)
    regions = {_ERROR: both, _PERSON: both & inside, _BACKGROUND: both & ~inside & inside.any()}
    sums = {key: (float(difference[mask].sum()), int(mask.sum())) for key, mask in regions.items()}
    return sums | {_VALID: (float(both.sum()), both.size)}


class VideoMotion(PerVideoMetric):
    """Person motion and warp error of videos, from one optical flow.

    Args:
        boxes: Says where the dancer is; None: motion is the whole picture's, which the result says, and the warp error
            is not divided.
        warp: Also the warp error, which costs a second flow.
        kwargs: As PerVideoMetric.

    ``warp_error`` and its parts are in percent of a pixel's range, as is what temporal flickering lacks of 100;
    ``warp_valid`` in [0, 1] is the share of pixels behind them. ``n_frames`` counts pairs of pictures.
    """

    #: Of a metric with the warp error; one without has the first only.
    all_keys: tuple[str, ...] = (_MOTION, *WARP_KEYS)

    def __init__(self, boxes: BoxSource | None = None, *, warp: bool = True, **kwargs: Any) -> None:
        self.keys = self.all_keys if warp else (_MOTION,)
        super().__init__(**kwargs)
        self.boxes, self.warp = boxes, warp
        nobody = "no pair of pictures" if boxes is None else "no pair of pictures with a person in it"
        self.undefined: Mapping[str, str] = {
            _MOTION: nobody,
            _ERROR: "no pair of pictures shows the same thing",
            _PERSON: _NO_DETECTOR if boxes is None else nobody,
            _BACKGROUND: _NO_DETECTOR if boxes is None else nobody,
            _VALID: "no pair of pictures",
        }

    @property
    def weights(self) -> dict[str, str]:
        """Of what finds the dancer."""
        return {} if self.boxes is None else self.boxes.weights

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return super().settings | {
            "flow": "OpenCV DIS fast",
            "flow_shorter_side": SHORTER_SIDE,
            "flow_pairs_per_s": PAIRS_PER_SECOND,
            "person": "whole picture" if self.boxes is None else self.boxes.name,
        }

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of this video; finds the dancer in it first."""
        boxes = None if self.boxes is None else boxes_of(self.boxes, video)
        return _FlowScorer(video.fps, boxes, warp=self.warp)

    def compute(self) -> dict[str, Entry]:
        """As PerVideoMetric, with a ``note`` where the motion is not the person's."""
        found = super().compute()
        if self.boxes is None:
            found[_MOTION]["note"] = WHOLE_FRAME_NOTE
        return found


@dataclass
class _FlowScorer:
    """Sums over the pairs of one video."""

    fps: float
    boxes_T4: np.ndarray | None
    warp: bool
    _flow: PairFlow = field(init=False)
    _body_height_px: float | None = field(default=None, init=False)
    _amplitudes: list[float] = field(default_factory=list, init=False)
    _errors: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in WARP_KEYS}, init=False)

    def __post_init__(self) -> None:
        self._flow = PairFlow(self.fps, backward=self.warp)
        if self.boxes_T4 is not None and np.isfinite(self.boxes_T4).all(axis=1).any():
            self._body_height_px = float(np.nanmedian(self.boxes_T4[:, 3] - self.boxes_T4[:, 1]))

    def add(self, frames_TCHW: Tensor) -> None:
        self.add_pictures(frames_TCHW.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy())

    def add_pictures(self, frames_tHW3: np.ndarray) -> None:
        for pair in self._flow.add(frames_tHW3):
            box = None if self.boxes_T4 is None else box_of_frame(self.boxes_T4, pair.first_frame) * pair.scale
            height = None if self._body_height_px is None else self._body_height_px * pair.scale
            amplitude = motion_amplitude(pair.forward_hw2, self._flow.pairs_per_s, box, height)
            if np.isfinite(amplitude):
                self._amplitudes.append(amplitude)
            if self.warp:
                for key, (total, pixels) in warp_errors(pair, box).items():
                    if pixels:
                        self._errors[key].append(total / pixels)

    def result(self) -> dict[str, tuple[float, int]]:
        values = {_MOTION: self._amplitudes} | (self._errors if self.warp else {})
        return {key: (float(np.mean(terms)) if terms else float("nan"), len(terms)) for key, terms in values.items()}
