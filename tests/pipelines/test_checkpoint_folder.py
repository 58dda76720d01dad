"""Checkpoint folders: whole or refused, the newest good one, pickles that ask for anything else, weights in pieces."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from macedance.errors import CheckpointError, ConfigError
from macedance.pickle_scan import scan_torch_file
from macedance.pipelines import checkpoint_folder, checkpoint_fragments
from macedance.pipelines.base_weights import BaseWeights, identity
from macedance.pipelines.checkpoint_folder import (
    CheckpointManifest,
    assemble_fragments,
    by_age,
    clean_leftovers,
    describe_file,
    files_in,
    list_checkpoints,
    newest_verified,
    next_sequence,
    read_manifest,
    scan_pickles,
    verify,
    write_manifest,
)
from macedance.pipelines.checkpoint_fragments import fragment_file, write_fragments
from macedance.pipelines.whole_checkpoint import read_checkpoint

FILES = {"state.ckpt": b"weights" * 40, "rank-0000.pt": b"random", "checkpoint/part.pt": bytes(range(200))}


def make_checkpoint(run_dir: Path, step: int, *, sequence: int | None = None, **changes: Any) -> Path:
    folder = run_dir / "checkpoints" / f"step-{step:08d}.ckpt"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content + str(step).encode())
    return sealed(folder, step, next_sequence(run_dir) if sequence is None else sequence, **changes)


def sealed(folder: Path, step: int, sequence: int = 1, **changes: Any) -> Path:
    """Write the manifest of what is in the folder."""
    values: dict[str, Any] = {
        "step": step, "position": 16 * step, "world_size": 2, "strategy": "zero2", "validation_due": False,
        "config_sha256": "c", "data_manifest_sha256": "d", "normalizer_sha256": "n", "code_version": "1",
        "sequence": sequence, **changes,
    }  # fmt: skip
    files = {name: describe_file(folder / name) for name in files_in(folder) if name != "manifest.json"}
    write_manifest(folder, CheckpointManifest(**values, files=files))
    return folder


def test_a_whole_checkpoint_verifies_and_its_manifest_comes_back(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 100, validation_due=True, epoch=3)
    manifest = verify(folder)
    assert manifest == read_manifest(folder)
    assert (manifest.step, manifest.position, manifest.epoch, manifest.validation_due) == (100, 1600, 3, True)
    assert set(manifest.files) == set(FILES)
    assert manifest.total_bytes == sum(len(content) + 3 for content in FILES.values())
    assert manifest.sharded
    assert manifest.validation_missing
    assert not replace(manifest, ended=True).validation_missing


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unlink(path: Path) -> None:
    path.unlink()


def link(path: Path) -> None:
    outside = path.parents[3] / "outside"
    shutil.move(path, outside)
    path.symlink_to(outside)


@pytest.mark.parametrize("damage", [truncate, grow, flip, unlink, link])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = make_checkpoint(tmp_path, 100)
    damage(folder / name)
    if name == "manifest.json" and damage is link:
        return  # the same bytes: nothing is wrong with what is read
    with pytest.raises(CheckpointError) as caught:
        verify(folder)
    assert Path(name).name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_added_file_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 100)
    (folder / "checkpoint" / "extra.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"extra\.pt"):
        verify(folder)


def test_every_bit_of_the_manifest_counts(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 100)
    path = folder / "manifest.json"
    whole = path.read_bytes()
    for number in range(len(whole)):
        changed = bytearray(whole)
        changed[number] ^= 1 << number % 8
        path.write_bytes(changed)
        with pytest.raises(CheckpointError):
            read_manifest(folder)
    path.write_bytes(whole)
    read_manifest(folder)


def test_a_manifest_of_a_later_version_with_more_in_it_is_read(tmp_path: Path) -> None:
    import hashlib
    import json

    folder = make_checkpoint(tmp_path, 100)
    content = json.loads((folder / "manifest.json").read_text())
    content.pop("sha256")
    content["more"] = 1
    del content["epoch"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**content, "sha256": digest}, indent=1, sort_keys=True) + "\n"
    (folder / "manifest.json").write_text(text)
    assert read_manifest(folder).step == 100
    (folder / "manifest.json").write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(CheckpointError, match="schema"):
        read_manifest(folder)


# ---------------------------------------------------------------- which one
def test_the_newest_is_used_and_a_damaged_one_is_said(tmp_path: Path) -> None:
    assert newest_verified(tmp_path) == (None, [])
    folders = [make_checkpoint(tmp_path, step) for step in (2, 4, 6)]
    assert newest_verified(tmp_path) == (folders[2], [])
    flip(folders[2] / "state.ckpt")
    unlink(folders[1] / "manifest.json")
    found, warnings = newest_verified(tmp_path)
    assert found == folders[0]
    assert len(warnings) == 2
    assert "step-00000006.ckpt" in warnings[0]
    assert "state.ckpt" in warnings[0]
    assert "manifest" in warnings[1]
    shutil.rmtree(folders[0])
    assert newest_verified(tmp_path)[0] is None


def test_after_going_on_from_an_older_one_the_later_saved_is_the_newest(tmp_path: Path) -> None:
    """Step 6 is of the part of the run that was given up."""
    for step in (2, 4, 6, 3):
        make_checkpoint(tmp_path, step)
    assert [folder.name[5:13] for folder in by_age(list_checkpoints(tmp_path))] == [
        "00000002", "00000004", "00000006", "00000003",
    ]  # fmt: skip
    assert newest_verified(tmp_path)[0] == tmp_path / "checkpoints" / "step-00000003.ckpt"


def test_a_folder_under_another_step_s_name_is_not_used(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 2)
    folder.rename(folder.with_name("step-00000009.ckpt"))
    found, warnings = newest_verified(tmp_path)
    assert found is None
    assert "holds step 2" in warnings[0]


def test_what_a_killed_save_leaves_is_removed_and_what_it_replaced_comes_back(tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path, 2)
    checkpoints = whole.parent
    shutil.copytree(whole, checkpoints / ".step-00000004.ckpt.tmp")
    shutil.copytree(whole, checkpoints / ".step-00000006.ckpt.old")
    shutil.copytree(whole, checkpoints / ".step-00000002.ckpt.old")
    assert list_checkpoints(tmp_path) == [whole]
    assert len(clean_leftovers(tmp_path)) == 3
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000002.ckpt", "step-00000006.ckpt"]
    assert clean_leftovers(tmp_path) == []


def test_a_note_that_cannot_be_written_leaves_the_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(tmp_path, 2)

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_manifest(folder, replace(read_manifest(folder), ended=True))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert not verify(folder).ended


def test_what_a_kill_within_a_note_leaves_is_no_damage(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 2)
    (folder / ".manifest.json.tmp").write_text("{", encoding="utf-8")  # where it was written once
    for name in (f".{folder.name}", f"..{folder.name}.tmp"):
        folder.with_name(f"{name}.manifest.json.tmp").write_text("{", encoding="utf-8")
    verify(folder)
    clean_leftovers(tmp_path)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# ---------------------------------------------------------------- pickles
class Runs:
    """Would make a folder when unpickled."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.mkdir, (self.target,)


