"""One segment of an Appearance Expert's video: from driving pictures and noise to pixels.

Shapes: T frames, H, W rows and columns of pixels in [-1, 1]; K known frames; z latent channels, t latent frames, h, w
latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from macedance.diffusion.flow_matching import FlowMatching, FlowSampler, sampling_noise
from macedance.diffusion.guidance import evaluation_mode
from macedance.errors import NumericsError
from macedance.models.appearance_expert.conditions import Conditions
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.pipelines.appearance_memory import MemoryPlan

#: Told the sampling steps that are done, of one segment.
StepProgress = Callable[[int], None]
#: Velocity of (x, sigma, conditions).
Forward = Callable[[Tensor, Tensor, Conditions], Tensor]
#: Of one video: at 77 frames each, a month of it.
_MAX_SEGMENTS = 1 << 20


@dataclass(frozen=True)
class Told:
    """What is the same for every segment of a video.

    Attributes:
        image: The reference picture (1, 3, H, W).
        reference: Its latents (1, z, 1, h, w).
        features: Its features (1, M, D), or None.
        text: Embedding (1, N, D) of the prompt.
        away: Embedding (1, N, D) that guidance leads away from; None: zeros.
    """

    image: Tensor
    reference: Tensor
    features: Tensor | None
    text: Tensor
    away: Tensor | None = None


@dataclass(frozen=True)
class Noise:
    """The noise of a segment, drawn from the request's seed and the numbers of video and segment.

    Attributes:
        seed: Of the request.
        segment: Number of the segment.
        video: Number of the video, of several that are made with one seed.
    """

    seed: int
    segment: int
    video: int = 0

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal of a shape, float32."""
        return sampling_noise(self.seed, self.video * _MAX_SEGMENTS + self.segment, shape)


class SegmentSampler:
    """Samples segments with a network and its encoders.

    Args:
        network: The transformer.
        encoders: Its frozen encoders.
        flow: Noise levels.
        memory: Where the networks are.
        forward: How the network is called with (x, sigma, conditions), where a call alone is not enough: in training,
            under a strategy. None: it is called.
    """

    def __init__(
        self,
        network: AppearanceExpert,
        encoders: AppearanceEncoders,
        flow: FlowMatching,
        memory: MemoryPlan,
        forward: Forward | None = None,
    ) -> None:
        self.network, self.encoders, self.flow, self.memory = network, encoders, flow, memory
        self.forward: Forward = network if forward is None else forward

    @torch.no_grad()
    def tell(self, picture_HW3: np.ndarray, prompt: str, away_from: str | None = None) -> Told:
        """Encode the reference picture (H, W, 3) uint8, the prompt and the one to lead away from, once for a video."""
        image = as_pixels(picture_HW3[None])[:, :, 0]
        encoders, device = self.encoders, self.memory.device
        with self.memory.using(encoders.text_encoder):
            # One by one: together they would be rounded otherwise, and the prompt's would depend on the other.
            text = encoders.text([prompt]).to(device)
            away = None if away_from is None else encoders.text([away_from]).to(device)
        features = None
        if encoders.image_encoder is not None:
            with self.memory.using(encoders.image_encoder):
                features = encoders.image_features(image)
        with self.memory.using(encoders.codec):
            reference = encoders.reference(image).to(device)
        return Told(image, reference, None if features is None else features.to(device), text, away)

    @torch.no_grad()
    def sample(
        self,
        told: Told,
        driving_THW3: np.ndarray,
        known_13KHW: Tensor | None,
        noise: Callable[[tuple[int, ...]], Tensor],
        num_steps: int,
        guidance_scale: float = 1.0,
        progress: StepProgress | None = None,
        sampler: FlowSampler = "euler",
    ) -> Tensor:
        """A segment's pixels (3, T, H, W), float32, on the CPU.

        Args:
            told: Of the video.
            driving_THW3: uint8; as many frames as whole latent frames hold.
            known_13KHW: The segment's first frames, in [-1, 1], or None.
            noise: Gives standard normal of the latents' shape (1, z, 1 + t, h, w), on the CPU.
            num_steps: Sampling steps.
            guidance_scale: 1: the network is called once a step, as Wan-Animate is; above: away from another text and
                no face by classifier-free guidance (Ho & Salimans, 2022, eq. 6, in Imagen's form), at twice the cost.
            progress: Told after each step.
            sampler: See FlowMatching.sample.

        Raises:
            ConfigError: Pixels or frames that do not come out even.
            NumericsError: The network gives numbers that are not finite.
        """
        encoders, device = self.encoders, self.memory.device
        pose_pixels = as_pixels(driving_THW3)
        with self.memory.using(encoders.codec):
            pose = encoders.encode_video(pose_pixels).to(device)
            known = encoders.known(known_13KHW, 1, *pose_pixels.shape[2:]).to(device)
        conditions = Conditions(
            reference=told.reference,
            pose=pose,
            face=encoders.face(None, 1, pose.shape[2]).to(device),
            text=told.text,
            known=known,
            image=told.features,
            known_frames=0 if known_13KHW is None else known_13KHW.shape[2],
        )
        start = noise((1, pose.shape[1], 1 + pose.shape[2], *pose.shape[3:])).to(device)
        with self.memory.using(self.network), evaluation_mode(self.network):
            latents = self.flow.sample(
                self._velocity(conditions, guidance_scale, told.away),
                start,
                num_steps,
                None if progress is None else lambda done, _: progress(done),
                sampler,
            )
        if not bool(torch.isfinite(latents).all()):
            raise NumericsError(
                "the network's video is not finite",
                fix="load it in float32 or bfloat16, and check where its weights come from",
            )
        with self.memory.using(encoders.codec):
            return encoders.codec.decode(latents[:, :, 1:])[0].cpu()

    def _velocity(
        self, conditions: Conditions, scale: float, away_from: Tensor | None
    ) -> Callable[[Tensor, Tensor], Tensor]:
        if scale == 1.0:
            return lambda x, sigma: self.forward(x, sigma, conditions)
        without = conditions.dropped(torch.ones(1, dtype=torch.bool), away_from)

        def guided(x: Tensor, sigma: Tensor) -> Tensor:
            away = self.forward(x, sigma, without).float()
            return away + scale * (self.forward(x, sigma, conditions).float() - away)

        return guided


def as_pixels(frames_THW3: np.ndarray) -> Tensor:
    """Frames uint8 as (1, 3, T, H, W) in [-1, 1], float32."""
    return torch.from_numpy(np.ascontiguousarray(frames_THW3)).permute(3, 0, 1, 2)[None].float() / 127.5 - 1


def as_frames(pixels_3THW: Tensor) -> np.ndarray:
    """Pixels (3, T, H, W) in [-1, 1] as frames (T, H, W, 3) uint8."""
    levels = ((pixels_3THW.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 3, 0).cpu().numpy())
