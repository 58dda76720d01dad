"""`macedance generate` with a small untrained model: files, lengths, formats, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from launch.main import main
from launch.training import prepare_run
from macedance.motion.bvh import read_bvh
from macedance.motion.files import load_motion
from macedance.music.audio import load_audio, write_audio
from macedance.pipelines.music_to_motion import MusicToMotion
from macedance.rendering.probe import probe_video

RATE = 22050


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_corpus: Path) -> Path:
    """A small model folder with random weights."""
    folder = tmp_path_factory.mktemp("model")
    run = prepare_run(
        ["--config=mace_motion_demo", "--config=debug/mace_motion_cpu", f"--run_dir={folder / 'run'}",
         f"--data.shards={tiny_corpus}"]
    )  # fmt: skip
    run.data.setup("fit")
    run.model.set_corpus(run.data.normalizers, run.data.genres, 30.0, 60)
    run.model.configure_model()
    run.model.pipeline().save_pretrained(folder / "model")
    return folder / "model"


def clicks(seconds: float, rate: int = RATE) -> np.ndarray:
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * 220 * t) * (t % 0.5 < 0.1)).astype(np.float32)


@pytest.fixture
def song(tmp_path: Path) -> Path:
    write_audio(tmp_path / "my song.wav", clicks(3.5), RATE)
    return tmp_path / "my song.wav"


def generate(song: Path, model: Path, out: Path, *extra: str) -> int:
    return main(["generate", "--music", str(song), "--model", str(model), "--out", str(out), "--steps", "2", *extra])


def test_all_formats_of_all_dances_parse_and_agree(song: Path, model: Path, tmp_path: Path, capsys) -> None:
    pygltflib = pytest.importorskip("pygltflib")
    out = tmp_path / "out"
    assert generate(song, model, out, "--num-dances", "2", "--genre", "house", "--size", "96", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert sorted(p.name for p in out.iterdir()) == sorted(Path(f).name for f in result["files"])
    assert {p.name for p in out.iterdir()} == {
        f"my_song-{k}.{extension}" for k in (0, 1) for extension in ("npz", "bvh", "glb", "mp4")
    }
    for k in (0, 1):
        motion = load_motion(out / f"my_song-{k}.npz")
        assert abs(motion.num_frames - 3.5 * 30) <= 1
        assert np.isfinite(motion.poses).all()
        assert motion.genre == "house"
        clip = read_bvh(out / f"my_song-{k}.bvh")
        assert clip.num_frames == motion.num_frames
        assert pygltflib.GLTF2().load(str(out / f"my_song-{k}.glb")).animations
        facts = probe_video(out / f"my_song-{k}.mp4")
        assert facts.num_frames == motion.num_frames
        assert abs(facts.duration_s - facts.audio_duration_s) <= 1 / 30
        assert (facts.video_codec, facts.audio_codec) == ("h264", "aac")
    one, two = (load_motion(out / f"my_song-{k}.npz").poses for k in (0, 1))
    assert not np.allclose(one, two)


def test_same_seed_same_dance_and_the_drawn_genre_is_named(song: Path, model: Path, tmp_path: Path, capsys) -> None:
    for name in ("a", "b"):
        assert generate(song, model, tmp_path / name, "--formats", "npz", "--seed", "5") == 0
    error = capsys.readouterr().err
    assert "drawn by seed 5" in error
    a, b = (load_motion(tmp_path / n / "my_song-0.npz") for n in ("a", "b"))
    assert a.genre == b.genre
    assert np.array_equal(a.poses, b.poses)
    assert np.array_equal(a.trans, b.trans)


def test_seconds_cut_the_song(song: Path, model: Path, tmp_path: Path) -> None:
    assert generate(song, model, tmp_path / "out", "--formats", "npz", "--seconds", "1.5", "--sampler", "dpmpp") == 0
    assert load_motion(tmp_path / "out" / "my_song-0.npz").num_frames == 45


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg"])
@pytest.mark.parametrize("rate", [8000, 96000])
def test_sound_files_of_all_kinds_work(extension: str, rate: int, model: Path, tmp_path: Path) -> None:
    import soundfile

    path = tmp_path / f"song.{extension}"
    stereo = np.stack([clicks(2.0, rate), clicks(2.0, rate)[::-1]], axis=1)
    soundfile.write(path, stereo, rate)
    assert generate(path, model, tmp_path / "out", "--formats", "npz") == 0


def broken_sound(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / f"{kind}.wav"
    if kind == "text":
        path.write_text("this is no sound", encoding="utf-8")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "short":
        write_audio(path, clicks(0.3), RATE)
    elif kind == "silent":
        write_audio(path, np.zeros(RATE * 2, dtype=np.float32), RATE)
    elif kind == "nan":
        import soundfile

        samples = clicks(2.0)
        samples[100] = np.nan
        soundfile.write(path, samples, RATE, subtype="FLOAT")
    elif kind == "truncated":
        write_audio(path, clicks(4.0), RATE)
        path.write_bytes(path.read_bytes()[:3000])
    return path


@pytest.mark.parametrize("kind", ["text", "empty", "short", "silent", "nan", "truncated", "missing"])
def test_a_bad_song_is_one_line_and_leaves_nothing(kind: str, model: Path, tmp_path: Path, capsys) -> None:
    path = broken_sound(tmp_path, kind)
    capsys.readouterr()
    assert generate(path, model, tmp_path / "out", "--formats", "npz") == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    assert path.name in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_genre_lists_the_known_ones(song: Path, model: Path, tmp_path: Path, capsys) -> None:
    assert generate(song, model, tmp_path / "out", "--genre", "hause") == 2
    error = capsys.readouterr().err
    assert all(genre in error for genre in ("house", "krump", "waacking"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["missing", "text", "empty folder", "foreign", "representation", "normalizer"])
def test_a_model_that_is_none_is_one_line(kind: str, song: Path, model: Path, tmp_path: Path, capsys) -> None:
    import shutil

    import torch

    path = tmp_path / "model"
    if kind == "text":
        path.write_text("no model", encoding="utf-8")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "foreign":
        torch.save({"state_dict": {"a": torch.zeros(1)}}, path)
    elif kind in ("representation", "normalizer"):
        shutil.copytree(model, path)
        if kind == "representation":
            config = json.loads((path / "config.json").read_text(encoding="utf-8"))
            config["representation"] = "humanml-263"
            (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        else:
            values = json.loads((path / "normalizer.json").read_text(encoding="utf-8"))
            values["motion"] = values["music"]
            (path / "normalizer.json").write_text(json.dumps(values), encoding="utf-8")
    assert generate(song, path, tmp_path / "out", "--formats", "npz") == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0, error
    assert "model" in error
    assert not (tmp_path / "out").exists()


def test_an_unwritable_folder_is_named_before_any_work(song: Path, model: Path, tmp_path: Path, capsys) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("", encoding="utf-8")
    assert generate(song, model, blocker / "out") == 2
    assert str(blocker) in capsys.readouterr().err


def test_json_alone_keeps_stdout_to_one_object(song: Path, model: Path, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "launch.main", "generate", "--music", str(song), "--model", str(model), "--out",
         str(tmp_path / "out"), "--steps", "2", "--formats", "npz", "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(run.stdout)["frames"] == 105


@pytest.mark.shared
@pytest.mark.parametrize("name", ["vibe_ace.ogg", "sectoid"])
def test_real_songs_give_dances_of_their_length(name: str, model: Path, shared_dir: Path, tmp_path: Path) -> None:
    """The first twenty seconds of two real songs, in every format."""
    pytest.importorskip("pygltflib")
    if name == "sectoid":
        folder = shared_dir / "data" / "music" / "sectoid" / "war_of_freedom"
        stems = [load_audio(folder / stem, duration_s=20.0) for stem in ("song.ogg", "guitar.ogg")]
        length = min(len(s.samples) for s in stems)
        music = tmp_path / "sectoid.flac"
        write_audio(music, sum(s.samples[:length] for s in stems) * 0.5, stems[0].sample_rate)
    else:
        music = shared_dir / "data" / "music" / "librosa_examples" / name
    assert generate(music, model, tmp_path / "out", "--seconds", "20", "--size", "96") == 0
    motion = load_motion(tmp_path / "out" / f"{music.stem}-0.npz")
    assert abs(motion.num_frames - 600) <= 1
    assert np.isfinite(motion.poses).all()
    assert np.isfinite(motion.trans).all()
    facts = probe_video(tmp_path / "out" / f"{music.stem}-0.mp4")
    assert abs(facts.duration_s - facts.audio_duration_s) <= 1 / 30
    assert {p.suffix for p in (tmp_path / "out").iterdir()} == {".npz", ".bvh", ".glb", ".mp4"}


def test_an_untrained_model_still_has_constant_bones(song: Path, model: Path, tmp_path: Path) -> None:
    from macedance.metrics.functional.plausibility import bone_length_variation

    motion = MusicToMotion.from_pretrained(model)(song, seconds=2.0, sampler="dpmpp", num_steps=2)[0]
    import torch

    assert float(bone_length_variation(torch.from_numpy(motion.joint_positions())).max()) < 1e-4
