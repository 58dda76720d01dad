"""DeepSpeed's checkpoint files cut anew for another number of ranks: optimizer state, master weights, frozen parts.

Works on DeepSpeed's own files and gives DeepSpeed's own files, so that they load as if that many ranks had written
them. DeepSpeed's universal checkpoints would do it for Adam only: they know two moments, and Adan has more.

Stages 1 and 2 lay a group's parameters end to end, pad the end to a multiple of 2 x ranks and give each rank one run of
it. Stage 3 cuts every parameter into as many equal parts as there are ranks, the last one padded, and lays each rank's
parts end to end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_modules.strategies.deepspeed_setup import prepare_environment, quiet_deepspeed, require_deepspeed
from macedance.errors import CheckpointError
from macedance.pipelines.checkpoint_folder import FileEntry, save_hashed

_OPTIMIZER_FILE = re.compile(r"((?:bf16_)?zero)_pp_rank_(\d+)_mp_rank_00_optim_states\.pt")
_MODEL_FILE = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_model_states\.pt")
_WHOLE_MODEL_FILE = "mp_rank_00_model_states.pt"


@dataclass(frozen=True)
class _Piece:
    """A run of one parameter's elements in one rank's flat tensor."""

    rank: int
    start: int
    offset: int
    count: int


#: Parameter name -> its pieces, in the order of their elements; names in the order that they lie in.
_Layout = dict[str, list[_Piece]]


def reshard(source: Path, target: Path, ranks: int) -> dict[str, FileEntry]:
    """Write DeepSpeed's files for `ranks` ranks.

    Args:
        source: The folder of DeepSpeed's files, already verified and scanned.
        target: An existing empty folder.
        ranks: 1 or more.

    Returns:
        What was written, by name: on the disk, sizes and sha256.

    Raises:
        CheckpointError: The files are not those of a ZeRO run, or laid out in a way that is not known here.
        DependencyError: DeepSpeed is not installed.
        OSError: A file cannot be written.
    """
    require_deepspeed()
    prepare_environment("cpu")
    optimizers = _by_rank(source, _OPTIMIZER_FILE)
    if not optimizers:
        raise CheckpointError("there are no optimizer files of ZeRO", where=source)
    prefix = _OPTIMIZER_FILE.fullmatch(next(iter(optimizers.values())).name).group(1)  # type: ignore[union-attr]
    with quiet_deepspeed():
        states = [_load(optimizers[rank]) for rank in sorted(optimizers)]
        stage3 = "fp32_flat_groups" in states[0]["optimizer_state_dict"]
        models = [_load(path) for _, path in sorted(_by_rank(source, _MODEL_FILE).items())] if stage3 else []
        models = models or [_load(source / _WHOLE_MODEL_FILE)]
        cut = _Stage3(states, models, ranks) if stage3 else _Stage12(states, models, ranks)
        written = {}
        for rank in range(ranks):
            name = f"{prefix}_pp_rank_{rank}_mp_rank_00_optim_states.pt"
            written[name] = save_hashed(cut.optimizer(rank), target / name)
            if stage3:
                name = f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
                written[name] = save_hashed(cut.model(rank), target / name)
        if not stage3:
            written[_WHOLE_MODEL_FILE] = save_hashed(cut.model(0), target / _WHOLE_MODEL_FILE)
    return written


def _by_rank(folder: Path, pattern: re.Pattern[str]) -> dict[int, Path]:
    matches = ((pattern.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match.groups()[-1]): path for match, path in matches if match}


def _load(path: Path) -> dict[str, Any]:
    # mmap: what is only copied from need not be in memory.
    return read_file(path, "cpu", mmap=True)


def read_file(path: str | Path, map_location: Any = None, *, mmap: bool = False) -> dict[str, Any]:
    """Read one of DeepSpeed's files; nothing but tensors, containers and DeepSpeed's few records is built.

    Raises:
        CheckpointError: It holds anything else, or is damaged.
    """
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    records: list[Any] = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(records):
            content: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
        return content
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(f"cannot read DeepSpeed's file: {error}", where=path) from error


@contextmanager
def reading_safely(engine: Any) -> Iterator[None]:
    """Within the context DeepSpeed's engine reads its files by :func:`read_file`; its own way runs what is in them."""
    reader = engine.checkpoint_engine
    # Positional and named as DeepSpeed's own: load(path, map_location=None).
    reader.load = read_file
    try:
        yield
    finally:
        del reader.load


