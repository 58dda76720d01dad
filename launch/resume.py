"""Where a run starts: anew, or from which checkpoint; and whether that checkpoint is of this very run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from macedance.errors import CheckpointError, ConfigError
from macedance.pipelines.checkpoint_folder import (
    CheckpointManifest,
    list_checkpoints,
    newest_verified,
    read_manifest,
    scan_pickles,
    verify,
)

MODES = ("auto", "never", "must")
_SHARDED = "zero"

#: Keys that may change from one start of a run to the next: where and how it runs, not what it computes.
_FREE_KEYS = (
    "config",
    "run_dir",
    "resume",
    "resume_changed",
    "checkpoint_every_n_steps",
    "keep_last_checkpoints",
    "num_threads",
    "watchdog_timeout_s",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.accumulate_grad_batches",
    "trainer.default_root_dir",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.val_check_interval",
    "trainer.limit_val_batches",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.plugins",
    "trainer.profiler",
    "trainer.benchmark",
    "trainer.detect_anomaly",
    "trainer.enable_",
    "trainer.callbacks",
    "data.init_args.shards",
    "data.init_args.num_workers",
    "data.init_args.cache_",
    "data.init_args.fetch_",
    "data.init_args.verify_shards",
    "data.init_args.val_",
    "data.init_args.max_val_clips",
    "data.init_args.max_quarantined",
    "data.init_args.prefetch",
)
#: Callbacks that take part in what is computed; the others only watch.
_COMPUTING_CALLBACKS = ("callbacks.ema.", "callbacks.numerics.")


@dataclass(frozen=True)
class RunIdentity:
    """What must not change between two starts of a run.

    Args:
        config: The whole parsed config.
        data_manifest_sha256: Identity of the corpus.
        normalizer_sha256: Of the model's normalisers.
        world_size: Ranks of this start.
        strategy: Its kind: ``single``, ``ddp``, ``zero1`` ...
        max_steps: Optimizer steps of the whole run.
        precision: What this machine computes in, which may not be what the config asks for.
    """

    config: Mapping[str, Any]
    data_manifest_sha256: str
    normalizer_sha256: str
    world_size: int
    strategy: str
    max_steps: int
    precision: str = ""


@dataclass(frozen=True)
class Start:
    """How a run starts.

    Args:
        folder: The checkpoint to go on from; None: from the beginning.
        manifest: Its manifest.
        finished: The run's last step is already done.
        messages: What to tell the user, and to note in provenance.json.
        must_reshape: The checkpoint is of another number of ranks and sharded.
    """

    folder: Path | None = None
    manifest: CheckpointManifest | None = None
    finished: bool = False
    messages: tuple[str, ...] = field(default=())
    must_reshape: bool = False


def normalizer_sha256(normalizer: Mapping[str, Any]) -> str:
    """Identity of a model's normalisers."""
    return hashlib.sha256(json.dumps(normalizer, sort_keys=True).encode()).hexdigest()


def holds_run(run_dir: Path) -> bool:
    """Whether a run wrote into this directory."""
    return (run_dir / "metrics.csv").exists() or bool(list_checkpoints(run_dir))


def choose_start(mode: str, run_dir: Path, identity: RunIdentity, *, allow_changes: bool = False) -> Start:
    """Decide where to start; nothing is written.

    Args:
        mode: ``auto``, ``never``, ``must`` or the path of a checkpoint.
        run_dir: The run directory.
        identity: Of the run that is about to start.
        allow_changes: Go on although the config changed.

    Raises:
        ConfigError: ``never`` in a directory that holds a run; another config or sharding than the checkpoint's.
        CheckpointError: ``must`` with no usable checkpoint; a PATH that is missing or damaged.
        DataError: The corpus or the normaliser changed since the checkpoint.
    """
    if mode == "never":
        if holds_run(run_dir):
            raise ConfigError(
                "the directory already holds a run",
                where=run_dir,
                fix="name another one with --run_dir, move the old run away, or go on with --resume auto",
            )
        return Start()
    messages: tuple[str, ...] = ()
    verified = True
    if mode in ("auto", "must"):
        folder, damaged = newest_verified(run_dir)
        messages = tuple(damaged)
        if folder is None:
            return _without_checkpoint(mode, run_dir, messages)
    else:
        folder, verified = _named(Path(mode))
        if holds_run(run_dir) and folder.parent.parent.resolve() != run_dir.resolve():
            raise ConfigError(
                "the directory holds another run than the checkpoint's",
                where=run_dir,
                fix="name a new one with --run_dir, or the checkpoint's own",
            )
    manifest = read_manifest(folder) if verified else verify(folder)
    scan_pickles(folder)
    changes = _check_identity(folder, manifest, run_dir, identity, allow_changes)
    # At the last step its validation may be missing: the run was stopped within it.
    trained = manifest.step >= identity.max_steps > 0
    if trained and not (manifest.step == identity.max_steps and manifest.validation_missing):
        return Start(folder, manifest, finished=True, messages=messages)
    reshape = manifest.strategy.startswith(_SHARDED) and manifest.world_size != identity.world_size
    elastic = (
        [] if manifest.world_size == identity.world_size else [f"{manifest.world_size} -> {identity.world_size} ranks"]
    )
    told = f"resuming from {folder.name}, step {manifest.step}"
    return Start(folder, manifest, False, (*messages, ", ".join([told, *elastic, *changes])), reshape)


