"""`macedance data encode`: the same numbers as on the fly, whole shards or none, shared out, refused where foreign."""

from __future__ import annotations

import json
import shutil
import tarfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty_server import serving
from small_clips import FRAMES, SPARE, clip, members, tiny_encoders, tiny_vae, write_clips

import datamodules.appearance_encoding as encoding
from datamodules.appearance import AppearanceDataModule
from datamodules.appearance_encoding import EncodeReport, EncodeSettings, encode_corpus
from datamodules.streams.keys import check_key
from datamodules.streams.mixture import MixtureSource
from datamodules.streams.shard_file import ShardFile
from macedance.appearance_data.encoding import pixel_windows
from macedance.appearance_data.latents import EncodedInfo, check_geometry, load_tensors, save_tensors
from macedance.appearance_data.samples import raw_clip
from macedance.appearance_data.windows import Bucket
from macedance.errors import CheckpointError, ConfigError, DataError
from macedance.models.appearance_expert.codec import LatentCodec
from macedance.models.appearance_expert.encoders import AppearanceEncoders, HashedText
from macedance.models.appearance_expert.geometry import LatentGeometry
from macedance.models.appearance_expert.training import encode_batch

SETTINGS = EncodeSettings(frames=FRAMES, precision="float32")


@pytest.fixture(scope="module")
def encoders() -> AppearanceEncoders:
    return tiny_encoders()


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips") / "corpus", train=12, val=3, sizes=((32, 32), (32, 48)))


