"""Training through LightningCLI: parse, build, and run in a directory of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import ArgumentError
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import TensorBoardLogger

from callbacks.checkpoints import Checkpoints
from callbacks.run_files import MetricsCsv, Provenance
from callbacks.speed import Throughput, TrainingProgress
from launch.config_files import config_paths, explain, resolve_arguments
from launch.options import quiet_libraries, say, writable_folder
from lightning_modules.base import ExpertModule
from macedance.errors import ConfigError

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


class TrainingCLI(LightningCLI):
    """LightningCLI with our run directory, our seed links and errors instead of a page of usage."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's own keys."""
        parser.add_argument("--run_dir", type=str | None, default=None, help="The run's own directory.")
        parser.add_argument(
            "--init_from", type=str | None, default=None, help="Start from the weights of this folder or checkpoint."
        )
        parser.add_argument(
            "--checkpoint_every_n_steps", type=int | None, default=None, help="Optimizer steps between two checkpoints."
        )
        parser.link_arguments("seed_everything", "model.init_args.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("init_from", "model.init_args.init_from")

    def before_instantiate_classes(self) -> None:
        """Nothing is built before the directory is known to be writable."""
        if self.config.get("run_dir") is not None and not self.parse_only:
            self.config.trainer.default_root_dir = str(self.config.run_dir)

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
    except (ArgumentError, argparse.ArgumentError) as error:
        names = [a.dest for a in parser_box[0]._actions] if parser_box else []
        raise explain(str(error), arguments, names) from error


def require_config(arguments: Sequence[str]) -> None:
    """Raise ConfigError unless a config is among the arguments."""
    if not config_paths(arguments):
        raise ConfigError("no config is given", expected="--config NAME|FILE", fix="e.g. --config mace_motion_demo")


def default_run_dir(arguments: Sequence[str]) -> Path:
    """``outputs/runs/<name of the first config>``."""
    return Path("outputs") / "runs" / config_paths(arguments)[0].stem


def _value_of(arguments: Sequence[str], option: str) -> str | None:
    value = None
    for index, argument in enumerate(arguments):
        if argument.startswith(f"{option}="):
            value = argument.partition("=")[2]
        elif argument == option and index + 1 < len(arguments):
            value = arguments[index + 1]
    return value


def prepare_run(arguments: Sequence[str]) -> Run:
    """Everything of a run but the training: parse, make the corpus if the config asks for it, build, write config.yaml.

    Args:
        arguments: As on the command line: ``--config NAME|FILE`` and any key.

    Raises:
        ConfigError: A wrong key or value, or a directory that already holds a run or cannot be written to.
    """
    arguments = resolve_arguments(arguments)
    require_config(arguments)
    if _value_of(arguments, "--run_dir") is None:
        arguments = [*arguments, f"--run_dir={default_run_dir(arguments)}"]
    with quiet_libraries():
        cli = build_cli(arguments)
        directory = Path(cli.config.run_dir)
        if (directory / "metrics.csv").exists():
            raise ConfigError(
                "the directory already holds a run",
                where=directory,
                fix="name another one with --run_dir, or move the old run away",
            )
        writable_folder(directory)
        model, data, trainer = cli.model, cli.datamodule, cli.trainer
        assert isinstance(model, ExpertModule)
        assert data is not None
        if not cli.config.trainer.fast_dev_run and not trainer.loggers:
            trainer.loggers = [TensorBoardLogger(save_dir=str(directory), name="", version="tensorboard")]
        every = cli.config.get("checkpoint_every_n_steps")
        trainer.callbacks = [  # type: ignore[attr-defined]
            Throughput(),
            MetricsCsv(),
            Provenance(),
            TrainingProgress(),
            *trainer.callbacks,  # type: ignore[attr-defined]
            Checkpoints(every_n_steps=every),
        ]
        dump = cli.parser.dump(cli.config, skip_link_targets=False)
        (directory / "config.yaml").write_text(dump, encoding="utf-8")
    return Run(cli, directory, trainer, model, data)


def train(arguments: Sequence[str]) -> Run:
    """Prepare a run and train it to its end."""
    run = prepare_run(arguments)
    say(f"run directory: {run.directory}")
    with quiet_libraries():
        run.trainer.fit(run.model, datamodule=run.data)
    return run
