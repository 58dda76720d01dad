"""The demo's corpora and trainings: an autoencoder, the expert from nothing, the two stages on another domain."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datamodules.appearance_encoding import EncodeSettings, encode_corpus
from launch.run import Run

TOY, SHIFTED = "toy", "shifted"
CORPORA = (TOY, SHIFTED)
#: Width and number of the weightless text encoder's tokens; the width stands in the experiments too.
TEXT_DIM, TEXT_TOKENS = 16, 16
#: Of a clip, and of what the expert makes at once.
FRAMES = 9
SIDE_PX = 64
#: Pictures of each training clip that the expert sees before it sees clips.
PICTURES = 5
#: What each model of the ablation is called, and how it is made: see ``train_stages``.
ZERO_SHOT, WITHOUT_KINEMATIC, WITHOUT_AESTHETIC, ALL = "zero_shot", "wo_kinematic", "wo_aesthetic", "all"
ABLATION = (ZERO_SHOT, WITHOUT_KINEMATIC, WITHOUT_AESTHETIC, ALL)
#: How they are called among the numbers of the second corpus.
SHIFTED_NAMES = {ZERO_SHOT: "before", WITHOUT_AESTHETIC: "kinematic", WITHOUT_KINEMATIC: "aesthetic", ALL: "both"}
#: Clips of (train, val, test): of the toy corpus, of the shifted one, of either when only a look is taken.
_CLIPS = {TOY: (1500, 48, 48), SHIFTED: (384, 48, 48)}
_FEW, _SMALL_PX = (8, 2, 4), 32
#: Parts that each corpus is encoded in, for the processes to share.
_ENCODE_PARTS = 4
VAE_CONFIG = "appearance_tiny_vae"
#: Optimizer steps of each model of the ablation; the full expert's second stage begins after the first eighth: the
#: Body Adapter is small and soon knows what it can.
STAGE_STEPS = 360


def corpus(out: Path, name: str) -> Path:
    """Folder of a corpus of videos."""
    return out / "corpora" / name


def latents(out: Path, name: str) -> Path:
    """Folder of a corpus of latents."""
    return out / "corpora" / f"{name}-latents"


def pictures(out: Path) -> Path:
    """Folder of the first corpus's pictures as latents: windows of one frame."""
    return out / "corpora" / f"{TOY}-pictures"


def model(out: Path, name: str) -> Path:
    """Folder of a trained model."""
    return out / "models" / name


def make_corpora(out: Path, *, smoke: bool, seed: int, workers: int) -> None:
    """Draw both corpora."""
    from datamodules.appearance_corpora import build_toy_corpus
    from macedance.appearance_data.toy.corpus import ToySettings
    from macedance.report.progress import Progress

    for name in CORPORA:
        train, val, test = _FEW if smoke else _CLIPS[name]
        side = _SMALL_PX if smoke else SIDE_PX
        settings = ToySettings(
            train=train, val=val, test=test, width=side, height=side, frames=FRAMES, shifted=name == SHIFTED, seed=seed
        )
        with Progress(f"{name} clips", 1) as bar:
            build_toy_corpus(corpus(out, name), settings, workers, bar)


def train_vae(out: Path, *, smoke: bool, seed: int) -> None:
    """Train the autoencoder on the first corpus; its folder becomes the frozen encoders'."""
    from macedance.pipelines.export import export_checkpoint

    run = _fit(out, "vae", VAE_CONFIG, [f"--data.shards={corpus(out, TOY)}"], smoke=smoke, seed=seed)
    (out / "encoders").mkdir(exist_ok=True)
    export_checkpoint(run.directory, out / "encoders" / "vae")


@dataclass(frozen=True)
class _Encoding:
    """Part of a corpus to be encoded into a folder."""

    corpus: Path
    target: Path
    settings: EncodeSettings


def encode_corpora(out: Path, *, workers: int) -> None:
    """Both corpora as latents; the first one's pictures too. Small pictures gain more from processes than threads."""
    from datamodules.processes import in_order
    from macedance.report.progress import Progress

    clips = EncodeSettings(frames=FRAMES, known_frames=1, batch=16, max_references=3)
    stills = EncodeSettings(frames=1, known_frames=0, batch=64, max_references=2, windows=PICTURES)
    jobs = [
        _Encoding(corpus(out, name), target, replace(settings, part=(part, _ENCODE_PARTS)))
        for name, target, settings in (
            (TOY, pictures(out), stills),
            (TOY, latents(out, TOY), clips),
            (SHIFTED, latents(out, SHIFTED), clips),
        )
        for part in range(_ENCODE_PARTS)
    ]
    with Progress("parts of corpora encoded", len(jobs)) as bar:
        for done, _ in enumerate(in_order(partial(_encode, out / "encoders"), jobs, workers), 1):
            bar(done, len(jobs))


