"""A video autoencoder that starts as the best linear one: the principal components of its patches.

An AutoencoderKLWan that only cuts pictures into patches (one level, ``patch_size`` its whole spatial factor, none in
time) can hold a linear map exactly, up to the change of scale in its normalisation: silu(x) - silu(-x) = x carries a
value through the activation, and a constant channel that outweighs the others keeps the normalisation's divisor nearly
constant. Training then starts where principal components end.

Shapes: N patches, P = 3 x patch x patch values of a patch, z latent channels, D channels inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from macedance.errors import ConfigError

#: Power of the values against that of the constant channel: small enough for the divisor to be nearly constant.
_SIGNAL_POWER = 0.05
#: Log-variance of the posterior at the start: noise well below the values.
_LOG_VARIANCE = -6.0


@dataclass(frozen=True)
class Components:
    """Principal components of patches.

    Attributes:
        mean_P: Mean patch.
        basis_Pz: Orthonormal, the strongest first.
        std_z: Standard deviations along them.
    """

    mean_P: Tensor
    basis_Pz: Tensor
    std_z: Tensor


def can_start_linear(config: Any) -> bool:
    """Whether an autoencoder of this configuration can hold a linear map of patches."""
    return (
        (config["patch_size"] or 1) > 1
        and len(config["dim_mult"]) == 1
        and not config["is_residual"]
        and min(config["base_dim"], config["decoder_base_dim"] or config["base_dim"]) > 2 * config["z_dim"]
    )


def patch_components(pixels_BCTHW: Tensor, patch: int, count: int) -> Components:
    """The ``count`` strongest principal components of the patches of clips in [-1, 1], in the autoencoder's order."""
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    values_PN = patchify(pixels_BCTHW.float(), patch_size=patch).transpose(0, 1).flatten(1)
    mean_P = values_PN.mean(dim=1)
    covariance = torch.cov(values_PN)
    power, basis = torch.linalg.eigh(covariance.double())
    order = torch.arange(len(power) - 1, len(power) - 1 - count, -1)
    return Components(mean_P, basis[:, order].float(), power[order].clamp(min=1e-8).sqrt().float())


@torch.no_grad()
def start_linear(vae: Any, components: Components) -> None:
    """Bring an AutoencoderKLWan whose weights are as ``preserve_variance`` leaves them to the linear autoencoder.

    Latents have unit variance. What the linear map does not need of the channels starts from random projections.

    Raises:
        ConfigError: The autoencoder is of another shape; see ``can_start_linear``.
    """
    if not can_start_linear(vae.config):
        raise ConfigError(
            "the autoencoder cannot start from principal components",
            where="model.linear_start_clips",
            expected="one level (dim_mult [1]), patch_size its spatial factor, base_dim above 2 z_dim",
            fix="model.linear_start_clips=0",
        )
    to_latent_zP = components.basis_Pz.t() / components.std_z[:, None]
    _carry(vae.encoder, to_latent_zP, -to_latent_zP @ components.mean_P)
    _release(vae.encoder, torch.eye(len(components.std_z)), torch.zeros(len(components.std_z)))
    _identity(vae.quant_conv)
    vae.encoder.conv_out.bias[len(components.std_z) :] = _LOG_VARIANCE
    _identity(vae.post_quant_conv)
    _carry(vae.decoder, torch.eye(len(components.std_z)), torch.zeros(len(components.std_z)))
    _release(vae.decoder, components.basis_Pz * components.std_z, components.mean_P)


def _carry(half: Any, to_values: Tensor, offset: Tensor) -> None:
    """Let ``conv_in`` put values of unit variance, their negatives and a constant into the first channels.

    The constant is nobody's input: each normalisation takes it out again and brings the values back to their size.
    """
    conv = half.conv_in
    count, channels = len(to_values), conv.out_channels
    values, negatives, constant = slice(0, count), slice(count, 2 * count), 2 * count
    level = ((channels - 1) / _SIGNAL_POWER) ** 0.5
    conv.weight[: constant + 1] = 0.0
    for rows, sign in ((values, 1.0), (negatives, -1.0)):
        conv.weight[rows, :, -1, 1, 1] = sign * to_values  # the present frame, the patch itself
        conv.bias[rows] = sign * offset
    conv.bias[constant] = level
    # The normalisation divides by the length of all channels and multiplies by the root of their number.
    length = (level**2 + channels - 1) ** 0.5
    for norm in _norms(half):
        norm.gamma.fill_(length / channels**0.5)
        norm.gamma[constant] = 0.0


def _norms(half: Any) -> list[Any]:
    """Normalisations of what ``conv_in`` made, to which the branches add."""
    found = [half.norm_out]
    for part in half.modules():
        for name in ("norm1", "norm"):  # of residual blocks and of attention
            if hasattr(part, name):
                found.append(getattr(part, name))
    return found


def _release(half: Any, to_outputs: Tensor, offset: Tensor) -> None:
    """Let ``conv_out`` make outputs of the values that ``conv_in`` carried; the rows beyond them become 0."""
    conv = half.conv_out
    outputs, count = to_outputs.shape
    conv.weight.zero_()
    conv.weight[:outputs, :count, -1, 1, 1] = to_outputs
    conv.weight[:outputs, count : 2 * count, -1, 1, 1] = -to_outputs
    conv.bias[:outputs] = offset


def _identity(conv: Any) -> None:
    conv.weight.zero_()
    conv.weight[torch.arange(conv.out_channels), torch.arange(conv.out_channels), 0, 0, 0] = 1.0
    conv.bias.zero_()
