"""Strategies without ranks: wrong settings, names, dropped steps, and what a step's gradients are judged by."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from pytorch_lightning.plugins.precision import DeepSpeedPrecision
from pytorch_lightning.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from pytorch_lightning.utilities import GradClipAlgorithmType

from lightning_modules.base import ExpertModule
from lightning_modules.strategies import (
    ZeroStrategy,
    deepspeed_setup,
    drop_gradients,
    gradients_finite,
    is_step_boundary,
    strategy_kind,
    whole_network,
)
from macedance.errors import CheckpointError, ConfigError, DependencyError
from macedance.metrics.weighted_mean import WeightedMean

needs_deepspeed = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed"
)


class Small(ExpertModule):
    def __init__(self) -> None:
        super().__init__(lambda: torch.nn.Linear(2, 1), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1))


def trained(strategy: object) -> tuple[SimpleNamespace, Small]:
    module = Small()
    module.configure_model()
    module.network(torch.ones(1, 2)).sum().backward()
    return SimpleNamespace(strategy=strategy, global_step=4), module


@pytest.mark.parametrize("stage", [0, 4, "two"])
def test_an_unknown_stage_names_the_known_ones(stage: object) -> None:
    with pytest.raises(ConfigError, match=r"stage .* of ZeRO is unknown.*expected 1, 2 or 3") as caught:
        ZeroStrategy(stage=stage)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("settings", [{"keep_whole_below": -1}, {"bucket_elements": 0}, {"timeout_s": 0}])
def test_a_size_out_of_range_is_named(settings: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(settings))):
        ZeroStrategy(**settings)


def test_without_deepspeed_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deepspeed_setup.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"DeepSpeed is not installed.*pip install 'macedance\[cluster\]'"):
        ZeroStrategy(stage=2)


@needs_deepspeed
def test_clipping_by_value_and_float16_are_refused() -> None:
    trainer = SimpleNamespace(gradient_clip_val=1.0, gradient_clip_algorithm=GradClipAlgorithmType.VALUE)
    with pytest.raises(ConfigError, match="gradient_clip_algorithm"):
        ZeroStrategy(stage=2).setup(trainer)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"16-mixed is not supported.*bf16-mixed"):
        ZeroStrategy(stage=2).precision_plugin = DeepSpeedPrecision("16-mixed")


@needs_deepspeed
@pytest.mark.parametrize(
    ("file", "kind"),
    [("ddp", "ddp"), ("zero1", "zero1"), ("zero2", "zero2"), ("zero3", "zero3"), ("zero3_offload", "zero3_offload")],
)
def test_the_shipped_files_name_their_strategy(project_root: Path, file: str, kind: str) -> None:
    content = yaml.safe_load((project_root / "configs" / "strategies" / f"{file}.yaml").read_text(encoding="utf-8"))
    assert content.keys() == {"trainer"}
    assert content["trainer"].keys() == {"strategy"}
    wanted = content["trainer"]["strategy"]
    kinds = {"DDPStrategy": DDPStrategy, "ZeroStrategy": ZeroStrategy}
    strategy = kinds[wanted["class_path"].rpartition(".")[2]](**wanted["init_args"])
    assert strategy_kind(SimpleNamespace(strategy=strategy)) == kind  # type: ignore[arg-type]


class _Runs:
    """Would make a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = str(target)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.target,)


