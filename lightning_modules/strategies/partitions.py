"""What a rank of a ZeRO run holds: its part of the float32 master weights and of the gradients.

The one place that knows DeepSpeed's optimizers from inside. Stages 1 and 2 flatten each group of parameters and give
every rank an equal run of it; stage 3 gives every rank an equal part of every parameter. Both pad at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from macedance.nn.fragments import Fragment


def local_fragments(module: nn.Module, optimizer: Any, stage: int, rank: int) -> dict[str, Fragment]:
    """The master weights of this rank by parameter name, as live views without padding."""
    found: dict[str, Fragment] = {}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        fragment = _part_of_stage3(parameter, optimizer, rank) if stage == 3 else _part_of_stage12(parameter)
        if fragment is not None:
            found[name] = fragment
    return found


def _part_of_stage12(parameter: Any) -> Fragment | None:
    mapping = parameter._hp_mapping
    if mapping is None:
        return None
    return Fragment(mapping.hp_fragment, mapping.lp_fragment_address.start, tuple(parameter.shape))


def _part_of_stage3(parameter: Any, optimizer: Any, rank: int) -> Fragment | None:
    size = parameter.ds_tensor.ds_numel if hasattr(parameter.ds_tensor, "ds_numel") else parameter.ds_tensor.numel()
    offset = rank * size
    length = min(size, parameter.ds_numel - offset)
    if length <= 0:
        return None
    group, start, _ = optimizer.grad_position[optimizer.get_param_id(parameter)]
    flat = optimizer.fp32_partitioned_groups_flat[group]
    return Fragment(flat.narrow(0, start, length), offset, tuple(parameter.ds_shape))


def local_gradients(optimizer: Any, stage: int, offload: bool) -> list[Tensor]:
    """Averaged gradients of this rank, after the last micro-batch's backward pass and before the step."""
    if offload:
        _wait(optimizer)
        groups = optimizer.fp32_partitioned_groups_flat if stage == 3 else optimizer.single_partition_of_fp32_groups
        return [group.grad for group in groups if group.grad is not None]
    if stage == 3:
        _wait(optimizer)
    groups = optimizer.averaged_gradients.values()
    return [gradient for group in groups if group is not None for gradient in group if gradient is not None]


def _wait(optimizer: Any) -> None:
    """Gradients are reduced and copied on a stream of their own."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def skip_next_step(optimizer: Any, stage: int) -> None:
    """Let the optimizer's next step go the way of an overflow: gradients dropped, nothing else touched."""
    step = optimizer.step

    def skip(*args: Any, **kwargs: Any) -> None:
        with _Overflowing(optimizer, stage):
            del optimizer.step
            step(*args, **kwargs)

    optimizer.step = skip


class _Overflowing:
    """Within it DeepSpeed's check for overflow says yes."""

    def __init__(self, optimizer: Any, stage: int) -> None:
        self._optimizer, self._stage = optimizer, stage
        self._scale = getattr(optimizer, "_update_scale", None)

    def __enter__(self) -> None:
        optimizer = self._optimizer
        # The scale of float16 training is not to learn from a step that was dropped by us.
        optimizer._update_scale = lambda *args, **kwargs: None
        if self._stage == 3:
            optimizer._overflow_check_and_loss_scale_update = self._stage3_check
        else:
            self._checks = getattr(optimizer, "check_grad_overflow", True)
            optimizer.check_grad_overflow = True
            optimizer.check_overflow = self._say_overflow

    def _say_overflow(self, *args: Any, **kwargs: Any) -> None:
        self._optimizer.overflow = True

    def _stage3_check(self, update_scale: bool = True) -> bool:
        self._optimizer.overflow = True
        if update_scale:
            self._optimizer._overflow_clean_up(self._optimizer.loss_scale)
        return True

    def __exit__(self, *exception: Any) -> None:
        optimizer = self._optimizer
        del optimizer._update_scale
        if self._stage == 3:
            del optimizer._overflow_check_and_loss_scale_update
        else:
            del optimizer.check_overflow
            optimizer.check_grad_overflow = self._checks


@torch.no_grad()
def show_values(module: nn.Module, optimizer: Any, stage: int, rank: int, values: Mapping[str, Tensor]) -> None:
    """Put other values than the master weights into the parameters that are computed with; all ranks call it.

    Args:
        module: The module.
        optimizer: DeepSpeed's.
        stage: Of ZeRO.
        rank: This one.
        values: For each of this rank's fragments its values.
    """
    named: dict[str, Any] = dict(module.named_parameters())
    if stage == 3:
        _let_go(optimizer)
        for name, value in values.items():
            named[name].ds_tensor.data.view(-1)[: value.numel()].copy_(value)
        _gather_persistent(optimizer)
        return
    for name, fragment in local_fragments(module, optimizer, stage, rank).items():
        part = named[name].data.view(-1).narrow(0, fragment.offset, fragment.tensor.numel())
        part.copy_(values[name])
    _gather_groups(optimizer)


@torch.no_grad()
def show_master(module: nn.Module, optimizer: Any, stage: int, rank: int) -> None:
    """Undo :func:`show_values`: the parameters are what the master weights say, bit for bit as after a step."""
    parts = local_fragments(module, optimizer, stage, rank)
    show_values(module, optimizer, stage, rank, {name: part.tensor for name, part in parts.items()})


def _gather_groups(optimizer: Any) -> None:
    from deepspeed.runtime.utils import all_gather_dp_groups

    all_gather_dp_groups(
        groups_flat=optimizer.bit16_groups_flat,
        partitioned_param_groups=optimizer.parallel_partitioned_bit16_groups,
        dp_process_group=optimizer.real_dp_process_group,
        start_alignment_factor=optimizer.nccl_start_alignment_factor,
        allgather_bucket_size=optimizer.allgather_bucket_size,
    )


def settle(optimizer: Any) -> None:
    """Stage 3: end what was fetched ahead; all ranks call it before parameters are gathered one by one.

    A validation's forward pass leaves weights on their way for a backward pass that does not come.
    """
    _let_go(optimizer)
    _gather_persistent(optimizer)


def _let_go(optimizer: Any) -> None:
    optimizer._partition_all_parameters()


def _gather_persistent(optimizer: Any) -> None:
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def trainable_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Whole shape of every parameter that trains, also where it is sharded."""
    return {
        name: tuple(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def frozen_parameters(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Each parameter that does not train, whole, as float32, one after the other; all ranks walk it to its end."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            continue
        if not hasattr(parameter, "ds_id"):
            yield name, parameter.detach().float()
            continue
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            yield name, parameter.detach().float().clone()