class _Cut:
    """What both ways of sharding share."""

    def __init__(self, states: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]], ranks: int) -> None:
        self.states, self.models, self.ranks = states, models, ranks
        self.old_ranks = len(states)
        self.old = [dict(state["optimizer_state_dict"]) for state in states]
        shapes = models[0].get("param_shapes")
        if not isinstance(shapes, list):
            raise CheckpointError("DeepSpeed's file names no shapes of its parameters")
        self.numels = [{name: math.prod(shape) for name, shape in group.items()} for group in shapes]

    def model(self, rank: int) -> dict[str, Any]:
        """Content of a model file."""
        return {**self.models[0], "dp_world_size": self.ranks}

    def optimizer(self, rank: int) -> dict[str, Any]:
        """Content of a rank's optimizer file."""
        raise NotImplementedError

    def _base_state(self, rank: int, key: str, olds: list[_Layout], news: list[_Layout], sizes: list[int]) -> Any:
        """The torch optimizer's state dict: flat tensors cut anew, everything else as it was."""
        states = [state[key] for state in self.old]
        if any(not isinstance(state, Mapping) for state in states):
            raise CheckpointError("the checkpoint is one of DeepSpeed's elastic ones", expected="a plain one")
        cut: dict[Any, dict[str, Any]] = {}
        for group, values in states[0]["state"].items():
            flat = _flat_size(olds[group])
            cut[group] = {}
            for name, value in values.items():
                parts = [state["state"][group][name] for state in states]
                if isinstance(value, Tensor) and value.ndim == 1 and value.numel() >= flat:
                    cut[group][name] = _recut(parts, olds[group], news[group], rank, sizes[group])
                else:
                    cut[group][name] = value.clone() if isinstance(value, Tensor) else value
        return {**states[0], "state": cut}


