"""The layers: who may import whom, and no mathematics above the library."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
#: Which of our packages each one may import.
ALLOWED = {
    "macedance": {"macedance"},
    "datamodules": {"macedance", "datamodules"},
    "lightning_modules": {"macedance", "lightning_modules"},
    "callbacks": {"macedance", "datamodules", "lightning_modules", "callbacks"},
    "launch": {"macedance", "datamodules", "lightning_modules", "callbacks", "launch"},
}
FRAMEWORKS = {"pytorch_lightning", "lightning", "lightning_fabric", "deepspeed", "webdataset"}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_go_one_way(package: str) -> None:
    forbidden = set(ALLOWED) - ALLOWED[package]
    wrong = {str(p.relative_to(ROOT)): sorted(imports_of(p) & forbidden) for p in python_files(package)}
    assert not {path: names for path, names in wrong.items() if names}


def test_the_library_knows_no_training_framework() -> None:
    wrong = {str(p): sorted(imports_of(p) & FRAMEWORKS) for p in python_files("macedance")}
    assert not {path: names for path, names in wrong.items() if names}


@pytest.mark.parametrize("package", ["lightning_modules", "callbacks"])
def test_no_tensor_algebra_above_the_library(package: str) -> None:
    """Operators between tensors cannot be told from those between numbers; matrix products and torch maths can."""
    allowed = {"Tensor", "no_grad", "manual_seed", "random", "optim", "cuda", "__version__", "device", "inference_mode"}
    # Reading, writing, sending and laying side by side are no mathematics.
    allowed |= {"load", "save", "serialization", "distributed", "get_rng_state", "set_rng_state", "from_numpy", "stack"}
    allowed |= {"float32", "float64"}
    for path in python_files(package):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.MatMult), path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch":
                assert node.attr in allowed, f"{path}:{node.lineno} calls torch.{node.attr}"


@pytest.mark.parametrize("package", ALLOWED)
def test_files_stay_below_500_lines(package: str) -> None:
    long = {str(p): n for p in python_files(package) if (n := len(p.read_text(encoding="utf-8").splitlines())) > 500}
    assert not long


@pytest.mark.parametrize("package", ALLOWED)
def test_every_room_says_what_it_holds(package: str) -> None:
    for folder in sorted({path.parent for path in python_files(package)}):
        door = folder / "__init__.py"
        assert door.exists(), folder
        assert ast.get_docstring(ast.parse(door.read_text(encoding="utf-8"))), door


def test_commands_of_several_modules_have_a_room() -> None:
    """What is judged, and what knows SLURM, does not lie among the verbs; a verb's modules are found by its room."""
    flat = sorted(path.name for path in (ROOT / "launch").glob("*.py"))
    assert not [name for name in flat if name.startswith(("evaluate", "submit", "slurm"))]
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for folder in {path.parent for path in python_files("launch")} - {ROOT / "launch"}:
        assert f"`launch/{folder.name}/`" in told, folder


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_come_from_this_checkout(package: str) -> None:
    import importlib

    assert Path(str(importlib.import_module(package).__file__)).is_relative_to(ROOT)


def test_nothing_loads_with_bare_pickle_or_shell() -> None:
    for package in ALLOWED:
        for path in python_files(package):
            text = path.read_text(encoding="utf-8")
            for word in ("pickle.load(", "pickle.loads(", "weights_only=False", "shell=True", "allow_pickle=True"):
                assert word not in text, f"{path} has {word}"
