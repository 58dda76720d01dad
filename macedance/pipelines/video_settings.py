"""How videos are made of a motion and a picture: what a user may choose, and what a model makes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from macedance.diffusion.flow_matching import FlowSampler
from macedance.errors import ConfigError
from macedance.pipelines.appearance_config import AppearanceModelConfig
from macedance.pipelines.appearance_segments import plan_segments
from macedance.rendering.projector import CameraKind

#: Places in time, rows and columns of a transformer that does not say how many it has, which is diffusers' default.
_POSITIONS = 1024
DEFAULT_PROMPT = "a person is dancing"


@dataclass(frozen=True)
class VideoSettings:
    """How videos are made, wherever a call does not say otherwise.

    Attributes:
        size: (height, width) in pixels; None: the model's own, turned upright for an upright picture.
        camera: ``fixed`` stands still, ``follow`` stays with the dancer.
        num_steps: Sampling steps; None: the model's own. Few (4 to 8) go with adapters that were distilled for it.
        lora_scale: Strength of the model's own adapters; the released scripts sample with 0.5.
        guidance_scale: 1: none, as Wan-Animate is sampled; more doubles the cost.
        segment_frames: Of the longest segment; None: as long as the model's training clips.
        known_frames: That each segment but the first goes on from; None: as many as the model was trained with.
        match_colours: Correct colours that wander from segment to segment (appearance_colours.py).
        prompt: What the text encoder is told.
        sampler: ``euler`` or ``unipc``; None: the model's own.
        negative_prompt: What guidance leads away from, where there is any; empty: what training showed in place of a
            dropped prompt, which is the empty prompt, as Wan-Animate is sampled.
    """

    size: tuple[int, int] | None = None
    camera: CameraKind = "fixed"
    num_steps: int | None = None
    lora_scale: float = 1.0
    guidance_scale: float = 1.0
    segment_frames: int | None = None
    known_frames: int | None = None
    match_colours: bool = True
    prompt: str = DEFAULT_PROMPT
    sampler: FlowSampler | None = None
    negative_prompt: str = ""

    def chosen(self, choices: Mapping[str, Any]) -> VideoSettings:
        """These settings with what a call says otherwise; None says nothing.

        Raises:
            ConfigError: A setting that there is not.
        """
        known = list(VideoSettings.__dataclass_fields__)
        if unknown := sorted(set(choices) - set(known)):
            raise ConfigError(f"unknown setting {', '.join(unknown)}", expected=f"some of {', '.join(known)}")
        return replace(self, **{key: value for key, value in choices.items() if value is not None})

    def completed(self, config: AppearanceModelConfig, has_lora: bool) -> CompleteSettings:
        """What a model does under these settings.

        Args:
            config: Of the model.
            has_lora: It has adapters of its own.

        Raises:
            ConfigError: Settings that the model cannot follow.
        """
        steps = config.num_steps if self.num_steps is None else self.num_steps
        if steps < 1:
            raise ConfigError(f"{steps} sampling steps", expected="1 or more")
        if not self.guidance_scale >= 1 or not math.isfinite(self.lora_scale):
            raise ConfigError(
                f"guidance_scale {self.guidance_scale}, lora_scale {self.lora_scale}",
                expected="guidance of 1 or more, a finite scale",
            )
        if self.negative_prompt and self.guidance_scale == 1:
            raise ConfigError(
                "negative_prompt without guidance: nothing would be led away from it",
                expected="a guidance_scale above 1",
            )
        if self.lora_scale != 1.0 and not has_lora:
            raise ConfigError(
                f"lora_scale is {self.lora_scale}, the model has no low-rank adapters of its own",
                fix="leave it out, or export the aesthetic stage with its adapters beside the model",
            )
        if self.camera not in get_args(CameraKind):
            raise ConfigError(f"unknown camera {self.camera!r}", expected=" or ".join(get_args(CameraKind)))
        sampler = self.sampler or config.sampler
        if sampler not in get_args(FlowSampler):
            raise ConfigError(f"unknown sampler {sampler!r}", expected=" or ".join(get_args(FlowSampler)))
        size = self.size or config.size
        config.geometry.check(1, *size)
        frames = config.frames if self.segment_frames is None else self.segment_frames
        known = config.known_frames if self.known_frames is None else self.known_frames
        # A segment that was made shorter than the model's known frames knows as many as still leave something new.
        known = min(known, max(0, frames - 1)) if self.known_frames is None else known
        plan_segments(1, frames, known, config.geometry)
        _check_positions(config, size, frames)
        return CompleteSettings(
            size,
            self.camera,
            steps,
            self.lora_scale,
            self.guidance_scale,
            frames,
            known,
            self.match_colours,
            self.prompt,
            sampler,
            self.negative_prompt,
        )


def _check_positions(config: AppearanceModelConfig, size: tuple[int, int], frames: int) -> None:
    """Raise ConfigError for pictures or segments beyond the positions that the transformer can tell apart."""
    geometry, most = config.geometry, int(config.transformer.get("rope_max_seq_len") or _POSITIONS)
    step = geometry.spatial * geometry.patch
    if max(size) > most * step:
        raise ConfigError(
            f"a picture of {size[1]} x {size[0]} pixels is larger than the model can place",
            expected=f"at most {most * step} on a side",
        )
    # The reference picture takes a place in time too.
    if geometry.latent_frames(frames) + 1 > most:
        raise ConfigError(
            f"segments of {frames} frames are longer than the model can place",
            expected=f"at most {geometry.frames(most - 1)}",
        )


@dataclass(frozen=True)
class CompleteSettings:
    """VideoSettings in which nothing is left to the model."""

    size: tuple[int, int]
    camera: CameraKind
    num_steps: int
    lora_scale: float
    guidance_scale: float
    segment_frames: int
    known_frames: int
    match_colours: bool
    prompt: str
    sampler: FlowSampler
    negative_prompt: str
