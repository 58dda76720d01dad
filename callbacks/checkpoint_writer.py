"""Writing one checkpoint folder, by all ranks together: files, their hashes, the manifest, the rename."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from callbacks.agreement import agreed, gather
from lightning_modules.base import ExpertModule
from lightning_modules.strategies import ZeroStrategy, strategy_kind
from macedance import __version__
from macedance.errors import CheckpointError
from macedance.pickle_scan import scan_torch_file
from macedance.pipelines.checkpoint_folder import (
    LAST_LINK,
    MODEL_FILE,
    STATE_FILE,
    CheckpointManifest,
    FileEntry,
    by_age,
    checkpoint_name,
    clean_leftovers,
    describe_file,
    files_in,
    fsync_folder,
    list_checkpoints,
    next_sequence,
    read_manifest,
    reshaped_copies,
    save_hashed,
    step_of,
    verify,
    write_manifest,
)
from macedance.pipelines.checkpoint_fragments import fragment_file, write_fragments

_ZERO_TAG = "checkpoint"
_RANK_FILE = re.compile(r"-(\d{4,})\.\w+$")
#: Bytes of disk a trained parameter takes besides the optimizer's state: weights and average; sharded also the master
#: weights and DeepSpeed's copy.
_BYTES_PER_PARAMETER, _BYTES_PER_SHARDED_PARAMETER = 8, 16
_SPARE_BYTES = 1 << 20


class CheckpointWriter:
    """Writes one checkpoint of a run.

    Args:
        trainer: Whose state is saved.
        module: Its module.
        keep_last: Checkpoints that stay.
        without: Names of parameters that are left out: frozen ones that come from elsewhere.
        base: Where those come from and what they are, for the reader.
        proven: Names of the run's checkpoints that are known to be whole; grows.
        kept: Names of the run's checkpoints that stay beside those, like any that a link of the folder points to.
        links: Names of links beside ``last.ckpt`` that are to point to this one.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: ExpertModule,
        keep_last: int,
        without: frozenset[str] = frozenset(),
        base: Mapping[str, Any] | None = None,
        proven: set[str] | None = None,
        kept: frozenset[str] = frozenset(),
        links: Sequence[str] = (),
    ) -> None:
        self.trainer, self.module, self.keep_last = trainer, module, keep_last
        self.without, self.base = without, base
        self.proven = set() if proven is None else proven
        self.kept, self.links = kept, tuple(links)
        self.run_dir = Path(trainer.default_root_dir)
        self.target = self.run_dir / "checkpoints" / checkpoint_name(trainer.global_step)
        self.folder = self.target.with_name(f".{self.target.name}.tmp")
        self._written: list[Path] = []
        self._hashed: dict[str, FileEntry] = {}

    def write(self, *, validation_due: bool) -> CheckpointManifest:
        """Write it; a collective.

        Raises:
            CheckpointError: On every rank, where any of them failed. What was there before stays as it was.
        """
        try:
            self._phase("preparing the folder", self._prepare, first_only=True)
            checkpoint = self._phase("collecting the state", self._dump)
            self._phase("writing the state", lambda: self._write_state(checkpoint))
            for callback in list(self.trainer.callbacks):  # type: ignore[attr-defined]
                save = getattr(callback, "save_rank_files", None)
                if save is not None:
                    name = type(callback).__name__
                    self._phase(f"writing the files of {name}", partial(save, self.trainer, self.module, self.folder))
            self._phase("writing the rank's own state", self._write_rank_state)
            files = self._hash_files()
            manifest = self._phase("describing it", lambda: self._manifest(checkpoint, files, validation_due))
            self._phase("finishing", lambda: self._finish(manifest), first_only=True)
            return manifest
        except CheckpointError:
            if self.trainer.is_global_zero:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _phase(self, what: str, function: Callable[[], Any], *, first_only: bool = False) -> Any:
        skipped = first_only and not self.trainer.is_global_zero
        return agreed(what, (lambda: None) if skipped else function, where=self.target)

    # ---------------------------------------------------------------- before
    def _prepare(self) -> None:
        clean_leftovers(self.run_dir)
        folder = self.folder
        (folder / _ZERO_TAG if self._sharded else folder).mkdir(parents=True)
        needed, free = self._expected_bytes() + _SPARE_BYTES, shutil.disk_usage(folder).free
        if free < needed:
            raise CheckpointError(
                f"it takes about {needed / 2**20:.0f} MiB and the disk has {free / 2**20:.0f} MiB left",
                fix="free some space, or keep fewer checkpoints; the last one is untouched",
            )

    def _expected_bytes(self) -> int:
        """As large as the last one of this run; before that, an upper estimate by the parameters."""
        for folder in reversed(by_age(list_checkpoints(self.run_dir))):
            try:
                return read_manifest(folder).total_bytes
            except CheckpointError:
                continue
        counts = [
            (getattr(p, "ds_numel", p.numel()), p.requires_grad, p.element_size(), name not in self.without)
            for name, p in self.module.named_parameters()
        ]
        each = _BYTES_PER_SHARDED_PARAMETER if self._sharded else _BYTES_PER_PARAMETER
        weights = sum(n * (each if trains else size * kept) for n, trains, size, kept in counts)
        return weights + self._optimizer_bytes()

    def _optimizer_bytes(self) -> int:
        """Of all ranks; the first step is done, so every moment that the optimizer keeps is there."""
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy):
            optimizers, ranks = [strategy.zero_optimizer.optimizer], self.trainer.world_size
        else:
            optimizers, ranks = strategy.optimizers, 1
        values = (v for o in optimizers for state in o.state.values() for v in state.values())
        return ranks * sum(v.numel() * v.element_size() for v in values if isinstance(v, Tensor))

    # ---------------------------------------------------------------- the state
    @property
    def _sharded(self) -> bool:
        return isinstance(self.trainer.strategy, ZeroStrategy)

    def _dump(self) -> dict[str, Any]:
        """Lightning's checkpoint, as of the end of the last batch, without weights that come from elsewhere."""
        checkpoint: dict[str, Any] = self.trainer._checkpoint_connector.dump_checkpoint()
        as_of_batch_end(checkpoint["loops"]["fit_loop"])
        if self.base is not None:
            checkpoint["macedance"]["base"] = dict(self.base)
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in self.without}
        return checkpoint

    def _write_state(self, checkpoint: dict[str, Any]) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy):
            self._write_sharded(strategy, checkpoint)
        elif self.trainer.is_global_zero:
            # Not through Lightning: it makes the whole file in memory first.
            self._hashed[STATE_FILE] = save_hashed(checkpoint, self.folder / STATE_FILE)

    def _write_sharded(self, strategy: ZeroStrategy, checkpoint: dict[str, Any]) -> None:
        engine = strategy.deepspeed_engine
        strategy.exclude_frozen_parameters = bool(self.without)
        with _never_leaving(engine) as saving:
            strategy.save_checkpoint(checkpoint, self.folder)
        self._written += saving.written
        frozen = self._frozen_weights()
        if saving.fault is not None:
            raise saving.fault
        rank = self.trainer.global_rank
        parameters = {name for name, _ in self.module.named_parameters()}
        buffers = {k: v for k, v in checkpoint["state_dict"].items() if k not in parameters}
        write_fragments(
            fragment_file(self.folder, "weights", rank),
            strategy.local_fragments(self.module),
            {**frozen, **buffers} if rank == 0 else None,
        )
        if rank == 0:
            (self.folder / "latest").write_text(_ZERO_TAG, encoding="utf-8")
            text = json.dumps(checkpoint["macedance"], indent=1, allow_nan=False) + "\n"
            (self.folder / MODEL_FILE).write_text(text, encoding="utf-8")

    def _frozen_weights(self) -> dict[str, Tensor]:
        """On the first rank the frozen parameters that are not left out, whole; a collective where they are sharded."""
        found = {}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad or name in self.without:
                continue
            with _gathered(parameter):
                if self.trainer.is_global_zero:
                    found[name] = parameter.detach().cpu().clone()
        return found

    def _write_rank_state(self) -> None:
        torch.save(random_state(self.trainer), self.folder / rank_file(self.trainer.global_rank))

    # ---------------------------------------------------------------- proof
    def _hash_files(self) -> dict[str, FileEntry]:
        """Every rank syncs and hashes the files that it wrote; the first one also those that nobody claims."""
        rank = self.trainer.global_rank
        names = self._phase("listing the files", lambda: files_in(self.folder))
        written = {path.relative_to(self.folder).as_posix() for path in self._written}
        own = {name for name in names if name in written or _rank_in(name) == rank}
        claimed = set().union(*gather(own))
        if rank == 0:
            own |= set(names) - claimed
        entries = self._phase("reading the files back", lambda: {name: self._proven(name) for name in own})
        return {name: entry for part in gather(entries) for name, entry in part.items()}

    def _proven(self, name: str) -> FileEntry:
        """Size and sha256 of a file on the disk; one that a resume would refuse is refused now."""
        path = self.folder / name
        known = self._hashed.get(name)
        if known is not None and known.bytes == path.stat().st_size:
            return known
        if path.suffix == ".pt":
            scan_torch_file(path)
        return describe_file(path, sync=True)

    def _manifest(
        self, checkpoint: Mapping[str, Any], files: dict[str, FileEntry], validation_due: bool
    ) -> CheckpointManifest:
        ours, config = checkpoint["macedance"], self.run_dir / "config.yaml"
        normalizer = json.dumps(ours["normalizer"], sort_keys=True).encode()
        return CheckpointManifest(
            step=self.trainer.global_step,
            position=int(ours["position"]),
            world_size=self.trainer.world_size,
            strategy=strategy_kind(self.trainer),
            validation_due=validation_due,
            config_sha256=hashlib.sha256(config.read_bytes()).hexdigest() if config.exists() else "",
            data_manifest_sha256=str(ours["manifest_sha256"]),
            normalizer_sha256=hashlib.sha256(normalizer).hexdigest(),
            code_version=__version__,
            files=files,
            accumulate_grad_batches=int(self.trainer.accumulate_grad_batches),
            sequence=next_sequence(self.run_dir),
            epoch=self._epoch(int(ours["position"])),
        )

    def _epoch(self, position: int) -> int | None:
        epoch_of = getattr(self.trainer.datamodule, "epoch_of", None)  # type: ignore[attr-defined]
        return None if epoch_of is None else int(epoch_of(position))

    # ---------------------------------------------------------------- after
    def _finish(self, manifest: CheckpointManifest) -> None:
        for path in [self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())]:
            fsync_folder(path)
        write_manifest(self.folder, manifest)
        put_in_place(self.folder, self.target)
        for name in (LAST_LINK, *self.links):
            link_checkpoint(self.target, name)
        self.proven.add(self.target.name)
        for old in self._superfluous():
            shutil.rmtree(old, ignore_errors=True)
        for copy in reshaped_copies(self.run_dir):  # made for a start, and this one is done with it
            shutil.rmtree(copy, ignore_errors=True)

    def _superfluous(self) -> list[Path]:
        """What is beyond the number to keep: the damaged ones before any whole one, then the oldest."""
        stays = {self.target.name, *self.kept, *linked_checkpoints(self.target.parent)}
        others = [folder for folder in by_age(list_checkpoints(self.run_dir)) if folder.name not in stays]
        count = len(others) + 1 - self.keep_last
        if count <= 0:
            return []
        started_from = next((i for i, folder in enumerate(others) if folder.name in self.proven), len(others))
        # The start passed over those saved later than its own; older ones go first anyway and are not read through.
        damaged = [f for i, f in enumerate(others) if not self._is_whole(f, thoroughly=i > started_from)]
        return [*damaged, *(folder for folder in others if folder not in damaged)][:count]

    def _is_whole(self, folder: Path, *, thoroughly: bool) -> bool:
        if folder.name in self.proven:
            return True
        try:
            manifest = verify(folder, None if thoroughly else lambda _: False)
        except (CheckpointError, OSError):
            return False
        if thoroughly and manifest.step == step_of(folder):
            self.proven.add(folder.name)
        return manifest.step == step_of(folder)


