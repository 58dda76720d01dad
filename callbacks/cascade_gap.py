"""What the videos of generated dances lose against those of the held-out dances, during training."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from callbacks.agreement import gather
from callbacks.previews import beating
from callbacks.protocol_results import FOLDER
from callbacks.protocol_runs import DanceProtocol, Dances, DanceSettings
from callbacks.video_judges import (
    JudgingNetworks,
    facts_of_judges,
    facts_of_making,
    find_judges,
    judge_alike,
    judging_networks,
)
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.metrics.cascade import (
    DEFAULT_PERTURBATIONS,
    ArmScores,
    Cascade,
    CascadeClip,
    Judges,
    cascade_report,
    merge_scores,
)
from macedance.metrics.cascade.arms import ArmProgress
from macedance.metrics.cascade.available import available_looker
from macedance.metrics.cascade.scores import GAP_PREFIX, GENERATED
from macedance.metrics.cascade.sets import SET_KEYS, WindowLooker
from macedance.metrics.perturbations import NUM_LEVELS, PERTURBATIONS
from macedance.metrics.protocol import ProtocolResult
from macedance.metrics.statistics import MEAN_RESAMPLES
from macedance.rendering.motion_to_video import MeshDancer, MotionRenderer
from macedance.vision.keypoints import KeypointSource

#: Clips of a comparison where a config says nothing; each is rendered once for every arm.
DEFAULT_CLIPS = 8


class CascadeGap(DanceProtocol):
    """Every k steps or data epochs: the same renderer driven by held-out, generated and disturbed dances, in pairs.

    Each rank renders and judges its share of the clips. All arms but the generated one are measured once. The result
    has the schema of ``macedance evaluate cascade`` and goes to ``protocol/cascade-<n>.json``; the values go to the
    logger and to ``metrics_val.csv``: ``val/cascade/<key>`` of the generated arm, ``val/gap/<key>`` its mean difference
    from the held-out dances' arm.

    Args:
        every_n_steps: Optimizer steps between two comparisons; see Preview.
        max_clips: Clips, spread over the split by their order; None: all. It bounds the time.
        sampler: As of MotionProtocol, like ``num_steps``, ``beta`` and ``seed``. Where these and ``max_clips`` are
            equal, the callbacks share their dances.
        num_steps: Sampling steps.
        beta: Temperature.
        seed: Of noise, renderer, disturbances and bootstrap.
        renderer: Turns motion into video; None: the mesh dancer, 320 x 320.
        keypoints: Finds keypoints in videos; None: whatever there are weights for.
        weights: Root of the networks' folders; None: $MACEDANCE_WEIGHTS or the cache. Nothing is downloaded.
        every_n_epochs: Data epochs between two comparisons.
        perturbations: What disturbs the held-out dances; None: noise, jitter and foot slide; an empty list: nothing.
        levels: How strongly; None: at all three levels. Each disturbance at each level is an arm.
        resamples: Of the 95% bootstrap intervals; 0: none.
        keep_videos: Judge the videos as they are read back from ``protocol/cascade/<arm>/<clip>.mp4``, the last ones of
            the generated arm; else what the renderer draws, which is kept nowhere.

    Raises:
        ConfigError: A number below 1, or an unknown disturbance or level.
    """

    file_stem = "cascade"

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
        perturbations: list[str] | None = None,
        levels: list[int] | None = None,
        resamples: int = MEAN_RESAMPLES,
        keep_videos: bool = False,
    ) -> None:
        super().__init__(DanceSettings(max_clips, sampler, num_steps, beta, seed), every_n_steps, every_n_epochs)
        self.check_counts(resamples=resamples + 1)
        unknown = [str(name) for name in perturbations or () if name not in PERTURBATIONS]
        unknown += [f"level {level}" for level in levels or () if not 1 <= level <= NUM_LEVELS]
        if unknown:
            raise ConfigError(
                f"unknown disturbances: {', '.join(unknown)}",
                where="CascadeGap",
                expected=f"some of {', '.join(PERTURBATIONS)}, at levels 1 to {NUM_LEVELS}",
            )
        self.renderer: MotionRenderer = MeshDancer() if renderer is None else renderer
        self.keypoints, self.weights = keypoints, weights
        self.perturbations = DEFAULT_PERTURBATIONS if perturbations is None else tuple(perturbations)
        self.levels = tuple(range(1, NUM_LEVELS + 1)) if levels is None else tuple(levels)
        self.resamples, self.keep_videos = resamples, keep_videos
        #: The networks of this process, which other callbacks share; None before they are needed.
        self.judging: JudgingNetworks | None = None
        self._judges: Judges | None = None
        self._looker: WindowLooker | None = None
        self._cascade: Cascade | None = None
        self._fixed: list[ArmScores] | None = None

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> ProtocolResult | None:
        """Generate, render, compare, write; the first rank's result, None elsewhere and without a validation split."""
        dances = self.dances(trainer, module)
        if dances is None:
            return None
        if self._fixed is None:
            facts = self.together(trainer, "loading the networks that judge", partial(self._load, trainer))
            judge_alike(facts, self.file(trainer))
            fixed = self.together(
                trainer, "rendering the held-out dances", partial(self._measure_fixed, trainer, dances)
            )
            self._fixed = _merged(fixed)
        generated = self.together(trainer, "rendering the generated dances", partial(self._measure, trainer, dances))
        arms = [*self._fixed, *_merged([generated])]
        report = partial(self._report, trainer, module, dances, arms)
        result: ProtocolResult | None = self.on_first_rank(trainer, "comparing the arms", report)
        prefixes: dict[str, str | None] = dict.fromkeys(() if result is None else result.presets)
        self.publish(trainer, result, prefixes | {GENERATED: "val/cascade/", f"{GAP_PREFIX}{GENERATED}": "val/gap/"})
        return result

    def _load(self, trainer: pl.Trainer) -> dict[str, Any]:
        """Load the networks; what judges on this rank, by which all ranks must agree."""
        self.judging = judging_networks(trainer, self.weights)
        self._judges = find_judges(self.judging, self.keypoints)
        self._looker, why_not = available_looker(self.judging.networks, device=str(self.judging.device))
        if self._looker is None:
            self._judges = self._judges.lacking(SET_KEYS, why_not)
        source = self._judges.keypoints
        return facts_of_judges(self._judges, self._looker) | facts_of_making(self.renderer, source)

    def _measure_fixed(self, trainer: pl.Trainer, dances: Dances) -> list[ArmScores]:
        """Every arm that does not depend on the model, of this rank's clips."""
        assert self._judges is not None  # _load was first
        tell = beating(trainer, None)
        clips = [CascadeClip(clip.key, clip.motion) for clip in dances.clips]
        folder = Path(trainer.default_root_dir) / FOLDER / "cascade" if self.keep_videos else None
        self._cascade = self._of(clips, self._judges, folder, lambda arm, done, total: tell(done, total))
        return self._cascade.fixed_arms()

    def _of(
        self, clips: list[CascadeClip], judges: Judges, folder: Path | None = None, progress: ArmProgress | None = None
    ) -> Cascade:
        return Cascade(
            clips,
            self.renderer,
            judges,
            looker=self._looker,
            perturbations=self.perturbations,
            levels=self.levels,
            seed=self.settings.seed,
            folder=folder,
            progress=progress,
        )

    def _measure(self, trainer: pl.Trainer, dances: Dances) -> ArmScores:
        assert self._cascade is not None
        motions = {clip.key: motion for clip, motion in zip(dances.clips, dances.motions, strict=True)}
        return self._cascade.generated(motions)

    def _report(
        self, trainer: pl.Trainer, module: MotionExpertModule, dances: Dances, arms: list[ArmScores]
    ) -> ProtocolResult:
        assert self._judges is not None
        assert self._cascade is not None
        clips = [CascadeClip(facts.key, facts.placeholder()) for facts in dances.reference_facts]
        everything = self._of(clips, self._judges, self._cascade.folder)
        result = cascade_report(everything, arms, resamples=self.resamples)
        result.inputs.update(self.training_inputs(trainer, module))
        return result


def _merged(arms: list[ArmScores]) -> list[ArmScores]:
    """Arms of all ranks' clips; a collective."""
    parts = gather(arms)
    return [merge_scores([part[number] for part in parts]) for number in range(len(arms))]
