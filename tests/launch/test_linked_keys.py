"""Keys of a run that its model and data take over: given twice and differing they are refused, not overwritten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from appearance_fakes import run_config, write_config

from launch.config_files import given_values
from launch.training_cli import ParsingCLI, build_cli
from macedance.errors import ConfigError


def arguments(folder: Path, top: str | None, own: str | None, *more: str, **data: Any) -> list[str]:
    config = run_config("kinematic", None, init_from=None if top is None else Path(top))
    config["model"]["init_args"]["init_from"] = own
    config["data"]["init_args"].update(data)
    return [write_config(folder, config), *more]


@pytest.mark.parametrize(
    ("top", "own", "more"),
    [
        ("a", "b", ()),
        (None, "b", ()),
        (None, None, ("--model.init_args.init_from=b",)),
        ("a", None, ("--model.init_from", "b")),
    ],
)
def test_a_start_that_would_be_overwritten_is_refused(
    top: str | None, own: str | None, more: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"init_args\.init_from is 'b' and init_from is {top!r}.*--init_from=b") as e:
        build_cli(arguments(tmp_path, top, own, *more), kind=ParsingCLI)
    assert e.value.where in (str(tmp_path / "config.yaml"), more[0].partition("=")[0] if more else "")


def test_a_config_that_a_run_has_written_is_started_otherwise(tmp_path: Path) -> None:
    cli = build_cli(arguments(tmp_path, "b", "b", "--init_from=c", "--seed_everything=8"), kind=ParsingCLI)
    assert cli.model.init_from == "c"
    with pytest.raises(ConfigError, match="init_from is 'd' and init_from is 'c'"):
        build_cli(arguments(tmp_path, "b", "b", "--init_from=c", "--model.init_args.init_from=d"), kind=ParsingCLI)


@pytest.mark.parametrize(("top", "own"), [("a", "a"), ("a", None), (None, None)])
def test_a_start_given_once_or_alike_is_taken(top: str | None, own: str | None, tmp_path: Path) -> None:
    assert build_cli(arguments(tmp_path, top, own), kind=ParsingCLI).model.init_from == top


def test_a_seed_of_the_data_that_would_be_overwritten_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.init_args\.seed is 9 and seed_everything is 3"):
        build_cli(arguments(tmp_path, None, None, seed=9), kind=ParsingCLI)


def test_values_are_found_however_the_keys_are_written(tmp_path: Path) -> None:
    for text in ("model: {init_args: {seed: 4}}", "model: {seed: 4}", "model.init_args.seed: 4", "model: {}\nx: [1]"):
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        found = given_values([f"--config={tmp_path / 'c.yaml'}"], "model.init_args.seed")
        assert found == ({} if "x" in text else {str(tmp_path / "c.yaml"): 4})
