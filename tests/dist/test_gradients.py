"""2 ranks x B equals 1 rank x 2B for every expert that a shipped experiment trains; new ones join by themselves."""

from __future__ import annotations

import csv
import importlib
import pkgutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from zygote import Zygote

import lightning_modules
from launch.config_files import shipped_configs
from lightning_modules.base import ExpertModule

EXPERIMENTS = shipped_configs("experiments")
#: Debug files are named ``<family>_cpu``, experiments ``<family>_<stage>_<data>``.
FAMILIES = sorted((name.removesuffix("_cpu") for name in shipped_configs("debug")), key=len, reverse=True)
LAYOUTS = {"one": (1, 1), "accumulated": (1, 2), "ranks": (2, 1), "ranks_accumulated": (2, 2)}
GLOBAL_BATCH = 8
#: Motion experiments train on padded clips of several lengths; of the experts on clips of video one experiment each.
DANCES = sorted(name for name in EXPERIMENTS if name.startswith("mace_motion"))
CLIPS = ("appearance_tiny_full", "appearance_tiny_vae")
#: Debug files whose experiments are not named after them.
DEBUG = {"appearance_tiny_vae": "appearance_vae"}


def family(name: str) -> str:
    return DEBUG.get(name) or next(f for f in FAMILIES if name.startswith(f))


def content(name: str) -> dict:
    return yaml.safe_load(EXPERIMENTS[name].read_text(encoding="utf-8"))


def experts() -> set[str]:
    """Class paths of every module that can be trained."""
    for found in pkgutil.walk_packages(lightning_modules.__path__, "lightning_modules."):
        importlib.import_module(found.name)
    kinds, pending = set(), [ExpertModule]
    while pending:
        pending += (kind := pending.pop()).__subclasses__()
        kinds.add(kind)
    return {
        f"{k.__module__}.{k.__qualname__}"
        for k in kinds - {ExpertModule}
        if k.__module__.startswith("lightning_modules.")
    }


def test_every_expert_has_an_experiment_here() -> None:
    assert experts()
    assert experts() <= {content(name)["model"]["class_path"] for name in (*DANCES, *CLIPS)}


def fit(zygote: Zygote, folder: Path, name: str, corpus: Path, ranks: int, *extra: str) -> Path:
    """Train an experiment, shrunk, on some ranks; returns its run directory."""
    arguments = [
        "fit", f"--config={name}", f"--config=debug/{family(name)}_cpu", f"--run_dir={folder / 'run'}",
        f"--data.shards={corpus}", f"--data.global_batch_size={GLOBAL_BATCH}", *extra,
    ]  # fmt: skip
    if content(name).get("init_from"):
        base = next(n for n in EXPERIMENTS if family(n) == family(name) and not content(n).get("init_from"))
        start = folder.parent / f"start-of-{family(name)}"
        if not start.exists():
            fit(zygote, start, base, corpus, 1, "--trainer.max_steps=1")
        arguments.append(f"--init_from={start / 'run' / 'checkpoints' / 'last.ckpt'}")
    if ranks > 1:
        arguments.append(f"--trainer.devices={ranks}")
        arguments += [] if any("strategies/" in word for word in extra) else ["--config=strategies/ddp"]
    launch = zygote.start(arguments, folder / "logs", ranks=ranks)
    assert launch.finish(150.0) == [0] * ranks, launch.said()
    return folder / "run"


def record(
    zygote: Zygote, folder: Path, name: str, corpus: Path, layout: str
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Gradients of the first step and the masks of its rows, in the order of ranks."""
    ranks, accumulate = LAYOUTS[layout]
    recorder = (
        f"--trainer.callbacks+={{class_path: gradient_recorder.GradientRecorder, init_args: {{folder: {folder}}}}}"
    )
    # Longer than some clips and shorter than others: rows of one batch end at different frames.
    shape = ["--data.window_frames=200"] if name in DANCES else ["--data.mixture=null"]
    shape += ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    fit(zygote, folder, name, corpus, ranks, recorder, *shape, f"--trainer.accumulate_grad_batches={accumulate}")
    masks = [load_file(folder / f"batch-{rank}.safetensors")["mask"] for rank in range(ranks)]
    return load_file(folder / "gradients-0.safetensors"), torch.cat(masks)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, dist_corpus: Path):
    """Gradients by (experiment, layout), each trained once."""
    root = tmp_path_factory.mktemp("gradients")
    kept: dict[tuple[str, str], tuple[dict[str, torch.Tensor], torch.Tensor]] = {}

    def get(name: str, layout: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        if (name, layout) not in kept:
            kept[name, layout] = record(zygote, root / f"{name}-{layout}", name, dist_corpus, layout)
        return kept[name, layout]

    return get


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "one"])
@pytest.mark.parametrize("name", DANCES)
def test_the_same_rows_give_the_same_gradients(recorded, name: str, layout: str) -> None:
    reference, mask = recorded(name, "one")
    frames = mask.sum(1)
    assert len(frames) == GLOBAL_BATCH
    assert int(frames.min()) < int(frames.max()), "the batch must have padded rows next to whole ones"
    found, own_mask = recorded(name, layout)
    assert sorted(own_mask.sum(1).tolist()) == sorted(frames.tolist()), "the rows are others"
    assert_equal(found, reference)


def assert_equal(found: dict[str, torch.Tensor], reference: dict[str, torch.Tensor]) -> None:
    assert found.keys() == reference.keys()
    scale = max(float(g.abs().max()) for g in reference.values())
    assert scale > 0
    for key, gradient in reference.items():
        assert torch.allclose(found[key], gradient, rtol=2e-4, atol=2e-6 * scale), key


@pytest.fixture(scope="module")
def clip_corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Toy clips of dancers, as pixels and as latents of an untrained autoencoder of the debug file's size."""
    from diffusers import AutoencoderKLWan

    from datamodules.appearance_corpora import build_toy_corpus
    from datamodules.appearance_encoding import EncodeSettings, encode_corpus
    from macedance.appearance_data.toy.corpus import ToySettings
    from macedance.models.appearance_expert.codec import LatentCodec
    from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText

    root = tmp_path_factory.mktemp("clips")
    build_toy_corpus(
        root / "clips", ToySettings(train=16, val=1, test=1, width=32, height=32, frames=5, spare_frames=2)
    )
    torch.manual_seed(0)
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[False], patch_size=2,
        in_channels=12, out_channels=12, scale_factor_spatial=4, scale_factor_temporal=1,
        latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
    )  # fmt: skip
    encoders = AppearanceEncoders(LatentCodec(vae), HashedText(16, 4), None, 16)
    encode_corpus(root / "clips", root / "latents", encoders, EncodeSettings(5))
    return {"appearance_tiny_full": root / "latents", "appearance_tiny_vae": root / "clips"}


