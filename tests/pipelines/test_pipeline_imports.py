"""The modules of the pipelines import one another one way, and at their beginning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "macedance" / "pipelines"
PACKAGE = "macedance.pipelines"
#: From the lowest to the highest: reading weights, then models, then what is written from them.
ORDER = (
    "checkpoint_folder", "checkpoint_content", "appearance_lora", "appearance_folder", "whole_checkpoint",
    "motion_weights", "appearance_weights", "appearance_export", "export",
)  # fmt: skip


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of the pipelines' modules that a part of a file imports, in its functions too."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        if node.module == PACKAGE:
            yield from (alias.name for alias in node.names)
        elif node.module.startswith(f"{PACKAGE}."):
            yield node.module.removeprefix(f"{PACKAGE}.")


def trees() -> dict[str, ast.Module]:
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in FOLDER.glob("[!_]*.py")}


def test_there_is_no_circle() -> None:
    order = list(TopologicalSorter({name: set(imported(tree)) for name, tree in trees().items()}).static_order())
    assert len(order) > 20


def test_checkpoints_are_read_below_the_models() -> None:
    found = trees()
    for number, name in enumerate(ORDER):
        assert not set(imported(found[name])) & set(ORDER[number:]), name


@pytest.mark.parametrize("name", ORDER)
def test_what_reads_weights_imports_the_pipelines_at_its_beginning(name: str) -> None:
    functions = [node for node in ast.walk(trees()[name]) if isinstance(node, ast.FunctionDef)]
    assert not {function.name for function in functions if list(imported(function))}