def torch_file(path: Path, pickled: bytes, **more: bytes) -> Path:
    """A torch archive around a pickle of our own."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {"data.pkl": pickled, "version": b"3\n", **more}.items():
            archive.writestr(f"archive/{name}", content)
    return path


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


CALL = pickle.STACK_GLOBAL + text("/tmp/x") + pickle.TUPLE1 + pickle.REDUCE + pickle.STOP
PROTO4 = pickle.PROTO + b"\x04"
TRICKS: dict[str, bytes] = {
    "a plain name": b"\x80\x02cos\nmkdir\n" + text("/tmp/x") + b"\x85R.",
    "a name from the stack": PROTO4 + text("os") + text("mkdir") + CALL,
    "a name kept for later": PROTO4
    + text("os") + pickle.MEMOIZE + text("mkdir") + pickle.MEMOIZE + pickle.POP + pickle.POP
    + pickle.BINGET + b"\x00" + pickle.BINGET + b"\x01" + CALL,
    "a kept name that is replaced": PROTO4
    + text("collections") + pickle.BINPUT + b"\x00" + pickle.POP + text("os") + pickle.BINPUT + b"\x00" + pickle.POP
    + pickle.BINGET + b"\x00" + text("mkdir") + CALL,
    "a decoy between": PROTO4
    + text("os") + text("mkdir") + text("collections") + text("OrderedDict") + pickle.POP + pickle.POP + CALL,
    "the oldest way": b"(S'/tmp/x'\nios\nmkdir\n.",
    "an extension": PROTO4 + pickle.EXT1 + b"\x01" + b".",
    "a loader of more": b"\x80\x02ctorch.storage\n_load_from_bytes\n" + text("x") + b"\x85R.",
    "getattr": b"\x80\x02c__builtin__\ngetattr\n.",
    "not a pickle": b"\xff\xff",
}  # fmt: skip


@pytest.mark.parametrize("trick", TRICKS)
def test_a_pickle_that_reaches_for_more_is_refused_by_name(tmp_path: Path, trick: str) -> None:
    for path in (torch_file(tmp_path / "a.pt", TRICKS[trick]), tmp_path / "b.pt"):
        if path.name == "b.pt":
            path.write_bytes(TRICKS[trick])
        with pytest.raises(CheckpointError, match="refused") as caught:
            scan_torch_file(path)
        assert path.name in str(caught.value)


def test_what_would_run_is_refused_and_did_not_run(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, 2)
    for zipped in (True, False):
        torch.save({"a": Runs(str(tmp_path / "ran"))}, folder / "x.pt", _use_new_zipfile_serialization=zipped)
        (folder / "rank-0000.pt").unlink(missing_ok=True)
        (folder / "checkpoint/part.pt").unlink(missing_ok=True)
        sealed(folder, 2)
        verify(folder)  # the manifest cannot know
        with pytest.raises(CheckpointError, match=r"x\.pt.*mkdir"):
            scan_pickles(folder)
    assert not (tmp_path / "ran").exists()


def test_archives_with_two_pickles_or_hidden_parts_are_refused(tmp_path: Path) -> None:
    good = io.BytesIO()
    torch.save({"a": torch.zeros(2)}, good)
    with zipfile.ZipFile(io.BytesIO(good.getvalue())) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("data.pkl")]
        pickled = archive.read(name)
    scan_torch_file(torch_file(tmp_path / "good.pt", pickled))
    for number, more in enumerate(({"code.pkl": pickled}, {"constants.pkl": pickled}, {"sub/data.pkl": pickled})):
        with pytest.raises(CheckpointError, match="exactly one pickle"):
            scan_torch_file(torch_file(tmp_path / f"{number}.pt", pickled, **more))
    with pytest.raises(CheckpointError, match="behind"):
        scan_torch_file(torch_file(tmp_path / "two.pt", pickled + TRICKS["a plain name"]))
    path = torch_file(tmp_path / "packed.pt", pickled)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
    with pytest.raises(CheckpointError, match="as torch writes"):
        scan_torch_file(path)


def archive_of(pickled: bytes, name: str = "archive/data.pkl") -> tuple[bytes, bytes, bytes]:
    """Members, central directory and end record of an archive."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(name, pickled)
        archive.writestr("archive/version", b"3\n")
    whole = content.getvalue()
    start = archive.start_dir
    return whole[:start], whole[start:-22], whole[-22:]


