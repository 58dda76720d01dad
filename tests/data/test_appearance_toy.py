"""The toy corpus: the same bytes for the same seed, people apart, poses where they are, bodies that travel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_corpora import build_toy_corpus, load_appearance_manifest
from launch.data import main
from macedance.appearance_data.toy.corpus import TRAVELS, ToySettings, make_clips, plan_toy_corpus, toy_palette
from macedance.appearance_data.toy.people import DressedBody, draw_person
from macedance.appearance_data.toy.takes import BODY_WIDTH_M, draw_staging
from macedance.appearance_data.windows import MAX_UPSCALE
from macedance.errors import ConfigError, DataError
from macedance.motion.body_mesh import rest_joints
from macedance.rendering.pose_drawing import BODY_20, PALETTE

SETTINGS = ToySettings(train=4, val=4, test=4, spare_frames=3)
HIPS = [BODY_20.index("lhip"), BODY_20.index("rhip")]
SHOULDERS = [BODY_20.index("lshoulder"), BODY_20.index("rshoulder")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "corpus"
    build_toy_corpus(folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def data(toy: Path) -> AppearanceDataModule:
    return AppearanceDataModule(str(toy), frames=9, global_batch_size=1)


def test_the_same_seed_gives_the_same_bytes(toy: Path, tmp_path: Path) -> None:
    again = build_toy_corpus(tmp_path / "again", SETTINGS)
    assert again.sha256 == load_appearance_manifest(toy).sha256
    first, second = (
        next(make_clips(plan_toy_corpus(settings)[0], settings))[2]["keypoints.npy"]
        for settings in (SETTINGS, replace(SETTINGS, seed=1))
    )
    assert first != second


def test_splits_share_no_person_and_no_song(data: AppearanceDataModule) -> None:
    seen = {split: [clip.facts for clip in data.clips(split)] for split in ("train", "val", "test")}
    assert {split: len(facts) for split, facts in seen.items()} == {"train": 4, "val": 4, "test": 4}
    for what in ("person", "song"):
        names = [{getattr(facts, what) for facts in found} for found in seen.values()]
        assert all(names)
        assert not names[0] & names[1] | names[0] & names[2] | names[1] & names[2]
    facts = seen["val"][0]
    assert (facts.frames, facts.fps, facts.source, facts.licence) == (12, 10.0, "rendered", "Apache-2.0")
    assert "a dancer with" in facts.prompt


def test_points_lie_on_the_person(data: AppearanceDataModule) -> None:
    for clip in data.clips("test"):
        points, mask = clip.keypoints_TK3, clip.window.mask_THW
        assert points is not None
        assert mask is not None
        assert 0.06 < mask.mean() < 0.3
        trunk = np.concatenate([points[:, HIPS, :2], points[:, SHOULDERS, :2]], axis=1)
        inside = ((trunk >= 0) & (trunk < 64)).all(-1)
        rows, columns = (np.clip(trunk[..., axis], 0, 63).astype(int) for axis in (1, 0))
        hit = mask[np.arange(len(mask))[:, None], rows, columns]
        assert hit[inside].mean() > 0.9


def test_held_out_bodies_travel_by_their_width(data: AppearanceDataModule) -> None:
    """In the picture, by the camera's or their own movement; measured on the drawn points, not on the plan."""
    for split in ("val", "test"):
        for clip in data.clips(split):
            points = clip.keypoints_TK3
            assert points is not None
            middle = points[:, HIPS, :2].mean(axis=1)
            width = BODY_WIDTH_M * np.linalg.norm(points[:, 1, :2] - middle, axis=-1).mean() / 0.5
            assert np.linalg.norm(middle - middle[0], axis=-1).max() > 0.9 * TRAVELS * width


def test_the_picture_shows_the_clothes(data: AppearanceDataModule) -> None:
    """Whoever wears another top looks otherwise at the chest, and the room stays the same where nobody is."""
    clip = data.clips("test")[0]
    window = clip.window
    assert window.mask_THW is not None
    always = ~window.mask_THW.any(axis=0)
    behind = window.video_THW3[:, always].astype(int)
    person = window.video_THW3[window.mask_THW].astype(float)
    assert np.linalg.norm(person.mean(0) - behind.mean((0, 1))) > 10
    tops = {clip.facts.person: clip.facts.prompt for clip in data.clips("test")}
    assert len(set(tops.values())) == len(tops)