def _without_checkpoint(mode: str, run_dir: Path, messages: tuple[str, ...]) -> Start:
    """No checkpoint can be used: start anew where nothing is lost by it."""
    if mode == "must":
        raise CheckpointError(
            "there is no checkpoint to resume from" + (f" ({'; '.join(messages)})" if messages else ""),
            where=run_dir / "checkpoints",
            expected="a step-*.ckpt that verifies",
            fix="start the run with --resume auto",
        )
    if messages:
        raise CheckpointError(
            f"no checkpoint of this run can be used: {'; '.join(messages)}",
            where=run_dir / "checkpoints",
            fix="start anew in another --run_dir, or restore a checkpoint's files",
        )
    if holds_run(run_dir):
        return Start(
            messages=("the directory holds a run that was stopped before its first checkpoint: it starts over",)
        )
    return Start()


def _named(path: Path) -> tuple[Path, bool]:
    """The checkpoint folder that a path names: itself, a file in it, or a run directory's newest, which is verified."""
    if not path.exists():
        raise CheckpointError("there is no such checkpoint", where=path, expected="a step-*.ckpt, or auto, never, must")
    path = path.resolve()
    if path.is_file():
        path = path.parent
    if not (path / "manifest.json").exists() and (path / "checkpoints").is_dir():
        newest, faults = newest_verified(path)
        if newest is None:
            raise CheckpointError("the run has no usable checkpoint" + "".join(f"; {f}" for f in faults), where=path)
        return newest, True
    return path, False


def _check_identity(
    folder: Path, manifest: CheckpointManifest, run_dir: Path, identity: RunIdentity, allow_changes: bool
) -> list[str]:
    """Refuse a checkpoint of another run; returns the harmless changes, for the user.

    Raises:
        ConfigError: Another config, or sharded otherwise; what differs is listed.
    """
    faults = []
    for name, then, now in (
        ("the corpus (manifest.json)", manifest.data_manifest_sha256, identity.data_manifest_sha256),
        ("the normaliser", manifest.normalizer_sha256, identity.normalizer_sha256),
    ):
        if then != now:
            faults.append(f"{name} is another: sha256 {then[:12]} then, {now[:12]} now")
    saved = _saved_config(folder)
    changed, free = config_changes(saved, identity.config) if saved is not None else ([], [])
    precision = _saved_precision(folder)
    if precision and identity.precision and precision != identity.precision:
        changed = [*changed, f"precision on this machine: {precision} -> {identity.precision}"]
    if not allow_changes:
        faults += changed
    if faults:
        other = folder.parent.parent.resolve() != run_dir.resolve()
        what = "the checkpoint is of another experiment" if other else "the run changed since its checkpoint"
        raise ConfigError(
            f"{what}: {'; '.join(faults[:8])}" + (f"; and {len(faults) - 8} more" if len(faults) > 8 else ""),
            where=folder,
            expected="the corpus, normaliser and config that it was written under",
            fix="undo the changes, start a new run with --init_from and another --run_dir, or, for config keys, "
            "insist with --resume_changed true",
        )
    sharded = (manifest.strategy, identity.strategy)
    if manifest.strategy != identity.strategy and any(kind.startswith(_SHARDED) for kind in sharded):
        same = manifest.strategy.removesuffix("_offload") == identity.strategy.removesuffix("_offload")
        if not same:
            raise ConfigError(
                f"the checkpoint was written under {manifest.strategy} and this start is under {identity.strategy}",
                where=folder,
                expected=_as_written(manifest.strategy),
                fix="resume under the same strategy, or start a new run from its weights: `macedance checkpoint "
                "export`, then --init_from",
            )
    return [f"changed: {change}" for change in (*free, *(changed if allow_changes else ()))]


def _as_written(strategy: str) -> str:
    return "one device and no strategy" if strategy == "single" else f"--config strategies/{strategy}"


def _saved_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.yaml"
    if not path.exists():
        return None
    loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded if isinstance(loaded, dict) else None


def _saved_precision(folder: Path) -> str | None:
    """What the last start before the checkpoint computed in."""
    try:
        starts = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["starts"]
        return str(starts[-1]["precision"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def config_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Differences of two configs as ``key: old -> new``: those that change the result, and those that do not."""
    old, new = dict(_flat(then)), dict(_flat(now))
    telling, free = [], []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if not key.startswith(_FREE_KEYS):
            telling.append(f"{key}: {before} -> {after}")
        elif key in ("trainer.max_steps", "trainer.accumulate_grad_batches"):
            free.append(f"{key}: {before} -> {after}")
    computing = [_computing(config) for config in (then, now)]
    if computing[0] != computing[1]:
        telling.append(f"trainer.callbacks: {computing[0]} -> {computing[1]}")
    return telling, free


def _computing(config: Mapping[str, Any]) -> list[Any]:
    callbacks = (config.get("trainer") or {}).get("callbacks") or []
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return [c for c in callbacks if str(c.get("class_path", "")).startswith(_COMPUTING_CALLBACKS)]


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; lists are values."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node