def put_in_place(folder: Path, target: Path) -> None:
    """Rename a complete checkpoint to its name; one that has it already stays until then."""
    old = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, old)
    os.replace(folder, target)
    fsync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def link_checkpoint(target: Path, name: str) -> None:
    """Point a link beside a checkpoint to it, in one move; where the file system has no links, nothing."""
    link, temporary = target.with_name(name), target.with_name(f".{name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name)
        os.replace(temporary, link)
    except OSError:
        temporary.unlink(missing_ok=True)


def linked_checkpoints(folder: Path) -> set[str]:
    """Names of the checkpoints that links of their folder point to, ``last.ckpt`` aside: somebody wants them."""
    links = [path for path in folder.iterdir() if path.is_symlink() and path.name != LAST_LINK]
    return {Path(os.readlink(link)).name for link in links if not link.name.startswith(".")}


def rank_file(rank: int) -> str:
    """Name of the file of a rank's own state."""
    return f"rank-{rank:04d}.pt"


def _rank_in(name: str) -> int | None:
    match = _RANK_FILE.search(name)
    return int(match.group(1)) if match else None


def random_state(trainer: pl.Trainer) -> dict[str, Any]:
    """States of this process's random generators, in types that load without running code."""
    numpy_state: Any = np.random.get_state(legacy=False)
    device = trainer.strategy.root_device
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": {**numpy_state, "state": {"key": _as_tensor(numpy_state), "pos": int(numpy_state["state"]["pos"])}},
        "python": random.getstate(),
    }


