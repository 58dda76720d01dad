"""``macedance submit``: check a training job, write its sbatch script, and queue it."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launch.cluster.script import CLUSTER_KEYS, JobRequest, cluster_defaults, render, seconds_of
from launch.options import Parser, add_json_option, emit_json, say
from macedance.errors import ConfigError, DependencyError

_EPILOG = """\
Every other option is one of `macedance fit` and is passed on: --data.shards DIR, --trainer.max_steps N, ...
The request is checked before it is queued: the config, the global batch over all ranks, the shards, the run
directory, the space for checkpoints, and what the partition has. The job saves and goes back into the queue before
its time limit, and goes on where it stopped; `scancel JOB` saves as well, and ends it.

examples:
  macedance submit --config mace_motion_finedance --config zero2 --data.shards /data/finedance \\
      --run_dir /scratch/runs/first --cluster slurm_8xh100 --partition gpu --nodes 4 --time 24:00:00
  macedance submit --config mace_motion_demo --nodes 2 --gpus-per-node 0 --dry-run"""


def build_parser() -> Parser:
    """Options of the verb."""
    parser = Parser(
        prog="macedance submit",
        description="Train on a SLURM cluster: check the request, write a readable sbatch script, queue it.",
        epilog=_EPILOG,
    )
    add = parser.add_argument
    add("--config", action="append", metavar="NAME|FILE", help="as for fit; may be given several times")
    add("--run_dir", metavar="DIR", help="the run's own directory, seen by every node (default: outputs/runs/<config>)")
    add("--cluster", metavar="NAME|FILE", help="defaults of a cluster: configs/clusters/<NAME>.yaml, or a file")
    add("--nodes", type=int, metavar="N", help="nodes (1)")
    add("--gpus-per-node", type=int, metavar="G", help="GPUs and ranks of each node; 0: one rank on its CPUs (0)")
    add("--time", metavar="HH:MM:SS", help="time limit of a job; longer runs are queued again (the partition's own)")
    add("--partition", metavar="P")
    add("--account", metavar="A")
    add("--qos", metavar="Q")
    add("--job-name", metavar="J", help="default: the run directory's name")
    add("--cpus-per-task", type=int, metavar="C", help="processors of each rank")
    add("--mem", metavar="M", help="memory of each node, e.g. 200G; 0: all of it")
    add("--array-chain", type=int, metavar="K", help="K jobs, one after the other, instead of a job that is requeued")
    add("--signal-seconds", type=int, metavar="S", help="save and stop this long before the time limit (180)")
    add("--max-hang-requeues", type=int, metavar="N", help="restarts after a hang without a new checkpoint (3)")
    add("--dry-run", action="store_true", help="print the script and queue nothing; needs no SLURM")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 0
    options, passed_on = parser.parse_known_args(arguments)
    request = build_request(options, passed_on)
    if not options.dry_run and shutil.which("sbatch") is None:
        raise DependencyError(
            "SLURM's sbatch is not on this machine",
            expected="a login node of the cluster",
            fix="run it there, or see the script with --dry-run",
        )
    from launch.cluster.checks import check_request

    report = check_request(request)
    for line in report.notes:
        say(line)
    script = render(request)
    result: dict[str, Any] = {"run_dir": str(request.run_dir), "ranks": request.ranks, **report.figures}
    if options.dry_run:
        if options.json:
            emit_json(options.json, {**result, "job_id": None, "script": script})
        if options.json != "-":
            print(script, end="")
        return 0
    path = _keep(request, script)
    job = _queue(path)
    result.update(job_id=job, script=str(path), log=str(request.rank_log(job)), job_log=str(request.job_log(job)))
    if options.json:
        emit_json(options.json, result)
    if options.json != "-":
        print(_follow(request, job, path))
    return 0


def build_request(options: argparse.Namespace, passed_on: Sequence[str]) -> JobRequest:
    """The job that the command line and the cluster's file ask for.

    Raises:
        ConfigError: A value that no job can have.
    """
    from launch.config_files import resolve_config

    values = cluster_defaults(options.cluster)
    values.update({k: v for k in CLUSTER_KEYS if (v := getattr(options, k, None)) is not None})
    configs = options.config or []
    if not configs:
        raise ConfigError("no config is given", expected="--config NAME|FILE", fix="e.g. --config mace_motion_demo")
    for word in passed_on:
        if re.match(r"--trainer\.(devices|num_nodes)(=|$)", word):
            raise ConfigError(f"{word.partition('=')[0]} is not given here", fix="use --nodes and --gpus-per-node")
    paths = [resolve_config(name).resolve() for name in configs]
    run_dir = Path(options.run_dir or Path("outputs") / "runs" / paths[0].stem).expanduser().absolute()
    request = JobRequest(
        configs=tuple(str(path) for path in paths),
        run_dir=run_dir,
        passed_on=tuple(passed_on),
        job_name=options.job_name or run_dir.name,
        array_chain=options.array_chain,
        **values,
    )
    _check_values(request)
    return request


def _check_values(request: JobRequest) -> None:
    for name, least in (
        ("nodes", 1), ("gpus_per_node", 0), ("cpus_per_task", 1), ("array_chain", 1), ("signal_seconds", 1),
        ("max_hang_requeues", 0),
    ):  # fmt: skip
        value = getattr(request, name)
        if value is not None and (not isinstance(value, int) or value < least):
            raise ConfigError(f"--{name.replace('_', '-')} is {value}", expected=f"a whole number from {least}")
    if re.search(r"[%\n\"\\]", str(request.run_dir)):
        raise ConfigError("SLURM would read a sign of this path as a pattern", where=request.run_dir)
    if request.job_name in ("bash", "interactive"):
        raise ConfigError(f"a job named {request.job_name!r} would be taken for an interactive shell", fix="--job-name")
    limit_s = seconds_of(request.time)
    if limit_s is not None and request.signal_seconds >= limit_s:
        raise ConfigError(
            f"--signal-seconds {request.signal_seconds} leaves no time to train", expected=f"below {limit_s} seconds"
        )


def _keep(request: JobRequest, script: str) -> Path:
    """Write the script beside the run's logs, whole or not at all."""
    folder = request.run_dir / "slurm"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"submit-{time.strftime('%Y%m%d-%H%M%S')}.sbatch"
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(script, encoding="utf-8")
        temporary.replace(path)
        (folder / "restarts-without-progress").unlink(missing_ok=True)  # a new submission has all its restarts
    except OSError as error:
        raise ConfigError(f"cannot write the script: {error.strerror or error}", where=folder) from error
    return path


def _queue(path: Path) -> str:
    """Submit a script; the job's number.

    Raises:
        ConfigError: SLURM refuses it; its reason is given.
    """
    try:
        run = subprocess.run(
            ["sbatch", "--parsable", str(path)], capture_output=True, text=True, timeout=120, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DependencyError(f"sbatch did not run: {error}") from error
    if run.returncode:
        reason = " ".join(line.removeprefix("sbatch: error: ") for line in run.stderr.splitlines() if line.strip())
        raise ConfigError(f"SLURM refuses the job: {reason or f'exit code {run.returncode}'}", where=path)
    return run.stdout.strip().partition(";")[0]


def _follow(request: JobRequest, job: str, script: Path) -> str:
    chain = f", {request.array_chain} jobs one after the other" if request.array_chain else ""
    return "\n".join(
        [
            f"submitted job {job}: {request.size}{chain}",
            f"  script  {script}",
            f"  log     tail -F {request.rank_log(job)}",
            f"  job     tail -F {request.job_log(job)}",
            f"  queue   squeue --job {job}",
            f"  stop    scancel {job}    (saves a checkpoint first; `macedance submit` again goes on from it)",
        ]
    )
