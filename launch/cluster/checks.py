"""What `macedance submit` looks at before it queues a job, so that mistakes show now and not after hours of waiting."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.cluster.script import JobRequest, seconds_of
from launch.options import check_writable, quiet_libraries
from macedance.errors import ConfigError

_SINFO = "%R|%P|%a|%l|%D|%c|%m|%G"
_UNITS_MB = {"K": 1 / 1024, "M": 1.0, "": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass
class Report:
    """What was found.

    Args:
        notes: Lines for the user.
        figures: Numbers for ``--json``.
    """

    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


def check_request(request: JobRequest) -> Report:
    """Look at everything that can be seen from here.

    Raises:
        ConfigError: A wrong config key or value, a global batch that does not divide, no space, a partition that
            cannot run the job.
        DataError: Shards that cannot be read.
    """
    report = Report()
    check_writable(request.run_dir)
    check_partition(request, report)
    with quiet_libraries():
        cli = _parsed(request)
        _check_batch(request, cli.config, report)
        _check_shards(cli.datamodule, report)
        _check_space(request, cli, report)
    if cli.config.get("checkpoint_every_n_steps") is None:
        report.notes.append(
            "warning: only a signal and the end of the run save; a node that dies costs everything since: set "
            "--checkpoint_every_n_steps"
        )
    return report


def _parsed(request: JobRequest) -> Any:
    """The config as `fit` parses it, for one rank on this machine: a login node has no GPUs."""
    from launch.config_files import resolve_arguments
    from launch.training_cli import ParsingCLI, build_cli

    here = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1"]
    return build_cli(resolve_arguments([*request.fit_arguments(), *here]), kind=ParsingCLI)


def _check_batch(request: JobRequest, config: Any, report: Report) -> None:
    accumulate = int(config.trainer.accumulate_grad_batches or 1)
    whole = config.data.init_args.get("global_batch_size")
    if whole is None:
        return
    parts = request.ranks * accumulate
    if int(whole) % parts:
        nearest = max(int(whole) // parts, 1) * parts
        raise ConfigError(
            f"the global batch of {whole} does not divide over {request.size} x {accumulate} accumulated batches",
            where="data.global_batch_size",
            expected=f"a multiple of {parts}",
            fix=f"e.g. --data.global_batch_size={nearest}",
        )
    report.figures["global_batch_size"], report.figures["micro_batch_size"] = int(whole), int(whole) // parts
    report.notes.append(f"{request.size}: each rank takes {int(whole) // parts} samples at a time")


def _check_shards(data: Any, report: Report) -> None:
    if getattr(data, "shards", None) is None and not getattr(data, "mixture", None):
        report.notes.append("data.shards is not given: every node makes the built-in corpus in its cache")
        return
    data.setup("fit")
    report.figures["samples_per_epoch"] = int(data.samples_per_epoch)


def _check_space(request: JobRequest, cli: Any, report: Report) -> None:
    """Room for the checkpoints that stay and the one that is being written."""
    import torch

    model = cli.model
    start, model.init_from = model.init_from, None  # counting needs no weights
    with torch.device("meta"):
        model.configure_model()
    model.init_from = start
    parameters = list(model.built_network.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    sharded = "zero" in str(cli.config.trainer.strategy).lower()
    # What does not train and came from elsewhere is not in the checkpoints.
    each = checkpoint_bytes(total if model.base_source is None else trainable, trainable, sharded=sharded)
    # And a start on another number of ranks makes a copy that is cut for them.
    kept = int(cli.config.get("keep_last_checkpoints") or 3) + (2 if sharded else 1)
    free = shutil.disk_usage(_existing(request.run_dir)).free
    report.figures.update(parameters=total, checkpoint_bytes=each, checkpoints=kept, free_bytes=free)
    told = f"{kept} checkpoints of about {_gb(each)} ({total:,} parameters, {trainable:,} of them trained)"
    if each * kept > free:
        raise ConfigError(
            f"no space for {told}: {_gb(each * kept)} wanted, {_gb(free)} free",
            where=request.run_dir,
            fix="make room, or name a --run_dir on another disk",
        )
    report.notes.append(f"space for {told}: {_gb(each * kept)} of {_gb(free)} free")


def checkpoint_bytes(parameters: int, trainable: int, *, sharded: bool) -> int:
    """At most the size of a checkpoint: weights, their average and Adan's four moments in float32.

    A ZeRO checkpoint also holds the float32 master copy and the fragments that exports are made of.
    """
    return 4 * parameters + 4 * trainable * (7 if sharded else 5)


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _gb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


# -------------------------------------------------------------------- what SLURM has
def check_partition(request: JobRequest, report: Report) -> None:
    """Compare the request with what `sinfo` says of the partition; without SLURM it is noted and left.

    Raises:
        ConfigError: No such partition, or it has too few nodes, GPUs, processors, memory or time.
    """
    rows = _sinfo()
    if rows is None:
        report.notes.append("no SLURM answers here: partition, nodes and time limit are not checked")
        return
    name = request.partition or next((row["%P"].rstrip("*") for row in rows if row["%P"].endswith("*")), None)
    if name is None:
        raise ConfigError("the cluster has no default partition", fix=f"--partition {'|'.join(_names(rows))}")
    groups = [row for row in rows if row["%R"] == name]
    if not groups:
        raise ConfigError(f"there is no partition {name!r}", expected=f"one of {', '.join(_names(rows))}")
    if all(row["%a"] != "up" for row in groups):
        raise ConfigError(f"the partition {name!r} is {groups[0]['%a']}", fix="name another one with --partition")
    _check_time(request, groups, name)
    cpus = request.ranks_per_node * (request.cpus_per_task or 1)
    mem_mb = _megabytes(request.mem)
    for what, wanted, has in (
        ("nodes", None, lambda row: True),
        ("GPUs per node", request.gpus_per_node, lambda row: _gpus(row["%G"]) >= request.gpus_per_node),
        ("processors per node", cpus, lambda row: _number(row["%c"]) >= cpus),
        ("MB of memory per node", mem_mb, lambda row: _number(row["%m"]) >= mem_mb),
    ):
        groups = [row for row in groups if has(row)]
        count = sum(_number(row["%D"]) for row in groups)
        if count < request.nodes:
            with_what = f" with {wanted:g} {what}" if wanted else ""
            raise ConfigError(
                f"{request.nodes} nodes{with_what} are asked for and the partition {name!r} has {count}",
                expected="a request that the partition can satisfy",
                fix="see `sinfo`, or name another one with --partition",
            )


def _check_time(request: JobRequest, groups: list[dict[str, str]], name: str) -> None:
    wanted = seconds_of(request.time)
    limits = [seconds_of(row["%l"]) for row in groups if re.match(r"[\d-]", row["%l"])]
    if wanted is None or len(limits) < len(groups):
        return
    longest = max(limit or 0 for limit in limits)
    if wanted > longest:
        raise ConfigError(
            f"--time {request.time} is longer than the partition {name!r} allows",
            expected=f"at most {groups[0]['%l']}; a job is queued again until the run is done",
        )


def _sinfo() -> list[dict[str, str]] | None:
    """One row for each kind of node of each partition; None without SLURM."""
    if shutil.which("sinfo") is None:
        return None
    try:
        run = subprocess.run(
            ["sinfo", "--noheader", "--all", f"--format={_SINFO}"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    if run.returncode:
        return None
    keys = _SINFO.split("|")
    rows = [line.split("|") for line in run.stdout.splitlines() if line.strip()]
    return [dict(zip(keys, (word.strip() for word in row), strict=True)) for row in rows if len(row) == len(keys)]


def _names(rows: list[dict[str, str]]) -> list[str]:
    return sorted({row["%R"] for row in rows})


def _number(text: str) -> int:
    found = re.match(r"\d+", text)
    return int(found.group()) if found else 0


def _gpus(gres: str) -> int:
    """GPUs in a list of generic resources: ``gpu:8``, ``gpu:h100:8(S:0-1)``."""
    return sum(int(n) for n in re.findall(r"(?:^|,)gpu(?::[\w.-]+)?:(\d+)", gres))


def _megabytes(memory: str | int | None) -> float:
    """Megabytes of a memory request; 0 for none, and for all of the node's.

    Raises:
        ConfigError: It is not of sbatch's form.
    """
    if memory is None:
        return 0.0
    found = re.fullmatch(r"(\d+)([KMGT]?)B?", str(memory), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"--mem is {memory!r}", expected="e.g. 200G, or 0 for all of the node's")
    return int(found.group(1)) * _UNITS_MB[found.group(2).upper()]