@needs_deepspeed
def test_deepspeed_s_files_are_read_without_running_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scan before it overlooked."""
    from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine
    from deepspeed.runtime.zero.config import ZeroStageEnum

    torch.save({"stage": ZeroStageEnum.gradients, "numbers": torch.ones(2)}, tmp_path / "good.pt")
    torch.save({"numbers": _Runs(tmp_path / "ran")}, tmp_path / "evil.pt")
    engine = SimpleNamespace(checkpoint_engine=TorchCheckpointEngine())
    strategy = ZeroStrategy(stage=2)
    monkeypatch.setattr(ZeroStrategy, "deepspeed_engine", engine)

    def load(self: object, path: Path, weights_only: bool | None) -> object:
        return engine.checkpoint_engine.load(str(path), map_location="cpu")

    monkeypatch.setattr(DeepSpeedStrategy, "load_checkpoint", load)
    assert strategy.load_checkpoint(tmp_path / "good.pt")["stage"] == ZeroStageEnum.gradients
    with pytest.raises(CheckpointError, match="cannot read DeepSpeed's file"):
        strategy.load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    assert "load" not in vars(engine.checkpoint_engine)


def test_one_device_is_single() -> None:
    assert strategy_kind(SimpleNamespace(strategy=SingleDeviceStrategy("cpu"))) == "single"  # type: ignore[arg-type]


def test_gradients_are_judged_and_dropped_without_zero() -> None:
    trainer, module = trained(SingleDeviceStrategy("cpu"))
    assert is_step_boundary(trainer)
    assert gradients_finite(trainer, module)
    module.network.bias.grad[0] = float("nan")
    assert not gradients_finite(trainer, module)
    optimizer = module._optimizer_factory(module.parameters())
    before = module.network.weight.detach().clone()
    drop_gradients(trainer, module)
    optimizer.step()
    assert torch.equal(module.network.weight, before), "not even weight decay"
    assert not optimizer.state
    assert module.dropped_step == 5


def test_without_zero_the_network_is_its_own() -> None:
    trainer, module = trained(SingleDeviceStrategy("cpu"))
    own = module.network
    with whole_network(trainer, module):
        assert module.network is own


def test_a_new_network_has_the_weights_of_the_seed() -> None:
    module = Small()
    module.configure_model()
    assert torch.equal(module.new_network().weight, module.network.weight)


@needs_deepspeed
def test_compiled_operators_go_to_our_cache_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    deepspeed_setup.prepare_environment("cpu")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == str(Path(os.environ["MACEDANCE_CACHE"]) / "torch_extensions")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", "elsewhere")
    deepspeed_setup.prepare_environment("cpu")
    assert os.environ["TORCH_EXTENSIONS_DIR"] == "elsewhere"


def test_the_lock_of_a_killed_compiler_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every operator, not of one kind only; torch would wait for it for ever."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "built"))
    now = [time.time()]
    monkeypatch.setattr(deepspeed_setup.time, "time", lambda: now[0])
    monkeypatch.setattr(deepspeed_setup.time, "sleep", lambda s: now.__setitem__(0, now[0] + 100 * s))
    old, young, busy = (tmp_path / "built" / "py311_cpu" / name / "lock" for name in ("cpu_adam", "young", "busy"))
    for lock, age_s in ((old, 700), (young, 60), (busy, 700)):
        lock.parent.mkdir(parents=True)
        lock.touch()
        os.utime(lock, (now[0] - age_s, now[0] - age_s))
    compiler = subprocess.Popen(["sleep", "30"], cwd=busy.parent)
    try:
        with caplog.at_level("INFO"):
            deepspeed_setup.prepare_operators()
    finally:
        compiler.kill()
        compiler.wait()
    assert [lock.exists() for lock in (old, young, busy)] == [False, False, True]
    assert f"removed the lock of a process that was killed while compiling: {old}" in caplog.text
    assert caplog.text.count("waiting, 540 s at most") == 1


@pytest.mark.parametrize("fault", ["owner", "writable", "link", "inner"])
def test_code_is_not_loaded_from_a_folder_that_others_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    ours = shared / "macedance-me"
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(ours / "torch_extensions"))
    # Up to here nothing is open to all, whatever the machine's folder of tests is.
    deepspeed_setup.prepare_operators()
    assert ours.stat().st_mode & 0o777 == 0o700
    if fault == "owner":
        monkeypatch.setattr(deepspeed_setup.os, "getuid", lambda: 12345)
        real = Path.lstat
        theirs = SimpleNamespace(st_uid=54321, st_mode=0o40755)
        monkeypatch.setattr(Path, "lstat", lambda self: theirs if self == ours else real(self))
    elif fault == "writable":
        ours.chmod(0o720)
    elif fault == "inner":
        ours.chmod(0o755)
        (ours / "torch_extensions").chmod(0o777)
    else:
        ours.rename(tmp_path / "elsewhere")
        ours.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"others may write to.*macedance-me.*TORCH_EXTENSIONS_DIR"):
        deepspeed_setup.prepare_operators()


def test_deepspeed_s_prints_stay_off_stdout_and_errors_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with deepspeed_setup.quiet_deepspeed():
        print("built successfully")
    assert capsys.readouterr() == ("", "")

    def fail() -> None:
        with deepspeed_setup.quiet_deepspeed():
            print("what went before")
            raise RuntimeError("no compiler")

    with pytest.raises(RuntimeError):
        fail()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "what went before" in shown.err
    chatter = deepspeed_setup._NoChatter()
    say = lambda level, text: chatter.filter(logging.LogRecord("DeepSpeed", level, "", 0, text, (), None))  # noqa: E731
    assert not say(logging.WARNING, "**** You are using ZeRO with an untested optimizer, proceed with caution *****")
    assert say(logging.WARNING, "something else")
    assert say(logging.ERROR, "**** You are using ZeRO with an untested optimizer")
    assert sys.stdout is not None


def test_a_mean_over_ranks_of_different_sizes_is_that_of_all_samples() -> None:
    """Lightning's own would be (3 * 2 + 9 * 1) / (2 * ((2 + 1) // 2)) = 7.5."""
    first, second = WeightedMean(), WeightedMean()
    first.update(torch.tensor(3.0), 2)
    second.update(torch.tensor(9.0), 1)
    second.update(torch.tensor(float("nan")), 0)
    joined = WeightedMean()
    joined.update(torch.tensor(0.0), 0)
    joined.total, joined.weight = first.total + second.total, first.weight + second.weight
    assert float(joined.compute()) == 5.0
    second.update(torch.tensor(float("nan")), 1)
    assert bool(second.compute().isnan()), "what is not a number is not passed over"
