"""What the callbacks that judge dances during training share: the dances of all ranks.

Every rank dances to its own run of the held-out clips. The noise of a dance is keyed by the number of its clip, so that
any number of ranks makes the same dances, up to rounding. Metrics count a clip once, whichever rank has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl

from callbacks.agreement import gather
from callbacks.ema import preview_network
from callbacks.previews import averaged_dances, share_of, spread
from callbacks.protocol_results import SPLIT, JudgedPreview
from datamodules.motion import Clip
from lightning_modules.motion_expert import MotionExpertModule
from macedance.motion.files import JointClip, Motion
from macedance.motion.skeleton import NUM_JOINTS


@dataclass(frozen=True)
class DanceSettings:
    """What decides which dances a step gives.

    Args:
        max_clips: Clips at most, spread over the split by their order; None: all.
        sampler: ``ddim`` or ``dpmpp``; None: the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        beta: Temperature; None: the objective's default.
        seed: Of the sampling noise.
    """

    max_clips: int | None = None
    sampler: str | None = None
    num_steps: int | None = None
    beta: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class ClipFacts:
    """What every rank knows of a clip that another one dances to."""

    key: str
    fps: float
    num_frames: int
    has_beats: bool

    def placeholder(self) -> JointClip:
        """A clip of this name, length and rate, for what looks at nothing else."""
        joints = np.zeros((self.num_frames, NUM_JOINTS, 3), np.float32)
        return JointClip(joints, self.fps, music_beats_s=np.zeros(0) if self.has_beats else None, name=self.key)


@dataclass(frozen=True)
class Dances:
    """The dances of one rank, of one step.

    Args:
        step: Optimizer steps done.
        settings: How they were made.
        ids: Position of each in the list of all clips that are danced to.
        clips: The held-out clips.
        motions: What the model danced to their music.
        facts: Of all ranks' clips, in the order of the ids.
        reference_facts: The same of the held-out dances themselves.
    """

    step: int
    settings: DanceSettings
    ids: list[int]
    clips: list[Clip]
    motions: list[Motion]
    facts: list[ClipFacts]
    reference_facts: list[ClipFacts]

    @property
    def names(self) -> list[str]:
        """Names of all ranks' clips, by id."""
        return [facts.key for facts in self.facts]

    def generated(self) -> list[JointClip]:
        """Dances of this rank as the metrics read them."""
        pairs = zip(self.motions, self.clips, strict=True)
        return [JointClip.from_motion(replace(motion, song=clip.song), clip.key) for motion, clip in pairs]

    def reference(self) -> list[JointClip]:
        """Held-out clips of this rank themselves."""
        return [JointClip.from_motion(replace(clip.motion, song=clip.song), clip.key) for clip in self.clips]


class DanceProtocol(JudgedPreview):
    """Base of the callbacks that judge dances to the validation clips.

    Args:
        settings: How to dance. Callbacks of equal settings share their dances where they are due at the same step.
        every_n_steps: As of Preview.
        every_n_epochs: As of Preview.
    """

    def __init__(self, settings: DanceSettings, every_n_steps: int | None, every_n_epochs: int | None) -> None:
        super().__init__(every_n_steps, every_n_epochs)
        self.check_counts(max_clips=settings.max_clips, num_steps=settings.num_steps)
        self.settings = settings
        self.danced: Dances | None = None
        self._clips: list[Clip] | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Judge when the step is due; the dances of the step before are let go."""
        if self.danced is not None and self.danced.step != trainer.global_step:
            self.danced = None
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def dances(self, trainer: pl.Trainer, module: MotionExpertModule) -> Dances | None:
        """Dances of this step and rank; None, on every rank, where the corpus has no validation split.

        Raises:
            MaceDanceError: On every rank, where any of them failed.
        """
        protocols = [c for c in trainer.callbacks if isinstance(c, DanceProtocol)]  # type: ignore[attr-defined]
        for made in (protocol.danced for protocol in protocols):
            if made is not None and made.step == trainer.global_step and made.settings == self.settings:
                return made
        chosen = self.together(trainer, "listing the validation clips", lambda: self._chosen(trainer))
        if not chosen:
            self._say("split", f"the corpus has no {SPLIT} split: there is nothing to dance to and to be judged by")
            return None
        ids = list(share_of(len(chosen), trainer.global_rank, trainer.world_size))
        numbers = [chosen[i] for i in ids]
        clips = self.together(trainer, "reading the validation clips", lambda: self._read(trainer, numbers))
        with preview_network(trainer, module):
            make = partial(self._dance, trainer, module, clips, numbers)
            motions = self.together(trainer, "dancing to the validation clips", make)
        pairs = [(_facts(m, c.key), _facts(c.motion, c.key)) for m, c in zip(motions, clips, strict=True)]
        facts = [pair for part in gather(pairs) for pair in part]
        ours, theirs = [pair[0] for pair in facts], [pair[1] for pair in facts]
        self.danced = Dances(trainer.global_step, self.settings, ids, clips, motions, ours, theirs)
        return self.danced

    def making(self) -> dict[str, Any]:
        """How the dances are made, as JSON holds it."""
        return {"dances": asdict(self.settings)}

    def _chosen(self, trainer: pl.Trainer) -> list[int]:
        numbers = trainer.datamodule.clip_numbers(SPLIT)  # type: ignore[attr-defined]
        return spread(numbers, self.settings.max_clips)

    def _read(self, trainer: pl.Trainer, numbers: Sequence[int]) -> list[Clip]:
        """The share of this rank is read once and kept: poses and music, no pictures."""
        if self._clips is None:
            self._clips = trainer.datamodule.clips(SPLIT, numbers)  # type: ignore[attr-defined]
        return self._clips

    def _dance(
        self, trainer: pl.Trainer, module: MotionExpertModule, clips: Sequence[Clip], numbers: Sequence[int]
    ) -> list[Motion]:
        settings = self.settings
        with self.bar(trainer, "validation dances") as bar:
            return averaged_dances(
                trainer,
                module,
                clips,
                numbers,
                beta=settings.beta,
                seed=settings.seed,
                sampler=settings.sampler,
                num_steps=settings.num_steps,
                progress=bar,
            )


def _facts(motion: Motion, key: str) -> ClipFacts:
    return ClipFacts(key, motion.fps, motion.num_frames, motion.music_beats_s is not None)
