"""The appearance metrics of generated dances, rendered to videos, during training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl

from callbacks.agreement import gather
from callbacks.previews import beating
from callbacks.protocol_runs import REFERENCE, DanceProtocol, Dances, DanceSettings, gathered
from callbacks.video_judges import find_judges
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import DependencyError
from macedance.metrics.animation.fvd import FrechetVideoDistance
from macedance.metrics.animation.presets import STYLEGANV
from macedance.metrics.animation.video_sets import KEYS as FVD_KEYS
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.appearance.vbench import PRESET as VBENCH
from macedance.metrics.appearance.vbench import VBENCH_KEYS
from macedance.metrics.cascade.judges import ArmClip, Judges
from macedance.metrics.honest.person_motion import WHOLE_FRAME_NOTE
from macedance.metrics.protocol import ProtocolResult, split_floor
from macedance.metrics.protocol_result import PerClip
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry
from macedance.metrics.video_protocol import VideoPreset, video_inputs, video_result
from macedance.metrics.videos import PerVideoMetric, score_videos
from macedance.motion.files import Motion
from macedance.rendering.motion_to_video import MeshDancer, MotionRenderer
from macedance.vision.keypoints import KeypointSource
from macedance.vision.video import Video
from macedance.vision.video_network import I3dNetwork
from macedance.vision.weights import locate

HONEST = "honest"
#: Clips whose videos are judged where a config says nothing: a minute of video.
DEFAULT_CLIPS = 8
#: Frame rate of FVD's windows, where the videos have as many.
_WINDOW_FPS = 16.0


@dataclass(frozen=True)
class _Judged:
    """What the videos of one set gave.

    Args:
        metrics: Metrics of single videos that have seen them.
        videos: Their names, sizes and lengths; no pictures.
    """

    metrics: list[PerVideoMetric]
    videos: list[Video]

    def of_all_ranks(self) -> _Judged:
        """The same of all ranks' videos; a collective."""
        videos = [video for part in gather(self.videos) for video in part]
        return _Judged([gathered(metric) for metric in self.metrics], videos)


