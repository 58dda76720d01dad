"""The checkpoint at which a value was best, kept and linked."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info, rank_zero_warn

from callbacks.agreement import from_first
from callbacks.checkpoint_writer import link_checkpoint
from callbacks.checkpoints import Checkpoints, validation_is_due
from callbacks.run_files import find_callback
from macedance.errors import ConfigError
from macedance.pipelines.checkpoint_folder import LAST_LINK, checkpoint_name


class Best(pl.Callback):
    """Saves a checkpoint at every step that is better than all before, and points ``checkpoints/<name>.ckpt`` to it.

    The link's checkpoint is never pruned, beyond those that ``keep_last_checkpoints`` keeps; the one that was best
    before is let go. The values are those of the validation loop and of the protocol callbacks, as ``metrics_val.csv``
    names them. What was best is part of every checkpoint: a resumed run chooses as the uninterrupted one would have.
    Stands behind what it looks at and before :class:`Checkpoints`; the launcher puts it there.

    Args:
        monitor: Name of the value, e.g. ``val/fid_k`` or ``val/loss``.
        mode: Whether ``min`` or ``max`` is best. Of equal values the first stays; what is not finite never is best.
        name: Of the link; several of these callbacks need several names.

    Raises:
        ConfigError: Another mode, or a name that is taken or no file name.
    """

    def __init__(self, monitor: str = "val/fid_k", mode: Literal["min", "max"] = "min", name: str = "best") -> None:
        if mode not in ("min", "max"):
            raise ConfigError(f"mode is {mode!r}", where="Best.mode", expected="min or max")
        taken = f"{name}.ckpt" == LAST_LINK or name.startswith((".", "step-"))
        if taken or not name or Path(name).name != name:
            raise ConfigError(f"a link cannot be named {name!r}", where="Best.name", expected="a name like best")
        self.monitor, self.mode, self.name = monitor, mode, name
        self.value: float | None = None
        #: Whose checkpoint is kept.
        self.kept_step: int | None = None
        self._unsaved = False
        self._seen: set[str] = set()

    @property
    def link_name(self) -> str:
        """Of the link beside the checkpoints."""
        return f"{self.name}.ckpt"

    @property
    def state_key(self) -> str:
        """Several of these callbacks keep their states apart."""
        return self._generate_state_key(monitor=self.monitor, mode=self.mode, name=self.name)

    # ---------------------------------------------------------------- choosing
    def offer(self, step: int, values: Mapping[str, float]) -> None:
        """Choose by the values of a step, at its end; every rank is offered the same.

        Args:
            step: Optimizer steps done.
            values: By their names in ``metrics_val.csv``.
        """
        self._seen.update(values)
        value = float(values.get(self.monitor, math.nan))
        if not math.isfinite(value):
            return
        if self.value is None or (value < self.value if self.mode == "min" else value > self.value):
            self.value, self.kept_step, self._unsaved = value, step, True

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the step that a protocol callback found to be the best."""
        self._save_chosen(trainer, pl_module, validated=False)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the step that the validation loop found to be the best; anew where it was saved before it."""
        broken_off = any(getattr(c, "breaking_off", False) for c in trainer.callbacks)  # type: ignore[attr-defined]
        if trainer.state.fn != "fit" or broken_off:
            return
        named = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        values = from_first(named)
        for best in _all_of(trainer):
            best.offer(trainer.global_step, values)
        self._save_chosen(trainer, pl_module, validated=True)

    def _save_chosen(self, trainer: pl.Trainer, module: pl.LightningModule, *, validated: bool) -> None:
        """One checkpoint for all callbacks of this kind, which have chosen already: it holds the choice of each."""
        choosing = [best for best in _all_of(trainer) if best._unsaved]
        for best in choosing:
            best._unsaved = False
        checkpoints = find_callback(trainer, Checkpoints)
        if not choosing or checkpoints is None:
            return
        checkpoints.save(trainer, module, validation_due=not validated and validation_is_due(trainer))
        for best in choosing:
            rank_zero_info(f"best {best.monitor} so far: {best.value:.6g}, step {best.kept_step} is {best.link_name}")

    def _link(self, trainer: pl.Trainer) -> bool:
        """Point the link to what is best; whether that is there. Without one nothing is linked."""
        folder = Path(trainer.default_root_dir) / "checkpoints"
        target = None if self.kept_step is None else folder / checkpoint_name(self.kept_step)
        if target is not None and target.is_dir():
            link_checkpoint(target, self.link_name)
            return True
        with contextlib.suppress(OSError):
            if (folder / self.link_name).is_symlink():
                (folder / self.link_name).unlink()
        return False

    # ---------------------------------------------------------------- resuming
    def state_dict(self) -> dict[str, Any]:
        """What is best so far."""
        return {"value": self.value, "step": self.kept_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on choosing from there."""
        value, step = state_dict["value"], state_dict["step"]
        self.value = None if value is None else float(value)
        self.kept_step = None if step is None else int(step)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the link say what the resumed checkpoint says: a kill may have come between the two."""
        if find_callback(trainer, Checkpoints) is None or not trainer.is_global_zero:
            return
        if not self._link(trainer) and self.kept_step is not None:
            rank_zero_info(
                f"the checkpoint of step {self.kept_step}, where {self.monitor} was {self.value:.6g}, is not in this "
                f"run's folder any more: {self.link_name} comes back with the next better one"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so where there was nothing to choose by."""
        if self.value is None and not any(getattr(c, "preempted", False) for c in trainer.callbacks):  # type: ignore[attr-defined]
            known = ", ".join(sorted(self._seen)) or "none"
            rank_zero_warn(f"no best checkpoint was chosen: no value was called {self.monitor}; there were: {known}")


def _all_of(trainer: pl.Trainer) -> list[Best]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Best)]  # type: ignore[attr-defined]
