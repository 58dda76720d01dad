"""What callbacks that dance during training share: when they are due, whose clips are whose, and the dances."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytorch_lightning as pl

from callbacks.checkpoint_writer import random_state, restore_random_state
from callbacks.ema import EmaCallback
from callbacks.run_files import find_callback
from datamodules.motion import Clip
from lightning_modules.base import ExpertModule
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.motion.files import Motion

#: Steps between two previews where a config says nothing.
DEFAULT_STEPS = 1000


class Preview(pl.Callback):
    """Something that all ranks do together every k optimizer steps or data epochs, at the end of a step.

    Args:
        every_n_steps: Optimizer steps between two previews.
        every_n_epochs: Data epochs between two previews: at the step that ends every n-th pass over the corpus, as the
            position in the data says it, whatever the number of ranks. With both, at either; with neither, every 1000
            steps.

    Raises:
        ConfigError: A number below 1.
    """

    #: What it can show.
    module_type: type[ExpertModule] = MotionExpertModule

    def __init__(self, every_n_steps: int | None = None, every_n_epochs: int | None = None) -> None:
        self.check_counts(every_n_steps=every_n_steps, every_n_epochs=every_n_epochs)
        if every_n_steps is None and every_n_epochs is None:
            every_n_steps = DEFAULT_STEPS
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self._last_step = 0

    def check_counts(self, **counts: int | None) -> None:
        """Refuse settings that count things and are below 1; None is no setting.

        Raises:
            ConfigError: One is; it is named.
        """
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ConfigError(
                    f"{name} is {value}", where=type(self).__name__, expected=f"{name} counts from 1, or null"
                )

    def is_due(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether the optimizer step that has just ended has a preview; the same on every rank."""
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            return True
        if self.every_n_epochs is None:
            return False
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        position = int(pl_module.position)  # type: ignore[arg-type]
        begun, done = data.epoch_of(max(position - data.global_batch_size, 0)), data.epoch_of(position)
        return bool(begun // self.every_n_epochs != done // self.every_n_epochs)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuse a run of another model than it shows, before anything is trained.

        Raises:
            ConfigError: It is one.
        """
        if not isinstance(pl_module, self.module_type):
            raise ConfigError(
                f"it is for {self.module_type.__name__} and the run trains {type(pl_module).__name__}",
                where=f"trainer.callbacks: {type(self).__name__}",
                fix="leave it out of this run",
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The step that a resume starts from has its preview."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Make the preview when the step is due, once per optimizer step."""
        step = trainer.global_step
        if step == self._last_step:
            return
        self._last_step = step
        if not self.is_due(trainer, pl_module):
            return
        # Networks that a preview builds draw numbers, in a resumed run at another step: training's must stay the same.
        state = random_state(trainer)
        self.preview(trainer, pl_module)
        restore_random_state(trainer, state)

    @abstractmethod
    def preview(self, trainer: pl.Trainer, module: Any) -> Any:
        """Make it with the run's module, which is a ``module_type``; called on every rank."""


def spread(numbers: Sequence[int], count: int | None) -> list[int]:
    """``count`` of the numbers or all, evenly spaced: neighbours in a split are clips of one song."""
    count = len(numbers) if count is None else min(count, len(numbers))
    return [numbers[i * len(numbers) // count] for i in range(count)]


def share_of(count: int, rank: int, world_size: int) -> range:
    """Which of ``count`` things are this rank's: a run of them; the first ranks have one more where it does not divide.

    A rank has none where there are more ranks than things.
    """
    each, more = divmod(count, world_size)
    start = rank * each + min(rank, more)
    return range(start, start + each + (rank < more))


def beating(trainer: pl.Trainer, progress: Callable[[int, int], None] | None) -> Callable[[int, int], None]:
    """Progress that also is a sign of life to the watchdog: dances of many minutes are no hang."""
    beats = [c.beat for c in trainer.callbacks if hasattr(c, "beat")]  # type: ignore[attr-defined]

    def tell(done: int, total: int) -> None:
        for beat in beats:
            beat()
        if progress is not None:
            progress(done, total)

    return tell


def averaged_dances(
    trainer: pl.Trainer,
    module: MotionExpertModule,
    clips: Sequence[Clip],
    numbers: Sequence[int] | None = None,
    *,
    beta: float | None = None,
    seed: int,
    sampler: str | None,
    num_steps: int | None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Motion]:
    """A dance for each clip's music, from the averaged weights where the run keeps an average.

    Under ZeRO only inside :func:`callbacks.ema.preview_network`.

    Args:
        trainer: Its EmaCallback, if any, holds the average.
        module: The module being trained.
        clips: Clips of the corpus; a genre that the model does not name is drawn by the seed.
        numbers: Number of each clip, which with the seed decides its noise; None: from 0.
        beta: Temperature; None: the model's own.
        seed: Of the sampling noise.
        sampler: ``ddim``, ``dpmpp``, or None for the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        progress: Told (steps done, steps in all).
    """
    averaged = find_callback(trainer, EmaCallback)
    with averaged.applied(module) if averaged else nullcontext():
        pipeline = module.pipeline()
        return pipeline.generate_batch(
            [clip.music for clip in clips],
            genres=[clip.genre if clip.genre in pipeline.genres else None for clip in clips],
            beta=beta,
            seed=seed,
            numbers=numbers,
            sampler=sampler,
            num_steps=num_steps,
            music_beats_s=[clip.motion.music_beats_s for clip in clips],
            songs=[clip.song for clip in clips],
            progress=beating(trainer, progress),
        )
