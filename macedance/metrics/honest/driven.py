"""Pose adherence of videos whose driving keypoints are known, as a metric; see macedance.metrics.honest.adherence.

Shapes: T frames of a video, 17 keypoints of COCO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.honest.adherence import ADHERENCE_KEYS, pose_adherence
from macedance.metrics.keypoint_clips import keypoint_clip, keypoints_of_video
from macedance.metrics.keypoints import CONFIDENT, coco_keypoints
from macedance.metrics.videos import FrameScorer, PerVideoMetric
from macedance.vision.crops import Recent
from macedance.vision.keypoints import KeypointSource, Progress, VideoKeypoints
from macedance.vision.video import Video

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class KeptKeypoints:
    """A source of keypoints that keeps what it found: of files on disk, by content; of the last videos in memory.

    It is a source of boxes too, so that one look at a video serves pose adherence, identity and motion. A copy of a
    metric shares it.

    Args:
        source: What finds them.
        cache: Where they are kept; None: ``keypoints`` in the cache folder.
    """

    source: KeypointSource
    cache: Path | None = None
    _recent: Recent[VideoKeypoints] = field(default_factory=Recent, init=False, repr=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def name(self) -> str:
        """Name of the source."""
        return self.source.name

    @property
    def layout(self) -> str:
        """Of the source."""
        return self.source.layout

    @property
    def weights(self) -> dict[str, str]:
        """Of the source."""
        return self.source.weights

    @property
    def settings(self) -> dict[str, float | int | str]:
        """Of the source."""
        return self.source.settings

    def __call__(self, video: Video, progress: Progress | None = None) -> VideoKeypoints:
        """Keypoints of a video.

        Raises:
            DataError: The video cannot be decoded.
        """
        return self._recent.of(
            video, lambda shown: keypoints_of_video(shown, self.source, cache=self.cache, progress=progress)
        )

    def boxes(self, video: Video) -> np.ndarray:
        """The dancer's box (T, 4) in every frame, as the source gives it.

        Raises:
            DataError: The video cannot be decoded.
        """
        return self(video).boxes


class PoseAdherence(PerVideoMetric):
    """How well the dancer in a video follows the driving keypoints: ``pck_05 pck_10 oks keypoint_error missing
    jitter_ratio``, each the mean over videos.

    Args:
        source: Finds the keypoints in the videos; KeptKeypoints, where other metrics need them too.
        driving: Video name -> (T, 17, 3) in the video's pixels, one for each of its frames; see ``to_resolution``.
        confident: Confidence from which a keypoint counts.
        options: As PerVideoMetric.
    """

    keys = ADHERENCE_KEYS
    undefined = dict.fromkeys(ADHERENCE_KEYS, "no driving keypoint") | {
        "keypoint_error": "no keypoint was found",
        "jitter_ratio": "no keypoint found in four frames in a row, or driving keypoints that stand still",
    }

    def __init__(
        self,
        source: KeypointSource,
        driving: Mapping[str, np.ndarray],
        *,
        confident: float = CONFIDENT,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.source, self.driving, self.confident = source, driving, confident

    @property
    def weights(self) -> dict[str, str]:
        """Of the source of keypoints."""
        return dict(self.source.weights)

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return super().settings | {
            "keypoints": self.source.name,
            "confident": self.confident,
            **self.source.settings,
        }

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of this video, which looks at it by itself.

        Raises:
            DataError: It has no driving keypoints, or as many as it has frames are not given; says its name.
        """
        if video.name not in self.driving:
            raise DataError(f"no driving keypoints of {video.name!r}", expected="(frames, 17, 3) for every video")
        detected = coco_keypoints(keypoint_clip(self.source(video)))
        try:
            found = pose_adherence(self.driving[video.name], detected, fps=video.fps, confident=self.confident)
        except DataError as error:
            raise DataError(error.what, where=video.name, expected=error.expected, fix=error.fix) from error
        return _Known(found.terms())


@dataclass
class _Known:
    """What a scorer that needs no pictures says."""

    terms: dict[str, tuple[float, int]]

    def add(self, frames_TCHW: Tensor) -> None:
        """The keypoints are known."""

    def result(self) -> dict[str, tuple[float, int]]:
        return self.terms
