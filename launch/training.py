"""Training through LightningCLI: parse, build, and run in a directory of its own."""

from __future__ import annotations

import argparse
import atexit
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

from callbacks.checkpoints import Checkpoints
from callbacks.loss_report import LossReport
from callbacks.numerics import NonFinite
from callbacks.preemption import Preemption
from callbacks.quarantine import Quarantine
from callbacks.run_files import MetricsCsv, Provenance
from callbacks.speed import ResumeThroughput, Throughput, TrainingProgress
from callbacks.watchdog import Watchdog
from launch.config_files import config_paths, explain, own_error, resolve_arguments
from launch.distributed import decided_by_first_rank, is_first_rank, join_ranks, together
from launch.failures import explain_failure, is_interrupt
from launch.options import check_writable, positive_int, quiet_libraries, say, writable_folder
from launch.resume import MODES, RunIdentity, Start, choose_start, normalizer_sha256
from launch.run_lock import RunLock
from lightning_modules.base import ExpertModule
from lightning_modules.strategies import strategy_kind
from macedance.errors import ConfigError, MaceDanceError
from macedance.motion.atomic import write_atomically

#: What no config may leave to Lightning's own defaults, and why.
_TRAINER_DEFAULTS: dict[str, Any] = {
    "accelerator": "auto",
    "devices": 1,
    "use_distributed_sampler": False,  # the order of samples is ours: a pure function of (seed, epoch)
    "check_val_every_n_epoch": None,  # Lightning sees one endless epoch; validation counts steps
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,  # callbacks.checkpoints writes them whole
    "enable_progress_bar": False,  # callbacks.speed
    "enable_model_summary": False,
    "logger": False,  # TensorBoard in the run directory, unless the config names another
    "log_every_n_steps": 10,
}


