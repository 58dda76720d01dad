"""A SLURM of two nodes for the whole session, and jobs on it through the real `macedance submit`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from local_slurm import LocalSlurm, install_packages, missing_programs
from slurm_jobs import HELD_AT, HERE, ROOT, SMALL, Job


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs a SLURM."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slurm)


@pytest.fixture(scope="session")
def slurm() -> Iterator[LocalSlurm]:
    """The cluster; installed first where MACEDANCE_INSTALL_SLURM=1 says so, and then no reason to skip."""
    must = os.environ.get("MACEDANCE_INSTALL_SLURM") == "1"
    if must and missing_programs():
        install_packages()
    reason = f"SLURM is not installed: {', '.join(missing_programs())}" if missing_programs() else ""
    if not reason and os.geteuid() != 0:
        reason = "a SLURM of one's own needs root"
    if reason:
        (pytest.fail if must else pytest.skip)(f"{reason}; MACEDANCE_INSTALL_SLURM=1 installs it on Debian, as root")
    cluster = LocalSlurm(ROOT / ".scratch" / "slurm")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def make_job(slurm: LocalSlurm, tiny_corpus: Path) -> Callable[..., Job]:
    """`make_job(folder, hold=True, arguments=[...])`: two nodes with one rank each."""

    def make(folder: Path, *arguments: str, hold: bool = True) -> Job:
        folder.mkdir(parents=True, exist_ok=True)
        cluster = {
            "nodes": 2,
            "cpus_per_task": 1,
            "time": "5:00",
            "partition": "main",
            "cache_dir": os.environ["MACEDANCE_CACHE"],
            "environment": {
                "MASTER_ADDR": "127.0.0.1",  # the nodes' names do not resolve
                "GLOO_SOCKET_IFNAME": "lo",
                "PYTHONPATH": str(HERE),
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "DS_ACCELERATOR": "cpu",
                "TORCH_EXTENSIONS_DIR": os.environ.get(
                    "TORCH_EXTENSIONS_DIR", str(ROOT / ".cache" / "torch_extensions")
                ),
            },
        }
        (folder / "cluster.yaml").write_text(yaml.safe_dump(cluster), encoding="utf-8")
        holding = f"{{class_path: holding.Hold, init_args: {{step: {HELD_AT}, folder: {folder}}}}}"
        own = [
            f"--cluster={folder / 'cluster.yaml'}", *SMALL, f"--data.shards={tiny_corpus}", *arguments,
            *([f"--trainer.callbacks+={holding}"] if hold else []),
        ]  # fmt: skip
        return Job(slurm, folder, own)

    return make


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("slurm")
