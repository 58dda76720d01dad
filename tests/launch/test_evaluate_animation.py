"""``macedance evaluate animation`` as its user meets it: results, absent networks, folders that cannot be judged."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from launch.evaluation.animation import build_parser
from launch.main import main
from macedance.rendering.video import VideoWriter
from macedance.vision.i3d import InceptionI3d
from macedance.vision.perceptual import ALEX

CLIPS = 5
FAST = ("--resamples", "20", "--floor-draws", "2", "--device", "cpu")


def write_video(path: Path, seed: int, *, frames: int = 34, fps: float = 30.0, side: int = 48, noise: int = 0) -> None:
    generator = np.random.default_rng(seed)
    colour, speed = generator.integers(40, 215, 3), generator.uniform(0.5, 2.0)
    rows, columns = np.mgrid[:side, :side]
    with VideoWriter(path, fps, side, side, quality=12) as writer:
        for t in range(frames):
            inside = np.hypot(rows - side / 2, columns - 10 - speed * t) < 9
            picture = np.where(inside[..., None], colour, 255 - colour)
            picture = picture + generator.integers(-noise, noise + 1, picture.shape)
            writer.add(picture.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``generated``, ``reference`` and ``weights`` of small random networks."""
    root = tmp_path_factory.mktemp("animation")
    for clip in range(CLIPS):
        write_video(root / "reference" / f"dance{clip}.mp4", clip)
        write_video(root / "generated" / f"dance{clip}.mp4", clip, noise=25)
    torch.manual_seed(0)
    network = InceptionI3d(4, slimness=32)
    for name, tensor in network.state_dict().items():
        if name.endswith("conv3d.weight"):
            tensor.normal_(0, (2.0 / tensor[0].numel()) ** 0.5)
    folder = root / "weights" / "i3d_kinetics400"
    folder.mkdir(parents=True)
    torch.save(network.state_dict(), folder / "i3d_pretrained_400.pt")
    torch.save({f"features.{k}": v for k, v in ALEX.build().state_dict().items()}, root / "alexnet.pth")
    return root


@pytest.fixture
def copied(corpus: Path, tmp_path: Path) -> Path:
    """The two folders, to be spoilt; no weights."""
    for which in ("generated", "reference"):
        shutil.copytree(corpus / which, tmp_path / which)
    return tmp_path


