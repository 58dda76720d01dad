"""From a batch of clips to the loss of the Appearance Expert's training step.

Shapes: B clips, z latent channels, t latent frames of the clip, h, w latent rows and columns; T, H, W pixels' frames,
rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from macedance.diffusion.flow_matching import FlowDraws, FlowMatching
from macedance.errors import ConfigError, DataError
from macedance.models.appearance_expert.conditions import Conditions, no_face
from macedance.models.appearance_expert.encoders import AppearanceEncoders

#: What every encoded batch holds; it may hold ``image``, ``face`` and ``empty_text`` too.
ENCODED_KEYS = ("latents", "pose", "reference", "known", "blank", "text")


def is_encoded(batch: Mapping[str, Any]) -> bool:
    """Whether a batch holds latents, rather than pixels."""
    return "latents" in batch


@torch.no_grad()
def encode_batch(
    batch: Mapping[str, Any], encoders: AppearanceEncoders, known_frames: int, known_B: Tensor | None = None
) -> dict[str, Any]:
    """What the data's encoder would have precomputed, for a batch of pixels; whatever autocast the step runs under.

    Args:
        batch: ``video`` and ``pose_video`` (B, 3, T, H, W), ``reference_image`` (B, 3, H, W), all in [-1, 1],
            ``prompt``, a list of B, and optionally ``face_video``; anything else is passed on.
        encoders: The frozen encoders.
        known_frames: Frames given at the beginning where a clip's beginning is known.
        known_B: bool; the rows whose beginning is known in this step: of the others ``known`` is blank. None: all.

    Returns:
        The batch with ``latents pose reference known blank text empty_text [image] [face] known_frames`` instead.
    """
    with torch.autocast(batch["video"].device.type, enabled=False):  # in half precision, latents would be other ones
        encoded = _encoded(batch, encoders, known_frames, known_B)
    taken = ("video", "pose_video", "reference_image", "prompt", "face_video")
    return {**{key: value for key, value in batch.items() if key not in taken}, **encoded}


def _encoded(
    batch: Mapping[str, Any], encoders: AppearanceEncoders, known_frames: int, known_B: Tensor | None
) -> dict[str, Any]:
    video = batch["video"]
    blank = encoders.codec.blank(len(video), *video.shape[2:])
    image = encoders.image_features(batch["reference_image"])
    latents, face = encoders.encode_video(video), batch.get("face_video")
    return {
        "latents": latents,
        "pose": encoders.encode_video(batch["pose_video"]),
        "reference": encoders.reference(batch["reference_image"]),
        "known": _known(video, encoders, known_frames, blank, known_B),
        "blank": blank,
        "text": encoders.text(batch["prompt"]),
        "empty_text": encoders.no_text(len(video)),
        **({} if image is None else {"image": image}),
        **({} if face is None else {"face": encoders.face(face, len(latents), latents.shape[2])}),
        "known_frames": known_frames,
    }


def _known(
    video: Tensor, encoders: AppearanceEncoders, known_frames: int, blank: Tensor, known_B: Tensor | None
) -> Tensor:
    """Latents of the clips' beginnings, encoded for the rows that are given theirs alone."""
    rows = torch.arange(len(video)) if known_B is None else known_B.cpu().nonzero().flatten()
    if not len(rows) or not known_frames:
        return blank
    beginnings = video[rows.to(video.device)][:, :, :known_frames]
    known = blank.clone()
    known[rows.to(known.device)] = encoders.known(beginnings, len(rows), *video.shape[2:])
    return known


def training_conditions(batch: Mapping[str, Any], draws: FlowDraws, face_size: int) -> Conditions:
    """The conditions of a training step: the clip's beginning is known, or text and face dropped, where it was drawn.

    A dropped prompt is the empty one, which is what guidance leads away from when Wan is sampled and no negative prompt
    is given. Batches without ``empty_text``, of corpora from before it was kept, have zeros in its place.

    Args:
        batch: Encoded; see ENCODED_KEYS.
        draws: Of its rows.
        face_size: Of the network's face video, which a batch without faces is given blank.

    Raises:
        DataError: The batch lacks something, or its faces are of another size.
    """
    missing = [key for key in ENCODED_KEYS if batch.get(key) is None]
    if missing:
        raise DataError(f"the batch has no {', '.join(missing)}", expected=f"a batch with {', '.join(ENCODED_KEYS)}")
    latents = batch["latents"]
    known_B = draws.known_B.to(latents.device)
    known = torch.where(known_B.view(-1, 1, 1, 1, 1), batch["known"].float(), batch["blank"].float())
    face = batch.get("face")
    if face is not None and tuple(face.shape[3:]) != (face_size, face_size):
        raise DataError(
            f"the faces have {face.shape[4]} x {face.shape[3]} pixels",
            expected=f"{face_size} x {face_size}, as the network's motion encoder takes them",
            fix=f"--data.face_size={face_size}",
        )
    if face is None:
        with latents.device:  # made there: at 512 pixels a blank face video is hundreds of MB
            face = no_face(len(latents), latents.shape[2], face_size)
    conditions = Conditions(
        reference=batch["reference"].float(),
        pose=batch["pose"].float(),
        face=face.float(),
        text=batch["text"].float(),
        known=known,
        image=None if batch.get("image") is None else batch["image"].float(),
        known_frames=draws.known_B.cpu().long() * int(batch.get("known_frames", 0)),
    )
    empty = batch.get("empty_text")
    return conditions.dropped(draws.drop_B, None if empty is None else empty.float())


def velocity_loss(
    network: nn.Module,
    flow: FlowMatching,
    latents_BCTHW: Tensor,
    conditions: Conditions,
    draws: FlowDraws,
    exclude_reference: bool = True,
    real_B: Tensor | None = None,
) -> Tensor:
    """Mean over the clips of the weighted squared error of the velocity, float32, 0-dim (Lipman et al., eq. 23).

    Args:
        network: ``forward(noisy, sigma, conditions)``.
        flow: Noise levels and their weights.
        latents_BCTHW: The clips (B, z, t, h, w).
        conditions: Of the clips.
        draws: Their noise is of (B, z, 1 + t, h, w).
        exclude_reference: Count the clip's frames alone; else the reference's, which comes first, too.
        real_B: bool; False for rows that stand where a rank has no clip left. None: all count.
    """
    x0 = torch.cat([conditions.reference, latents_BCTHW.float()], dim=2)
    draws = draws.to(x0.device)
    sigma_B = flow.sigma(draws.u_B)
    predicted = network(flow.add_noise(x0, draws.noise, sigma_B), sigma_B, conditions).float()
    error = (predicted - flow.velocity(x0, draws.noise)).square()
    error = error[:, :, 1:] if exclude_reference else error
    loss_B = error.flatten(1).mean(dim=1) * flow.loss_weight(sigma_B)
    if real_B is None:
        return loss_B.mean()
    real = real_B.to(loss_B)
    return (loss_B * real).sum() / real.sum().clamp(min=1)


def check_probability(name: str, value: float) -> None:
    """Raise ConfigError unless a chance lies in 0 .. 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}", where=f"model.{name}", expected="0 to 1")
