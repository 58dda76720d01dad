"""``macedance demo``: the Motion Expert's whole job on the built-in corpus, from nothing to a dance."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.demos.parts import Clock, clear_demo, tell_result
from launch.options import Parser, add_json_option, check_writable, emit_json, positive_int, say, writable_folder

if TYPE_CHECKING:
    from datamodules.motion import MotionDataModule
    from launch.run import Run
    from macedance.pipelines.music_to_motion import MusicToMotion

#: What `macedance demo` makes in its folder, and replaces when it is run again.
_PARTS = ("run", "runs", "model", "eval", "dances", "plots", "song", "metrics.json", "index.html")
#: The unheard song: a seed that no corpus uses.
_SONG_SEED = 990_001
_FLOOR_SEED = 0
_BETAS = (0.45, 0.5, 0.55, 0.6, 0.65, 0.75)


def build_parser() -> argparse.ArgumentParser:
    """The verb's options."""
    parser = Parser(
        prog="macedance demo",
        description="Make a corpus, train the Motion Expert on it, evaluate it, and dance to a song it never heard.",
        epilog="example:\n  macedance demo --out outputs/demo\n\n"
        "`macedance demo appearance` is the Appearance Expert's: a dance and a picture become a video.",
    )
    parser.add_argument(
        "--out", default="outputs/demo", metavar="DIR", help="default outputs/demo; its parts are replaced"
    )
    parser.add_argument("--smoke", action="store_true", help="every part in two steps on a tiny corpus: does it run?")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="also give the numbers' range over N seeds")
    parser.add_argument("--config", default="mace_motion_demo", metavar="NAME|FILE", help="the experiment to train")
    add_json_option(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    options = build_parser().parse_args(arguments)
    positive_int("--seeds", options.seeds)
    from launch.config_files import resolve_config

    resolve_config(options.config)
    out = Path(options.out)
    check_writable(out)
    clear_demo(out, _PARTS)
    result = run_demo(out, smoke=options.smoke, seeds=options.seeds, config=options.config, quiet=options.json == "-")
    if options.json:
        emit_json(options.json, result)
    return 0


def run_demo(out: Path, *, smoke: bool, seeds: int, config: str, quiet: bool = False) -> dict[str, Any]:
    """Everything the demo does; returns what ``metrics.json`` holds."""
    from launch.demos.bounds import bounds_table, check_bounds
    from launch.demos.motion_evaluation import BOUNDS
    from launch.demos.motion_report import write_page

    clock = Clock()
    run, numbers, pipeline = _train_and_judge(out, 0, smoke=smoke, config=config, clock=clock, keep=True)
    for seed in range(1, seeds):
        _, others, _ = _train_and_judge(out, seed, smoke=smoke, config=config, clock=clock, keep=False)
        for name, entry in others.items():
            if entry.get("value") is not None and numbers[name].get("value") is not None:
                low, high = numbers[name].get("range", [numbers[name]["value"]] * 2)
                numbers[name]["range"] = [min(low, entry["value"]), max(high, entry["value"])]
    dances = _dance_to_unheard_song(out, pipeline, run.data, smoke=smoke)  # type: ignore[arg-type]
    clock.lap("dances and videos")

    bounds = check_bounds(numbers, BOUNDS)
    result = {**numbers, "bounds": bounds, "seconds": {k: round(v, 1) for k, v in clock.parts.items()}}
    emit_json(str(out / "metrics.json"), result)
    write_page(out, run.directory, numbers, bounds, dances, run.data, clock.parts)  # type: ignore[arg-type]
    clock.lap("page")
    files = (out / "index.html", out / "metrics.json", out / "model", *dances)
    tell_result(bounds_table(numbers, bounds), clock, files, quiet=quiet)
    return result


def _train_and_judge(
    out: Path, seed: int, *, smoke: bool, config: str, clock: Clock, keep: bool
) -> tuple[Run, dict[str, dict[str, Any]], MusicToMotion]:
    from launch.demos.motion_evaluation import as_clips, choose_beta, dance_to, drawn_others, judge, write_dances
    from launch.training import fit, prepare_run
    from macedance.pipelines.music_to_motion import MusicToMotion

    arguments = [f"--config={config}", f"--run_dir={out / 'run' if keep else out / 'runs' / f'seed-{seed}'}"]
    arguments.append(f"--seed_everything={seed}")
    if smoke:
        arguments += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.demo_clips=16"]
        arguments += ["--data.global_batch_size=4"]
    run = prepare_run(arguments)  # makes and opens the corpus too
    data: MotionDataModule = run.data  # type: ignore[assignment]
    clock.lap("corpus")
    fit(run)
    clock.lap("training")

    pipeline = MusicToMotion.load(run.directory / "checkpoints" / "last.ckpt")
    untrained = _untrained(run)
    clips = data.clips("test")
    steps = 2 if smoke else None
    beta = choose_beta(pipeline, data.clips("val"), _BETAS, seed=seed, num_steps=steps)
    pipeline = pipeline.with_default_beta(beta)
    say(f"beta {beta}: chosen on the validation clips, and the model's default from now on")
    motions, speed = dance_to(pipeline, clips, "test dances", seed=seed, num_steps=steps)
    blank, _ = dance_to(untrained, clips, "untrained dances", seed=seed, num_steps=steps)
    reference = as_clips([clip.motion for clip in clips], clips)
    numbers = judge(
        as_clips(motions, clips),
        as_clips(blank, clips),
        reference,
        drawn_others(data.clips("train"), len(clips), _FLOOR_SEED),
        allow_small_n=smoke,
    )
    numbers["frames_per_second"] = {"value": speed, "n": len(clips)}
    if keep:
        for name, dances in (("generated", motions), ("untrained", blank), ("reference", [c.motion for c in clips])):
            write_dances(out / "eval" / name, dances, clips)
        pipeline.save_pretrained(out / "model")
    clock.lap("evaluation")
    return run, numbers, pipeline


def _untrained(run: Run) -> MusicToMotion:
    """The same architecture as it was before the first step."""
    from lightning_modules.motion_expert import MotionExpertModule

    trained = run.model
    assert isinstance(trained, MotionExpertModule)
    trained.network = None
    trained.configure_model()
    return trained.pipeline()


def _dance_to_unheard_song(out: Path, pipeline: MusicToMotion, data: MotionDataModule, *, smoke: bool) -> list[Path]:
    from launch.generate import FORMATS, write_dance
    from macedance.demo.songs import make_song, random_spec
    from macedance.music.audio import write_audio
    from macedance.report.progress import Progress

    genres = list(data.genres)[:3] if smoke else [data.genres[i] for i in (0, len(data.genres) // 3, -1)]
    song = make_song(random_spec("unheard", genres[0], _SONG_SEED))
    folder = writable_folder(out / "song")
    music = folder / "unheard.flac"
    write_audio(music, song.samples, song.sample_rate)
    dances = writable_folder(out / "dances")
    videos = []
    for k, genre in enumerate(genres):
        with Progress(f"dance {k}: {genre}", 1) as bar:
            motion = pipeline(
                music,
                genre=genre,
                seed=k,
                seconds=6.0 if smoke else None,
                num_steps=2 if smoke else None,
                progress=bar,
            )[0]
        with Progress(f"drawing {genre}", motion.num_frames) as bar:
            files = write_dance(
                motion, dances / f"unheard-{k}", FORMATS, music=music, size=160 if smoke else 480, progress=bar
            )
        videos.append(files[-1])
    return videos
