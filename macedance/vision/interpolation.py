"""The frame between two frames, as a network guesses it: what VBench's motion smoothness compares the true one with.

The published network, AMT-S, is for non-commercial use, code and weights, and so is not part of this package: a user
who may use it names a checkout of it.

Shapes: n pairs, H rows, W columns.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from macedance.errors import ConfigError, DependencyError
from macedance.vision.aesthetic import only_file
from macedance.vision.frozen import FrozenNetwork, judging
from macedance.vision.tensors_file import load_exactly, read_tensors
from macedance.vision.weights import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

#: Where the network's definition is in a checkout of MCG-NKU/AMT, and the names of its own packages.
_DEFINITION = Path("networks") / "AMT-S.py"
_PACKAGES = ("networks", "utils", "losses", "datasets", "metrics")
#: As the published configuration of AMT-S.
_OPTIONS = {"corr_radius": 3, "corr_lvls": 4, "num_flows": 3}
_MULTIPLE = 16


class FrameInterpolator(Protocol):
    """Anything that guesses middle frames."""

    name: str
    fingerprint: str

    @property
    def settings(self) -> dict[str, Any]:
        """What else makes its guesses different ones; part of a result's hash."""

    def to(self, device: torch.device | str) -> Any:
        """Move it."""

    def __call__(self, first_n3HW: Tensor, second_n3HW: Tensor) -> Tensor:
        """Frames halfway between pairs: (n, 3, H, W) float32 from 0 to 1, RGB, in and out."""


class AmtInterpolator(FrozenNetwork):
    """AMT-S of a user's own checkout.

    The published script shrinks pictures by what memory its GPU has free when it is given the device as a string, so
    that scores depend on the machine. Here the scale is a setting and part of the result.

    Source: Li et al., AMT, CVPR 2023 (MCG-NKU/AMT; CC BY-NC 4.0).

    Args:
        module: The network, ``module(first, second, time, scale_factor=, eval=True)["imgt_pred"]``.
        fingerprint: Sha256 of its weights.
        scale: In (0, 1]: flow is estimated on pictures of this scale.

    Raises:
        ConfigError: Another scale.
    """

    def __init__(self, module: nn.Module, *, fingerprint: str, scale: float = 1.0) -> None:
        super().__init__(module, name="amt_s", fingerprint=fingerprint)
        if not 0 < scale <= 1:
            raise ConfigError(f"a scale of {scale:g} for AMT", expected="above 0 and up to 1")
        self.scale = scale

    @classmethod
    def from_checkout(cls, checkout: str | Path, weights: str | Path, *, scale: float = 1.0) -> Self:
        """The network that a checkout defines; this runs code of the checkout.

        Args:
            checkout: A checkout of MCG-NKU/AMT, whose ``networks/AMT-S.py`` is imported.
            weights: ``amt-s.pth``, or the folder that holds it; read as tensors only.
            scale: See the class.

        Raises:
            DependencyError: The checkout does not hold the network, or it cannot be imported.
            CheckpointError: The weights are not there, or are of another network.
        """
        checkout = Path(checkout)
        file = only_file(Path(weights), ("amt-s.pth", "amt-s.safetensors"))
        module = _definition(checkout)(**_OPTIONS)
        load_exactly(module, read_tensors(file), file)
        return cls(module, fingerprint=fingerprint(file), scale=scale)

    @property
    def settings(self) -> dict[str, Any]:
        """The scale."""
        return {"scale": self.scale}

    def __call__(self, first_n3HW: Tensor, second_n3HW: Tensor) -> Tensor:
        """Frames halfway: sides are filled up to a multiple of 16 (by the scale) with their edges, then cut again."""
        height, width = first_n3HW.shape[-2:]
        multiple = int(_MULTIPLE / self.scale)
        down, right = -height % multiple, -width % multiple
        around = (right // 2, right - right // 2, down // 2, down - down // 2)
        with judging(self.device):
            pair = [
                F.pad(x.to(self.device, torch.float32), around, mode="replicate") for x in (first_n3HW, second_n3HW)
            ]
            middle = torch.full((1, 1, 1, 1), 0.5, device=self.device)
            found = self.module(*pair, middle, scale_factor=self.scale, eval=True)["imgt_pred"]
        top, left = around[2], around[0]
        return found[..., top : top + height, left : left + width]


def _definition(checkout: Path) -> Any:
    path = checkout / _DEFINITION
    if not path.is_file():
        raise DependencyError(
            "this is no checkout of AMT",
            where=checkout,
            expected=f"the repository MCG-NKU/AMT, with {_DEFINITION.as_posix()} (CC BY-NC 4.0)",
        )
    with _importing_from(checkout):
        try:
            spec = importlib.util.spec_from_file_location("macedance_user_amt", path)
            assert spec is not None  # the file is there and ends in .py
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module.Model
        except Exception as error:  # whatever the user's code raises
            raise DependencyError(f"AMT cannot be imported ({type(error).__name__}: {error})", where=path) from error


@contextlib.contextmanager
def _importing_from(checkout: Path) -> Iterator[None]:
    """Its packages have names that anybody's may have: they are importable inside, and gone afterwards."""

    def own(name: str) -> bool:
        return name.split(".")[0] in _PACKAGES

    others = {name: module for name, module in sys.modules.items() if own(name)}
    path = list(sys.path)
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, str(checkout.resolve()))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in [name for name in sys.modules if own(name)]:
            del sys.modules[name]
        sys.modules.update(others)
