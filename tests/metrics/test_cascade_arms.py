from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cascade_stand_ins import SIDE, Clairvoyant, DotDancer, HeldDancer, judges_of, small_dance, tiny_video_network
from transformers import ViTConfig, ViTModel

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.windows import WindowSampling
from macedance.metrics.cascade import (
    Cascade,
    CascadeClip,
    cascade_report,
    evaluate_cascade,
    gap_values,
    merge_scores,
)
from macedance.metrics.cascade.arms import MOTION_KEYS
from macedance.metrics.cascade.available import available_judges, available_looker
from macedance.metrics.cascade.judges import NO_DRIVING, ArmClip, FootContact
from macedance.metrics.cascade.pixels import OTHER_DANCE, PixelScorer
from macedance.metrics.cascade.sets import WindowLooker
from macedance.metrics.honest.person_motion import VideoMotion
from macedance.metrics.protocol_result import protocol_text, read_protocol, write_protocol
from macedance.motion.files import JointClip, Motion
from macedance.rendering.motion_to_video import MeshDancer
from macedance.vision.dino import DinoFeatures
from macedance.vision.keypoints import VideoKeypoints
from macedance.vision.networks import Networks
from macedance.vision.video import Video

NAMES = ("a", "b", "c", "d")


def renderer(kind: type[MeshDancer] = HeldDancer, **options: Any) -> MeshDancer:
    return kind(SIDE, SIDE, backend="software", samples=1, **options)


@pytest.fixture(scope="module")
def truth() -> dict[str, Motion]:
    return {name: small_dance(seed) for seed, name in enumerate(NAMES)}


def seen_as_true(truth: dict[str, Motion], by: MeshDancer) -> Clairvoyant:
    """A source that sees the true dance in every arm: what drove an arm astray then counts against it."""
    return Clairvoyant({name: by.driving_keypoints(motion) for name, motion in truth.items()})


def make(truth: dict[str, Motion], by: MeshDancer | None = None, **options: Any) -> Cascade:
    by = by or renderer()
    clips = [CascadeClip(name, motion, video=options.get("videos", {}).get(name)) for name, motion in truth.items()]
    options.pop("videos", None)
    options.setdefault("perturbations", ("noise",))
    return Cascade(clips, by, judges_of(seen_as_true(truth, by)), **options)


def test_the_whole_comparison(truth: dict[str, Motion], tmp_path: Path) -> None:
    cascade = make(truth, folder=tmp_path / "arms")
    generated = {name: small_dance(seed + 50) for seed, name in enumerate(NAMES)}
    result = evaluate_cascade(cascade, generated, resamples=100)
    arms = ["ground_truth", "real", "video_keypoints", "generated", "noise_1", "noise_2", "noise_3"]
    assert list(result.presets) == [*arms, *(f"gap_{arm}" for arm in arms[1:])]
    values = result.presets["ground_truth"]
    assert values["pck_10"]["value"] == 1.0
    assert values["keypoint_error"]["value"] == pytest.approx(0.0, abs=1e-6)
    assert values["person_motion"]["value"] > 0
    assert values["motion_jerk"]["value"] > 0
    # More noise, larger gap; and the noise is what the motion's distance says it is.
    errors = [result.presets[f"gap_noise_{level}"]["keypoint_error"]["value"] for level in (1, 2, 3)]
    assert 0 < errors[0] < errors[1] < errors[2]
    gap = result.presets["gap_generated"]["keypoint_error"]
    assert gap["value"] > errors[0]
    assert (gap["n"], len(gap["ci95"])) == (4, 2)
    assert gap["regression"]["n"] == 4
    assert gap["wilcoxon_p"] is None
    assert result.presets["gap_generated"]["pck_10"]["verdict"] == "undecided"
    assert gap_values(result)["keypoint_error"] == gap["value"]
    # What cannot be measured is there, null, with its reason.
    assert values["face_similarity"] == {"value": None, "n": 0, "reason": "no weights of AuraFace"}
    assert "nothing that judges it" in values["subject_consistency"]["reason"]
    assert result.presets["real"]["pck_10"]["reason"] == "no true videos were given"
    assert "depth" in result.presets["gap_video_keypoints"]["pck_10"]["reason"]
    assert result.presets["generated"]["fvd"]["value"] is None
    # Every arm's videos are there to be looked at, and were what was judged.
    assert len(list((tmp_path / "arms").rglob("*.mp4"))) == 5 * 4
    assert result.conventions["cascade"]["judged"] == "files"
    assert result.conventions["cascade"]["perturbations"]["noise"]["sizes"] == (5.0, 10.0, 20.0)
    assert result.weights == {"clairvoyant": "c" * 64}
    assert set(result.per_clip["generated"]["pck_10"]) == set(NAMES)
    write_protocol(tmp_path / "cascade.json", result)
    assert read_protocol(tmp_path / "cascade.json").hash == result.hash
    assert json.loads((tmp_path / "cascade.json").read_text())["inputs"]["kind"] == "cascade"


