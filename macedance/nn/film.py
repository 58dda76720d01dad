"""Feature-wise linear modulation.

Shapes: B batch, T frames, D width, E width of the condition.
"""

from __future__ import annotations

from torch import Tensor, nn


class FiLM(nn.Module):
    """Scale and shift every channel by a condition: ``(1 + scale) * x + shift``, with (scale, shift) = W Mish(e) + b.

    Args:
        condition_dim: Width E of the condition.
        dim: Width D of the features.

    Source: Perez et al., "FiLM", 2018; in this form Tseng et al., "EDGE", 2023, section 4.
    """

    def __init__(self, condition_dim: int, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Mish(), nn.Linear(condition_dim, 2 * dim))

    def forward(self, x_BTD: Tensor, condition_BE: Tensor) -> Tensor:
        """Modulate `x_BTD`; every frame of a sequence gets the same scale and shift."""
        scale_B1D, shift_B1D = self.block(condition_BE).unsqueeze(1).chunk(2, dim=-1)
        return shift_B1D + x_BTD * (1 + scale_B1D)
