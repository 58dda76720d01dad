"""The arms of a cascade comparison: the same clips through one renderer, driven by better and worse motion.

Shapes: T frames, H rows, W columns, J = 24 joints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from macedance.errors import DataError
from macedance.metrics.cascade.judges import ArmClip, Judges
from macedance.metrics.cascade.pixels import OTHER_DANCE, PIXEL_KEYS, PixelScorer
from macedance.metrics.cascade.scores import DISTANCE, GENERATED, GROUND_TRUTH, REAL, VIDEO_KEYPOINTS, ArmScores
from macedance.metrics.cascade.sets import SET_KEYS, Looking, WindowLooker
from macedance.metrics.honest.adherence import to_frame_rate, to_resolution
from macedance.metrics.keypoint_clips import keypoint_clip
from macedance.metrics.keypoints import coco_keypoints
from macedance.metrics.motion import MIN_FRAMES, per_clip_values
from macedance.metrics.perturbations import NUM_LEVELS, PERTURBATIONS, perturb
from macedance.metrics.presets import CLEAN
from macedance.motion.files import JointClip
from macedance.vision.video import Video

if TYPE_CHECKING:
    from macedance.rendering.motion_to_video import Danced, MotionRenderer

#: Key of the driving motion's own value -> key of ``clean``.
MOTION_KEYS: dict[str, str] = {
    "motion_foot_skating": "foot_skating", "motion_pfc": "pfc", "motion_jerk": "jerk", "motion_bas": "bas",
}  # fmt: skip
#: Arms that no motion has driven -> what did.
_UNDRIVEN: dict[str, str] = {
    REAL: "no motion has driven the true video",
    VIDEO_KEYPOINTS: "driven by keypoints, not by a motion",
}
#: What disturbs the ground truth, unless others are asked for.
DEFAULT_PERTURBATIONS: tuple[str, ...] = ("noise", "jitter", "foot_slide")
#: Called with (arm, clips done, clips in all).
ArmProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class CascadeClip:
    """A clip of the reference set.

    Args:
        name: Name of the clip, unique within the set.
        motion: The true motion.
        reference_image: Who dances, (H, W, 3) uint8; None: the renderer's own picture for this motion.
        video: The true video; None where there is none.
    """

    name: str
    motion: Danced
    reference_image: np.ndarray | None = None
    video: Video | None = None


class Cascade:
    """Renders and judges the arms of a comparison for some clips: all of them, or one rank's share.

    Arms that do not depend on the generated motions are measured once and kept, so that a callback pays for them in its
    first epoch only.

    Args:
        clips: The reference's clips.
        renderer: What turns motion into video.
        judges: What judges the videos.
        looker: What distances between sets of videos are computed from; None: there are none.
        perturbations: Names of PERTURBATIONS; each gives three arms.
        levels: Which levels of them.
        seed: Of rendering and perturbations.
        folder: Where videos are kept as ``<arm>/<clip>.mp4``, and judged as they are read from there; None: nowhere,
            and what the renderer draws is judged.
        progress: Called with (arm, clips done, clips in all).

    Raises:
        DataError: Two clips of one name.
        ConfigError: An unknown perturbation or level, when it is first measured.
    """

    def __init__(
        self,
        clips: Sequence[CascadeClip],
        renderer: MotionRenderer,
        judges: Judges,
        *,
        looker: WindowLooker | None = None,
        perturbations: Sequence[str] = DEFAULT_PERTURBATIONS,
        levels: Sequence[int] = tuple(range(1, NUM_LEVELS + 1)),
        seed: int = 0,
        folder: Path | None = None,
        progress: ArmProgress | None = None,
    ) -> None:
        names = [clip.name for clip in clips]
        twins = sorted({name for name in names if names.count(name) > 1})
        if twins:
            raise DataError(f"several clips of one name: {', '.join(twins)}", expected="one clip for each name")
        self.clips = list(clips)
        self.renderer, self.judges, self.looker = renderer, judges, looker
        self.perturbations, self.levels = tuple(perturbations), tuple(levels)
        self.seed, self.folder, self.progress = seed, folder, progress
        self._pictures: dict[str, np.ndarray] = {}
        self._fixed: list[ArmScores] | None = None

    @property
    def arms(self) -> list[str]:
        """Names of all arms, in the order of reports."""
        return [GROUND_TRUTH, REAL, VIDEO_KEYPOINTS, GENERATED, *self._perturbed()]

    def fixed_arms(self) -> list[ArmScores]:
        """Scores of all arms but the generated one; measured with the first call.

        Raises:
            DataError: A motion that the renderer refuses, or a video that cannot be read.
        """
        if self._fixed is None:
            truth = {clip.name: clip.motion for clip in self.clips}
            arms = [self.driven(GROUND_TRUTH, truth), self._real(), self._by_keypoints()]
            for arm, (kind, level) in self._perturbed().items():
                arms.append(self._disturbed(arm, kind, level))
            self._fixed = arms
        return self._fixed

    def generated(self, motions: Mapping[str, Danced]) -> ArmScores:
        """Scores of the cascade: the clips driven by generated motions, by name; a clip without one is left out."""
        return self.driven(GENERATED, motions)

    def driven(self, arm: str, motions: Mapping[str, Danced], left_out: Mapping[str, str] | None = None) -> ArmScores:
        """Scores of an arm that motions drive; a clip without one is left out, with the reason given or that one.

        Raises:
            DataError: A motion of another clip, one that the renderer refuses, or a video that cannot be written.
        """
        unknown = sorted(motions.keys() - {clip.name for clip in self.clips})
        if unknown:
            raise DataError(
                f"motions of unknown clips: {', '.join(unknown)}", expected="names of the reference's clips"
            )
        reasons = {clip.name: "no motion" for clip in self.clips if clip.name not in motions} | dict(left_out or {})
        rendered = []
        for clip in self.clips:
            if clip.name not in motions:
                continue
            motion, picture = _with_music(motions[clip.name], clip.motion), self.picture(clip)
            video = self.renderer.render(motion, picture, seed=self.seed)
            driving = self.renderer.driving_keypoints(motion)
            rendered.append(ArmClip(clip.name, self._kept(arm, clip.name, video), picture, motion, driving))
        return self._judged(arm, rendered, reasons)

    def picture(self, clip: CascadeClip) -> np.ndarray:
        """The reference image of a clip, the same in every arm."""
        if clip.name not in self._pictures:
            own = clip.reference_image
            self._pictures[clip.name] = self.renderer.reference_image(clip.motion) if own is None else own
        return self._pictures[clip.name]

    def _real(self) -> ArmScores:
        shown = [
            ArmClip(clip.name, replace(clip.video, name=clip.name), self.picture(clip), clip.motion)
            for clip in self.clips
            if clip.video is not None
        ]
        if not shown:
            return ArmScores(REAL, absent="no true videos were given")
        left_out = {clip.name: "no true video" for clip in self.clips if clip.video is None}
        return self._judged(REAL, shown, left_out)

    def _by_keypoints(self) -> ArmScores:
        """The arm that the keypoints of the true videos drive; absent, with the reason, where that cannot be."""
        from macedance.rendering.motion_to_video import KeypointRenderer

        source = self.judges.keypoints
        if not isinstance(self.renderer, KeypointRenderer):
            name = type(self.renderer).__name__
            return ArmScores(
                VIDEO_KEYPOINTS,
                absent=f"{name} is driven by motion in space and has no render_keypoints: keypoints have no depth",
            )
        if source is None:
            return ArmScores(VIDEO_KEYPOINTS, absent="nothing finds keypoints here")
        rendered, left_out = [], {}
        for clip in self.clips:
            if clip.video is None:
                left_out[clip.name] = "no true video"
                continue
            size = (clip.video.width, clip.video.height)
            if why := self._other_shape(size):
                left_out[clip.name] = why
                continue
            found = source(clip.video)
            if found.missing.all():
                left_out[clip.name] = "nobody was found in the true video"
                continue
            fps, picture = self.renderer.fps, self.picture(clip)
            driving = to_frame_rate(coco_keypoints(keypoint_clip(found)), clip.video.fps, fps)
            drawn = self.renderer.render_keypoints(driving, fps, picture, keypoint_size=size, seed=self.seed)
            video = self._kept(VIDEO_KEYPOINTS, clip.name, drawn)
            driving = to_resolution(driving, size, (video.width, video.height))
            rendered.append(ArmClip(clip.name, video, picture, clip.motion, driving))
        if not rendered:
            why = "; ".join(dict.fromkeys(left_out.values())) or "no clips"
            return ArmScores(VIDEO_KEYPOINTS, left_out=left_out, absent=why)
        return self._judged(VIDEO_KEYPOINTS, rendered, left_out)

    def _other_shape(self, size: tuple[int, int]) -> str:
        """Why keypoints of a video of this size cannot be found again in what the renderer draws; empty: they can."""
        drawn = self.renderer.settings.get("size")
        if drawn is None:
            return ""
        try:
            to_resolution(np.zeros((1, 1, 3)), size, tuple(drawn))
        except DataError as error:
            return error.what
        return ""

    def _disturbed(self, arm: str, kind: str, level: int) -> ArmScores:
        motions: dict[str, Danced] = {}
        left_out: dict[str, str] = {}
        for clip in self.clips:
            try:
                motions[clip.name] = perturb(clip.motion, kind, level, seed=self.seed, name=clip.name)
            except DataError as error:
                left_out[clip.name] = error.what
        if not motions:
            return ArmScores(arm, left_out=left_out, absent=next(iter(left_out.values()), "no clips"))
        return self.driven(arm, motions, left_out)

    def _perturbed(self) -> dict[str, tuple[str, int]]:
        return {f"{kind}_{level}": (kind, level) for kind in self.perturbations for level in self.levels}

    def _judged(self, arm: str, rendered: Sequence[ArmClip], left_out: Mapping[str, str]) -> ArmScores:
        if not rendered:
            return ArmScores(arm, left_out=left_out, absent="no clips")
        progress, looking = self.progress, Looking(self.looker)
        pixels, no_pixels = self._pixels(arm)
        values, reasons = self.judges.score(
            rendered,
            None if progress is None else lambda done, total: progress(arm, done, total),
            [looking.add] if pixels is None else [looking.add, pixels.add],
        )
        if pixels is None:
            reasons |= dict.fromkeys(PIXEL_KEYS, no_pixels)
        else:
            found, why = pixels.result(len(rendered))
            values, reasons = values | found, {**why, **{key: text for key, text in reasons.items() if key not in why}}
        if looking.why_not:
            reasons |= dict.fromkeys(SET_KEYS, looking.why_not)
        # Contact is judged in the other two arms too, by the true motion, which has driven neither.
        undriven = _UNDRIVEN.get(arm, "")
        motion_values, features = motion_scores([None if undriven else clip.motion for clip in rendered])
        return ArmScores(
            arm,
            tuple(clip.name for clip in rendered),
            values | motion_values,
            reasons | dict.fromkeys([*MOTION_KEYS, DISTANCE], undriven or "nothing of the driving motion to measure"),
            left_out,
            "",
            features,
            looking.windows(),
        )

    def _pixels(self, arm: str) -> tuple[PixelScorer | None, str]:
        """What compares pixels with the true videos, for arms that show the same dance; None and why not."""
        true = {clip.name: clip.video for clip in self.clips if clip.video is not None}
        if not true:
            return None, "no true videos were given"
        if arm not in (GROUND_TRUTH, VIDEO_KEYPOINTS):
            return None, OTHER_DANCE
        return PixelScorer(true, self.judges.pictures), ""

    def _kept(self, arm: str, name: str, video: Video) -> Video:
        """The video under the clip's name, from its file where videos are kept."""
        if self.folder is None:
            return replace(video, name=name)
        from macedance.rendering.video import VideoWriter

        path = self.folder / arm / f"{name}.mp4"
        with VideoWriter(path, video.fps, video.width, video.height, quality=18, repeatable=True) as writer:
            for picture in video.pictures():
                writer.add(picture)
        return Video.open(path)