def _encode(encoders: Path, job: _Encoding) -> None:
    from launch.training_cli import cpu_multiplies_bf16
    from macedance.models.appearance_expert.encoders import AppearanceEncoders

    frozen = AppearanceEncoders.from_folder(
        encoders,
        text_dim=TEXT_DIM,
        text_tokens=TEXT_TOKENS,
        face_size=8,
        patch=2,
        vae_precision="bfloat16" if cpu_multiplies_bf16() else "float32",
    )
    encode_corpus(job.corpus, job.target, frozen, job.settings)


def train_base(out: Path, *, smoke: bool, seed: int) -> None:
    """Train the expert from nothing, on pictures and then on clips, and keep it as it was before.

    Most of what there is to learn, where a limb of the drawing takes its cloth from, a picture teaches as well as a
    clip does, in a tenth of the time.
    """
    from lightning_modules.appearance_expert import AppearanceExpertModule
    from macedance.pipelines.appearance_folder import write_model_folder
    from macedance.pipelines.export import export_checkpoint

    arguments = [f"--data.shards={pictures(out)}"]
    first = _fit(out, "pictures", "appearance_tiny_pictures", arguments, smoke=smoke, seed=seed)
    arguments = [f"--data.shards={latents(out, TOY)}", f"--init_from={first.directory}"]
    run = _fit(out, "full", "appearance_tiny_full", arguments, smoke=smoke, seed=seed)
    export_checkpoint(run.directory, model(out, ZERO_SHOT), encoders=out / "encoders")
    trained, untrained = run.model, first.model
    assert isinstance(trained, AppearanceExpertModule)
    assert isinstance(untrained, AppearanceExpertModule)
    untrained.network = None
    untrained.configure_model()  # by the seed, as before the first step of all
    weights = untrained.built_network.state_dict()
    write_model_folder(model(out, "untrained"), trained.model_config(), weights, encoders=out / "encoders")


def kinematic_steps(steps: int) -> int:
    """Of so many optimizer steps of both stages, those of the first."""
    return max(1, steps // 8)


def train_stages(out: Path, *, smoke: bool, seed: int) -> None:
    """Train the ablation on the shifted corpus, each model for as many steps.

    ``wo_aesthetic``: the kinematic stage alone; ``wo_kinematic``: the aesthetic stage alone; ``all``: the kinematic
    stage for the first eighth, then the aesthetic stage.
    """
    from macedance.pipelines.checkpoint_folder import checkpoint_name
    from macedance.pipelines.export import export_checkpoint

    steps = 2 if smoke else STAGE_STEPS
    first_steps = kinematic_steps(steps)
    base = [
        f"--data.shards={latents(out, SHIFTED)}",
        f"--model.init_args.network.init_args.weights={model(out, ZERO_SHOT)}",
    ]
    every = [f"--checkpoint_every_n_steps={first_steps}", f"--keep_last_checkpoints={steps}"]
    kinematic = [*base, *every, f"--trainer.max_steps={steps}"]
    first = _fit(out, "kinematic", "appearance_tiny_kinematic", kinematic, smoke=smoke, seed=seed)
    middle = first.directory / "checkpoints" / checkpoint_name(first_steps)
    alone = [*base, f"--trainer.max_steps={steps}"]
    second = [*base, f"--trainer.max_steps={steps - first_steps}", f"--init_from={middle}"]
    runs = {
        WITHOUT_AESTHETIC: first,
        WITHOUT_KINEMATIC: _fit(out, "aesthetic", "appearance_tiny_aesthetic", alone, smoke=smoke, seed=seed),
        ALL: _fit(out, "both", "appearance_tiny_aesthetic", second, smoke=smoke, seed=seed),
    }
    for name, run in runs.items():
        export_checkpoint(run.directory, model(out, name), encoders=out / "encoders")


def _fit(out: Path, name: str, config: str, arguments: list[str], *, smoke: bool, seed: int) -> Run:
    """Train an experiment in the demo's folder."""
    from launch.training import train

    directory = out / "runs" / name
    shutil.rmtree(directory, ignore_errors=True)
    few = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.global_batch_size=4"] if smoke else []
    if smoke and config != VAE_CONFIG:
        few.append("--model.compiled=null")  # for two steps it takes longer than they do
    return train([f"--config={config}", *arguments, *few, f"--run_dir={directory}", f"--seed_everything={seed}"])