def test_ranks_with_shares_give_what_one_process_gives(truth: dict[str, Motion]) -> None:
    """Uneven shares and a rank without a clip; arms that do not depend on the generated motion are measured once."""
    generated = {name: small_dance(seed + 50) for seed, name in enumerate(NAMES)}
    looker = WindowLooker(tiny_video_network(), WindowSampling(4, None))
    whole = make(truth, looker=looker, perturbations=())
    expected = evaluate_cascade(whole, generated, resamples=50, allow_small_n=True)
    shares = [NAMES[:3], (), NAMES[3:]]
    ranks = [make({name: truth[name] for name in share}, looker=looker, perturbations=()) for share in shares]
    for rank, share in zip(ranks, shares, strict=True):
        source = rank.judges.keypoints
        source.known = whole.judges.keypoints.known  # type: ignore[union-attr]
        rank.fixed_arms()
        assert rank.fixed_arms() is rank.fixed_arms()
        assert len(rank.fixed_arms()) == 3, share
    fixed = zip(*[rank.fixed_arms() for rank in ranks], strict=True)
    drawn = [
        rank.generated({name: generated[name] for name in share}) for rank, share in zip(ranks, shares, strict=True)
    ]
    arms = [merge_scores(parts) for parts in [*fixed, drawn]]
    merged = cascade_report(whole, arms, resamples=50, allow_small_n=True)
    assert merged.presets == expected.presets
    # As text, in which a missing value equals a missing value.
    assert protocol_text(merged) == protocol_text(expected)
    assert merged.hash == expected.hash


