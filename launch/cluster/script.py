"""The sbatch script of a training job: the request, a cluster's defaults, and the rendered template."""

from __future__ import annotations

import getpass
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from macedance.errors import ConfigError

_TEMPLATE = Path(__file__).parent / "templates" / "fit.sbatch"
#: Keys of a cluster file, and what each may be.
CLUSTER_KEYS: dict[str, tuple[type, ...]] = {
    "nodes": (int,),
    "gpus_per_node": (int,),
    "cpus_per_task": (int,),
    "mem": (str, int),
    "time": (str,),  # YAML reads 24:00:00 without quotes as the number 86400
    "partition": (str,),
    "account": (str,),
    "qos": (str,),
    "signal_seconds": (int,),
    "max_hang_requeues": (int,),
    "cache_dir": (str,),
    "python": (str,),
    "sbatch": (list,),
    "srun": (list,),
    "setup": (list,),
    "environment": (dict,),
}


def _own_cache() -> str:
    return f"/tmp/macedance-{getpass.getuser()}"


@dataclass(frozen=True)
class JobRequest:
    """A training job.

    Args:
        configs: Absolute paths of the config files.
        run_dir: The run directory, absolute.
        passed_on: Options of `macedance fit`.
        job_name: Name in the queue.
        nodes: Nodes.
        gpus_per_node: GPUs, and ranks, of each; 0: one rank on its processors.
        cpus_per_task: Processors of a rank; None: the cluster's own.
        mem: Memory of a node, as sbatch takes it.
        time: Time limit, as sbatch takes it.
        partition: Part of the cluster.
        account: Who pays.
        qos: Quality of service.
        array_chain: So many jobs one after the other, instead of one that is queued again.
        signal_seconds: The job is told to save so long before its limit.
        max_hang_requeues: Restarts after a hang without a new checkpoint.
        cache_dir: Cache folder on each node's own disk.
        python: The interpreter; the submitting one.
        sbatch: More options of sbatch.
        srun: More options of srun.
        setup: Shell lines before srun, as they are.
        environment: Variables for the ranks.
    """

    configs: tuple[str, ...]
    run_dir: Path
    passed_on: tuple[str, ...] = ()
    job_name: str = "macedance"
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int | None = None
    mem: str | int | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    array_chain: int | None = None
    signal_seconds: int = 180
    max_hang_requeues: int = 3
    cache_dir: str = field(default_factory=_own_cache)
    python: str = sys.executable
    sbatch: tuple[str, ...] = ()
    srun: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def ranks_per_node(self) -> int:
        """Processes on a node: one for each GPU."""
        return max(self.gpus_per_node, 1)

    @property
    def ranks(self) -> int:
        """Processes in all."""
        return self.nodes * self.ranks_per_node

    @property
    def size(self) -> str:
        """In words: ``2 nodes x 8 ranks``."""
        nodes, ranks = self.nodes, self.ranks_per_node
        return f"{nodes} node{'s' * (nodes > 1)} x {ranks} rank{'s' * (ranks > 1)}"

    def fit_arguments(self) -> list[str]:
        """Arguments of `macedance fit` on every rank; what the user passed comes last and wins."""
        return [
            *(f"--config={path}" for path in self.configs),
            f"--run_dir={self.run_dir}",
            f"--trainer.accelerator={'gpu' if self.gpus_per_node else 'cpu'}",
            f"--trainer.devices={self.ranks_per_node}",
            f"--trainer.num_nodes={self.nodes}",
            *self.passed_on,
        ]

    def job_log(self, job: str) -> Path:
        """What the script itself says."""
        return self.run_dir / "slurm" / f"job-{job}.log"

    def rank_log(self, job: str) -> Path:
        """What the first rank says."""
        return self.run_dir / "slurm" / f"job-{job}-rank-0000.log"