@pytest.fixture(scope="module")
def latents(clips: Path, encoders: AppearanceEncoders, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("latents") / "corpus"
    assert encode_corpus(clips, out, encoders, SETTINGS).missing == 0
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    shown = [path for path in sorted(folder.rglob("*")) if path.is_file() and ".index" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in shown}


def data_module(folder: Path, **options: Any) -> AppearanceDataModule:
    return AppearanceDataModule(str(folder), **{"global_batch_size": 3} | options)


def test_latents_are_those_of_encoding_on_the_fly(clips: Path, latents: Path, encoders: AppearanceEncoders) -> None:
    ours, theirs = data_module(latents), data_module(clips, frames=FRAMES, random_windows=False)
    assert (ours.frames, ours.fps, ours.buckets) == (FRAMES, 10.0, [(32, 32, FRAMES), (32, 48, FRAMES)])
    assert ours.encoder_identity == encoders.fingerprint
    assert (ours.dropped_text, theirs.dropped_text) == ("empty_prompt", "empty_prompt")
    loaders = [(data.train_dataloader(), data.val_dataloader()) for data in (ours, theirs)]
    for encoded, pixels in zip(*loaders, strict=True):
        for batch, raw in islice(zip(encoded, pixels, strict=False), 4):
            expected = encode_batch(raw, encoders, 1)
            assert batch["keys"] == expected["keys"]
            assert batch["known_frames"] == 1
            for name in ("latents", "pose", "known", "blank", "reference", "text", "empty_text", "position"):
                assert batch[name].shape == expected[name].shape
                assert torch.allclose(batch[name], expected[name], atol=1e-5), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_latents_of_either_compute_dtype_are_those_of_encoding_on_the_fly(
    clips: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    encoders = AppearanceEncoders(LatentCodec(tiny_vae().to(dtype)), HashedText(8, 4), None, 16)
    encode_corpus(clips, tmp_path / "latents", encoders, SETTINGS)
    said = json.loads((tmp_path / "latents/encoded.json").read_text())
    assert said["compute_dtype"] == {"vae": str(dtype).removeprefix("torch.")}
    ours, theirs = data_module(tmp_path / "latents"), data_module(clips, frames=FRAMES, random_windows=False)
    batch, raw = (next(iter(data.train_dataloader())) for data in (ours, theirs))
    expected, exact = encode_batch(raw, encoders, 1), encode_batch(raw, tiny_encoders(), 1)
    # A clip's numbers may hang on the batch that it is encoded in, by a rounding of bfloat16.
    near = 1e-5 if dtype == torch.float32 else 2**-6
    for name in ("latents", "pose", "known", "blank", "reference", "text"):
        assert torch.allclose(batch[name], expected[name], rtol=near, atol=near), name
    assert (dtype == torch.float32) == torch.allclose(batch["latents"], exact["latents"], atol=1e-5)


def test_a_folder_is_gone_on_with_in_its_own_precision_and_by_its_own_rule(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    half = AppearanceEncoders(LatentCodec(tiny_vae().to(torch.bfloat16)), HashedText(8, 4), None, 16)
    assert half.fingerprint == encoders.fingerprint
    for other, settings, told in (
        (half, SETTINGS, "compute_dtype"),
        (encoders, EncodeSettings(FRAMES, precision="float32", windows=1), "windows"),
        (encoders, EncodeSettings(FRAMES, precision="float32", max_upscale=2.0), "max_upscale"),
    ):
        with pytest.raises(DataError, match=f"made otherwise: {told} differ"):
            encode_corpus(clips, latents, other, settings)
    mixed = tmp_path / "half"
    encode_corpus(clips, mixed, half, SETTINGS)
    with pytest.raises(ConfigError, match="latents were made by different encoders"):
        AppearanceDataModule(
            mixture=[MixtureSource(str(latents)), MixtureSource(str(mixed))], global_batch_size=2
        ).setup("fit")


def test_a_folder_of_an_earlier_version_is_read_and_gone_on_with(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(latents, out)
    for name, path in (("encoded.json", ()), ("manifest.json", ("details", "encoded"))):
        content = json.loads((out / name).read_text())
        said = content
        for key in path:
            said = said[key]
        for key in ("compute_dtype", "windows", "max_upscale"):
            del said[key]
        (out / name).write_text(json.dumps(content))
    # The name that such a version gave these numbers, which its samples carry.
    info = EncodedInfo(4, 4, 1, 5, 1, {"vae": "a"}, ((32, 32),), "float32")
    assert info.made_by == "912ebf784173e3483476bf797769c8f3"
    assert replace(info, compute_dtype={"vae": "float32"}, windows=3).made_by == info.made_by
    assert next(iter(data_module(out).train_dataloader()))["latents"].shape[0] == 3
    assert encode_corpus(clips, out, encoders, SETTINGS).done_before == 6


def test_the_windows_of_a_clip_and_the_largest_upscale_are_chosen(
    clips: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    more = EncodeSettings(FRAMES, precision="float32", windows=3, batch=4)
    assert encode_corpus(clips, tmp_path / "more", encoders, more).samples == 2 * 15  # the last holds every reference
    assert json.loads((tmp_path / "more/encoded.json").read_text())["windows"] == 3
    larger = (Bucket(48, 48), Bucket(48, 72))
    with pytest.raises(ConfigError, match=r"enlarge it over 1\.15 times"):
        encode_corpus(clips, tmp_path / "no", encoders, EncodeSettings(FRAMES, buckets=larger))
    allowed = EncodeSettings(FRAMES, buckets=larger, max_upscale=1.5)
    assert encode_corpus(clips, tmp_path / "yes", encoders, allowed).info.max_upscale == 1.5
    with pytest.raises(ConfigError, match="no clip fits into a bucket"):
        data_module(clips, frames=FRAMES, buckets=list(larger)).setup("fit")
    on_the_fly = data_module(clips, frames=FRAMES, buckets=list(larger), max_upscale=1.5)
    assert on_the_fly.buckets == data_module(tmp_path / "yes").buckets == [(48, 48, FRAMES), (48, 72, FRAMES)]
    with pytest.raises(ConfigError, match="--windows is 0"):
        EncodeSettings(FRAMES, windows=0)
    for value in (0.0, float("nan")):
        with pytest.raises(ConfigError, match="--max-upscale"):
            EncodeSettings(FRAMES, max_upscale=value)


def test_other_references_of_a_window_are_kept(latents: Path) -> None:
    clips = data_module(latents).sources.train
    sample = clips[0]
    assert isinstance(sample, dict)
    assert sample["references"].shape == (SPARE, 4, 1, 8, 8)
    assert not torch.equal(sample["references"][0], sample["references"][1])
    seen = {float(b["reference"][0].sum()) for b in islice(data_module(latents).train_dataloader(), 30)}
    assert len(seen) > 6


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real, calls = tmp_path / "out", encoding.encode_windows, []

    def stop_later(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(encoding, "encode_windows", stop_later)
    with pytest.raises(KeyboardInterrupt):
        encode_corpus(clips, out, encoders, SETTINGS)
    assert not (out / "manifest.json").exists()
    begun = list(out.rglob("*.tar"))
    assert len(begun) == 1  # the second shard was under way and left nothing
    assert not list(out.rglob("*.part"))
    times = {path: path.stat().st_mtime_ns for path in begun}
    monkeypatch.setattr(encoding, "encode_windows", real)
    report = encode_corpus(clips, out, encoders, SETTINGS)
    assert (report.done_before, report.missing, report.samples) == (1, 0, 15)
    assert {path: path.stat().st_mtime_ns for path in begun} == times
    assert files_of(out) == files_of(latents)
    again = encode_corpus(clips, out, encoders, SETTINGS)
    assert again.done_before == again.shards


def test_parts_share_the_shards_and_the_last_one_finishes(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    out, reports = tmp_path / "out", list[EncodeReport]()
    for part in (2, 0, 1):
        assert not (out / "manifest.json").exists()
        reports.append(encode_corpus(clips, out, encoders, EncodeSettings(FRAMES, precision="float32", part=(part, 3))))
    assert [report.missing == 0 for report in reports] == [False, False, True]
    assert sum(report.samples for report in reports) == 15
    assert files_of(out) == files_of(latents)
    with pytest.raises(ConfigError, match="part 4 of 3"):
        EncodeSettings(FRAMES, part=(3, 3))


def test_a_lost_shard_is_encoded_again(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    encode_corpus(clips, out, encoders, SETTINGS)
    shard = next((out / "train").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(DataError, match="cannot be used"):
        data_module(out).setup("fit")
    assert encode_corpus(clips, out, encoders, SETTINGS).missing == 0
    assert files_of(out) == files_of(latents)


def test_a_folder_of_other_latents_is_refused(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    for other, told in (
        ((clips, latents, tiny_encoders(seed=1), SETTINGS), "made otherwise: encoders differ"),
        ((clips, latents, encoders, EncodeSettings(FRAMES, 2, precision="float32")), "known_frames differ"),
        ((write_clips(tmp_path / "c", 2, 1), latents, encoders, SETTINGS), "source_sha256 differ"),
        ((clips, clips, encoders, SETTINGS), "not empty"),
        ((latents, tmp_path / "d", encoders, SETTINGS), "holds latents already"),
    ):
        with pytest.raises(DataError, match=told):
            encode_corpus(*other)


def test_several_windows_of_a_clip_are_several_samples(
    clips: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    report = encode_corpus(clips, tmp_path / "o", encoders, EncodeSettings(3, 0, precision="float32", batch=4))
    assert report.samples == 3 * 15
    data = data_module(tmp_path / "o")
    keys = [data.sources.train.key(number) for number in range(3)]
    assert keys == ["train-000_w000", "train-000_w001", "train-000_w002"]
    assert next(iter(data.train_dataloader()))["known_frames"] == 0


def test_windows_of_clips_of_long_names_keep_names_of_their_own() -> None:
    parts, names = members(0, clip(0)), [f"{'a' * 74}{ending}" for ending in ("1", "2", "-long1", "-long2")]
    windows = [pixel_windows(raw_clip(parts, name, "w"), [0, 4], Bucket(32, 32), FRAMES) for name in names]
    keys = [window.key for made in windows for window in made]
    assert len(set(keys)) == 8
    assert keys[:2] == [f"{names[0]}_w000", f"{names[0]}_w001"]
    for key in keys:
        check_key(key)


def test_two_samples_of_one_key_are_refused(tmp_path: Path) -> None:
    file = ShardFile(tmp_path, "000000.tar")
    file.add("a", {"txt": b"1"})
    with pytest.raises(DataError, match=r"two samples of a shard have one key.*000000\.tar: a"):
        file.add("a", {"txt": b"2"})
    file.abandon()


def test_clips_that_give_no_window_are_named(encoders: AppearanceEncoders, tmp_path: Path) -> None:
    source = write_clips(tmp_path / "c", 6, 1, damaged=[2])
    report = encode_corpus(source, tmp_path / "o", encoders, SETTINGS)
    assert list(report.left_out) == ["train-002"]
    manifest = json.loads((tmp_path / "o/manifest.json").read_text())
    assert any("1 clips give no window: train-002" in note for note in manifest["notes"])
    assert manifest["splits"]["train"]["samples"] == 5
    with pytest.raises(DataError, match="1 clips cannot be read, the last is train-002"):
        encode_corpus(source, tmp_path / "p", encoders, EncodeSettings(FRAMES, precision="float32", max_faulty=0))
    with pytest.raises(DataError, match="no training clip gives a window"):
        encode_corpus(source, tmp_path / "q", encoders, EncodeSettings(13, precision="float32"))


def test_sizes_that_do_not_come_out_even_are_refused(clips: Path, encoders: AppearanceEncoders, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiples of 8"):
        encode_corpus(clips, tmp_path / "o", encoders, EncodeSettings(FRAMES, buckets=(Bucket(30, 30),)))
    scaled = EncodeSettings(FRAMES, buckets=(Bucket(16, 16), Bucket(16, 24)))
    encode_corpus(clips, tmp_path / "q", encoders, scaled)
    data = data_module(tmp_path / "q")
    assert data.buckets == [(16, 16, FRAMES), (16, 24, FRAMES)]
    assert next(iter(data.train_dataloader()))["latents"].dtype == torch.bfloat16


def test_latents_of_another_autoencoder_are_refused(
    clips: Path, latents: Path, encoders: AppearanceEncoders, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    encode_corpus(clips, other, tiny_encoders(seed=1), SETTINGS)
    sources = [MixtureSource(str(latents)), MixtureSource(str(other))]
    with pytest.raises(ConfigError, match="latents were made by different encoders"):
        AppearanceDataModule(mixture=sources, global_batch_size=2).setup("fit")
    with pytest.raises(ConfigError, match="one source of the mixture holds latents and another videos"):
        AppearanceDataModule(
            mixture=[MixtureSource(str(latents)), MixtureSource(str(clips))], global_batch_size=2
        ).setup("fit")
    with pytest.raises(ConfigError, match=r"data\.frames is 9 and the latents are of clips of 5 frames"):
        data_module(latents, frames=9).setup("fit")
    info = data_module(latents).encoded
    assert info is not None
    check_geometry(info, LatentGeometry(4, 4, 1), "here")
    with pytest.raises(CheckpointError, match="latents of another autoencoder"):
        check_geometry(info, LatentGeometry(16, 8, 4), "here")
    with pytest.raises(DataError, match="has no pictures"):
        data_module(latents).clips("val")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tensors: tensors | {"pose": tensors["pose"][:, 1:]}, "pose have shape"),
        (lambda tensors: {name: tensors[name] for name in tensors if name != "text"}, "the latents lack text"),
        (lambda tensors: tensors | {"known": tensors["known"] * float("nan")}, "known are not finite"),
        (lambda tensors: tensors | {"image": torch.zeros(1, 2, 3)}, "image has shape"),
        (None, "the latents cannot be read"),
        ("made_by", "of other encoders"),
    ],
)
def test_damaged_latents_are_refused_by_name(latents: Path, change: Any, told: str) -> None:
    from macedance.appearance_data.latents import encoded_clip

    info = data_module(latents).encoded
    assert info is not None
    with tarfile.open(min((latents / "train").glob("32x32*.tar"))) as archive:
        names = [name for name in archive.getnames() if name.startswith("train-000")]
        members = {name.partition(".")[2]: archive.extractfile(name).read() for name in names}  # type: ignore[union-attr]
    assert encoded_clip(members, "w", info, 32, 32)
    if change is None:
        members["latents.safetensors"] = members["latents.safetensors"][:100]
    elif change == "made_by":
        members["meta.json"] = json.dumps({**json.loads(members["meta.json"]), "made_by": "x"}).encode()
    else:
        members["latents.safetensors"] = save_tensors(change(load_tensors(members["latents.safetensors"], "w")))
    with pytest.raises(DataError, match=told) as caught:
        encoded_clip(members, "000.tar:train-000", info, 32, 32)
    assert caught.value.where == "000.tar:train-000"


def test_a_lost_blank_is_said(latents: Path, clips: Path, encoders: AppearanceEncoders, tmp_path: Path) -> None:
    out = tmp_path / "out"
    encode_corpus(clips, out, encoders, SETTINGS)
    for blank in (out / "blank").iterdir():
        blank.unlink()
    with pytest.raises(DataError, match="lacks the latents of an unknown clip"):
        data_module(out).train_dataloader()
    encode_corpus(clips, out, encoders, SETTINGS)
    assert files_of(out) == files_of(latents)


def test_a_corpus_without_the_empty_prompt_s_embedding_says_that_zeros_stand_for_it(
    latents: Path, clips: Path, encoders: AppearanceEncoders, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    out = tmp_path / "out"
    shutil.copytree(latents, out)
    (out / "empty_text.safetensors").unlink()
    data = data_module(out)
    assert "empty_text" not in next(iter(data.train_dataloader()))
    assert "empty_text" not in next(iter(data.val_dataloader()))
    assert data.dropped_text == "zeros"
    assert sum("training shows zeros in its place" in str(told.message) for told in recwarn) == 1
    encode_corpus(clips, out, encoders, SETTINGS)
    assert files_of(out) == files_of(latents)
    (out / "empty_text.safetensors").write_bytes(save_tensors({"image": torch.zeros(2, 2)}))
    with pytest.raises(DataError, match="no embedding of the empty prompt"):
        data_module(out).train_dataloader()


def test_latents_on_a_server(latents: Path, tmp_path: Path) -> None:
    with serving(latents) as (url, _):
        remote = data_module(url, cache_dir=str(tmp_path / "cache"))  # type: ignore[arg-type]
        loaders = data_module(latents).train_dataloader(), remote.train_dataloader()
        for here, there in islice(zip(*loaders, strict=False), 3):
            assert torch.equal(here["latents"], there["latents"])
            assert torch.equal(here["blank"], there["blank"])
            assert torch.equal(here["empty_text"], there["empty_text"])