def test_sets_of_videos_have_a_distance_and_a_gap(truth: dict[str, Motion]) -> None:
    looker = WindowLooker(tiny_video_network(), WindowSampling(4, None, per_clip=4))
    by = renderer()
    videos = {name: by.render(motion, by.reference_image(motion)) for name, motion in truth.items()}
    generated = {name: small_dance(seed + 50) for seed, name in enumerate(NAMES)}
    options: dict[str, Any] = {"resamples": 50, "allow_small_n": True}
    real = evaluate_cascade(make(truth, by, looker=looker, videos=videos, perturbations=()), generated, **options)
    # The true videos are what the renderer makes of the true motion: no distance, and the gap is the arm's own.
    assert real.presets["ground_truth"]["fvd"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert real.presets["generated"]["fvd"]["value"] > 1e-7
    gap = real.presets["gap_generated"]["fvd"]
    assert gap["value"] == pytest.approx(real.presets["generated"]["fvd"]["value"], rel=1e-6, abs=1e-9)
    assert (gap["n"], gap["n_clips"], gap["reference_set"]) == (16, 4, "real")
    assert gap["ci95"][0] < gap["value"] < gap["ci95"][1]
    assert real.presets["gap_generated"]["kvd"]["value"] is not None
    # The true videos have a value of their own where no driving keypoints are needed.
    assert real.presets["real"]["person_motion"]["value"] == real.presets["ground_truth"]["person_motion"]["value"]
    assert real.presets["real"]["pck_10"]["reason"] == NO_DRIVING
    # Equal pictures: 100 dB. A generated dance is another one, whose pixels say nothing.
    assert real.presets["ground_truth"]["psnr"]["value"] == 100.0
    assert real.presets["ground_truth"]["ssim"]["value"] == pytest.approx(1.0)
    assert real.presets["generated"]["ssim"] == {"value": None, "n": 0, "reason": OTHER_DANCE}
    assert real.presets["real"]["fvd"]["value"] is None
    without = evaluate_cascade(make(truth, by, looker=looker, perturbations=()), generated, **options)
    assert without.presets["gap_generated"]["fvd"]["reference_set"] == "ground_truth"
    assert without.presets["gap_generated"]["fvd"]["value"] == pytest.approx(gap["value"], rel=1e-6, abs=1e-9)
    few = make(truth, by, looker=WindowLooker(tiny_video_network(), WindowSampling(4, None)), perturbations=())
    refused = evaluate_cascade(few, generated, resamples=20).presets
    assert "clips are fewer than the 8 features" in refused["generated"]["fvd"]["reason"]
    assert "clips are fewer than the 8 features" in refused["gap_generated"]["fvd"]["reason"]
    slow = make(truth, renderer(fps=10.0), looker=WindowLooker(tiny_video_network(), WindowSampling(4, 16.0)))
    assert "windows have 16" in slow.generated(generated).reasons["fvd"]


def test_pixels_are_compared_where_size_and_rate_are_equal() -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (6, SIDE, SIDE, 3)).astype(np.uint8)
    noisy = np.clip(frames + rng.normal(0, 10, frames.shape), 0, 255).astype(np.uint8)
    shown = [
        ArmClip(name, Video.from_frames(video, 30.0, name), frames[0])
        for name, video in (("a", noisy), ("b", frames), ("c", frames[:, ::2]), ("d", frames[:4]))
    ]
    true = {name: Video.from_frames(frames, 25.0 if name == "b" else 30.0) for name in "abcd"}
    scorer = PixelScorer(true, None)
    for row, clip in enumerate(shown):
        scorer.add(row, clip)
    values, reasons = scorer.result(len(shown))
    assert 26 < values["psnr"][0] < 30
    assert np.isnan(values["psnr"][1:3]).all()
    # A shorter video is compared as far as it goes.
    assert values["psnr"][3] == 100.0
    assert "the true video has 64x64 at 25 fps, the arm's 64x64 at 30 fps, as of b" in reasons["ssim"]
    assert "the arm's 64x32" in reasons["ssim"]


def test_a_renderer_that_takes_keypoints_has_the_arm_of_the_true_videos(truth: dict[str, Motion]) -> None:
    by = renderer(DotDancer)
    videos = {
        name: replace(by.render(motion, by.reference_image(motion)), name=name)
        for name, motion in truth.items()
        if name != "d"
    }
    cascade = make(truth, by, videos=videos, perturbations=())
    arm = next(scores for scores in cascade.fixed_arms() if scores.arm == "video_keypoints")
    assert arm.clips == ("a", "b", "c")
    assert dict(arm.left_out) == {"d": "no true video"}
    # The stand-in sees the same keypoints in the dots as in the true video: it is its own driving motion.
    np.testing.assert_array_equal(arm.values["pck_05"], np.ones(3))
    # Contact is judged by the true motion, which has not driven it: it has no jerk of a driving motion, nor a gap of 0.
    assert not np.isnan(arm.values["contact_error"]).all()
    result = evaluate_cascade(cascade, truth, resamples=20)
    for key in MOTION_KEYS:
        for preset in ("video_keypoints", "gap_video_keypoints", "gap_real"):
            assert result.presets[preset][key]["value"] is None, (preset, key)
        assert "driven by keypoints" in result.presets["gap_video_keypoints"][key]["reason"]
    assert result.presets["video_keypoints"]["motion_distance"]["value"] is None
    assert result.presets["gap_generated"]["motion_jerk"]["value"] == 0.0
    # Videos of another rate and resolution than the renderer's: its dots are where the video's are, in time and place.
    other = replace(by.render(truth["a"], by.reference_image(truth["a"])), name="a")
    frames = other.frames()[::2].repeat(2, axis=1).repeat(2, axis=2)
    half = replace(Video.from_frames(frames, by.fps / 2), name="a")
    seen: list[tuple[int, tuple[int, int]]] = []

    class Told(DotDancer):
        def render_keypoints(self, keypoints_TK3: np.ndarray, *given: Any, **options: Any) -> Video:
            seen.append((len(keypoints_TK3), options["keypoint_size"]))
            return super().render_keypoints(keypoints_TK3, *given, **options)

    class Sized(Clairvoyant):
        def __call__(self, video: Video, progress: object = None) -> VideoKeypoints:
            points = by.driving_keypoints(truth["a"])[:: round(by.fps / video.fps)]
            self.known = {"a": points * (video.width / SIDE, video.width / SIDE, 1)}
            return super().__call__(video)

    clips = [CascadeClip("a", truth["a"], video=half)]
    told = Cascade(clips, renderer(Told), judges_of(Sized({})), perturbations=()).fixed_arms()[2]
    assert told.clips == ("a",)
    assert told.values["pck_10"][0] > 0.9
    assert seen == [(2 * len(frames), (2 * SIDE, 2 * SIDE))]
    # Of another shape nothing is drawn: no scaling would bring the keypoints onto the drawing.
    wide = [CascadeClip("a", truth["a"], video=replace(Video.from_frames(frames[:, :SIDE], by.fps), name="a"))]
    refused = Cascade(wide, renderer(Told), judges_of(Sized({})), perturbations=()).fixed_arms()[2]
    assert refused.absent == f"keypoints of a picture of {2 * SIDE} x {SIDE} for a video of {SIDE} x {SIDE}"
    assert len(seen) == 1
    nobody = Cascade(
        [CascadeClip("z", truth["a"], video=videos["a"])], by, judges_of(Clairvoyant({})), perturbations=()
    )
    absent = next(scores for scores in nobody.fixed_arms() if scores.arm == "video_keypoints")
    assert absent.absent == "nobody was found in the true video"
    assert dict(absent.left_out) == {"z": "nobody was found in the true video"}