def cluster_defaults(name: str | None) -> dict[str, Any]:
    """Values of a cluster file; empty without one.

    Raises:
        ConfigError: No such file, no mapping, an unknown key or a value of the wrong kind.
    """
    if name is None:
        return {}
    from launch.config_files import shipped_configs

    shipped = shipped_configs("clusters")
    path = Path(name) if Path(name).is_file() else shipped.get(name.removesuffix(".yaml").removeprefix("clusters/"))
    if path is None:
        raise ConfigError("there is no such cluster", where=name, expected=f"a file or one of {', '.join(shipped)}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"the cluster file cannot be read: {error}", where=path) from error
    if not isinstance(content, dict):
        raise ConfigError("the cluster file holds no keys", where=path, expected=f"any of {', '.join(CLUSTER_KEYS)}")
    for key, value in content.items():
        kinds = CLUSTER_KEYS.get(key)
        if kinds is None:
            raise ConfigError(f"unknown cluster key {key!r}", where=path, expected=f"one of {', '.join(CLUSTER_KEYS)}")
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool)):
            names = " or ".join({"str": "text", "int": "a whole number", "list": "a list", "dict": "keys and values"}
                                [kind.__name__] for kind in kinds)  # fmt: skip
            quoted = 'quote it: time: "24:00:00"' if key == "time" else None
            raise ConfigError(f"cluster key {key!r} is {value!r}", where=path, expected=names, fix=quoted)
    values = {key: value for key, value in content.items() if value is not None}
    for key in ("sbatch", "srun", "setup"):
        if key in values:
            values[key] = tuple(str(word) for word in values[key])
    if "environment" in values:
        values["environment"] = {str(k): str(v) for k, v in values["environment"].items()}
        for variable in values["environment"]:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
                raise ConfigError(f"{variable!r} is no name of a variable", where=path)
    return values


def seconds_of(limit: str | int | None) -> int | None:
    """Seconds of a time limit as sbatch takes it: MM, MM:SS, HH:MM:SS, D-HH, D-HH:MM or D-HH:MM:SS.

    Returns:
        None for none, and for an unlimited one.

    Raises:
        ConfigError: It is not of that form.
    """
    if limit is None or str(limit).upper() in ("INFINITE", "UNLIMITED"):
        return None
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(limit))
    if found is None:
        raise ConfigError(f"--time is {limit!r}", expected="HH:MM:SS, or D-HH:MM:SS")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, minutes, seconds = (*parts, 0, 0)[:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, (*parts, 0)[:2]
    return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds


def render(request: JobRequest) -> str:
    """The sbatch script of a job."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=StrictUndefined, autoescape=False
    )
    environment.filters["sh"] = lambda word: shlex.quote(str(word))
    srun = [
        "--kill-on-bad-exit=1",
        "--open-mode=append",
        '--output="$LOGS/job-%j-rank-%4t.log"',
        # Since 22.05 srun does not take this over from sbatch.
        *([f"--cpus-per-task={request.cpus_per_task}"] if request.cpus_per_task else []),
        *(shlex.quote(option) for option in request.srun),
    ]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{request.job_name}: macedance fit on {request.size}",
        sbatch=_sbatch_options(request),
        srun=srun,
        fit=_lines(request.fit_arguments()),
        array_chain=request.array_chain,
        **{
            name: getattr(request, name)
            for name in ("run_dir", "python", "gpus_per_node", "cache_dir", "environment", "setup", "max_hang_requeues")
        },
    )


def _sbatch_options(request: JobRequest) -> list[str]:
    options: dict[str, Any] = {
        "job-name": request.job_name,
        "chdir": Path.cwd(),
        "nodes": request.nodes,
        "ntasks-per-node": request.ranks_per_node,
        "gpus-per-node": request.gpus_per_node or None,
        "cpus-per-task": request.cpus_per_task,
        "mem": request.mem,
        "time": request.time,
        "partition": request.partition,
        "account": request.account,
        "qos": request.qos,
        "array": f"1-{request.array_chain}%1" if request.array_chain else None,
        "signal": f"USR1@{request.signal_seconds}",
        "open-mode": "append",
        "output": request.run_dir / "slurm" / "job-%j.log",
    }
    named = [f"--{name}={_sbatch_word(value)}" for name, value in options.items() if value is not None]
    return [*named, "--requeue", *request.sbatch]


def _sbatch_word(value: Any) -> str:
    """A value of an #SBATCH line, quoted where it must be: SLURM splits these lines itself."""
    text = str(value)
    return text if re.fullmatch(r"[\w@%+,./:=-]+", text) else '"' + text.replace('"', '\\"') + '"'


def _lines(words: list[str]) -> list[str]:
    """Quoted words, one option with its values on each line."""
    lines: list[list[str]] = []
    for word in words:
        if lines and not word.startswith("--"):
            lines[-1].append(word)
        else:
            lines.append([word])
    return [shlex.join(line) for line in lines]