def cpu_multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16; without them it is slower than float32."""
    probe = getattr(torch.cpu, "get_capabilities", None)
    if probe is None:
        return bool(torch.cpu._is_avx512_bf16_supported())
    found = probe()
    return any(bool(found.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))


class TrainingCLI(LightningCLI):
    """LightningCLI with our run directory, our seed links and errors instead of a page of usage."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own keys."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="The run's own directory.")
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="Start from the weights of this folder or checkpoint."
        )
        parser.add_argument(
            "--resume", type=str, default="auto", help="auto, never, must, or the path of a checkpoint to go on from."
        )
        parser.add_argument(
            "--resume_changed", type=bool, default=False, help="Resume although the config changed; what did is said."
        )
        parser.add_argument(
            "--watchdog_timeout_s",
            type=float | None,
            default=None,
            help="Seconds that a run may stand still before it ends with 76; null: minutes, by phase; 0: no watch.",
        )
        parser.add_argument("--keep_last_checkpoints", type=int, default=3, help="Periodic checkpoints that stay.")
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int | None, default=None, help="Optimizer steps between two checkpoints."
        )
        parser.add_argument(
            "--num_threads", type=int | None, default=None, help="CPU threads of torch while training; null: its own."
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("init_from", "model.init_args.init_from")

    def before_instantiate_classes(self) -> None:
        """Give the run its directory: ``outputs/runs/<name of the first config>`` unless a key names another."""
        if self.config.get("run_dir") is None:
            self.config.run_dir = str(Path("outputs") / "runs" / Path(str(self.config.config[0])).stem)
        self.config.trainer.default_root_dir = str(self.config.run_dir)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer with a precision that this processor has; the config keeps the one that was asked for."""
        asked = self.config.trainer
        on_cpu = asked.accelerator == "cpu" or (asked.accelerator == "auto" and not torch.cuda.is_available())
        if on_cpu and str(asked.precision).startswith("bf16") and not cpu_multiplies_bf16():
            if not self.parse_only:
                say(f"this processor has no bfloat16 products: training in 32-true instead of {asked.precision}")
            kwargs["precision"] = "32-true"
        if SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
            # Lightning would save and requeue inside the signal's handler; callbacks.preemption does both.
            given = asked.plugins or []
            given = given if isinstance(given, list) else [given]
            kwargs["plugins"] = [*given, SLURMEnvironment(auto_requeue=False)]
        return super().instantiate_trainer(**kwargs)

    parse_only = False

    def _add_instantiators(self) -> None:
        # LightningCLI would record every class it instantiates; ours are plain constructors with no such need.
        return


class ParsingCLI(TrainingCLI):
    """Parses and validates a config without a run directory."""

    parse_only = True


@dataclass
class Run:
    """A configured run, ready to train."""

    cli: TrainingCLI
    directory: Path
    trainer: pl.Trainer
    model: ExpertModule
    data: pl.LightningDataModule
    start: Start = field(default_factory=Start)
    lock: RunLock | None = None
    preemption: Preemption = field(default_factory=Preemption)

    @property
    def preempted(self) -> bool:
        """Whether training was broken off by the scheduler, and saved."""
        return self.preemption.preempted

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        if self.start.finished and self.start.manifest is not None:
            return self.start.manifest.step
        return int(self.trainer.global_step)


def build_cli(arguments: Sequence[str], *, kind: type[TrainingCLI] = TrainingCLI) -> TrainingCLI:
    """Parse resolved arguments and instantiate model, data module and trainer.

    Raises:
        ConfigError: A key or value is wrong; one line names the nearest valid key.
    """
    require_config(arguments)
    parser_box: list[Any] = []

    class _Remembering(kind):  # type: ignore[valid-type,misc]
        def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
            super().add_arguments_to_parser(parser)
            parser_box.append(parser)

    try:
        return _Remembering(
            ExpertModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            seed_everything_default=0,
            run=False,
            trainer_defaults=dict(_TRAINER_DEFAULTS),
            parser_kwargs={"exit_on_error": False, "allow_abbrev": False},
            args=list(arguments),
        )
    except (ArgumentError, argparse.ArgumentError, ValueError, TypeError) as error:
        # A constructor's own complaint is the better one; the parser wraps it.
        ours = own_error(error)
        if ours is not None:
            raise ours from error
        names = [a.dest for a in parser_box[0]._actions] if parser_box else []
        raise explain(str(error), arguments, names) from error


def require_config(arguments: Sequence[str]) -> None:
    """Raise ConfigError unless a config is among the arguments."""
    if not config_paths(arguments):
        raise ConfigError("no config is given", expected="--config NAME|FILE", fix="e.g. --config mace_motion_demo")


def prepare_run(arguments: Sequence[str]) -> Run:
    """Everything of a run but the training: open the data, build the network, find the start, make the directory.

    The directory is made last: a wrong request leaves nothing behind. With several ranks all of them come here, and an
    error of one is the error of all.

    Args:
        arguments: As on the command line: ``--config NAME|FILE`` and any key.

    Raises:
        ConfigError: A wrong key or value, a directory that cannot be written to or that another job trains in, or a
            checkpoint of another run.
        DataError: A corpus that is missing or damaged.
        CheckpointError: Weights to start from that are missing or of another network; no checkpoint where one must be.
    """
    with quiet_libraries(), ExitStack() as given_up:
        cli = _parsed(arguments)
        directory = Path(cli.config.run_dir)
        model, data, trainer = cli.model, cli.datamodule, cli.trainer
        assert isinstance(model, ExpertModule)
        assert data is not None
        run = Run(cli, directory, trainer, model, data)
        is_trial = bool(cli.config.trainer.fast_dev_run)
        if not is_trial:
            run.preemption.install()  # a signal during the set-up stops the run before its first step
            given_up.callback(run.preemption.restore)
        join_ranks(trainer)
        together(lambda: _open(run, check_directory=not is_trial))
        if not is_trial:
            run.start = decided_by_first_rank(lambda: _claim_and_choose(run))
            if run.start.finished:
                return run
            together(lambda: writable_folder(directory))
            for message in run.start.messages if is_first_rank() else ():
                say(message)
        trainer.callbacks = _callbacks(run, is_trial)  # type: ignore[attr-defined]
        if run.start.manifest is not None:
            data.start_position = run.start.manifest.position  # type: ignore[attr-defined]
        if not is_trial:
            if not trainer.loggers:
                trainer.loggers = [TensorBoardLogger(save_dir=str(directory), name="", version="tensorboard")]
            if is_first_rank():
                _write_config(run)
        given_up.pop_all()
    return run


def _parsed(arguments: Sequence[str]) -> TrainingCLI:
    """The parsed request; a mistake in it is said by the first rank of each machine, which have the same files."""
    try:
        cli = build_cli(resolve_arguments(arguments))
        if cli.config.resume not in MODES and not Path(cli.config.resume).exists():
            raise ConfigError(
                f"resume is {cli.config.resume!r}",
                where="--resume",
                expected="auto, never, must, or the path of a checkpoint",
            )
        return cli
    except MaceDanceError as error:
        if int(os.environ.get("LOCAL_RANK") or os.environ.get("SLURM_LOCALID") or 0) > 0:
            error.everywhere()
        raise


def _open(run: Run, *, check_directory: bool) -> None:
    """What every rank needs and may fail at."""
    if check_directory:
        check_writable(run.directory)
    run.data.trainer = run.trainer
    run.data.prepare_data()
    run.data.setup("fit")
    run.data.check_ranks(run.trainer.world_size, run.trainer.accumulate_grad_batches)  # type: ignore[attr-defined]
    run.model.adopt_corpus(run.data)
    run.model.configure_model()
    _schedule_validation(run)


def _schedule_validation(run: Run) -> None:
    """Validation counts optimizer steps, or shares of a data epoch where a fraction is given.

    Lightning counts micro-batches.
    """
    trainer, accumulated = run.trainer, run.trainer.accumulate_grad_batches
    every = run.cli.config.trainer.val_check_interval
    if run.cli.config.trainer.fast_dev_run or isinstance(every, (str, dict)):
        return
    if every is None or isinstance(every, float):
        data: Any = run.data
        steps = data.samples_per_epoch // data.global_batch_size
        every = max(round((1.0 if every is None else every) * steps), 1)
    trainer.val_check_interval = every * accumulated


def _claim_and_choose(run: Run) -> Start:
    """Lock the directory and find the start; where that fails nothing is left behind."""
    config = run.cli.config
    identity = RunIdentity(
        config=yaml.safe_load(_dump(run.cli)),
        data_manifest_sha256=run.model.manifest_sha256,
        normalizer_sha256=normalizer_sha256(run.model.normalizer_dict()),
        world_size=run.trainer.world_size,
        strategy=strategy_kind(run.trainer),
        max_steps=run.trainer.max_steps,
    )

    def choose() -> Start:
        return choose_start(config.resume, run.directory, identity, allow_changes=config.resume_changed)

    start = None if run.directory.exists() else choose()
    if start is not None and start.finished:
        return start
    lock = RunLock(writable_folder(run.directory))
    taken_over = lock.acquire()
    try:
        start = start or choose()
        if start.must_reshape and start.folder is not None:
            start = _reshaped(start, run)
    except BaseException:
        lock.release()
        raise
    if start.finished:
        lock.release()
    else:
        run.lock = lock
        atexit.register(lock.release)
    return replace(start, messages=(*([taken_over] if taken_over else []), *start.messages))


def _reshaped(start: Start, run: Run) -> Start:
    """The start from the same checkpoint, cut for this number of ranks, in a folder of its own."""
    from launch.reshape import reshape_for_resume

    assert start.folder is not None
    folder, message = reshape_for_resume(start.folder, run.directory / "checkpoints", run.trainer.world_size)
    return replace(start, folder=folder, messages=(*start.messages, message))


def _callbacks(run: Run, is_trial: bool) -> list[pl.Callback]:
    """The run's own callbacks around those of the config, in the order in which they must act."""
    config, throughput = run.cli.config, Throughput()
    resumed = None if run.start.folder is None else str(run.start.folder)
    files = [] if is_trial else [MetricsCsv(), Provenance(run.start.messages, resumed)]
    checkpoints = Checkpoints(every_n_steps=config.checkpoint_every_n_steps, keep_last=config.keep_last_checkpoints)
    saving = [] if is_trial else [checkpoints, run.preemption]
    asked: list[pl.Callback] = run.trainer.callbacks  # type: ignore[attr-defined]
    limit = config.watchdog_timeout_s
    watchdog = [] if is_trial or limit == 0 or _has(asked, Watchdog) else [Watchdog(timeout_s=limit)]
    numerics = [] if _has(asked, NonFinite) else [NonFinite()]
    return [
        *watchdog,
        throughput,
        *numerics,
        *([] if _has(asked, Quarantine) else [Quarantine()]),
        *files,
        LossReport(),
        TrainingProgress(),
        *asked,
        *saving,
        ResumeThroughput(throughput),
    ]


def _has(callbacks: Sequence[pl.Callback], kind: type[pl.Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


def _dump(cli: TrainingCLI) -> str:
    return str(cli.parser.dump(cli.config, skip_link_targets=False))


def _write_config(run: Run) -> None:
    """`config.yaml` is written once, at the start of the run; a resume compares with it."""
    path = run.directory / "config.yaml"
    if run.start.folder is None or not path.exists():
        write_atomically(path, _dump(run.cli).encode())


def train(arguments: Sequence[str]) -> Run:
    """Prepare a run and train it to its end; a finished run is left as it is."""
    run = prepare_run(arguments)
    if run.start.finished:
        if is_first_rank():
            say(f"the run is finished: step {run.steps} of {run.trainer.max_steps}; nothing to do in {run.directory}")
        return run
    if is_first_rank():
        say(f"run directory: {run.directory}")
    fit(run)
    return run


def fit(run: Run) -> None:
    """Train a prepared run with the threads that its config asks for.

    Raises:
        MaceDanceError: What broke it off, where a user can do something about it.
        KeyboardInterrupt: Ctrl-C.
    """
    threads, wanted = torch.get_num_threads(), run.cli.config.num_threads
    positive_int("num_threads", wanted)
    torch.set_num_threads(wanted or threads)
    try:
        with quiet_libraries():
            run.trainer.fit(run.model, datamodule=run.data, ckpt_path=_checkpoint_path(run.start), weights_only=True)
    except BaseException as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        explained = explain_failure(error, run)
        if explained is None:
            raise
        raise explained from error
    finally:
        torch.set_num_threads(threads)
        if run.lock is not None:
            run.lock.release()


def _checkpoint_path(start: Start) -> str | None:
    """What Lightning restores from: the state file, or the whole folder where DeepSpeed wrote it."""
    if start.folder is None:
        return None
    state = start.folder / "state.ckpt"
    return str(state if state.exists() else start.folder)