def test_the_shifted_domain_is_another(tmp_path: Path) -> None:
    shifted = ToySettings(train=2, val=1, test=0, shifted=True, spare_frames=2)
    palette = toy_palette(shifted)
    assert toy_palette(SETTINGS) is None
    assert palette is not None
    assert palette != PALETTE
    assert sorted(palette) == sorted(PALETTE)
    build_toy_corpus(tmp_path / "c", shifted)
    other = AppearanceDataModule(str(tmp_path / "c"), frames=9, global_batch_size=1)
    clip = other.clips("val")[0]
    assert clip.facts.palette == palette
    usual = {colour for colour in PALETTE}
    assert {tuple(int(part) for part in pixel) for pixel in clip.window.pose_THW3.reshape(-1, 3)} & usual


def test_people_and_stagings_vary() -> None:
    rng = np.random.default_rng(0)
    people = [draw_person(str(number), rng) for number in range(40)]
    assert len({person.prompt for person in people}) > 35
    assert {person.sleeves for person in people} == {"no sleeves", "short sleeves", "long sleeves"}
    thin, stout = (DressedBody(type(people[0])(**{**vars(people[0]), "girth": girth})) for girth in (1.0, 1.5))
    rest = np.tile(np.eye(3, dtype=np.float32), (1, 24, 1, 1))
    joints = rest_joints()[None].astype(np.float32)
    widths = [np.ptp(body.pose(joints, rest)[0][0][:, 2]) for body in (thin, stout)]
    assert widths[1] > widths[0]
    ways = [draw_staging(rng, travels=True).walk_m for _ in range(20)]
    assert len(set(ways)) == 20


def test_bad_settings_are_refused() -> None:
    for wrong in ({"width": 63}, {"train": 0}, {"fps": 60.0}, {"frames": 1}, {"frames": 400}, {"spare_frames": 0}):
        with pytest.raises(ConfigError):
            ToySettings(**wrong)  # type: ignore[arg-type]


def test_the_commands_make_order_and_encode_a_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from small_clips import tiny_vae

    made, model, out = tmp_path / "toy", tmp_path / "model", tmp_path / "latents"
    arguments = ["--train", "3", "--val", "1", "--test", "0", "--size", "32", "48", "--frames", "5", "--spare", "1"]
    assert main(["appearance-demo", "--out", str(made), *arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == {"train": 3, "val": 1}
    assert main(["order", "--shards", str(made), "--global-batch", "3", "--world-size", "1", "--rank", "0"]) == 0
    assert sorted(capsys.readouterr().out.split()) == ["toy-0000_00", "toy-0000_01", "toy-0000_02"]
    tiny_vae().save_pretrained(model / "vae")
    encode = ["encode", "--shards", str(made), "--model", str(model), "--out", str(out), "--text-dim", "8"]
    with pytest.raises(ConfigError, match="--frames is not given"):
        main(encode)
    assert main([*encode, "--frames", "5", "--part", "1/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 1
    assert main([*encode, "--frames", "5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["missing"], told["samples"], told["done_before"]) == (0, 4, 1)
    latents = AppearanceDataModule(str(out), global_batch_size=3)
    assert latents.buckets == [(48, 32, 5)]
    for wrong, match in (
        (["--part", "3/2"], "--part"),
        (["--size", "32"], "--size"),
        (["--device", "tpu9"], "--device"),
        (["--windows", "some"], "--windows"),
        (["--windows", "0"], "--windows"),
        (["--max-upscale", "0"], "--max-upscale"),
    ):
        with pytest.raises(ConfigError, match=match):
            main([*encode, "--frames", "5", *wrong])
    with pytest.raises(DataError, match="compute_dtype, max_upscale, windows differ"):
        main([*encode, "--frames", "5", "--compute-dtype", "bfloat16", "--windows", "2", "--max-upscale", "1.5"])
    encode[encode.index("--out") + 1] = str(tmp_path / "half")
    main([*encode, "--frames", "5", "--compute-dtype", "bfloat16", "--windows", "2", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["encoded"]["compute_dtype"] == {"vae": "bfloat16"}
    assert (told["encoded"]["windows"], told["encoded"]["max_upscale"]) == (2, MAX_UPSCALE)
    with pytest.raises(ConfigError, match="--size has 3 numbers"):
        main(["appearance-demo", "--out", str(tmp_path / "x"), "--size", "32", "32", "32"])