def test_an_archive_that_readers_take_differently_is_refused(tmp_path: Path) -> None:
    """Two tables: Python's zipfile looks for the one before the end record, torch for the one at its offset."""
    trick = TRICKS["a plain name"]
    plain = PROTO4 + text("x" * (len(trick) - 7)) + pickle.POP + pickle.EMPTY_DICT + pickle.STOP
    evil, good = archive_of(trick), archive_of(plain)
    path = tmp_path / "double.pt"
    end = bytearray(good[2])
    end[12:20] = len(good[1]).to_bytes(4, "little") + len(evil[0]).to_bytes(4, "little")
    path.write_bytes(evil[0] + evil[1] + good[0] + good[1] + bytes(end))
    with zipfile.ZipFile(path) as archive:
        assert archive.read("archive/data.pkl") == plain, "the scan would have seen the harmless one"
    with pytest.raises(CheckpointError, match="table does not lie"):
        scan_torch_file(path)


@pytest.mark.parametrize(
    ("trick", "reason"),
    [
        ("before", "table does not lie|before its first"), ("between", "behind the part"), ("behind", "table does"),
        ("local name", "another than its table"), ("comment", "end as torch"), ("case", "one name"),
        ("hidden pickle", "exactly one pickle"), ("first gap", "before its first"),
    ],
)  # fmt: skip
def test_archives_are_laid_out_in_one_way_only(tmp_path: Path, trick: str, reason: str) -> None:
    plain = pickle.dumps({}, protocol=2)
    members, table, end = archive_of(plain)
    path = tmp_path / "a.pt"
    path.write_bytes(members + table + end)
    scan_torch_file(path)

    def moved(by: int) -> bytes:
        return end[:16] + (int.from_bytes(end[16:20], "little") + by).to_bytes(4, "little") + end[20:]

    if trick == "before":
        content = members + table + members + table + end
    elif trick == "between":
        content = members + b"xxxx" + table + moved(4)
    elif trick == "behind":
        content = members + table + b"xxxx" + end
    elif trick == "local name":
        content = members.replace(b"data.pkl", b"evil.pkl") + table + end
    elif trick == "comment":
        content = members + table + end[:20] + b"\x01\x00x"
    elif trick == "first gap":
        content = b"PK\x03\x04" + members + table + moved(4)
        content = content.replace(table, table[:42] + (4).to_bytes(4, "little") + table[46:])
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("archive/DATA.pkl" if trick == "case" else "archive/constants.PKL", plain)
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=reason):
        scan_torch_file(path)


