"""What judges the videos of an arm: every metric of single videos that can be had, and why the others cannot.

Shapes: n clips, T frames, J = 24 joints, 17 keypoints of COCO.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from macedance.errors import DataError
from macedance.metrics.honest.contact import (
    contact_error,
    contact_mask_of_joints,
    contact_mask_of_keypoints,
    skate_speed,
)
from macedance.metrics.keypoint_clips import keypoint_clip
from macedance.metrics.keypoints import coco_keypoints
from macedance.metrics.videos import FrameScorer, PerVideoMetric, score_videos
from macedance.vision.flow import PairFlow, camera_motion
from macedance.vision.held import held
from macedance.vision.keypoints import KeypointSource, VideoKeypoints
from macedance.vision.video import Video

if TYPE_CHECKING:
    from macedance.rendering.motion_to_video import Danced
    from macedance.vision.perceptual import Lpips

CONTACT_KEYS: tuple[str, ...] = ("contact_error", "skate_speed")
NO_DRIVING = "nothing says where this arm's joints should be"


@dataclass(frozen=True)
class ArmClip:
    """One clip of an arm, rendered.

    Args:
        name: Name of the clip; the video's too.
        video: What is judged.
        reference_image: Who should be seen in it, (H, W, 3) uint8.
        motion: What drove it; None where that was no motion.
        driving: (T, 17, 3) where the video should show the joints, in its pixels; None where nobody says so.
    """

    name: str
    video: Video
    reference_image: np.ndarray
    motion: Danced | None = None
    driving: np.ndarray | None = None


#: Looks at a clip of an arm, whose position comes first, while its pictures are at hand.
Onlooker = Callable[[int, ArmClip], None]


@dataclass(frozen=True)
class Judge:
    """One metric of the videos of an arm.

    Args:
        keys: What it measures.
        make: Makes the metric for the clips of an arm, whose positions are the ids of their videos; networks are shared
            by all that it makes. The metric must not gather over ranks by itself (``sync_on_compute=False``).
        needs_driving: Whether every clip must have driving keypoints.
    """

    keys: tuple[str, ...]
    make: Callable[[Sequence[ArmClip]], PerVideoMetric]
    needs_driving: bool = False


@dataclass(frozen=True)
class Judges:
    """What judges videos here.

    Args:
        metrics: Each made anew for every arm.
        missing: Key -> why nothing judges it, as "no weights of ... in ...".
        weights: Model -> sha256 of the networks that judge.
        settings: What else the values depend on; part of the hash.
        keypoints: The source of keypoints, which the keypoint-driven arm needs too.
        pictures: The network of LPIPS, for arms that can be compared with the true videos frame by frame.
    """

    metrics: Sequence[Judge] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    keypoints: KeypointSource | None = None
    pictures: Lpips | None = None

    def lacking(self, keys: Sequence[str], reason: str) -> Judges:
        """The same judges, with the reason for more keys that nothing judges."""
        return replace(self, missing={**self.missing, **dict.fromkeys(keys, reason)})

    def score(
        self,
        clips: Sequence[ArmClip],
        progress: Callable[[int, int], None] | None = None,
        also: Sequence[Onlooker] = (),
    ) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Values (n,) by key, NaN where a clip has none, and by key why that may be.

        One clip after the other is judged; what is drawn as it is looked at is drawn once for all who look.

        Args:
            clips: Of one arm.
            progress: Called with (clips done, clips in all).
            also: Who else looks at each clip, called with its position and the clip itself.

        Raises:
            DataError: A video cannot be decoded, or a renderer's video has other frames than its keypoints.
        """
        reasons = dict(self.missing)
        driven = all(clip.driving is not None for clip in clips)
        metrics: list[PerVideoMetric] = []
        for judge in self.metrics:
            if judge.needs_driving and not driven:
                reasons |= dict.fromkeys(judge.keys, NO_DRIVING)
            else:
                metrics.append(judge.make(clips))
        for row, clip in enumerate(clips):
            shown = replace(clip, video=held(clip.video))
            score_videos(metrics, [shown.video], [row])
            for look in also:
                look(row, shown)
            if progress is not None:
                progress(row + 1, len(clips))
        values: dict[str, np.ndarray] = {}
        for metric in metrics:
            for key, found in metric.per_video().items():
                values[key] = np.array([found[number] for number in range(len(clips))], dtype=np.float64)
                reasons[key] = metric.undefined.get(key, "the video has no value")
        return values, reasons


