"""A training run in a directory of its own: from its arguments to its end."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks.best import Best
from callbacks.checkpoints import Checkpoints
from callbacks.directory import OwnDirectory
from callbacks.loss_report import LossReport
from callbacks.numerics import NonFinite
from callbacks.quarantine import Quarantine
from callbacks.run_files import MetricsCsv, Provenance
from callbacks.speed import ResumeThroughput, Throughput, TrainingProgress
from callbacks.watchdog import Watchdog
from launch.config_files import resolve_arguments
from launch.distributed import decided_by_first_rank, is_first_rank, join_ranks, together
from launch.failures import explain_failure, is_interrupt
from launch.options import check_writable, positive_int, quiet_libraries, say, writable_folder
from launch.resume import MODES, RunIdentity, Start, choose_start, normalizer_sha256
from launch.run import Run
from launch.run_lock import LOCK_NAME, RunLock, read_lock
from launch.training_cli import TrainingCLI, build_cli
from lightning_modules.base import ExpertModule
from lightning_modules.strategies import strategy_kind
from macedance.errors import ConfigError, MaceDanceError
from macedance.motion.atomic import write_atomically
from macedance.pipelines.checkpoint_folder import clean_leftovers


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
            together(lambda: _check_shared(directory))
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


def _check_shared(directory: Path) -> None:
    """Every rank must write into the first one's directory, not into one of that name on its own machine's disk."""
    token = decided_by_first_rank(lambda: str((read_lock(directory / LOCK_NAME) or {}).get("token")))
    patience_s = 60.0  # a shared file system may remember for a while that there was nothing
    while (read_lock(directory / LOCK_NAME) or {}).get("token") != token:
        patience_s -= 1.0
        if patience_s < 0:
            raise ConfigError(
                "the run directory is not the first rank's: it is not on a file system that the machines share",
                where=directory,
                fix="name a shared one with --run_dir",
            )
        time.sleep(1.0)
    writable_folder(directory)


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
        precision=str(run.trainer.precision),
    )

    def choose() -> Start:
        return choose_start(config.resume, run.directory, identity, allow_changes=config.resume_changed)

    start = None if run.directory.exists() else choose()
    if start is not None and start.finished:
        return start
    lock = RunLock(writable_folder(run.directory))
    taken_over = lock.acquire()
    try:
        clean_leftovers(run.directory)
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
    checkpoints, ranks = run.directory / "checkpoints", run.trainer.world_size
    folder, message = reshape_for_resume(start.folder, checkpoints, ranks, start.manifest)
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
    watchdog = _of(asked, Watchdog) or ([] if is_trial or limit == 0 else [Watchdog(timeout_s=limit)])
    lock = run.lock
    owner = [] if lock is None else [OwnDirectory(lambda: lock.lost)]
    numerics = _of(asked, NonFinite) or [NonFinite()]
    best = _of(asked, Best)  # behind what it looks at
    return [
        *watchdog,
        *owner,
        throughput,
        *numerics,
        *([] if _has(asked, Quarantine) else [Quarantine()]),
        *files,
        LossReport(),
        TrainingProgress(),
        *(callback for callback in asked if callback not in (*watchdog, *numerics, *best)),
        *best,
        *saving,
        ResumeThroughput(throughput),
    ]


def _of(callbacks: Sequence[pl.Callback], kind: type[pl.Callback]) -> list[pl.Callback]:
    """A config's own callbacks of a kind that has its place: they stand there, whatever the config's order."""
    return [callback for callback in callbacks if isinstance(callback, kind)]


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
