"""What the Appearance Expert makes of held-out clips during training: shown, and judged by the true clips."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.animation_judging import AnimationJudges, Judged, Scores, judged_result
from callbacks.animation_making import ClipAnimator, Task, check_sources, encoders_of, pictures_of, plan_tasks
from callbacks.ema import average_in_place
from callbacks.previews import beating, share_of, spread
from callbacks.protocol_results import SPLIT, JudgedPreview
from callbacks.video_judges import JudgingNetworks, judge_alike, judging_networks
from datamodules.appearance import AppearanceClip, AppearanceDataModule
from lightning_modules.appearance_expert import AppearanceExpertModule
from lightning_modules.strategies import strategy_kind
from macedance.appearance_data.media import decode_mp4, encode_mp4
from macedance.diffusion.flow_matching import FlowSampler
from macedance.metrics.animation.video_sets import Reporting
from macedance.metrics.protocol import ProtocolResult
from macedance.metrics.statistics import MEAN_RESAMPLES
from macedance.rendering.clip_rows import clip_row, stacked_rows
from macedance.rendering.files import replacing
from macedance.vision.video import Video

#: Clips that are animated where a config says nothing.
DEFAULT_CLIPS = 8
#: Of the video to look at: rows, and the longest side of each picture in pixels.
_ROWS, _SIDE_PX = 4, 256


class AnimationProtocol(JudgedPreview):
    """Every k steps or data epochs: validation clips animated by the averaged weights, shown, judged by the true ones.

    A clip's person and prompt move as the clip's own pose drawing does, from noise that is the same every time.
    ``protocol/animation-<n>.json`` holds ``psnr_mask`` (over the dilated person), ``psnr ssim lpips fvd fvd_inf kvd``,
    ``psnr_mask_wrong_pose`` and ``psnr_wrong_pose`` of the same clips driven by another's pose: a network that listens
    to the pose is far above them, which the loss does not tell; and ``psnr_mask_autoencoder`` and ``psnr_autoencoder``
    of the true clips through the autoencoder, which no network exceeds by much. What lacks weights, masks or clips is
    null with the reason. Values go to the logger and to ``metrics_val.csv``: ``val/psnr_mask``, ...
    ``samples/animation-<n>.mp4`` shows up to four clips: reference, pose, ours, true.

    The ranks share the clips. The network is the one that trains, with the average in the place of what trains; under
    ZeRO it stays sharded. An evaluation takes 2 x max_clips / ranks x num_steps passes of the network.

    Args:
        every_n_steps: Optimizer steps between two evaluations; see Preview.
        every_n_epochs: Data epochs between two evaluations.
        max_clips: Clips, spread over the split; None: all.
        num_steps: Sampling steps; None: the model's.
        sampler: ``euler`` or ``unipc``; None: the model's.
        seed: Of noise, windows and bootstrap.
        corpus: For a run on latents: the corpus of videos that they were made of, with a val split.
        encoders: Folder of the frozen encoders, in diffusers' layout; None: the model's own, of runs on pixels.
        weights: Root of the judging networks' folders; None: $MACEDANCE_WEIGHTS or the cache. Nothing is downloaded.
        allow_small_n: Report Fréchet distances below the feature dimension too.
        resamples: Of the 95% bootstrap intervals; 0: none.

    Raises:
        ConfigError: A number below 1.
        DataError: A negative number of resamples.
    """

    file_stem = "animation"
    module_type = AppearanceExpertModule

    def __init__(
        self,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        max_clips: int | None = DEFAULT_CLIPS,
        num_steps: int | None = None,
        sampler: FlowSampler | None = None,
        seed: int = 0,
        corpus: str | None = None,
        encoders: str | None = None,
        weights: str | None = None,
        allow_small_n: bool = False,
        resamples: int = MEAN_RESAMPLES,
    ) -> None:
        super().__init__(every_n_steps, every_n_epochs)
        self.check_counts(max_clips=max_clips, num_steps=num_steps)
        self.max_clips, self.num_steps, self.sampler, self.seed = max_clips, num_steps, sampler, seed
        self.corpus, self.encoders, self.weights = corpus, encoders, weights
        self.reporting = Reporting(allow_small_n, resamples, 0, seed)
        #: The networks of this process, which other callbacks share; None before they are needed.
        self.judging: JudgingNetworks | None = None
        self._judges: AnimationJudges | None = None
        self._pictures: AppearanceDataModule | None = None
        self._animator: ClipAnimator | None = None

    # ---------------------------------------------------------------- before training
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a run that could not be shown, before anything is trained.

        Raises:
            ConfigError: Another model, or latents without the videos and encoders that they come from.
            DataError: A corpus that cannot be read.
            CheckpointError: There are no such encoders.
        """
        super().on_fit_start(trainer, pl_module)
        assert isinstance(pl_module, AppearanceExpertModule)
        check_sources(pl_module, self.encoders, type(self).__name__)
        self._pictures = pictures_of(trainer.datamodule, self.corpus, type(self).__name__)  # type: ignore[attr-defined]

    # ---------------------------------------------------------------- an evaluation
    def preview(self, trainer: pl.Trainer, module: AppearanceExpertModule) -> ProtocolResult | None:
        """Animate, judge, show, write; the first rank's result, None elsewhere and without a validation split."""
        tasks: list[Task] = self.together(trainer, "listing the validation clips", self._tasks)
        if not tasks:
            self._say("split", f"{self._why_none()}: there is nothing to animate and to be judged by")
            return None
        own = [tasks[place] for place in share_of(len(tasks), trainer.global_rank, trainer.world_size)]
        rounds = -(-len(tasks) // trainer.world_size)
        # Where the network is sharded each rank takes part in as many passes: one without a clip takes one again.
        again = [own[-1] if own else tasks[0]] * (rounds - len(own)) if _is_sharded(trainer) else []
        if self._judges is None:
            load = partial(self._load_judges, trainer)
            self._judges = self.together(trainer, "loading the networks that judge", load)
            judge_alike(self._judges.facts(), self.file(trainer))
        if self._animator is None:
            prepare = partial(self._prepare, trainer, module, [*own, *again])
            self._animator = self.together(trainer, "encoding the validation clips", prepare)
        judged = self._judges.new()
        self._evaluate(trainer, module, judged, own, again, rounds, spread(range(len(tasks)), _ROWS))
        judged = judged.of_all_ranks()
        if self._judges.autoencoder is None:
            decode = partial(self._reconstructed, self._judges, own)
            self._judges.autoencoder = self.together(trainer, "decoding the true clips", decode).of_all_ranks()
        tell = partial(self._result, trainer, module, judged)
        result: ProtocolResult | None = self.on_first_rank(trainer, "putting the numbers together", tell)
        self.on_first_rank(trainer, "writing the video", partial(self._show, trainer, judged))
        self.publish(trainer, result, {})
        return result

    def _evaluate(
        self,
        trainer: pl.Trainer,
        module: AppearanceExpertModule,
        judged: Judged,
        own: list[Task],
        again: list[Task],
        rounds: int,
        shown: list[int],
    ) -> None:
        """Animate this rank's clips one after the other and judge each before the next; ranks agree on every step."""
        with ExitStack() as stack:
            bar = stack.enter_context(self.bar(trainer, "validation clips"))
            steps = self._steps(module)
            tell = beating(trainer, bar)
            with average_in_place(trainer, module):
                for number in range(rounds):
                    task = ([*own, *again] + [None] * rounds)[number]
                    clips = self.together(trainer, "reading a validation clip", partial(self._read, task))
                    made: list[np.ndarray] = []
                    for turn in range(2):
                        done = (2 * number + turn) * steps
                        progress = partial(_tell, tell, done, 2 * rounds * steps)
                        make = partial(self._animated, task, clips, turn, progress)
                        made.append(self.together(trainer, "animating a validation clip", make))
                        # A rank without a clip of its own has waited for the others, and is no hang.
                        tell(done + steps, 2 * rounds * steps)
                    judge = partial(self._judge, judged, task if number < len(own) else None, clips, made, shown)
                    self.together(trainer, "judging a validation clip", judge)

    def _tasks(self) -> list[Task]:
        assert self._pictures is not None  # on_fit_start was first
        clips = self._pictures.sources.split(SPLIT)
        if clips is None:
            return []
        sizes = {number: clips.size(number) for number in self._pictures.clip_numbers(SPLIT)}
        fitting = {number: size for number, size in sizes.items() if size is not None}
        chosen = spread(list(fitting), self.max_clips) if fitting else []
        return plan_tasks(chosen, [fitting[number] for number in chosen])

    def _why_none(self) -> str:
        assert self._pictures is not None
        clips = self._pictures.sources.split(SPLIT)
        if clips is None or not len(clips):
            return f"the corpus has no {SPLIT} split"
        return f"none of the {len(clips)} clips of the {SPLIT} split is of a size that the data's buckets take"

    def _read(self, task: Task | None) -> tuple[AppearanceClip, ...]:
        """A task's clip, and the one whose pose is the wrong one, its own where there is none."""
        if task is None:
            return ()
        assert self._pictures is not None
        return tuple(self._pictures.clips(SPLIT, [task.number, task.number if task.driver is None else task.driver]))

    def _prepare(self, trainer: pl.Trainer, module: AppearanceExpertModule, tasks: list[Task]) -> ClipAnimator:
        """Load the encoders, and encode with them what stays the same."""
        animator = ClipAnimator(
            trainer,
            module,
            encoders_of(module, self.encoders),
            visiting=self.encoders is not None,
            num_steps=self._steps(module),
            sampler=self._sampler(module),
            seed=self.seed,
        )
        animator.tell([(task.number, self._read(task)[0]) for task in tasks])
        return animator

    def _animated(self, task: Task | None, clips: tuple[AppearanceClip, ...], turn: int, progress: Any) -> Any:
        """The clip's person in the clip's own pose, or in its second turn in the other's; None without a clip."""
        assert self._animator is not None
        return None if task is None else self._animator.animate(task.number, clips[turn].window.pose_THW3, progress)

    def _judge(
        self,
        judged: Judged,
        task: Task | None,
        clips: tuple[AppearanceClip, ...],
        made: list[np.ndarray],
        shown: list[int],
    ) -> None:
        if task is None:  # nothing, or made again to keep others company
            return
        clip, window = clips[0], clips[0].window
        ours, other = (Video.from_frames(frames, clip.facts.fps, clip.key) for frames in made)
        judged.ours.update_pair(ours, Video.from_frames(window.video_THW3, ours.fps, clip.key), task.place)
        judged.right.update_pair(made[0], window.video_THW3, window.mask_THW, task.place)
        if task.driver is not None:
            judged.wrong.add(other, clip, task.place)
        judged.videos[task.place] = replace(ours, held=None)
        if task.place in shown:
            parts = [window.reference_HW3, window.pose_THW3, made[0], window.video_THW3]
            judged.rows[task.place] = encode_mp4(clip_row(parts, _SIDE_PX), ours.fps)

    def _reconstructed(self, judges: AnimationJudges, own: list[Task]) -> Scores:
        """Judge the true clips of this rank as the autoencoder gives them back."""
        assert self._animator is not None
        scores = judges.scores()
        for task in own:
            clip = self._read(task)[0]
            back = self._animator.reconstruct(clip.window.video_THW3)
            scores.add(Video.from_frames(back, clip.facts.fps, clip.key), clip, task.place)
        return scores

    def _load_judges(self, trainer: pl.Trainer) -> AnimationJudges:
        assert self._pictures is not None
        self.judging = judging_networks(trainer, self.weights)
        return AnimationJudges(self.judging, self._pictures.fps, self.reporting)

    def _steps(self, module: AppearanceExpertModule) -> int:
        return module.num_steps if self.num_steps is None else self.num_steps

    def _sampler(self, module: AppearanceExpertModule) -> FlowSampler:
        return self.sampler or module.sampler

    # ---------------------------------------------------------------- the result
    def making(self) -> dict[str, Any]:
        """How the clips are animated, as JSON holds it."""
        return {"animation": {"max_clips": self.max_clips, "seed": self.seed}}

    def _result(self, trainer: pl.Trainer, module: AppearanceExpertModule, judged: Judged) -> ProtocolResult:
        assert self._animator is not None
        assert self._judges is not None
        assert self._judges.autoencoder is not None
        made = {"num_steps": self._steps(module), "sampler": self._sampler(module), "flow": asdict(module.flow)}
        result = judged_result(judged, self._judges.autoencoder, made)
        result.inputs.update(self.training_inputs(trainer, module))
        return replace(result, weights={**result.weights, **self._animator.weights})

    def _show(self, trainer: pl.Trainer, judged: Judged) -> None:
        """Write the rows of all ranks as one video."""
        rows = [decode_mp4(data, f"clip {place}") for place, data in sorted(judged.rows.items())]
        fps = next(iter(judged.videos.values())).fps
        folder = Path(trainer.default_root_dir) / "samples"
        with replacing(folder / f"{self.file_stem}-{trainer.global_step:08d}.mp4") as file:
            file.write_bytes(encode_mp4(stacked_rows(rows), fps))


def _is_sharded(trainer: pl.Trainer) -> bool:
    return strategy_kind(trainer).startswith("zero3")


def _tell(tell: Any, done: int, total: int, step: int) -> None:
    """Progress of one video as part of all."""
    tell(done + step, total)
