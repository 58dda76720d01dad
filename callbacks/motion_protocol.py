"""The motion metrics of dances generated for held-out songs, during training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import pytorch_lightning as pl

from callbacks.protocol_results import gathered, gathering_device
from callbacks.protocol_runs import DanceProtocol, Dances, DanceSettings
from lightning_modules.motion_expert import MotionExpertModule
from macedance.errors import ConfigError
from macedance.metrics.motion import MotionMetrics
from macedance.metrics.presets import CLEAN, presets_for
from macedance.metrics.protocol import (
    ProtocolResult,
    described,
    named_per_clip,
    preset_notes,
    split_floor,
)
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry


class MotionProtocol(DanceProtocol):
    """Every k steps or data epochs: a dance for each validation clip from the averaged weights, judged by the clips.

    The ranks share the clips; the result is that of ``macedance evaluate motion`` on the same dances. It goes to
    ``protocol/step-<n>.json``; the values go to the logger and to ``metrics_val.csv``: ``val/fid_k``, ``val/bas``, ...
    of the preset ``clean``, ``val/<preset>/fid_k``, ... of others. ``callbacks.best.Best`` chooses by any of them.

    Under ZeRO every rank dances with a whole float32 copy of the network, 4 bytes for each parameter beside its share.
    The reference's features and floors are computed once.

    Args:
        every_n_steps: Optimizer steps between two evaluations; see Preview.
        every_n_epochs: Data epochs between two evaluations.
        max_clips: Clips at most, spread over the split by their order; None: all. It bounds the time.
        sampler: ``ddim`` or ``dpmpp``; None: the model's own.
        num_steps: Sampling steps; None: the sampler's own number.
        beta: Temperature; None: the objective's default.
        seed: Of the sampling noise, of the bootstrap and of the floor.
        allow_small_n: Report Fréchet distances below the feature dimension too.
        presets: Conventions to judge by, of those for joints.
        resamples: Of the 95% bootstrap intervals; 0: none.
        floor_draws: Draws of the reference-against-reference floor; 0: none.

    Raises:
        ConfigError: A number below 1, or a preset that is unknown or not for joints.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        max_clips: int | None = None,
        sampler: str | None = None,
        num_steps: int | None = None,
        beta: float | None = None,
        seed: int = 0,
        allow_small_n: bool = False,
        every_n_epochs: int | None = None,
        presets: list[str] | None = None,
        resamples: int = MEAN_RESAMPLES,
        floor_draws: int = FLOOR_DRAWS,
    ) -> None:
        super().__init__(DanceSettings(max_clips, sampler, num_steps, beta, seed), every_n_steps, every_n_epochs)
        if resamples < 0 or floor_draws < 0:
            raise ConfigError("resamples and floor_draws count from 0", where="MotionProtocol")
        self.presets = presets_for([CLEAN.name] if presets is None else presets, [])
        self.reporting = {
            "allow_small_n": allow_small_n,
            "resamples": resamples,
            "floor_draws": floor_draws,
            "seed": seed,
        }
        self._references: list[MotionMetrics] | None = None
        self._floors: dict[str, dict[str, Entry]] | None = None

    def preview(self, trainer: pl.Trainer, module: MotionExpertModule) -> ProtocolResult | None:
        """Generate, judge, write; the first rank's result, None elsewhere and without a validation split."""
        dances = self.dances(trainer, module)
        if dances is None:
            return None
        shares = self.together(trainer, "measuring the dances", partial(self._measure, trainer, dances))
        metrics = [gathered(metric) for metric in shares]
        judge = partial(self._judge, trainer, module, dances, metrics)
        result: ProtocolResult | None = self.on_first_rank(trainer, "judging the dances", judge)
        prefixes = {preset.name: f"val/{preset.name}/" for preset in self.presets if preset is not CLEAN}
        self.publish(trainer, result, prefixes)
        return result

    def _measure(self, trainer: pl.Trainer, dances: Dances) -> list[MotionMetrics]:
        """Dances and references of this rank, by preset; those of the reference are measured once."""
        if self._references is None:
            self._references = self._measured_references(trainer, dances)
        metrics = copy.deepcopy(self._references)
        generated = dances.generated()
        for metric in metrics:
            metric.update(generated, dances.ids)
            if self._floors is not None:
                metric.reporting = replace(metric.reporting, floor_draws=0)
        return metrics

    def _measured_references(self, trainer: pl.Trainer, dances: Dances) -> list[MotionMetrics]:
        reference, device = dances.reference(), gathering_device(trainer)
        metrics = []
        for preset in self.presets:
            metric = MotionMetrics(preset, extras=True, sync_on_compute=False, **self.reporting)  # type: ignore[arg-type]
            metric.to(device).update(reference, dances.ids, reference=True)
            metrics.append(metric)
        return metrics

    def _judge(
        self, trainer: pl.Trainer, module: MotionExpertModule, dances: Dances, metrics: Sequence[MotionMetrics]
    ) -> ProtocolResult:
        names = dances.names
        values, floors, per_clip = {}, {}, {}
        for preset, metric in zip(self.presets, metrics, strict=True):
            values[preset.name], floors[preset.name] = split_floor(metric.compute())
            per_clip[preset.name] = named_per_clip(metric.per_clip(), names, names)
        self._floors = floors if self._floors is None else self._floors
        generated = [facts.placeholder() for facts in dances.facts]
        reference = [facts.placeholder() for facts in dances.reference_facts]
        inputs: dict[str, Any] = described(generated, reference) | {
            "resolution": None,
            "settings": dict(self.reporting),
            "left_out": {"generated": {}, "reference": {}},
            "notes": {preset.name: preset_notes(preset, generated, reference) for preset in self.presets},
        }
        inputs |= self.training_inputs(trainer, module)
        conventions = {preset.name: asdict(preset) for preset in self.presets}
        return ProtocolResult(values, self._floors, inputs, conventions, per_clip=per_clip)
