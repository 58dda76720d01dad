"""What judges held-out clips that the Appearance Expert animates during training, by the true clips."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from callbacks.agreement import gather
from callbacks.protocol_results import gathered
from callbacks.video_judges import JudgingNetworks
from datamodules.appearance import AppearanceClip
from macedance.errors import DependencyError
from macedance.metrics.animation.bundle import AnimationMetrics, Judges
from macedance.metrics.animation.pairs import Psnr
from macedance.metrics.animation.person import PersonPsnr
from macedance.metrics.animation.presets import STYLEGANV
from macedance.metrics.animation.video_sets import KEYS as FVD_KEYS
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.protocol import ProtocolResult, split_floor
from macedance.metrics.video_protocol import video_inputs
from macedance.vision.video import Video

#: Frame rate of FVD's windows, where the clips have as many.
_WINDOW_FPS = 16.0
PRESET = "animation"
WRONG_POSE, AUTOENCODER = "_wrong_pose", "_autoencoder"
_NO_OTHER = "no other clip of this size, whose pose would be the wrong one"


@dataclass
class Scores:
    """What judges one kind of video of each clip by the true one."""

    person: PersonPsnr
    whole: Psnr

    def add(self, made: Video, clip: AppearanceClip, place: int) -> None:
        """Judge a clip's video."""
        true = Video.from_frames(clip.window.video_THW3, made.fps, clip.key)
        self.person.update_pair(made.frames(), true.frames(), clip.window.mask_THW, place)
        self.whole.update_pair(made, true, place)

    def of_all_ranks(self) -> Scores:
        """The same of all ranks' clips; a collective."""
        return Scores(gathered(self.person), gathered(self.whole))


@dataclass
class Judged:
    """One evaluation of this rank's clips, or of all ranks'.

    Args:
        ours: FVD, KVD and the metrics of pairs of our videos.
        right: Ours driven by their own poses.
        wrong: Ours driven by others' poses.
        videos: Place of a clip -> our video of it, without its pictures.
        rows: Place of a clip -> the file of its row in the video to look at.
    """

    ours: AnimationMetrics
    right: PersonPsnr
    wrong: Scores
    videos: dict[int, Video]
    rows: dict[int, bytes]

    def of_all_ranks(self) -> Judged:
        """The same of all ranks' clips; a collective."""
        whole = copy.copy(self.ours)
        whole.pairs = [gathered(metric) for metric in self.ours.pairs]
        whole.sets = {name: gathered(metric) for name, metric in self.ours.sets.items()}
        videos: dict[int, Video] = {}
        rows: dict[int, bytes] = {}
        for its_videos, its_rows in gather((self.videos, self.rows)):
            videos |= its_videos
            rows |= its_rows
        return Judged(whole, gathered(self.right), self.wrong.of_all_ranks(), dict(sorted(videos.items())), rows)


class AnimationJudges:
    """The metrics, with what this machine has weights for.

    Args:
        networks: The judging networks' folder, and where they run.
        fps: Of the clips.
        reporting: Intervals and small numbers.

    Raises:
        CheckpointError: Weights that are there and are not the published ones.
    """

    def __init__(self, networks: JudgingNetworks, fps: float, reporting: Reporting) -> None:
        self.device, self.reporting = networks.device, reporting
        self.sampling = WindowSampling(fps=min(_WINDOW_FPS, fps), seed=reporting.seed)
        absent: dict[str, str] = {}
        videos = pictures = None
        try:
            videos = networks.networks.i3d
        except DependencyError as error:
            absent |= dict.fromkeys(FVD_KEYS, str(error))
        try:
            pictures = networks.networks.lpips
        except DependencyError as error:
            absent["lpips"] = str(error)
        self.judges = Judges(videos, pictures, absent)
        #: Sees the true clips through the autoencoder once; then those of all ranks.
        self.autoencoder: Scores | None = None

    def facts(self) -> dict[str, Any]:
        """By which weights is judged, for ``judge_alike``."""
        return {f"weights {name}": sha for name, sha in self._metrics().weights.items()}

    def new(self) -> Judged:
        """An evaluation that has seen nothing."""
        return Judged(self._metrics(), self._person(), self.scores(), {}, {})

    def scores(self) -> Scores:
        """Scores that have seen nothing."""
        whole = Psnr(skip_frames=0, resamples=self.reporting.resamples, seed=self.reporting.seed)
        return Scores(self._person(), whole.to(self.device))

    def _metrics(self) -> AnimationMetrics:
        # The reference is a picture of another time: no frame is given, and none is skipped.
        options: dict[str, Any] = {"sampling": self.sampling, "reporting": self.reporting, "skip_frames": 0}
        return AnimationMetrics(self.judges, presets=[STYLEGANV], **options).to(self.device)

    def _person(self) -> PersonPsnr:
        return PersonPsnr(resamples=self.reporting.resamples, seed=self.reporting.seed).to(self.device)


def judged_result(judged: Judged, autoencoder: Scores, settings: Mapping[str, Any]) -> ProtocolResult:
    """What all ranks' clips gave, as a result of one preset.

    Args:
        judged: Of all ranks.
        autoencoder: Of the true clips through the autoencoder.
        settings: How the clips were made; part of the result's hash.
    """
    names = {place: video.name for place, video in judged.videos.items()}
    entries, _ = split_floor(judged.ours.compute()[STYLEGANV.name])
    each = {key: _named(of, names) for key, of in judged.ours.per_clip().items()}
    metrics: list[tuple[str, PersonPsnr | Psnr]] = [("", judged.right)]
    for suffix, scores in ((WRONG_POSE, judged.wrong), (AUTOENCODER, autoencoder)):
        metrics += [(suffix, scores.person), (suffix, scores.whole)]
    for suffix, metric in metrics:
        if not len(metric.rows_of("video_ids")):
            entries |= {f"{key}{suffix}": {"value": None, "n": 0, "reason": _NO_OTHER} for key in metric.keys}
            continue
        entries |= {f"{key}{suffix}": entry for key, entry in metric.compute().items()}
        each |= {f"{key}{suffix}": _named(of, names) for key, of in metric.per_video().items()}
    measured = {
        "skip_frames": 0,
        "windows": asdict(judged.ours.sampling),
        **asdict(judged.ours.reporting),
        **settings,
    }
    videos = list(judged.videos.values())
    inputs = video_inputs(videos, videos, settings=measured) | {"kind": "animation", "notes": {PRESET: []}}
    conventions = asdict(STYLEGANV) | {"psnr_mask": "errors pooled over the dilated mask of a clip"}
    weights = judged.ours.weights
    return ProtocolResult({PRESET: entries}, {PRESET: {}}, inputs, {PRESET: conventions}, weights, {PRESET: each})


def _named(values: Mapping[int, float], names: Mapping[int, str]) -> dict[str, float]:
    return {names[place]: value for place, value in values.items()}
