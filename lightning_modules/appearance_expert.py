"""The Appearance Expert's training: motion and one picture of a person -> video (MACE-Dance, over Wan-Animate)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_modules.base import ExpertModule, OptimizerFactory
from lightning_modules.schedules import WarmupCosine
from lightning_modules.stages import Stage, stage_settings
from lightning_modules.strategies import strategy_kind
from macedance.diffusion.flow_matching import FlowDraws, FlowMatching, FlowSampler, draw_flow
from macedance.errors import ConfigError
from macedance.metrics.weighted_mean import WeightedMean
from macedance.models.appearance_expert.conditions import Conditions
from macedance.models.appearance_expert.costs import clip_inputs, walk_step
from macedance.models.appearance_expert.encoder_source import EncodersFrom
from macedance.models.appearance_expert.encoders import AppearanceEncoders
from macedance.models.appearance_expert.network import AppearanceExpert
from macedance.models.appearance_expert.training import (
    check_probability,
    encode_batch,
    is_encoded,
    training_conditions,
    velocity_loss,
)
from macedance.nn.compilation import compile_submodules, nothing_compiled
from macedance.nn.trainable import LoraSettings, keep_trained_precise
from macedance.pipelines.appearance_config import AppearanceModelConfig, DroppedText, network_arguments
from macedance.pipelines.appearance_folder import is_model_folder, read_config
from macedance.pipelines.appearance_weights import StartedFrom, check_encoders, config_of, load_source
from macedance.pipelines.base_weights import PRETRAINED, plain_name
from macedance.pipelines.motion_weights import Weights

#: Validation draws use sample numbers from here on, so that they never repeat a training step's.
_VALIDATION_OFFSET = 2**40


class AppearanceExpertModule(ExpertModule):
    """Trains an Appearance Expert on clips of people with their poses, by flow matching.

    Args:
        network: Makes the network: ``forward(noisy, sigma, conditions) -> velocity``. Its ``weights`` are the base.
        optimizer: Makes the optimizer; AdamW, lr 1e-5 (kinematic) and 1e-4 (aesthetic) in the released scripts.
        flow: Noise levels; shift 5 for Wan-Animate.
        stage: ``kinematic``: the Body Adapter trains; ``aesthetic``: LoRA of rank 32 on attention and feed-forward of
            the blocks, with stage 1's adapter through ``init_from``; ``full``: everything. Short for ``train_only`` and
            ``lora``; null: as these say.
        drop_probability: Chance that a clip's text and face are dropped: it is shown the empty prompt and a blank face.
        known_probability: Chance that a clip's first ``known_frames`` frames are given, as they are when a long video
            is made in segments.
        known_frames: How many; clips encoded beforehand must have been encoded with as many.
        exclude_reference_loss: Count the error of the clip's frames alone, not of the reference's.
        encoders: Makes the frozen encoders, for data that holds pixels; null: the data is encoded.
        sample_weights: Which weights of this run's checkpoints are sampled with, ``ema`` or ``raw``.
        num_steps: Sampling steps of the model by default.
        sampler: The model's sampler by default, ``euler`` or ``unipc``, by which Wan-Animate is released.
        lr_schedule: See :class:`ExpertModule`, as the following.
        seed: Seeds initialisation and draws.
        init_from: Folder, checkpoint or exported adapter to take weights from; over the network's ``weights``, if any.
        init_weights: ``ema``, ``raw`` or ``auto``.
        train_only: Name patterns of what trains.
        freeze: Name patterns of what does not.
        lora: Low-rank adapters.
        activation_checkpointing: Name patterns of the submodules that compute their activations twice, to keep less.
        compiled: Name patterns of the submodules that are compiled for training, such as ``transformer.blocks.*``.

    What trains is kept in float32, whatever the precision of the frozen base.

    Raises:
        ConfigError: A chance outside 0 .. 1, or a setting that belongs to another stage.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        optimizer: OptimizerFactory,
        flow: FlowMatching | None = None,
        stage: Stage | None = None,
        drop_probability: float = 0.1,
        known_probability: float = 0.5,
        known_frames: int = 1,
        exclude_reference_loss: bool = True,
        encoders: EncodersFrom | None = None,
        sample_weights: Literal["ema", "raw"] = "ema",
        num_steps: int = 20,
        sampler: FlowSampler = "euler",
        lr_schedule: WarmupCosine | None = None,
        seed: int = 0,
        init_from: str | None = None,
        init_weights: Weights = "auto",
        train_only: list[str] | None = None,
        freeze: list[str] | None = None,
        lora: LoraSettings | None = None,
        activation_checkpointing: list[str] | None = None,
        compiled: list[str] | None = None,
    ) -> None:
        train_only, lora = stage_settings(stage, train_only, lora)
        super().__init__(
            network,
            optimizer,
            lr_schedule,
            seed,
            init_from,
            init_weights,
            train_only,
            freeze,
            lora,
            activation_checkpointing,
        )
        check_probability("drop_probability", drop_probability)
        check_probability("known_probability", known_probability)
        if known_frames < 0 or num_steps < 1:
            raise ConfigError(
                f"known_frames is {known_frames}, num_steps {num_steps}", where="model", expected="0, 1 or more"
            )
        self.flow = flow or FlowMatching()
        self.stage = stage
        self.drop_probability, self.known_probability = drop_probability, known_probability
        self.known_frames, self.exclude_reference_loss = known_frames, exclude_reference_loss
        self.sample_weights: Literal["ema", "raw"] = sample_weights
        self.num_steps, self.sampler = num_steps, sampler
        self.dropped_text: DroppedText = "empty_prompt"
        self.compiled = compiled
        self.fps, self.frames, self.size = 30.0, 0, (0, 0)
        self.encoder_identity: dict[str, str] = {}
        self.pose_parts: tuple[str, ...] | None = None
        self.val_loss = WeightedMean()
        self._started_from: StartedFrom | None = None
        self._encoders_factory = encoders
        # In a list, or the frozen encoders would be submodules: sharded, saved and counted with what trains.
        self._encoders: list[AppearanceEncoders] = []

    # ---------------------------------------------------------------- set-up
    def adopt_corpus(self, data: Any) -> None:
        """Read frame rate, length, size and identity of the corpus, and what encoded it, from the data module."""
        self.fps, self.frames = float(data.fps), int(data.frames)
        height, width = data.buckets[0][:2]
        self.size = (int(height), int(width))
        self.encoder_identity = dict(data.encoder_identity)
        self.pose_parts = data.pose_parts
        if self.drop_probability > 0:  # else what the base was trained with stays true
            self.dropped_text = data.dropped_text
        self.manifest_sha256 = data.manifest.sha256

    def setup(self, stage: str) -> None:
        """Know the corpus before the network is built."""
        if self.network is None:
            self.adopt_corpus(self.trainer.datamodule)  # type: ignore[attr-defined]

    def configure_model(self) -> None:
        """Build the network once; what trains is brought to float32."""
        built = self.network is not None
        super().configure_model()
        if built:
            return
        if self.drop_probability == 0:
            self._inherit_dropped_text()
        keep_trained_precise(self.built_network)
        if self.compiled:
            compile_submodules(self.built_network, self.compiled)

    def on_fit_start(self) -> None:
        """Refuse a precision that leaves a base in bfloat16 beside what trains, or rounds what is to stay float32.

        Raises:
            ConfigError: What trains is in float32, the base is not, and the run's precision leaves both as they are;
                or it is a ``true`` half precision, which outside ZeRO casts everything, position tables included.
        """
        precision = str(self.trainer.precision)
        if precision.endswith("-true") and precision != "32-true" and strategy_kind(self.trainer) in ("single", "ddp"):
            raise ConfigError(
                "it would round what trains and what diffusers keeps in float32",
                where=f"trainer.precision={precision}",
                expected="bf16-mixed",
                fix="--trainer.precision=bf16-mixed; the frozen base may be bfloat16: "
                "--model.network.init_args.precision=bfloat16",
            )
        kinds = {p.dtype for p in self.built_network.parameters()}
        if len(kinds) > 1 and precision in ("32", "32-true"):
            raise ConfigError(
                "the base is in bfloat16 and what trains in float32",
                where=f"trainer.precision={self.trainer.precision}",
                expected="bf16-mixed",
                fix="--trainer.precision=bf16-mixed, or --model.network.init_args.precision=float32",
            )

    def load_source(self, network: nn.Module, source: str) -> None:
        """Load a model, a checkpoint or an exported adapter over the network's own base weights.

        Raises:
            CheckpointError: As of `load_source`, or it was trained on the latents of other encoders.
        """
        started = load_source(cast(AppearanceExpert, network), source, self.init_weights)
        content = started.content
        check_encoders(config_of(content).encoders, self.encoder_identity, content.path)
        self._started_from = started

    def _inherit_dropped_text(self) -> None:
        """What stood for a dropped prompt in the training of what this one begins with."""
        pretrained = getattr(self.built_network, "pretrained", None)
        if self._started_from is not None:
            self.dropped_text = config_of(self._started_from.content).dropped_text
        elif pretrained is not None and is_model_folder(pretrained):
            self.dropped_text = read_config(pretrained).dropped_text

    @property
    def base_source(self) -> tuple[str, str] | None:
        """See :class:`ExpertModule`: the network's own pretrained weights, or what training started from.

        The stage before is named only where something of it is frozen: it may be removed otherwise.
        """
        started, pretrained = self._started_from, getattr(self.network, "pretrained", None)
        if started is not None and (pretrained is None or started.replaced & self._frozen_names()):
            return str(started.content.path), str(self.init_weights)
        return None if pretrained is None else (str(pretrained), PRETRAINED)

    def _frozen_names(self) -> set[str]:
        """Of the network without adapters."""
        return {plain_name(name) for name, p in self.built_network.named_parameters() if not p.requires_grad}

    @property
    def has_encoders(self) -> bool:
        """Whether it can be asked for its encoders."""
        return self._encoders_factory is not None

    @property
    def encoders(self) -> AppearanceEncoders:
        """The frozen encoders, on the module's device; built at first use.

        Raises:
            ConfigError: The data holds pixels and no encoders are given.
        """
        if not self._encoders:
            if self._encoders_factory is None:
                raise ConfigError(
                    "the data holds pixels and the model has no encoders",
                    where="model.encoders",
                    expected="a factory of encoders, or data that is encoded",
                    fix="macedance data encode",
                )
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                self._encoders.append(self._encoders_factory())
            self.encoder_identity = self._encoders[0].fingerprint
        encoders = self._encoders[0]
        encoders.to(self.device)
        return encoders

    def step_flops(self) -> int:
        """Useful FLOPs of a training step on one clip of the first size, as `macedance summary` counts them."""
        trains = {name for name, p in self.built_network.named_parameters() if p.requires_grad}
        with torch.device("meta"):
            network = self.new_network()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trains)
        inputs = clip_inputs(cast(AppearanceExpert, network), self.frames, *self.size)
        return walk_step(network, lambda: network(*inputs), count_flops=True).step_flops

    # ---------------------------------------------------------------- steps
    def _encoded(self, batch: dict[str, Any], draws: FlowDraws) -> dict[str, Any]:
        """The batch as latents, of pixels no more than the step needs."""
        if not is_encoded(batch):
            return encode_batch(batch, self.encoders, self.known_frames, draws.known_B)
        known = int(batch.get("known_frames", 0))
        if self.known_probability > 0 and known != self.known_frames:
            raise ConfigError(
                f"the clips were encoded with {known} known frames and the model trains on {self.known_frames}",
                where="model.known_frames",
                fix=f"--model.known_frames={known}, or --model.known_probability=0",
            )
        return batch

    def _draws(self, sample_numbers: Tensor, batch: dict[str, Any]) -> FlowDraws:
        if is_encoded(batch):
            channels, frames, rows, columns = batch["latents"].shape[1:]
        else:
            channels, frames, rows, columns = self.encoders.codec.geometry.latent_shape(*batch["video"].shape[2:])
        shape = (channels, frames + 1, rows, columns)  # the reference's frame comes first
        return draw_flow(self.seed, sample_numbers, shape, self.drop_probability, self.known_probability)

    def _loss(self, batch: dict[str, Any], sample_numbers: Tensor, real_B: Tensor | None = None) -> Tensor:
        network = cast(AppearanceExpert, self.built_network)
        draws = self._draws(sample_numbers, batch)
        batch = self._encoded(batch, draws)
        draws = draws.to(batch["latents"].device)
        conditions = training_conditions(batch, draws, network.face_size)
        return velocity_loss(
            network, self.flow, batch["latents"], conditions, draws, self.exclude_reference_loss, real_B
        )

    def velocity(self, noisy: Tensor, sigma_B: Tensor, conditions: Conditions) -> Tensor:
        """What the network predicts, for callbacks that sample: a strategy can run it as it runs a step."""
        with nothing_compiled():
            return cast(Tensor, self.built_network(noisy, sigma_B, conditions))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch; its draws are keyed by (seed, global sample number)."""
        loss = self._loss(batch, batch["position"])
        self.log("train/loss", loss.detach(), on_step=True, on_epoch=False)
        # Here and not in on_train_batch_end: the callbacks that save checkpoints run before the module's hook.
        self.position = self.trainer.datamodule.consumed_after(batch)  # type: ignore[attr-defined]
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """The same loss on held-out clips with draws that are the same at every validation.

        Its mean is over the clips of all ranks: a row with position -1 stands where a rank has no clip left.
        """
        real_B = batch["position"] >= 0
        with nothing_compiled():  # for a few batches it would take longer than they do
            loss = self._loss(batch, batch["position"] + _VALIDATION_OFFSET, real_B)
        self.val_loss.update(loss, int(real_B.sum()))
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True)

    # ---------------------------------------------------------------- what checkpoints say
    def model_config(self) -> AppearanceModelConfig:
        """The model being trained, without its weights."""
        transformer, vae = network_arguments(self.built_network)
        return AppearanceModelConfig(
            transformer=transformer,
            vae=vae,
            flow=self.flow,
            fps=self.fps,
            frames=self.frames,
            size=self.size,
            known_frames=self.known_frames if self.known_probability > 0 else 0,
            num_steps=self.num_steps,
            encoders=self.encoder_identity,
            sample_weights=self.sample_weights,
            pose_parts=self.pose_parts,
            sampler=self.sampler,
            dropped_text=self.dropped_text,
        )

    def describe(self) -> dict[str, Any]:
        """See :class:`ExpertModule`."""
        return self.model_config().to_dict()

    def normalizer_dict(self) -> dict[str, Any]:
        """See :class:`ExpertModule`: the autoencoder standardises, nothing else does."""
        return {}