class FootContact(PerVideoMetric):
    """Whether feet stand in a video when they stand in the motion that drives it.

    ``contact_error`` is 1 - IoU of the two contact masks, ``skate_speed`` how fast ankles move in metres by torso per
    second while the motion has their feet on the floor; the movement of the camera is taken out of both. See
    macedance.metrics.honest.contact.

    Args:
        clips: The clips whose videos come, told apart by their names.
        source: Finds the keypoints in the videos.
        options: As PerVideoMetric.
    """

    keys = CONTACT_KEYS
    undefined = dict.fromkeys(CONTACT_KEYS, "no driving motion, no torso in sight, or no contact")

    def __init__(self, clips: Sequence[ArmClip], source: KeypointSource, **options: Any) -> None:
        super().__init__(**options)
        self._motions = {clip.name: clip.motion for clip in clips}
        self.source = source

    @property
    def weights(self) -> dict[str, str]:
        """Of the source of keypoints."""
        return dict(self.source.weights)

    @property
    def settings(self) -> dict[str, Any]:
        """What the values depend on."""
        return super().settings | {"keypoints": self.source.name, **self.source.settings}

    def scorer(self, video: Video) -> FrameScorer:
        """A scorer of the video of one of the clips; raises DataError where the source leaves frames out."""
        return _ContactScorer(self._motions[video.name], video, self.source(video))


class _ContactScorer:
    """Follows the camera while the pictures pass; the keypoints are known."""

    def __init__(self, motion: Danced | None, video: Video, found: VideoKeypoints) -> None:
        self._motion, self._fps, self._boxes, self._name = motion, video.fps, found.boxes, video.name
        self._detected = coco_keypoints(keypoint_clip(found))
        self._flow = PairFlow(video.fps)
        self._shifts = np.zeros((max(0, len(self._detected) - 1), 2))

    def add(self, frames_TCHW: Tensor) -> None:
        if self._motion is None:
            return
        for pair in self._flow.add(frames_TCHW.permute(0, 2, 3, 1).cpu().numpy()):
            steps = pair.second_frame - pair.first_frame
            if pair.second_frame >= len(self._boxes):
                raise DataError(
                    f"keypoints of {len(self._boxes)} frames for a video of more than {pair.second_frame}",
                    where=self._name,
                    expected="one for each frame",
                )
            box = self._boxes[pair.first_frame] * pair.scale
            self._shifts[pair.first_frame : pair.second_frame] = (
                camera_motion(pair.forward_hw2, box) / pair.scale / steps
            )

    def result(self) -> dict[str, tuple[float, int]]:
        undefined = dict.fromkeys(CONTACT_KEYS, (float("nan"), 0))
        if self._motion is None:
            return undefined
        from macedance.rendering.motion_to_video import at_rate, joints_of

        joints = joints_of(at_rate(self._motion, self._fps))
        # A true video may be a little longer or shorter than its motion; what was rendered is not.
        count = min(len(joints), len(self._detected))
        detected, shifts = self._detected[:count], self._shifts[: max(0, count - 1)]
        try:
            wanted = contact_mask_of_joints(joints[:count], self._fps)
            error = contact_error(wanted, contact_mask_of_keypoints(detected, self._fps, shifts))
            speed = skate_speed(detected, wanted, self._fps, shifts)
        except DataError:
            # Too short, or no frame with a whole torso: no value, counted with the reason in ``undefined``.
            return undefined
        return {"contact_error": (error, count), "skate_speed": (speed, int(wanted.sum()))}
