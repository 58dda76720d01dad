"""Renderers by the path of a function: for configs, and for ``--renderer`` of ``macedance evaluate cascade``."""

from __future__ import annotations

from macedance.diffusion.flow_matching import FlowSampler
from macedance.errors import ConfigError
from macedance.models.appearance_expert.network import Precision
from macedance.pipelines.appearance_memory import Offload
from macedance.pipelines.motion_to_video import MotionToVideo
from macedance.pipelines.video_settings import DEFAULT_PROMPT, VideoSettings
from macedance.rendering.projector import CameraKind


def appearance_expert(
    folder: str,
    device: str = "cpu",
    encoders: str | None = None,
    offload: Offload = "none",
    precision: Precision | None = None,
    size: list[int] | None = None,
    camera: CameraKind = "fixed",
    num_steps: int | None = None,
    lora_scale: float = 1.0,
    guidance_scale: float = 1.0,
    segment_frames: int | None = None,
    known_frames: int | None = None,
    match_colours: bool = True,
    prompt: str = DEFAULT_PROMPT,
    sampler: FlowSampler | None = None,
    negative_prompt: str = "",
) -> MotionToVideo:
    """An Appearance Expert from a model folder and plain values.

    Args:
        folder: As of `MotionToVideo.from_pretrained`; ``device``, ``encoders``, ``offload``, ``precision`` likewise.
        device: Where to run.
        encoders: Folder of the frozen encoders.
        offload: What waits in the host's memory.
        precision: Of the weights.
        size: [height, width]; this and what follows: fields of VideoSettings.
        camera: ``fixed`` or ``follow``.
        num_steps: Sampling steps.
        lora_scale: Strength of the model's own adapters.
        guidance_scale: 1: none.
        segment_frames: Of the longest segment.
        known_frames: That each segment goes on from.
        match_colours: Correct colours that wander.
        prompt: What the text encoder is told.
        sampler: ``euler`` or ``unipc``.
        negative_prompt: What guidance leads away from.

    Raises:
        CheckpointError: As of `MotionToVideo.from_pretrained`.
        ConfigError: Settings that the model cannot follow.
    """
    if size is not None and len(size) != 2:
        raise ConfigError(f"size is {size}", expected="[height, width]")
    settings = VideoSettings(
        None if size is None else (int(size[0]), int(size[1])),
        camera,
        num_steps,
        lora_scale,
        guidance_scale,
        segment_frames,
        known_frames,
        match_colours,
        prompt,
        sampler,
        negative_prompt,
    )
    return MotionToVideo.from_pretrained(
        folder, device=device, encoders=encoders, offload=offload, precision=precision, settings=settings
    )