def test_an_archive_within_the_older_format_is_refused(tmp_path: Path) -> None:
    """torch tries a tar archive before it reads the older format."""
    torch.save({}, tmp_path / "plain.pt", _use_new_zipfile_serialization=False)
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        archive.add(tmp_path / "plain.pt", "pickle")
    with pytest.raises(CheckpointError, match="a tar archive"):
        scan_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_what_training_stores_passes(tmp_path: Path, zipped: bool) -> None:
    content = {
        "weights": torch.nn.Linear(2, 2).state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
        "shape": torch.Size([2, 3]),
        "random": {"torch": torch.get_rng_state(), "numbers": (1, 2.5, None, True, "text" * 100)},
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    scan_torch_file(tmp_path / "a.pt")


# ---------------------------------------------------------------- weights in pieces
@dataclass
class Piece:
    tensor: Tensor
    offset: int
    shape: tuple[int, ...]


def write_pieces(folder: Path, cuts: list[dict[str, Piece]]) -> None:
    folder.mkdir(exist_ok=True)
    for rank, pieces in enumerate(cuts):
        write_fragments(fragment_file(folder, "weights", rank), pieces)


def test_pieces_of_all_ranks_are_the_whole(tmp_path: Path) -> None:
    a, b = torch.randn(3, 5), torch.randn(4)
    write_pieces(
        tmp_path / "c",
        [
            {"a": Piece(a.flatten()[:7], 0, (3, 5)), "b": Piece(b[:0], 0, (4,))},
            {"a": Piece(a.flatten()[7:], 7, (3, 5)), "b": Piece(b, 0, (4,))},
        ],
    )
    whole = assemble_fragments(tmp_path / "c", "weights")
    assert torch.equal(whole["a"], a)
    assert torch.equal(whole["b"], b)
    assert assemble_fragments(tmp_path / "c", "ema") == {}


@pytest.mark.parametrize(
    ("cuts", "reason"),
    [
        ([(0, 7)], "end at"),
        ([(0, 7), (8, 15)], "gap"),
        ([(0, 8), (7, 15)], "overlap"),
        ([(0, 7), (7, 16)], "does not fit"),
    ],
)
def test_pieces_that_do_not_make_a_whole_are_refused(tmp_path: Path, cuts: list[tuple[int, int]], reason: str) -> None:
    flat = torch.randn(16)
    write_pieces(tmp_path / "c", [{"a": Piece(flat[start:end], start, (3, 5))} for start, end in cuts])
    with pytest.raises(CheckpointError, match=reason):
        assemble_fragments(tmp_path / "c", "weights")


# ---------------------------------------------------------------- weights that are elsewhere
@pytest.mark.parametrize(
    ("which", "sampled", "read", "value"),
    [("raw", "ema", {"weights"}, 1.0), ("ema", "raw", {"weights", "ema"}, 2.0), ("auto", "raw", {"weights"}, 1.0),
     ("auto", "ema", {"weights", "ema"}, 2.0), (None, "ema", {"weights", "ema"}, 2.0)],
)  # fmt: skip
def test_a_model_is_read_without_what_it_does_not_need(
    tmp_path: Path, which: Any, sampled: str, read: set[str], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimizer's files are hundreds of GB: neither they nor the other kind of weights are gone through."""
    folder = tmp_path / "step-00000002.ckpt"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint/optimizer.pt").write_bytes(b"moments")
    (folder / "model.json").write_text(json.dumps({"config": {"sample_weights": sampled}, "normalizer": {}}))
    for kind, number in (("weights", 1.0), ("ema", 2.0)):
        pieces = {"network.a": Piece(torch.full((4,), number), 0, (2, 2))}
        whole = {"network.b": torch.ones(3)} if kind == "weights" else None
        write_fragments(fragment_file(folder, kind, 0), pieces, whole)  # type: ignore[arg-type]
    sealed(folder, 2)
    (folder / "checkpoint/optimizer.pt").write_bytes(b"moMents")
    hashed: list[str] = []
    loaded: list[str] = []
    real_hash, real_read = checkpoint_folder.describe_file, checkpoint_fragments.read_fragments

    def hashing(path: Path) -> Any:
        hashed.append(path.name)
        return real_hash(path)

    def reading(path: Path, without: frozenset[str] = frozenset()) -> Any:
        found = real_read(path, without)
        loaded.extend(f"{path.name.partition('-')[0]} {name}" for name in found)
        return found

    monkeypatch.setattr(checkpoint_folder, "describe_file", hashing)
    monkeypatch.setattr(checkpoint_fragments, "read_fragments", reading)
    content = read_checkpoint(folder, which)
    tensors = content.weights(which or "auto")
    assert sorted(hashed) == sorted(["model.json", *(f"{kind}-0000.safetensors" for kind in read)])
    assert {name: float(v.flatten()[0]) for name, v in tensors.items()} == {"a": value, "b": 1.0}
    if which is not None:
        assert len(loaded) == 2, "every value once"
        with pytest.raises(ConfigError, match="only"):
            content.weights("raw" if value == 2 else "ema")
    with (folder / f"{max(read)}-0000.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(folder, which)


def test_frozen_weights_come_back_from_where_they_were_and_from_nowhere_else(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert BaseWeights.of(network, "source", "auto", False) is None
    network[0].requires_grad_(False)
    assert BaseWeights.of(network, None, "auto", False) is None
    base = BaseWeights.of(network, str(tmp_path), "ema", False)
    assert base is not None
    assert BaseWeights.from_dict(base.to_dict(), tmp_path) == base
    state = network.state_dict()
    trained = {name: value for name, value in state.items() if name.startswith("1.")}
    assert base.complete(trained, state, tmp_path).keys() == state.keys()
    other = {name: value + (name == "0.bias") for name, value in state.items()}
    with pytest.raises(CheckpointError, match="not what it was trained on"):
        base.complete(trained, other, tmp_path)
    with pytest.raises(CheckpointError, match="not what it was trained on"):
        base.complete(trained, trained, tmp_path)


def test_the_identity_of_weights_is_of_their_bits_not_of_adapters_around_them() -> None:
    values = {"a.weight": torch.randn(2, 3), "b": torch.tensor(1.0)}
    assert identity(values) == identity({"b": values["b"], "a.base_layer.weight": values["a.weight"]})
    assert identity(values) != identity({**values, "b": torch.tensor(1.0, dtype=torch.float64)})
    assert identity(values) != identity({**values, "a.weight": values["a.weight"].T.contiguous()})