def test_a_clip_is_drawn_once_for_all_who_look_at_it(truth: dict[str, Motion]) -> None:
    """Judges, windows, pixels and the source of keypoints; nothing is kept of it when the next one comes."""

    class Counting(MeshDancer):
        drawn = 0

        def _frames(self, *args: Any) -> Any:
            self.drawn += 1
            return super()._frames(*args)

    by = renderer(Counting)
    true = {name: renderer().render(motion, by.reference_image(motion)) for name, motion in truth.items()}
    by.drawn = 0  # type: ignore[attr-defined]
    looker = WindowLooker(tiny_video_network(), WindowSampling(4, None))
    arm = make(truth, by, videos=true, looker=looker).driven("ground_truth", truth)
    assert not np.isnan(arm.values["psnr"]).any()
    assert arm.windows is not None
    # Its picture, which is drawn by itself, and the video.
    assert by.drawn == 2 * len(NAMES)  # type: ignore[attr-defined]


def test_joints_alone_have_no_noise_arm_and_say_so(truth: dict[str, Motion]) -> None:
    clips = {name: JointClip.from_motion(motion, name) for name, motion in truth.items()}
    by = renderer()
    cascade = Cascade(
        [CascadeClip(name, clip) for name, clip in clips.items()],
        by,
        judges_of(Clairvoyant({name: by.driving_keypoints(clip) for name, clip in clips.items()})),
        perturbations=("noise", "foot_slide"),
        levels=(3,),
    )
    result = evaluate_cascade(cascade, dict(clips), resamples=0)
    assert "positions only" in result.inputs["absent_arms"]["noise_3"]
    assert set(result.inputs["left_out"]["noise_3"]) == set(NAMES)
    assert result.presets["gap_foot_slide_3"]["keypoint_error"]["value"] > 0
    assert result.presets["gap_generated"]["keypoint_error"]["value"] == 0.0


def test_the_reference_image_is_the_same_in_every_arm(truth: dict[str, Motion]) -> None:
    picture = renderer().reference_image(replace(truth["a"], genre="krump"))
    cascade = make(truth, perturbations=())
    assert cascade.picture(cascade.clips[0]) is cascade.picture(cascade.clips[0])
    own = Cascade([CascadeClip("a", truth["a"], picture)], renderer(), cascade.judges, perturbations=())
    assert own.picture(own.clips[0]) is picture


