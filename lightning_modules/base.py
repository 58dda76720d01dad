"""What every expert's LightningModule shares: a network built late, what of it trains, and where it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities import GradClipAlgorithmType
from torch import Tensor, nn

from lightning_modules.schedules import WarmupCosine
from macedance import __version__
from macedance.errors import CheckpointError
from macedance.nn.recomputation import recompute_activations
from macedance.nn.trainable import LoraSettings, add_lora, set_trainable
from macedance.pipelines.motion_weights import LoadedModel, Weights
from macedance.pipelines.weights import load_network_weights

OptimizerFactory = Callable[[Iterable[Tensor]], torch.optim.Optimizer]


class ExpertModule(pl.LightningModule):
    """A network, how it trains and what of it trains.

    Args:
        network: Makes the network; called in ``configure_model``, so that a sharding strategy may build it in place.
        optimizer: Makes the optimizer of the trainable parameters.
        lr_schedule: Factor of the learning rate over the run. None: constant.
        seed: Seeds the network's initialisation and every draw of a training step.
        init_from: Start from the weights of this folder or checkpoint, and from nothing else of it.
        init_weights: Which weights of a checkpoint to start from: ``ema``, ``raw``, or ``auto``, the average if any.
        train_only: Only parameters whose names match one of these patterns train.
        freeze: Parameters whose names match one of these patterns do not train.
        lora: Train low-rank adapters instead of the weights themselves.
        activation_checkpointing: Name patterns of the network's submodules that compute their activations again in the
            backward pass instead of keeping them: less memory, about a third more time, the same numbers.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerFactory,
        lr_schedule: WarmupCosine | None = None,
        seed: int = 0,
        init_from: str | None = None,
        init_weights: Weights = "auto",
        train_only: list[str] | None = None,
        freeze: list[str] | None = None,
        lora: LoraSettings | None = None,
        activation_checkpointing: list[str] | None = None,
    ) -> None:
        super().__init__()
        self._network_factory = network
        self._optimizer_factory = optimizer
        self.lr_schedule = lr_schedule
        self.seed = seed
        self.init_from = init_from
        self.init_weights = init_weights
        self.train_only = train_only
        self.freeze_patterns = freeze
        self.lora = lora
        self.activation_checkpointing = activation_checkpointing
        self.network: nn.Module | None = None
        #: Global samples trained on so far; saved in every checkpoint.
        self.position = 0
        #: Identity of the corpus being trained on.
        self.manifest_sha256 = ""
        #: The last optimizer step, counted from 1, whose gradients were dropped.
        self.dropped_step = -1

    def new_network(self) -> nn.Module:
        """A network as this run trains it, adapters included, initialised by the seed; nothing is loaded."""
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._network_factory()
            if self.lora is not None:
                add_lora(network, self.lora)
        return network

    def configure_model(self) -> None:
        """Build the network once: initialise by the seed, load ``init_from``, then freeze and add adapters."""
        if self.network is not None:
            return
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            network = self._network_factory()
            if self.init_from is not None:
                self.load_source(network, self.init_from)
            if self.lora is not None:
                add_lora(network, self.lora)
        if self.train_only is not None or self.freeze_patterns is not None:
            set_trainable(
                network, train_only=self.train_only, freeze=self.freeze_patterns, adapted=self.lora is not None
            )
        if self.activation_checkpointing:
            recompute_activations(network, self.activation_checkpointing)
        # Lightning leaves the mode as it finds it, and pretrained networks come in eval, in which all is kept.
        self.network = network.train()

    def adopt_corpus(self, data: Any) -> None:
        """Take from a data module what the model must know of its corpus."""

    def load_source(self, network: nn.Module, source: str) -> None:
        """Load the weights of a folder or checkpoint into the network that is about to train, and what they rely on."""
        self.adopt_source(load_network_weights(network, source, weights=self.init_weights))

    def adopt_source(self, source: LoadedModel) -> None:
        """Take from the model that training starts from what its weights rely on."""

    @property
    def base_source(self) -> tuple[str, str] | None:
        """Where what does not train comes from, and which weights of it; None: from nowhere, checkpoints keep it."""
        return None if self.init_from is None else (self.init_from, str(self.init_weights))

    @property
    def built_network(self) -> nn.Module:
        """The network; only after ``configure_model``."""
        assert self.network is not None, "configure_model has not run"
        return self.network

    def configure_optimizers(self) -> Any:
        """The optimizer over what trains, and the schedule stepped with it."""
        optimizer = self._optimizer_factory([p for p in self.parameters() if p.requires_grad])
        if self.lr_schedule is None:
            return optimizer
        schedule, max_steps = self.lr_schedule, self.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, max_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer says, fused optimizers under bf16-mixed too: nothing is scaled there.

        Lightning refuses a fused optimizer under every mixed precision, because with float16 it would unscale the
        gradients itself, after they are clipped.
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None and gradient_clip_val:
            algorithm = GradClipAlgorithmType(gradient_clip_algorithm or GradClipAlgorithmType.NORM)
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val, algorithm)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Everything but the positions, which only the CPU reads: asking a GPU for them would make it wait."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, dict) and "position" in batch:
            moved["position"] = batch["position"]
        return moved

    def describe(self) -> dict[str, Any]:
        """The ``config.json`` of the model being trained; every checkpoint carries it."""
        raise NotImplementedError

    def normalizer_dict(self) -> dict[str, Any]:
        """The ``normalizer.json`` of the model being trained."""
        raise NotImplementedError

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what a model needs besides its weights: configuration, normaliser, adapters, position."""
        checkpoint["macedance"] = {
            "version": 1,
            "config": {**self.describe(), **({"lora": self.lora.to_dict()} if self.lora else {})},
            "normalizer": self.normalizer_dict(),
            "position": self.position,
            "code_version": __version__,
            "manifest_sha256": self.manifest_sha256,
        }

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Take the position back.

        Raises:
            CheckpointError: The checkpoint was not written by this project.
        """
        if "macedance" not in checkpoint:
            raise CheckpointError(
                "the checkpoint is not one of this project", expected="a checkpoint written by `macedance fit`"
            )
        self.position = int(checkpoint["macedance"]["position"])