def _as_tensor(numpy_state: Mapping[str, Any]) -> Tensor:
    return torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))


def restore_random_state(trainer: pl.Trainer, state: Mapping[str, Any]) -> None:
    """Undo :func:`random_state`."""
    torch.set_rng_state(state["torch"])
    device = trainer.strategy.root_device
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    inner = state["numpy"]["state"]
    np.random.set_state({**state["numpy"], "state": {**inner, "key": inner["key"].numpy().astype(np.uint32)}})
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def as_of_batch_end(fit_loop: dict[str, Any]) -> None:
    """Let Lightning's counters stand as in ``on_train_batch_end``, wherever they are saved, in place.

    A resume then goes one and the same way: the last batch counts as done, the epoch as running, no validation as
    interrupted. Of a validation the counters hold nothing that a resume needs.
    """
    epoch, batch = fit_loop["epoch_progress"], fit_loop["epoch_loop.batch_progress"]
    if epoch["total"]["processed"] == epoch["total"]["ready"]:  # behind the loop, where the step is counted already
        fit_loop["epoch_loop.state_dict"]["_batches_that_stepped"] -= 1
    for counts in (epoch["total"], epoch["current"]):
        counts["processed"] = counts["completed"] = counts["ready"] - 1
    for counts in (batch["total"], batch["current"]):
        counts["completed"] = counts["ready"] - 1
    batch["is_last_batch"] = False
    validation = fit_loop["epoch_loop.val_loop.batch_progress"]
    for counts in (validation["total"], validation["current"]):
        counts.update(started=counts["ready"], processed=counts["ready"], completed=counts["ready"])


class _Saving:
    """DeepSpeed's writer of files, which remembers what it wrote and what failed instead of raising.

    Between its files DeepSpeed waits for all ranks: a rank that leaves early would never be waited for in vain again.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.written: list[Path] = []
        self.fault: Exception | None = None

    def save(self, state_dict: Any, path: str) -> None:
        """Write one file."""
        try:
            self._inner.save(state_dict, path)
            self.written.append(Path(path))
        except Exception as error:
            self.fault = self.fault or error

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Make a folder."""
        try:
            self._inner.makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            self.fault = self.fault or error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@contextmanager
def _never_leaving(engine: Any) -> Iterator[_Saving]:
    """Within the context the engine saves without raising, and without its ``latest`` file, which we write."""
    saving = _Saving(engine.checkpoint_engine)
    engine.checkpoint_engine = saving
    engine.save_checkpoint = partial(type(engine).save_checkpoint, engine, save_latest=False)
    try:
        yield saving
    finally:
        engine.checkpoint_engine = saving._inner
        del engine.save_checkpoint


@contextmanager
def _gathered(parameter: Any) -> Iterator[None]:
    if not hasattr(parameter, "ds_id"):
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([parameter]):
        yield
