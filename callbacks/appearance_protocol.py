"""The appearance metrics of generated dances, rendered to videos, during training."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.agreement import gather
from callbacks.previews import beating
from callbacks.protocol_results import REFERENCE, gathered
from callbacks.protocol_runs import DanceProtocol, Dances, DanceSettings
from callbacks.video_judges import (
    JudgingNetworks,
    facts_of_making,
    facts_of_presets,
    judge_alike,
    judging_networks,
)
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import DependencyError
from macedance.metrics.animation.fvd import FrechetVideoDistance
from macedance.metrics.animation.presets import STYLEGANV
from macedance.metrics.animation.video_sets import KEYS as FVD_KEYS
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.appearance.vbench import vbench_preset
from macedance.metrics.honest.driven import KeptKeypoints
from macedance.metrics.honest.preset import PRESET as HONEST
from macedance.metrics.honest.preset import honest_preset, stillness_notes
from macedance.metrics.protocol import ProtocolResult, split_floor
from macedance.metrics.protocol_result import PerClip
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry
from macedance.metrics.video_protocol import VideoPreset, video_inputs, video_result
from macedance.metrics.videos import score_videos
from macedance.motion.files import Motion
from macedance.rendering.motion_to_video import MeshDancer, MotionRenderer, renderer_facts
from macedance.vision.held import held
from macedance.vision.keypoints import KeypointSource
from macedance.vision.video import Video

#: Clips whose videos are judged where a config says nothing: a minute of video.
DEFAULT_CLIPS = 8
#: Frame rate of FVD's windows, where the videos have as many.
_WINDOW_FPS = 16.0


@dataclass(frozen=True)
class _Judged:
    """What the videos of one set gave.

    Args:
        presets: Their metrics have seen the videos.
        videos: Their names, sizes and lengths; no pictures.
    """

    presets: list[VideoPreset]
    videos: list[Video]

    def of_all_ranks(self) -> _Judged:
        """The same of all ranks' videos; a collective."""
        videos = [video for part in gather(self.videos) for video in part]
        whole = [replace(preset, metrics=[gathered(m) for m in preset.metrics]) for preset in self.presets]
        return _Judged(whole, videos)