class _Stage12(_Cut):
    """Stages 1 and 2: one run of the whole group for each rank."""

    def __init__(self, states: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]], ranks: int) -> None:
        super().__init__(states, models, ranks)
        if any(any(any(group) for group in old.get("param_alignment_paddings") or []) for old in self.old):
            raise CheckpointError(
                "the checkpoint's parameters are aligned one by one", expected="parameter_alignment off"
            )
        groups = range(len(self.numels))
        self.olds = [self._old_layout(group) for group in groups]
        self.totals = [sum(self.numels[group].values()) for group in groups]
        # DeepSpeed: nccl_start_alignment_factor 2.
        self.sizes = [-(-total // (2 * ranks)) * 2 for total in self.totals]
        self.news = [self._new_layout(group) for group in groups]

    def _old_layout(self, group: int) -> _Layout:
        layout: _Layout = {}
        for rank, old in enumerate(self.old):
            # A rank's first piece of a parameter may begin within it; the mapping lists them as they lie.
            for name, address in sorted(old["param_slice_mappings"][group].items(), key=lambda item: item[1].start):
                pieces = layout.setdefault(name, [])
                pieces.append(_Piece(rank, address.start, sum(p.count for p in pieces), address.numel))
        for name, numel in self.numels[group].items():
            if sum(piece.count for piece in layout.get(name, [])) != numel:
                raise CheckpointError(f"DeepSpeed's files do not hold all of {name}")
        return layout

    def _new_layout(self, group: int) -> _Layout:
        layout: _Layout = {}
        size, position = self.sizes[group], 0
        for name in self.olds[group]:
            numel, offset = self.numels[group][name], 0
            pieces = layout.setdefault(name, [])
            while offset < numel:
                rank, start = divmod(position + offset, size)
                count = min(numel - offset, size - start)
                pieces.append(_Piece(rank, start, offset, count))
                offset += count
            position += numel
        return layout

    def optimizer(self, rank: int) -> dict[str, Any]:
        from deepspeed.utils.tensor_fragment import fragment_address

        groups = range(len(self.sizes))
        paddings = [min(max((rank + 1) * self.sizes[g] - self.totals[g], 0), self.sizes[g]) for g in groups]
        weights = []
        for g in groups:
            parts = [old["single_partition_of_fp32_groups"][g] for old in self.old]
            flat = _recut(parts, self.olds[g], self.news[g], rank, self.sizes[g])
            weights.append(flat[: self.sizes[g] - paddings[g]].clone())
        mappings = [
            type(self.old[0]["param_slice_mappings"][g])(
                (name, fragment_address(numel=piece.count, start=piece.start))
                for name, pieces in self.news[g].items()
                for piece in pieces
                if piece.rank == rank
            )
            for g in groups
        ]
        return {
            **self.states[0],
            "optimizer_state_dict": {
                **self.old[0],
                "base_optimizer_state": self._base_state(
                    rank, "base_optimizer_state", self.olds, self.news, self.sizes
                ),
                "single_partition_of_fp32_groups": weights,
                "group_paddings": paddings,
                "partition_count": [self.ranks for _ in groups],
                "param_slice_mappings": mappings,
            },
        }


class _Stage3(_Cut):
    """Stage 3: a part of every parameter for each rank."""

    def __init__(self, states: Sequence[dict[str, Any]], models: Sequence[dict[str, Any]], ranks: int) -> None:
        super().__init__(states, models, ranks)
        if len(self.numels) != len(self.old[0]["fp32_flat_groups"]) or self.old[0].get("ds_zero_partition_groups"):
            raise CheckpointError("DeepSpeed's groups of parameters are cut in a way that is not known here")
        self.olds, self.old_sizes = _equal_parts(self.numels, self.old_ranks)
        self.news, self.sizes = _equal_parts(self.numels, ranks)

    def optimizer(self, rank: int) -> dict[str, Any]:
        key = "optimizer_state_dict"
        weights = [
            _recut([old["fp32_flat_groups"][g] for old in self.old], self.olds[g], self.news[g], rank, size)
            for g, size in enumerate(self.sizes)
        ]
        return {
            **self.states[0],
            key: {
                **self.old[0],
                "partition_count": self.ranks,
                key: self._base_state(rank, key, self.olds, self.news, self.sizes),
                "fp32_flat_groups": weights,
            },
        }

    def model(self, rank: int) -> dict[str, Any]:
        content = super().model(rank)
        shapes = content.get("frozen_param_shapes")
        if not shapes:
            return content
        numels = [{name: math.prod(shape)} for name, shape in shapes.items()]
        olds, _ = _equal_parts(numels, self.old_ranks)
        news, sizes = _equal_parts(numels, self.ranks)
        content["frozen_param_fragments"] = type(content["frozen_param_fragments"])(
            (name, _recut([m["frozen_param_fragments"][name] for m in self.models], olds[i], news[i], rank, sizes[i]))
            for i, name in enumerate(shapes)
        )
        return content


def _equal_parts(numels: Sequence[Mapping[str, int]], ranks: int) -> tuple[list[_Layout], list[int]]:
    """Layout of each group, and elements of a rank's flat tensor of it."""
    layouts: list[_Layout] = []
    sizes = []
    for group in numels:
        layout: _Layout = {}
        start = 0
        for name, numel in group.items():
            part = -(-numel // ranks)
            layout[name] = [
                _Piece(rank, start, rank * part, min(part, numel - rank * part))
                for rank in range(ranks)
                if rank * part < numel
            ]
            start += part
        layouts.append(layout)
        sizes.append(start)
    return layouts, sizes


def _flat_size(layout: _Layout) -> int:
    """Elements that the first rank's flat tensor has at least."""
    return max((p.start + p.count for pieces in layout.values() for p in pieces if p.rank == 0), default=1)


def _recut(parts: Sequence[Tensor], old: _Layout, new: _Layout, rank: int, size: int) -> Tensor:
    """A rank's new flat tensor, filled from the old ones; padding is zero."""
    flat = parts[0].new_zeros(size)
    for name, pieces in new.items():
        for piece in pieces:
            if piece.rank == rank:
                _fill(flat, piece, parts, old[name])
    return flat


def _fill(flat: Tensor, piece: _Piece, parts: Sequence[Tensor], sources: Sequence[_Piece]) -> None:
    end = piece.offset + piece.count
    for source in sources:
        first, last = max(piece.offset, source.offset), min(end, source.offset + source.count)
        if first < last:
            values = parts[source.rank].detach().reshape(-1)
            begin = source.start + first - source.offset
            target = piece.start + first - piece.offset
            flat[target : target + last - first] = values[begin : begin + last - first]