def _with_music(motion: Danced, truth: Danced) -> Danced:
    """The dance with the beats of the true one, where it has none of its own."""
    return motion if motion.music_beats_s is not None else replace(motion, music_beats_s=truth.music_beats_s)


def motion_scores(motions: Sequence[Danced | None]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Values (n,) of MOTION_KEYS of driving motions, and their features (n, D) of ``fid_k`` of ``clean``.

    NaN for no motion, or one of fewer than four frames.
    """
    clips = [_as_joints(motion) for motion in motions]
    rows = [row for row, clip in enumerate(clips) if clip is not None]
    known = [clip for clip in clips if clip is not None]
    values = {key: np.full(len(motions), np.nan) for key in MOTION_KEYS}
    features = np.full((len(motions), CLEAN.kinetic_dims), np.nan)
    if known:
        found = per_clip_values(known, preset=CLEAN, extras=False)
        for key, name in MOTION_KEYS.items():
            column = found[name]
            values[key][rows] = column if column.ndim == 1 else _mean_of_feet(column)
        for row, clip in zip(rows, known, strict=True):
            points = torch.from_numpy(CLEAN.points(clip)).double()[None]
            features[row] = CLEAN.measure(points, clip.fps).kinetic[0].numpy()
    return values, features


def _as_joints(motion: Danced | None) -> JointClip | None:
    from macedance.rendering.motion_to_video import joints_of

    if motion is None:
        return None
    joints = joints_of(motion)
    if len(joints) < MIN_FRAMES:
        return None
    return JointClip(joints, motion.fps, motion.genre, motion.music_beats_s, "", motion.song)


def _mean_of_feet(values_N2: np.ndarray) -> np.ndarray:
    counts = (~np.isnan(values_N2)).sum(axis=1)
    sums = np.nansum(values_N2, axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def perturbation_settings(kinds: Sequence[str]) -> dict[str, dict[str, object]]:
    """What the levels of these kinds are, for reports and the hash."""
    return {
        kind: {"what": PERTURBATIONS[kind].what, "unit": PERTURBATIONS[kind].unit, "sizes": PERTURBATIONS[kind].sizes}
        for kind in kinds
    }