class AppearanceProtocol(DanceProtocol):
    """Every k steps or data epochs: the generated validation dances as videos, judged as videos are.

    Each rank renders its share and judges it; nothing but numbers is gathered. The held-out dances are rendered and
    judged once by the same means: keys ending in ``_reference``. Presets of the result: ``vbench`` and ``honest``
    (person motion, warp error, identity, pose adherence, foot contact) with what this machine has weights for, the rest
    null with the reason; ``styleganv`` with ``fvd fvd_inf kvd`` of the generated against the held-out dances' videos.
    It goes to ``protocol/appearance-<n>.json``; the values go to the logger and to ``metrics_val.csv`` as
    ``val/temporal_flickering``, ``val/fvd``, ...

    Args:
        every_n_steps: Optimizer steps between two evaluations; see Preview.
        max_clips: Clips, spread over the split by their order; None: all. It bounds the time.
        sampler: As of MotionProtocol, like ``num_steps``, ``beta`` and ``seed``. Where these and ``max_clips`` are
            equal, the callbacks share their dances.
        num_steps: Sampling steps.
        beta: Temperature.
        seed: Of noise, renderer, windows and bootstrap.
        renderer: Turns motion into video; None: the mesh dancer, 320 x 320.
        keypoints: Finds keypoints in videos; None: whatever there are weights for.
        weights: Root of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache. Nothing is downloaded.
        every_n_epochs: Data epochs between two evaluations.
        allow_small_n: Report Fréchet distances below the feature dimension too.
        resamples: Of the 95% bootstrap intervals; 0: none.
        floor_draws: Draws of the floor of ``fvd`` and ``kvd``; 0: none.

    Raises:
        ConfigError: A number below 1.
        DataError: A negative number of resamples or draws.
    """

    file_stem = "appearance"

    def __init__(
        self,
        every_n_steps: int | None = None,
        max_clips: int | None = DEFAULT_CLIPS,
        sampler: str | None = None,
        num_steps: int | None = None,
        beta: float | None = None,
        seed: int = 0,
        renderer: MotionRenderer | None = None,
        keypoints: KeypointSource | None = None,
        weights: str | None = None,
        every_n_epochs: int | None = None,
        allow_small_n: bool = False,
        resamples: int = MEAN_RESAMPLES,
        floor_draws: int = FLOOR_DRAWS,
    ) -> None:
        super().__init__(DanceSettings(max_clips, sampler, num_steps, beta, seed), every_n_steps, every_n_epochs)
        self.renderer: MotionRenderer = MeshDancer() if renderer is None else renderer
        self.keypoints, self.weights = keypoints, weights
        self.reporting = Reporting(allow_small_n, resamples, floor_draws, seed)
        self.sampling = WindowSampling(fps=min(_WINDOW_FPS, self.renderer.fps), seed=seed)
        self._judges: Judges | None = None
        #: Has seen the held-out dances' videos of this rank; None without its network, whose reason is then kept.
        self._fvd: FrechetVideoDistance | None = None
        self._no_fvd = ""
        self._truth: _Judged | None = None
        self._floor: dict[str, Entry] | None = None

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> ProtocolResult | None:
        """Generate, render, judge, write; the first rank's result, None elsewhere and without a validation split."""
        dances = self.dances(trainer, module)
        if dances is None:
            return None
        if self._truth is None:
            self.together(trainer, "loading the networks that judge", partial(self._load, trainer))
            motions = [clip.motion for clip in dances.clips]
            show = partial(self._show, trainer, dances, motions, self._fvd, real=True)
            self._truth = self.together(trainer, "judging videos of the held-out dances", show).of_all_ranks()
        fvd = copy.deepcopy(self._fvd)
        show = partial(self._show, trainer, dances, dances.motions, fvd, real=False)
        judged: _Judged = self.together(trainer, "judging videos of the generated dances", show).of_all_ranks()
        distance = None if fvd is None else gathered(fvd)
        tell = partial(self._result, trainer, module, dances, judged, self._truth, distance)
        result: ProtocolResult | None = self.on_first_rank(trainer, "putting the numbers together", tell)
        self.publish(trainer, result, {})
        return result

    def _load(self, trainer: pl.Trainer) -> None:
        device = trainer.strategy.root_device
        self._judges = find_judges(self.weights, self.keypoints, str(device))
        try:
            network = I3dNetwork.from_folder(locate("i3d_kinetics400", self.weights))
        except DependencyError as error:
            self._no_fvd = str(error)
            return
        options: dict[str, Any] = {"sampling": self.sampling, "reporting": self.reporting, "sync_on_compute": False}
        self._fvd = FrechetVideoDistance(network, STYLEGANV, **options).to(device)

    def _show(
        self,
        trainer: pl.Trainer,
        dances: Dances,
        motions: Sequence[Motion],
        fvd: FrechetVideoDistance | None,
        *,
        real: bool,
    ) -> _Judged:
        """Render motions to this rank's clips one after the other and judge each video before the next."""
        assert self._judges is not None
        clips = [
            ArmClip(
                clip.key,
                Video(clip.key, self.renderer.fps, 0, 0),
                self.renderer.reference_image(clip.motion),
                motion,
                self.renderer.driving_keypoints(motion),
            )
            for clip, motion in zip(dances.clips, motions, strict=True)
        ]
        metrics = [judge.make(clips) for judge in self._judges.metrics]
        videos = []
        with self.bar(trainer, "held-out videos" if real else "validation videos") as bar:
            tell = beating(trainer, bar)
            for done, (number, clip) in enumerate(zip(dances.ids, clips, strict=True), start=1):
                assert clip.motion is not None
                drawn = self.renderer.render(clip.motion, clip.reference_image, seed=self.settings.seed)
                video = replace(drawn, name=clip.name)
                score_videos(metrics, [video], [number])
                if fvd is not None:
                    fvd.update(video, number, real=real)
                videos.append(replace(video, held=None, path=None))
                tell(done, len(clips))
        return _Judged(metrics, videos)

    # ---------------------------------------------------------------- the result
    def _result(
        self,
        trainer: pl.Trainer,
        module: MotionExpertModule,
        dances: Dances,
        generated: _Judged,
        truth: _Judged,
        fvd: FrechetVideoDistance | None,
    ) -> ProtocolResult:
        names = dict(enumerate(dances.names))
        entries: dict[str, dict[str, Entry]] = {VBENCH: {}, HONEST: {}}
        per_clip: PerClip = {VBENCH: {}, HONEST: {}}
        for suffix, judged in (("", generated), (REFERENCE, truth)):
            for preset in self._presets(judged):
                entries[preset.name] |= {f"{key}{suffix}": entry for key, entry in preset.entries().items()}
                per_clip[preset.name] |= {f"{key}{suffix}": of for key, of in preset.per_clip(names).items()}
        settings = asdict(self.reporting) | {
            "renderer": {"class": type(self.renderer).__name__, **self.renderer.settings}
        }
        inputs = video_inputs(generated.videos, truth.videos, settings=settings)
        inputs |= self.training_inputs(trainer, module)
        result = video_result(self._presets(generated), entries, per_clip, inputs)
        result = replace(result, weights={**result.weights, **self.renderer.weights})
        return self._with_fvd(result, fvd)

    def _presets(self, judged: _Judged) -> list[VideoPreset]:
        """The metrics as presets, with intervals."""
        assert self._judges is not None
        for metric in judged.metrics:
            metric.resamples, metric.seed = self.reporting.resamples, self.reporting.seed
        missing = self._judges.missing
        published = [metric for metric in judged.metrics if set(metric.keys) & set(VBENCH_KEYS)]
        ours = [metric for metric in judged.metrics if not set(metric.keys) & set(VBENCH_KEYS)]
        notes = [] if self._judges.keypoints is not None else [f"person_motion: {WHOLE_FRAME_NOTE}"]
        return [
            VideoPreset(VBENCH, published, {k: v for k, v in missing.items() if k in VBENCH_KEYS}, VBENCH_KEYS),
            VideoPreset(HONEST, ours, {k: v for k, v in missing.items() if k not in VBENCH_KEYS}, notes=notes),
        ]

    def _with_fvd(self, result: ProtocolResult, fvd: FrechetVideoDistance | None) -> ProtocolResult:
        name = STYLEGANV.name
        if fvd is None:
            entries: dict[str, Entry] = {key: {"value": None, "n": 0, "reason": self._no_fvd} for key in FVD_KEYS}
            return replace(result, presets={**result.presets, name: entries})
        if self._floor is not None:
            fvd.reporting = replace(fvd.reporting, floor_draws=0)
        entries, floor = split_floor(fvd.compute())
        self._floor = floor if self._floor is None else self._floor
        conventions = asdict(STYLEGANV) | {"windows": asdict(self.sampling)}
        return replace(
            result,
            presets={**result.presets, name: entries},
            floor={**result.floor, name: self._floor},
            conventions={**result.conventions, name: conventions},
            weights={**result.weights, **fvd.weights},
        )
