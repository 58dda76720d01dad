"""Where the Appearance Expert's networks are while they are not needed: on the GPU, or waiting in the host's memory.

At 14 billion parameters in bfloat16 the transformer takes 34.5 GB, Wan's text encoder 11.4 GB, image encoder and
autoencoder (float32) 1.8 GB. What is sampled needs about 5 GB beside them at 480 x 832 x 77 and 12 GB at 720 x 1280,
by arithmetic:

- ``none``: everything stays on the device, 48 GB and the sample: one GPU of 80 GB.
- ``model``: each network comes when it is used and goes after, 35 GB and the sample: one of 48 GB.
- ``blocks``: the transformer's blocks come one by one, the next while one computes, and the autoencoder works in
  tiles, 12 GB while the prompt is read and then the sample: one of 24 GB. Slower by what the blocks take to travel;
  tiles change pixels near their edges slightly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import nn

from macedance.errors import ConfigError
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import AppearanceExpert

Offload = Literal["none", "model", "blocks"]


class MemoryPlan:
    """Puts the networks where they belong, and brings each to the device while it works.

    Args:
        network: The transformer.
        encoders: The frozen encoders.
        device: Where networks run.
        offload: See this module.

    Raises:
        ConfigError: An unknown way to offload.
    """

    def __init__(
        self,
        network: AppearanceExpert,
        encoders: AppearanceEncoders,
        device: torch.device | str = "cpu",
        offload: Offload = "none",
    ) -> None:
        if offload not in get_args(Offload):
            raise ConfigError(f"offload is {offload!r}", expected=" or ".join(get_args(Offload)))
        self.device, self.offload = torch.device(device), offload
        self._network = network
        self._stays = offload == "blocks"  # it brings its blocks by itself
        if offload == "none":
            network.to(self.device)
            encoders.to(self.device)
            return
        encoders.to("cpu")
        if offload == "model":
            network.to("cpu")
            return
        encoders.codec.vae.enable_tiling()
        self._stream_blocks(network.transformer)

    @contextmanager
    def using(self, module: nn.Module) -> Iterator[None]:
        """Have a network on the device for a while."""
        if self.offload == "none" or (self._stays and module is self._network):
            yield
            return
        module.to(self.device)
        try:
            yield
        finally:
            module.to("cpu")

    @classmethod
    def in_training(
        cls, network: AppearanceExpert, encoders: AppearanceEncoders, device: torch.device, *, visiting: bool
    ) -> MemoryPlan:
        """The network stays where its training has it, whole or sharded, and is not touched.

        Args:
            network: Being trained.
            encoders: Frozen.
            device: The training's.
            visiting: Encoders wait in the host's memory, and each comes while it works; else they are on the device.
        """
        plan = cls.__new__(cls)
        plan.device, plan.offload, plan._network = device, "model" if visiting else "none", network
        plan._stays = True
        encoders.to("cpu" if visiting else device)
        return plan

    def _stream_blocks(self, transformer: Any) -> None:
        transformer.enable_group_offload(
            onload_device=self.device,
            offload_device=torch.device("cpu"),
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=self.device.type == "cuda",
        )