def run(root: Path, *options: str) -> int:
    folders = ("--generated", str(root / "generated"), "--reference", str(root / "reference"))
    return main(["evaluate", "animation", *folders, "--weights", str(root / "weights"), *FAST, *options])


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def test_result_and_page(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    options = ("--lpips-weights", str(corpus / "alexnet.pth"), "--json", str(out), "--out", str(tmp_path / "page"))
    assert run(corpus, *options) == 0
    result = read(out)
    assert result["schema"] == 1
    assert result["inputs"]["kind"] == "animation"
    assert result["inputs"]["resolution"] == [48, 48]
    assert result["inputs"]["clips"] == {"generated": CLIPS, "reference": CLIPS}
    assert list(result["presets"]) == ["styleganv", "center_crop"]
    for entries in result["presets"].values():
        assert list(entries) == ["fvd", "fvd_inf", "kvd", "ssim", "psnr", "lpips"]
        assert all(entry["value"] is not None for entry in entries.values())
        assert 0 < entries["ssim"]["value"] < 1
        assert entries["psnr"]["n"] == CLIPS
        assert len(entries["fvd"]["ci95"]) == 2
    assert set(result["weights"]) == {"i3d_kinetics400", "lpips_alex"}
    assert set(result["per_clip"]["styleganv"]["psnr"]) == {f"dance{clip}" for clip in range(CLIPS)}
    page = (tmp_path / "page" / "index.html").read_text(encoding="utf-8")
    assert "center_crop" in page
    assert page.count("<video") == 4
    assert (tmp_path / "page" / "plots" / "styleganv.png").stat().st_size > 1000
    shown = capsys.readouterr()
    assert "psnr" in shown.out
    assert "no floor of fvd" in shown.err


def test_absent_networks_are_said_and_json_alone_is_one_object(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(copied, "--json") == 0
    shown = capsys.readouterr()
    entries = json.loads(shown.out)["presets"]["styleganv"]
    assert entries["fvd"]["value"] is None
    assert entries["ssim"]["value"] is not None
    for name in ("i3d_kinetics400", "alexnet"):
        assert f"macedance evaluate weights --download {name}" in shown.err


def test_fewer_clips_than_features_are_asked_for_whatever_the_windows(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(InceptionI3d(4, slimness=32).state_dict(), tmp_path / "wide.pt")
    chosen = ("--i3d", str(tmp_path / "wide.pt"), "--preset", "styleganv", "--max-clips", "3", "--window-frames", "9")
    found = {}
    for name, extra in (("allowed", ("--allow-small-n",)), ("more", ("--windows-per-clip", "2"))):
        assert run(corpus, *chosen, *extra, "--json", str(tmp_path / f"{name}.json")) == 0
        found[name] = read(tmp_path / f"{name}.json")
    fvd = {name: result["presets"]["styleganv"]["fvd"] for name, result in found.items()}
    assert fvd["allowed"]["value"] is not None
    assert fvd["more"]["value"] is None
    assert (fvd["more"]["n"], fvd["more"]["n_clips"]) == (6, 3)
    assert "3 clips are fewer than the 4 features, and their 6 windows are alike" in fvd["more"]["reason"]
    assert "--windows-per-clip" not in str(build_parser().epilog), "no way around it"
    assert "windows" in "".join(found["more"]["inputs"]["notes"]["styleganv"])
    assert len({result["hash"] for result in found.values()}) == 2


def test_sets_of_other_names(corpus: Path, copied: Path, tmp_path: Path) -> None:
    (copied / "generated" / "dance0.mp4").rename(copied / "generated" / "ours.mp4")
    out = tmp_path / "sets.json"
    weights = str(corpus / "weights" / "i3d_kinetics400")
    assert run(copied, "--unpaired", "--i3d", weights, "--json", str(out)) == 0
    result = read(out)
    assert result["presets"]["styleganv"]["kvd"]["value"] is not None
    assert "not compared in pairs" in result["presets"]["styleganv"]["ssim"]["reason"]
    assert result["inputs"]["unmatched"] == {"generated": ["ours"], "reference": ["dance0"]}


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        ("corrupt", ("dance1.mp4", "dance3.mp4")),
        ("unmatched", ("mine", "dance2")),
        ("fps", ("25 fps", "dance1")),
        ("size", ("64x64", "dance1")),
        ("length", ("dance1 (30 and 34)", "dance4 (20 and 34)")),
        ("empty", ("no videos", "generated")),
        ("missing", ("no such folder", "generated")),
    ],
)
def test_folders_that_cannot_be_judged(
    spoil: str, named: tuple[str, ...], copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generated = copied / "generated"
    if spoil == "corrupt":
        for path in (generated / "dance1.mp4", copied / "reference" / "dance3.mp4"):
            path.write_bytes(path.read_bytes()[:300])
    elif spoil == "unmatched":
        (generated / "dance2.mp4").rename(generated / "mine.mp4")
    elif spoil == "fps":
        write_video(generated / "dance1.mp4", 1, fps=25.0)
    elif spoil == "size":
        write_video(generated / "dance1.mp4", 1, side=64)
    elif spoil == "length":
        write_video(generated / "dance1.mp4", 1, frames=30)
        write_video(generated / "dance4.mp4", 4, frames=20)
    else:
        shutil.rmtree(generated)
        if spoil == "empty":
            generated.mkdir()
    assert run(copied) == 2
    told = capsys.readouterr().err
    assert all(name in told for name in named), told
    assert "Traceback" not in told


def test_shorter_and_single_frame_videos_are_named(
    corpus: Path, copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(copied / "generated" / "dance1.mp4", 1, frames=20)
    for which in ("generated", "reference"):
        write_video(copied / which / "dance2.mp4", 2, frames=1)
    out = tmp_path / "short.json"
    weights = str(corpus / "weights" / "i3d_kinetics400")
    assert run(copied, "--cut-to-shorter", "--i3d", weights, "--json", str(out)) == 0
    result = read(out)
    notes = " ".join(result["inputs"]["notes"]["styleganv"])
    for part in ("dance1 (20 and 34)", "no ssim, psnr of 1 clips: dance2", "2 of 5 generated", "dance1, dance2"):
        assert part in notes
    entries = result["presets"]["styleganv"]
    assert (entries["ssim"]["n"], entries["ssim"]["n_undefined"], entries["fvd"]["too_short"]) == (4, 1, 2)
    assert result["per_clip"]["styleganv"]["ssim"]["dance2"] is None
    assert "dance2" in capsys.readouterr().err


def test_videos_that_break_are_left_out_with_their_partners(copied: Path, tmp_path: Path) -> None:
    (copied / "generated" / "dance1.mp4").write_bytes(b"no video")
    out = tmp_path / "left.json"
    assert run(copied, "--leave-out-bad", "--json", str(out)) == 0
    inputs = read(out)["inputs"]
    assert list(inputs["left_out"]["generated"]) == ["dance1.mp4"]
    assert "generated" in inputs["left_out"]["reference"]["dance1.mp4"]
    assert inputs["clips"] == {"generated": CLIPS - 1, "reference": CLIPS - 1}


def broken(path: Path) -> None:
    """The video opens, its first picture is whole, and then it breaks off: the stream says more than it holds."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 3 :] = bytes(len(content) // 3)
    path.write_bytes(content)


def test_videos_that_break_off_on_the_way_are_all_named(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copied / "generated" / "dance1.mp4", copied / "reference" / "dance3.mp4"):
        broken(path)
    assert run(copied) == 2
    told = capsys.readouterr().err
    assert "2 of 10 videos cannot be decoded" in told
    assert "generated dance1.mp4" in told
    assert "reference dance3.mp4" in told
    out = tmp_path / "rest.json"
    assert run(copied, "--leave-out-bad", "--json", str(out)) == 0
    result = read(out)
    assert sorted(result["inputs"]["left_out"]["reference"]) == ["dance1.mp4", "dance3.mp4"]
    assert "the generated video" in result["inputs"]["left_out"]["reference"]["dance1.mp4"]
    assert result["inputs"]["clips"] == {"generated": CLIPS - 2, "reference": CLIPS - 2}
    assert sorted(result["per_clip"]["styleganv"]["ssim"]) == ["dance0", "dance2", "dance4"]


def test_some_clips_are_drawn_in_pairs_and_that_is_said(copied: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (0, 0, 1):
        out = tmp_path / "drawn.json"
        assert run(copied, "--max-clips", "3", "--seed", str(seed), "--json", str(out)) == 0
        result = read(out)
        drawn.append(sorted(result["per_clip"]["styleganv"]["psnr"]))
        assert "3 of 5 generated videos were drawn" in result["inputs"]["notes"]["inputs"][0]
    assert drawn[0] == drawn[1] != drawn[2]


def test_torchscript_needs_its_hash(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Program(torch.nn.Module):
        def forward(self, x: torch.Tensor, rescale: bool, resize: bool, return_features: bool) -> torch.Tensor:
            return x.mean(dim=(2, 3, 4)) + float(rescale)

    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.script(Program()).save(str(path))
    assert run(corpus, "--i3d-torchscript", str(path)) == 2
    assert "--i3d-sha256" in capsys.readouterr().err
    assert run(corpus, "--i3d-torchscript", str(path), "--i3d-sha256", "ab" * 32) == 2
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest in capsys.readouterr().err
    out = tmp_path / "script.json"
    assert run(corpus, "--i3d-torchscript", str(path), "--i3d-sha256", digest, "--json", str(out)) == 0
    result = read(out)
    assert result["weights"] == {"i3d_torchscript": digest}
    assert result["presets"]["styleganv"]["fvd"]["value"] is not None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--preset", "tats"), "tats"),
        (("--window-fps", "fast"), "native"),
        (("--windows-per-clip", "0"), "--windows-per-clip"),
        (("--skip-frames", "-1"), "--skip-frames"),
        (("--size", "4", "4"), "--size"),
        (("--unpaired", "--cut-to-shorter"), "--unpaired"),
        (("--i3d", "nowhere.pt"), "nowhere.pt"),
        (("--window-fps", "60"), "30 frames per second"),
        (("--window-frames", "4"), "at least 9"),
    ],
)
def test_impossible_options(
    options: tuple[str, ...], named: str, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(corpus, *options) == 2
    assert named in capsys.readouterr().err
