"""DeepSpeed ZeRO as one strategy, on GPUs as Lightning has it and on CPUs with gloo."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.utilities.seed import reset_seed
from pytorch_lightning.plugins.precision import DeepSpeedPrecision, Precision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy
from pytorch_lightning.strategies.strategy import _ForwardRedirection
from torch import Tensor, autocast, bfloat16, distributed, float32, nn, no_grad

from lightning_modules.strategies import partitions
from lightning_modules.strategies.deepspeed_setup import (
    compile_operators,
    ignore_deprecations,
    prepare_environment,
    prepare_operators,
    quiet_deepspeed,
    require_deepspeed,
)
from lightning_modules.strategies.sizes import zero_sizes
from lightning_modules.strategies.zero_files import reading_safely
from macedance.diffusion.guidance import evaluation_mode
from macedance.errors import ConfigError
from macedance.nn.fragments import Fragment, whole_tensors
from macedance.nn.precise import precise_names

STAGES = (1, 2, 3)


def _frozen_precise(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """What does not train and is to stay float32, with its values; what trains is bfloat16 over float32 masters."""
    names = precise_names(model)
    return {
        parameter: parameter.data
        for name, parameter in model.named_parameters()
        if name in names and not parameter.requires_grad and parameter.dtype == float32
    }


class ZeroPrecision(DeepSpeedPrecision):
    """bfloat16 weights over float32 master weights, as DeepSpeed has them, and products under autocast.

    What is frozen and named in ``_keep_in_fp32_modules`` of its module stays float32.

    Lightning's own casts batch and buffers too: targets in metres and normalisers would lose their precision.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Leave it: DeepSpeed casts the parameters, and the buffers stay."""
        return module

    def convert_input(self, data: Any) -> Any:
        """Leave the batch as it is."""
        return data

    def tensor_init_context(self) -> Any:
        """Networks are initialised in float32, whatever they train in."""
        return nullcontext()