@pytest.mark.parametrize("name", CLIPS)
def test_the_same_clips_give_the_same_gradients(
    zygote: Zygote, tmp_path: Path, clip_corpora: dict[str, Path], name: str
) -> None:
    found = {
        layout: record(zygote, tmp_path / layout, name, clip_corpora[name], layout)
        for layout in ("one", "ranks", "ranks_accumulated")
    }
    reference, rows = found.pop("one")
    for gradients, own_rows in found.values():
        assert sorted(own_rows.flatten().tolist()) == sorted(rows.flatten().tolist()), "the rows are others"
        assert_equal(gradients, reference)


def table(run_dir: Path, name: str, column: str) -> list[float]:
    with (run_dir / name).open(encoding="utf-8") as file:
        return [float(row[column]) for row in csv.DictReader(file) if row.get("name", "val/loss") == "val/loss"]


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote, dist_corpus: Path) -> Path:
    return fit(zygote, tmp_path_factory.mktemp("losses") / "one", "mace_motion_demo", dist_corpus, 1, *LOSSES)


#: Three clips on two ranks: the second validates a row that stands for nothing.
LOSSES = (
    "--trainer.max_steps=4", "--trainer.val_check_interval=2", "--trainer.limit_val_batches=1.0",
    "--data.max_val_clips=3", "--data.val_batch_size=1", "--model.losses.rebalance_below=0",
)  # fmt: skip
#: Every parameter partitioned: the network's own ones are used outside of any forward.
ZERO3 = ("--config=strategies/zero3", "--trainer.strategy.init_args.keep_whole_below=0")


@pytest.mark.parametrize(
    "strategy",
    [
        ("--config=strategies/ddp",),
        ("--config=strategies/zero1",),
        ("--config=strategies/zero2", "--trainer.accumulate_grad_batches=2"),
        ZERO3,
        (*ZERO3, '--model.activation_checkpointing=["dancelayerstack.*"]'),
        ("--config=strategies/zero3_offload", "--trainer.strategy.init_args.keep_whole_below=0"),
    ],
    ids=["ddp", "zero1", "zero2-accumulated", "zero3", "zero3-recomputed", "zero3_offload"],
)  # fmt: skip
def test_two_ranks_train_and_validate_as_one(
    tmp_path: Path, zygote: Zygote, dist_corpus: Path, one_process: Path, strategy: tuple[str, ...]
) -> None:
    run = fit(zygote, tmp_path / "two", "mace_motion_demo", dist_corpus, 2, *LOSSES, *strategy)
    for file, column in (("metrics.csv", "train/loss"), ("metrics_val.csv", "value")):
        expected, found = table(one_process, file, column), table(run, file, column)
        assert len(expected) == (4 if file == "metrics.csv" else 2)
        assert found == pytest.approx(expected, rel=2e-5), file


@pytest.mark.parametrize("strategy", [("--config=strategies/zero2",), ZERO3], ids=["zero2", "zero3"])
def test_fine_tuning_from_one_rank_s_checkpoint_is_the_same_on_two(
    tmp_path: Path, zygote: Zygote, dist_corpus: Path, strategy: tuple[str, ...]
) -> None:
    """Adapters on frozen weights that came from a run of one rank."""
    name = "mace_motion_finetune"
    one = fit(zygote, tmp_path / "one", name, dist_corpus, 1, *LOSSES)
    two = fit(zygote, tmp_path / "two", name, dist_corpus, 2, *LOSSES, *strategy)
    for file, column in (("metrics.csv", "train/loss"), ("metrics_val.csv", "value")):
        assert table(two, file, column) == pytest.approx(table(one, file, column), rel=2e-5), file


def test_the_first_rank_dances_with_a_sharded_network(tmp_path: Path, zygote: Zygote, dist_corpus: Path) -> None:
    """A preview of one rank while every parameter is partitioned, and training goes on as without it."""
    preview = (
        "--trainer.callbacks+={class_path: callbacks.motion_protocol.MotionProtocol, "
        "init_args: {every_n_steps: 2, allow_small_n: true}}"
    )
    short = ("--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--data.max_val_clips=2", "--seed_everything=1")
    plain = fit(zygote, tmp_path / "plain", "mace_motion_demo", dist_corpus, 2, *short, *ZERO3)
    shown = fit(zygote, tmp_path / "shown", "mace_motion_demo", dist_corpus, 2, *short, *ZERO3, preview)
    assert table(shown, "metrics.csv", "train/loss") == table(plain, "metrics.csv", "train/loss")
    names = (shown / "metrics_val.csv").read_text(encoding="utf-8")
    assert "2,val/bas," in names