class AppearanceProtocol(DanceProtocol):
    """Every k steps or data epochs: the generated validation dances as videos, judged as videos are.

    Each rank renders its share and judges it; nothing but numbers is gathered. The held-out dances are rendered and
    judged once by the same means: keys ending in ``_reference``. Presets of the result: ``vbench`` and ``honest``
    (person motion, warp error, identity, faces, pose adherence) with what this machine has weights for, the rest null
    with the reason; ``styleganv`` with ``fvd fvd_inf kvd`` of the generated against the held-out dances' videos.
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
        amt_checkout: A checkout of AMT, whose code is run, for motion smoothness; see ``evaluate video``.
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
        amt_checkout: str | None = None,
        every_n_epochs: int | None = None,
        allow_small_n: bool = False,
        resamples: int = MEAN_RESAMPLES,
        floor_draws: int = FLOOR_DRAWS,
    ) -> None:
        super().__init__(DanceSettings(max_clips, sampler, num_steps, beta, seed), every_n_steps, every_n_epochs)
        self.renderer: MotionRenderer = MeshDancer() if renderer is None else renderer
        self.keypoints, self.weights, self.amt_checkout = keypoints, weights, amt_checkout
        self.reporting = Reporting(allow_small_n, resamples, floor_draws, seed)
        self.sampling = WindowSampling(fps=min(_WINDOW_FPS, self.renderer.fps), seed=seed)
        #: The networks of this process, which other callbacks share; None before they are needed.
        self.judging: JudgingNetworks | None = None
        self._source: KeptKeypoints | None = None
        self._no_source = self._no_fvd = ""
        #: Has seen the held-out dances' videos of this rank; None where its network is not here.
        self._fvd: FrechetVideoDistance | None = None
        self._truth: _Judged | None = None
        self._floor: dict[str, Entry] | None = None

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> ProtocolResult | None:
        """Generate, render, judge, write; the first rank's result, None elsewhere and without a validation split."""
        dances = self.dances(trainer, module)
        if dances is None:
            return None
        if self._truth is None:
            facts = self.together(trainer, "loading the networks that judge", partial(self._load, trainer))
            judge_alike(facts, self.file(trainer))
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

    def _load(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Load the networks; what judges on this rank, by which all ranks must agree."""
        self.judging = judging_networks(trainer, self.weights)
        source, self._no_source = self.keypoints, ""
        if source is None:
            source, self._no_source = self.judging.keypoint_source()
        self._source = None if source is None else KeptKeypoints(source)
        facts = facts_of_presets(self._presets({}, {})) | facts_of_making(self.renderer, source)
        try:
            network = self.judging.networks.i3d
        except DependencyError as error:
            self._no_fvd = str(error)
            return facts
        options: dict[str, Any] = {"sampling": self.sampling, "reporting": self.reporting, "sync_on_compute": False}
        self._fvd = FrechetVideoDistance(network, STYLEGANV, **options).to(self.judging.device)
        return facts | {"fvd": asdict(self.sampling), f"weights {network.name}": network.fingerprint}

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
        pictures = {clip.key: self.renderer.reference_image(clip.motion) for clip in dances.clips}
        driving = {
            clip.key: self.renderer.driving_keypoints(motion)
            for clip, motion in zip(dances.clips, motions, strict=True)
        }
        presets = self._presets(pictures, driving)
        metrics = [metric for preset in presets for metric in preset.metrics]
        videos = []
        with self.bar(trainer, "held-out videos" if real else "validation videos") as bar:
            tell = beating(trainer, bar)
            for number, clip, motion in zip(dances.ids, dances.clips, motions, strict=True):
                drawn = self.renderer.render(motion, pictures[clip.key], seed=self.settings.seed)
                video = held(replace(drawn, name=clip.key))
                score_videos(metrics, [video], [number])
                if fvd is not None:
                    fvd.update(video, number, real=real)
                videos.append(replace(video, held=None, path=None, drawn=None))
                tell(len(videos), len(motions))
        return _Judged(presets, videos)

    def _presets(self, pictures: Mapping[str, np.ndarray], driving: Mapping[str, np.ndarray]) -> list[VideoPreset]:
        """Metrics that have seen nothing; the networks are loaded by the first ones."""
        assert self.judging is not None  # _load was first
        options: dict[str, Any] = {
            "resamples": self.reporting.resamples,
            "seed": self.reporting.seed,
            "sync_on_compute": False,
        }
        presets = [
            vbench_preset(self.judging.networks, amt_checkout=self.amt_checkout, **options),
            honest_preset(
                self.judging.networks,
                keypoints=self._source,
                no_keypoints=self._no_source,
                references=pictures,
                driving=driving,
                **options,
            ),
        ]
        for preset in presets:
            preset.to(self.judging.device)
        return presets

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
        entries: dict[str, dict[str, Entry]] = {}
        per_clip: PerClip = {}
        for suffix, judged in (("", generated), (REFERENCE, truth)):
            for preset in judged.presets:
                of, each = entries.setdefault(preset.name, {}), per_clip.setdefault(preset.name, {})
                of |= {f"{key}{suffix}": entry for key, entry in preset.entries().items()}
                each |= {f"{key}{suffix}": values for key, values in preset.per_clip(names).items()}
        settings = asdict(self.reporting) | {
            "renderer": {"class": type(self.renderer).__name__, **self.renderer.settings}
        }
        inputs = video_inputs(generated.videos, truth.videos, settings=settings)
        inputs |= self.training_inputs(trainer, module) | {"renderer": renderer_facts(self.renderer)}
        result = video_result(generated.presets, entries, per_clip, inputs)
        result = replace(result, weights={**result.weights, **self.renderer.weights})
        return self._with_fvd(result.with_notes({HONEST: stillness_notes(result)}), fvd)

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
