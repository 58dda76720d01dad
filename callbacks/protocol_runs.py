"""What the callbacks that judge dances during training share: the dances of all ranks, and where results go.

Every rank dances to its own run of the held-out clips. The noise of a dance is keyed by the number of its clip, so that
any number of ranks makes the same dances, up to rounding. Metrics count a clip once, whichever rank has it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_info
from torchmetrics import Metric

from callbacks.agreement import agreed_evaluation, from_first, gather
from callbacks.best import Best
from callbacks.ema import preview_network
from callbacks.previews import Preview, averaged_dances, share_of, spread
from callbacks.run_files import MetricsCsv, find_callback
from datamodules.motion import Clip
from lightning_modules.motion_expert import MotionExpertModule
from macedance.metrics.protocol import ProtocolResult, write_protocol
from macedance.motion.files import JointClip, Motion
from macedance.motion.skeleton import NUM_JOINTS
from macedance.report.progress import Progress

SPLIT = "val"
FOLDER = "protocol"
#: Keys of the reference's own values end so.
REFERENCE = "_reference"
#: Keys that a message names before it counts them.
_NAMED = 6

MetricType = TypeVar("MetricType", bound=Metric)


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


class DanceProtocol(Preview):
    """Base of the callbacks that judge dances to the validation clips.

    Args:
        settings: How to dance. Callbacks of equal settings share their dances where they are due at the same step.
        every_n_steps: As of Preview.
        every_n_epochs: As of Preview.
    """

    #: What its results' files are called before their step.
    file_stem = "step"

    def __init__(self, settings: DanceSettings, every_n_steps: int | None, every_n_epochs: int | None) -> None:
        super().__init__(every_n_steps, every_n_epochs)
        self.check_counts(max_clips=settings.max_clips, num_steps=settings.num_steps)
        self.settings = settings
        self.danced: Dances | None = None
        self._clips: list[Clip] | None = None
        self._said: set[str] = set()

    def file(self, trainer: pl.Trainer) -> Path:
        """Where the result of this step goes."""
        return Path(trainer.default_root_dir) / FOLDER / f"{self.file_stem}-{trainer.global_step:08d}.json"

    def together(self, trainer: pl.Trainer, what: str, function: Callable[[], Any]) -> Any:
        """Call a function on every rank; an error of one ends all of them with it."""
        return agreed_evaluation(what, function, where=self.file(trainer))

    def on_first_rank(self, trainer: pl.Trainer, what: str, function: Callable[[], Any]) -> Any:
        """Call a function on the first rank, None elsewhere; an error there ends all ranks with it."""
        return self.together(trainer, what, function if trainer.is_global_zero else lambda: None)

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
        for made in (protocol.danced for protocol in all_protocols(trainer)):
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

    def bar(self, trainer: pl.Trainer, what: str) -> Any:
        """A progress bar of the first rank, whose share is one of the largest; None elsewhere."""
        return Progress(what, 1) if trainer.is_global_zero else nullcontext()

    # ---------------------------------------------------------------- results
    def training_inputs(self, trainer: pl.Trainer, module: MotionExpertModule) -> dict[str, Any]:
        """What of a result's ``inputs`` says where in training it was made; not part of its hash."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        return {
            "training": {
                "step": trainer.global_step,
                "position": module.position,
                "epoch": data.epoch_of(module.position),
                "split": SPLIT,
                "dances": asdict(self.settings),
            }
        }

    def publish(
        self, trainer: pl.Trainer, result: ProtocolResult | None, prefixes: Mapping[str, str | None]
    ) -> dict[str, float]:
        """Write the first rank's result and tell its values to the tables, the loggers and who keeps the best.

        Args:
            trainer: The trainer.
            result: On the first rank the result.
            prefixes: Preset -> what its values are called by before their key, ``val/`` where it is not named; None:
                they are in the file only.

        Returns:
            Name -> value, on every rank; keys without a value are left out, with the reason said once.

        Raises:
            MaceDanceError: On every rank, where it cannot be written.
        """

        def write() -> dict[str, float]:
            assert result is not None
            values = named_values(result, prefixes)
            write_protocol(self.file(trainer), result)
            csv_file = find_callback(trainer, MetricsCsv)
            if csv_file is not None:
                csv_file.write_validation(trainer.global_step, values)
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)
            self._say_missing(trainer, result, prefixes)
            return values

        values: dict[str, float] = from_first(self.on_first_rank(trainer, "writing the result", write))
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Best):
                callback.offer(trainer.global_step, values)
        return values

    def _say_missing(self, trainer: pl.Trainer, result: ProtocolResult, prefixes: Mapping[str, str | None]) -> None:
        """Name the numbers that there are not, by their reasons; each reason once in a run, whoever has it."""
        missing: dict[str, list[str]] = {}
        for preset, entries in result.presets.items():
            for key, entry in entries.items():
                if entry.get("value") is None and prefixes.get(preset, "val/") is not None:
                    reason = str(entry.get("reason", "no value")).partition("; at ")[0]
                    missing.setdefault(reason, []).append(key.removesuffix(REFERENCE))
        said = {reason for protocol in all_protocols(trainer) for reason in protocol._said}
        for reason, keys in missing.items():
            if reason not in said:
                self._say(reason, f"validation numbers left out: {_listed(list(dict.fromkeys(keys)))}: {reason}")
        if missing.keys() - said:
            rank_zero_info(f"the whole reasons are in {self.file(trainer)}")

    def _say(self, key: str, text: str) -> None:
        if key not in self._said:
            self._said.add(key)
            rank_zero_info(text)


def all_protocols(trainer: pl.Trainer) -> list[DanceProtocol]:
    """Every callback of this kind."""
    return [callback for callback in trainer.callbacks if isinstance(callback, DanceProtocol)]  # type: ignore[attr-defined]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def named_values(result: ProtocolResult, prefixes: Mapping[str, str | None]) -> dict[str, float]:
    """Values of a result as logs call them: ``val/fid_k``, or with the prefix of their preset."""
    named: dict[str, float] = {}
    for preset, entries in result.presets.items():
        prefix = prefixes.get(preset, "val/")
        if prefix is not None:
            named |= {f"{prefix}{key}": float(e["value"]) for key, e in entries.items() if e.get("value") is not None}
    return named


def gathered(metric: MetricType) -> MetricType:
    """A copy of a metric that holds what all ranks' have seen and never gathers again; a collective."""
    with metric.sync_context(dist_sync_fn=metric.dist_sync_fn):
        states = dict(metric.metric_state)
    whole = copy.deepcopy(metric)
    whole.sync_on_compute = whole._to_sync = False
    for name, state in states.items():
        setattr(whole, name, list(state) if isinstance(state, list) else state)
    return whole


def gathering_device(trainer: pl.Trainer) -> torch.device:
    """Where a metric must lie for its states to be gathered: NCCL moves what is on a GPU only."""
    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    on_gpu = joined and torch.distributed.get_backend() == "nccl"
    return trainer.strategy.root_device if on_gpu else torch.device("cpu")


def _facts(motion: Motion, key: str) -> ClipFacts:
    return ClipFacts(key, motion.fps, motion.num_frames, motion.music_beats_s is not None)