class _UnderAutocast(_ForwardRedirection):
    """Runs the steps of a module under autocast: inside the engine's forward, which would turn an outer one off."""

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type

    def __call__(
        self,
        wrapper_module: nn.Module,
        original_module: pl.LightningModule,
        method_name: str,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        method = getattr(original_module, method_name)

        def cast(*method_args: Any, **method_kwargs: Any) -> Any:
            with autocast(self._device_type, dtype=bfloat16):
                return method(*method_args, **method_kwargs)

        # The base class looks the method up by name, on the instance first.
        setattr(original_module, method_name, cast)
        try:
            return super().__call__(wrapper_module, original_module, method_name, *args, **kwargs)
        finally:
            delattr(original_module, method_name)


class ZeroStrategy(DeepSpeedStrategy):
    """Shards optimizer state (stage 1), gradients (2) and parameters (3) over the ranks.

    Args:
        stage: 1, 2 or 3.
        offload: Keep optimizer state and master weights in the machine's memory instead of the GPU's.
        keep_whole_below: Stage 3: parameters with fewer elements stay whole on every rank.
        bucket_elements: Elements of a communication bucket; None: by device.
        process_group_backend: ``nccl`` or ``gloo``; None: by device.
        timeout_s: Seconds after which a collective that a rank does not join is an error.

    Raises:
        ConfigError: An unknown stage, or a size out of range.
        DependencyError: DeepSpeed is not installed.
    """

    def __init__(
        self,
        stage: int = 2,
        offload: bool = False,
        keep_whole_below: int = 10_000,
        bucket_elements: int | None = None,
        process_group_backend: str | None = None,
        timeout_s: float = 1800.0,
    ) -> None:
        if stage not in STAGES:
            raise ConfigError(
                f"stage {stage!r} of ZeRO is unknown",
                where="trainer.strategy.init_args.stage",
                expected="1, 2 or 3",
                fix="--config strategies/zero1, zero2, zero3 or zero3_offload; without sharding strategies/ddp",
            )
        for name, value, least in (
            ("keep_whole_below", keep_whole_below, 0),
            ("bucket_elements", 1 if bucket_elements is None else bucket_elements, 1),
            ("timeout_s", timeout_s, 1),
        ):
            if value < least:
                raise ConfigError(
                    f"{name} is {value}", where=f"trainer.strategy.init_args.{name}", expected=f"{least} or more"
                )
        require_deepspeed()
        prepare_environment(None)
        self.stage, self.offload = stage, offload
        self.keep_whole_below, self.bucket_elements = keep_whole_below, bucket_elements
        with quiet_deepspeed():
            super().__init__(
                stage=stage,
                offload_optimizer=offload,
                process_group_backend=process_group_backend,
                timeout=timedelta(seconds=timeout_s),
                logging_batch_size_per_gpu=1,
            )

    @property
    def kind(self) -> str:
        """``zero1``, ``zero2``, ``zero3`` or, offloaded, ``zero3_offload``."""
        return f"zero{self.stage}_offload" if self.offload else f"zero{self.stage}"

    # ---------------------------------------------------------------- the three places where Lightning asks for CUDA
    def setup_environment(self) -> None:
        """Connect the ranks."""
        prepare_environment(self.root_device.type)
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """Make the process group, once."""
        reset_seed()
        self.set_world_ranks()
        prepare_operators()
        if self.root_device.type == "cpu":
            compile_operators()
        import deepspeed

        assert self.cluster_environment is not None
        self._set_node_environment_variables()
        self._process_group_backend = self._get_process_group_backend()
        with quiet_deepspeed():
            deepspeed.init_distributed(
                self._process_group_backend, distributed_port=self.cluster_environment.main_port, timeout=self._timeout
            )

    def _engine(self, config: dict[str, Any], model: nn.Module, parameters: list[nn.Parameter], **options: Any) -> Any:
        """deepspeed.initialize, as Lightning calls it, and on a CPU, which is a device without a number."""
        import deepspeed

        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        precise = _frozen_precise(model)
        with quiet_deepspeed():
            if self.stage == 3 and "zero_optimization" in config:
                self._place_in_parts(config, model, precise)
            engine, optimizer, _, _ = deepspeed.initialize(
                args=None if self.root_device.index is None else Namespace(device_rank=self.root_device.index),
                config=config,
                model=model,
                model_parameters=parameters,
                dist_init_required=False,
                **options,
            )
        # Older versions cast normalisers and loss weights with the parameters.
        for name, buffer in model.named_buffers():
            if buffer.dtype != buffers[name].dtype:
                buffer.data = buffers[name].to(buffer.device)
        if self.stage != 3:
            # Outside the flat buffers of what trains every weight has a type of its own.
            for parameter, value in precise.items():
                parameter.data = value.to(parameter.device)
                if distributed.is_initialized():  # the first rank's, as DeepSpeed has it with all others
                    distributed.broadcast(parameter.data, 0)
        # Checkpoints hold data only: no script to run from among them.
        engine._copy_recovery_script = lambda save_path: None
        return engine, optimizer

    def _place_in_parts(self, config: dict[str, Any], model: nn.Module, precise: Mapping[nn.Parameter, Tensor]) -> None:
        """Cut each weight as it goes to its device: the device never holds the whole network, only one weight of it."""
        import deepspeed

        if config.get("bf16", {}).get("enabled"):
            for parameter in model.parameters():
                if parameter not in precise:
                    parameter.data = parameter.data.bfloat16()
        deepspeed.zero.Init(module=model, config_dict_or_path=config)
        for buffer in model.buffers():
            buffer.data = buffer.data.to(self.root_device)

    def _setup_model_and_optimizer(self, model: nn.Module, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        assert isinstance(self.config, dict)
        if getattr(optimizer, "needs_whole_matrices", False):
            raise ConfigError(
                f"{type(optimizer).__name__} needs whole matrices, and ZeRO gives every rank flat pieces of them",
                where="model.optimizer",
                fix="--config strategies/ddp, or torch.optim.AdamW",
            ).everywhere()
        trained = [p for p in model.parameters() if p.requires_grad]
        self._fit_config(sum(p.numel() for p in trained), sum(p.numel() for p in model.parameters()))
        return self._engine(self.config, model, trained, optimizer=optimizer, lr_scheduler=lr_scheduler)

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        assert isinstance(self.config, dict)
        config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1}
        wanted = ["bf16", "fp16"]
        if self.zero_stage_3:
            elements = sum(p.numel() for p in model.parameters())
            self._fit_config(elements, elements)
            wanted += ["zero_allow_untested_optimizer", "zero_optimization"]
        config.update({key: self.config[key] for key in wanted if key in self.config})
        self.model, _ = self._engine(config, model, [], optimizer=None, lr_scheduler=None)

    # ---------------------------------------------------------------- settings
    def _fit_config(self, trained: int, elements: int) -> None:
        """Settings that need to know the device, what trains and the size of the network."""
        assert isinstance(self.config, dict)
        device = self.root_device.type
        zero = self.config["zero_optimization"]
        sizes = zero_sizes(trained, elements, device, self.bucket_elements)
        zero.update(
            overlap_comm=device != "cpu",
            reduce_bucket_size=sizes.bucket,
            allgather_bucket_size=sizes.bucket,
        )
        if self.stage == 3:
            zero.update(
                stage3_param_persistence_threshold=self.keep_whole_below,
                stage3_prefetch_bucket_size=sizes.prefetch,
                stage3_max_live_parameters=sizes.live,
                stage3_max_reuse_distance=sizes.live,
            )
        if self.offload:
            zero["offload_optimizer"]["pin_memory"] = device != "cpu"
            # Any torch optimizer may run there; DeepSpeed's own is faster and is taken when the config names it.
            self.config["zero_force_ds_cpu_optimizer"] = False

    @property
    def precision_plugin(self) -> Precision:
        """What casts."""
        return super().precision_plugin

    @precision_plugin.setter
    def precision_plugin(self, plugin: Precision | None) -> None:
        if isinstance(plugin, DeepSpeedPrecision) and not isinstance(plugin, ZeroPrecision):
            if plugin.precision.startswith("16"):
                raise ConfigError(
                    f"precision {plugin.precision} is not supported under ZeRO",
                    where="trainer.precision",
                    expected="32-true, bf16-mixed or bf16-true",
                )
            plugin = ZeroPrecision(plugin.precision)  # type: ignore[arg-type]
        self._precision_plugin = plugin

    def setup(self, trainer: pl.Trainer) -> None:
        """Shard the module.

        Raises:
            ConfigError: Gradients are to be clipped by value.
        """
        ignore_deprecations()
        if trainer.gradient_clip_val and str(trainer.gradient_clip_algorithm).lower().endswith("value"):
            raise ConfigError(
                "ZeRO clips gradients by their norm only",
                where="trainer.gradient_clip_algorithm",
                expected="norm, or null",
            )
        if str(getattr(self.precision_plugin, "precision", "")).startswith("bf16"):
            self._forward_redirection = _UnderAutocast(self.root_device.type)
        super().setup(trainer)

    @contextmanager
    def model_sharded_context(self) -> Iterator[None]:
        """Networks are built whole, so that one seed gives one network whatever the ranks; sharded in `setup`."""
        self._init_config_if_needed()
        yield

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        """Networks are initialised on the CPU, in float32."""
        yield

    # ---------------------------------------------------------------- what this rank holds
    @property
    def zero_optimizer(self) -> Any:
        """DeepSpeed's sharded optimizer; only while fitting."""
        return self.deepspeed_engine.optimizer

    def local_fragments(self, module: nn.Module) -> dict[str, Fragment]:
        """The part of this rank of the float32 master weights of what trains, as live views, by parameter name."""
        return partitions.local_fragments(module, self.zero_optimizer, self.stage, self.global_rank)

    def local_gradients(self) -> list[Tensor]:
        """The part of this rank of the averaged gradients, between the backward pass and the step."""
        return partitions.local_gradients(self.zero_optimizer, self.stage, self.offload)

    def skip_next_step(self) -> None:
        """Drop the gradients of the coming step; all ranks call it."""
        partitions.skip_next_step(self.zero_optimizer, self.stage)

    def show(self, module: nn.Module, values: Mapping[str, Tensor]) -> None:
        """Let the network compute with other values than its own until :meth:`show_own`; all ranks call it.

        Args:
            module: The module being trained.
            values: Values of each of :meth:`local_fragments`, by name.
        """
        partitions.show_values(module, self.zero_optimizer, self.stage, self.global_rank, values)

    def show_own(self, module: nn.Module) -> None:
        """Give the network its own values back, bit for bit; all ranks call it."""
        partitions.show_master(module, self.zero_optimizer, self.stage, self.global_rank)

    def call(self, method: str, *args: Any) -> Any:
        """A method of the module in evaluation mode, without gradients, run as a step is: sharded weights are gathered.

        All ranks call it, equally often, with inputs of any size.
        """
        assert self.model is not None
        assert self.lightning_module is not None
        with evaluation_mode(self.model), no_grad(), self.precision_plugin.val_step_context():
            return self._forward_redirection(self.model, self.lightning_module, method, *args)

    def whole_parameters(
        self, module: nn.Module, values: Mapping[str, Tensor] | None = None
    ) -> Iterator[tuple[str, Tensor]]:
        """Every parameter whole, float32, one after the other; all ranks call it and walk it to its end.

        Args:
            module: The module being trained.
            values: Other values of what trains, as for :meth:`show`; None: its own.
        """
        if self.stage == 3:
            partitions.settle(self.zero_optimizer)
        parts = self.local_fragments(module)
        if values is None:
            values = {name: part.tensor for name, part in parts.items()}
        yield from whole_tensors(partitions.trainable_shapes(module), parts, values)
        yield from partitions.frozen_parameters(module)

    # ---------------------------------------------------------------- checkpoints
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Write DeepSpeed's files below ``filepath`` (a folder); every rank calls it."""
        with quiet_deepspeed():
            super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read them back: weights, optimizer and the rest, which is returned."""
        with quiet_deepspeed(), reading_safely(self.deepspeed_engine):
            return super().load_checkpoint(checkpoint_path, weights_only)