def test_what_cannot_be_compared_is_refused_by_name(truth: dict[str, Motion]) -> None:
    clip = CascadeClip("a", truth["a"])
    with pytest.raises(DataError, match="several clips of one name: a"):
        Cascade([clip, clip], renderer(), judges_of(Clairvoyant({})))
    cascade = make(truth, perturbations=())
    with pytest.raises(DataError, match="unknown clips: y, z"):
        cascade.generated({"z": truth["a"], "y": truth["a"]})
    with pytest.raises(DataError, match="0 generated"):
        evaluate_cascade(cascade, {})
    with pytest.raises(ConfigError, match="unknown perturbation 'typo'"):
        make(truth, perturbations=("typo",)).fixed_arms()
    lacking = cascade.generated({name: truth[name] for name in NAMES[:2]})
    assert (lacking.clips, dict(lacking.left_out)) == (NAMES[:2], {"c": "no motion", "d": "no motion"})


def test_a_video_of_other_frames_than_its_keypoints_names_the_clip(truth: dict[str, Motion]) -> None:
    class Hasty(HeldDancer):
        def render(self, motion: Any, reference_image: np.ndarray, *, seed: int = 0) -> Video:
            return Video.from_frames(super().render(motion, reference_image).frames()[:-1], self.fps)

    with pytest.raises(DataError, match=r"driving keypoints.*; at a"):
        make(truth, renderer(Hasty), perturbations=()).fixed_arms()


def test_a_source_that_leaves_frames_out_is_refused_by_name(truth: dict[str, Motion]) -> None:
    class Blinking(Clairvoyant):
        def __call__(self, video: Video, progress: Any = None) -> VideoKeypoints:
            found = super().__call__(video)
            return replace(found, keypoints=found.keypoints[:5], boxes=found.boxes[:5], persons=found.persons[:5])

    by = renderer()
    video = replace(by.render(truth["a"], by.reference_image(truth["a"])), name="a")
    source = Blinking({"a": by.driving_keypoints(truth["a"])})
    contact = FootContact([ArmClip("a", video, np.zeros((8, 8, 3), np.uint8), truth["a"])], source)
    with pytest.raises(DataError, match=r"keypoints of 5 frames for a video of more than.*; at a"):
        contact.update(video, 0)
    with pytest.raises(DataError, match="5 boxes for a video of more than"):
        VideoMotion(source).update(video, 0)


def test_what_this_machine_has_weights_for_judges_and_the_rest_says_why(
    truth: dict[str, Motion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=16, layer_norm_eps=1e-6,
    )  # fmt: skip
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "dino_vitb16")
    by = renderer()
    two = {name: truth[name] for name in "ab"}
    source = seen_as_true(two, by)
    loaded: list[Path] = []
    load = DinoFeatures.from_folder
    monkeypatch.setattr(DinoFeatures, "from_folder", lambda folder: loaded.append(folder) or load(folder))
    networks = Networks(tmp_path)
    judges = available_judges(networks, keypoints=source)
    looker, why = available_looker(networks)
    assert looker is None
    assert len(loaded) == 1, "the person's and the subject's identity share one network"
    available_judges(networks, keypoints=source)
    assert len(loaded) == 1
    cascade = Cascade(
        [CascadeClip(name, motion) for name, motion in two.items()], by, judges.lacking(("fvd", "kvd"), why),
        perturbations=("noise",), levels=(3,),
    )  # fmt: skip
    result = evaluate_cascade(cascade, {name: small_dance(9) for name in two}, resamples=0)
    values = result.presets["ground_truth"]
    for key in ("person_identity", "subject_consistency", "temporal_flickering", "warp_error_person", "pck_05"):
        assert result.presets["gap_generated"][key]["value"] is not None, key
    assert -1 <= values["person_identity"]["value"] <= 1
    assert "YuNet" in values["face_similarity"]["reason"]
    assert "AMT-S" in values["motion_smoothness"]["reason"]
    assert "I3D" in values["fvd"]["reason"]
    assert set(result.weights) == {"clairvoyant", "dino_vitb16"}
    assert len(result.weights["dino_vitb16"]) == 64
    blind = available_judges(tmp_path, keypoints=None, no_keypoints="no eyes", vbench=False)
    assert blind.missing["pck_10"] == blind.missing["person_identity"] == "no eyes"
    assert "subject_consistency" not in blind.missing
