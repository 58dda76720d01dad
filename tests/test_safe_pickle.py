"""The allow-list unpickler: honest content comes through, hostile content does nothing."""

from __future__ import annotations

import builtins
import collections
import functools
import io
import operator
import os
import pickle
import pickletools
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from macedance.errors import CheckpointError, DataError
from macedance.safe_pickle import Bag, load_foreign

HONEST: dict[str, Any] = {
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i4"),
    "text": np.array(["a", "bb"]),
    "flags": np.array([True, False]),
    "scalar": np.float32(3.5),
    "numbers": [1, -2.5, 3 + 4j, True, None, 10**30],
    "bytes": b"\x00\xff",
    "set": {1, 2},
    "ordered": collections.OrderedDict(b=1, a=2),
    "default": collections.defaultdict(list, {"k": [1]}),
    "tuple": ((), (1,), (1, 2, 3, 4)),
}


class Custom:
    def __init__(self) -> None:
        self.values, self.name = np.ones(2), "me"


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return a.dtype.newbyteorder("=") == b.dtype.newbyteorder("=") and np.array_equal(np.asarray(a), b)
    return bool(a == b)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_content_survives_every_protocol(tmp_path: Path, protocol: int) -> None:
    loaded = load_foreign(write(tmp_path / "a.pkl", HONEST, protocol))
    assert loaded.inert == ()
    for name, value in HONEST.items():
        assert same(loaded.content[name], value), name


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_checkpoint_survives_both_formats(tmp_path: Path, legacy: bool) -> None:
    base = torch.arange(12.0)
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    content = {
        "state": module.state_dict(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "view": base[2:8].view(2, 3).T,
        "same storage": base,
        "empty": torch.empty(0, 3),
        "zero-d": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "size": torch.Size([1, 2]),
        "dtype": torch.float16,
    }
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
    loaded = load_foreign(tmp_path / "a.pt")
    assert loaded.inert == ()
    for name in ("parameter", "view", "same storage", "empty", "zero-d", "half", "bool"):
        assert torch.equal(loaded.content[name], content[name]), name
        assert loaded.content[name].dtype == content[name].dtype
    assert all(torch.equal(loaded.content["state"][k], v) for k, v in module.state_dict().items())
    assert loaded.content["size"] == (1, 2)
    assert loaded.content["dtype"] is torch.float16


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_unknown_classes_become_bags_with_their_state(tmp_path: Path, protocol: int) -> None:
    loaded = load_foreign(write(tmp_path / "a.pkl", {"x": Custom()}, protocol))
    bag = loaded.content["x"]
    assert isinstance(bag, Bag)
    assert type(bag).__name__ == "Custom"
    assert bag.name == "me"
    assert np.asarray(bag.values).tolist() == [1.0, 1.0]
    assert any(name.endswith("Custom") for name in loaded.inert)


HOSTILE: dict[str, Any] = {
    "os.system": lambda t: Call(os.system, f"touch {t}"),
    "eval": lambda t: Call(eval, f"open({str(t)!r}, 'w')"),
    "exec": lambda t: Call(exec, f"open({str(t)!r}, 'w')"),
    "open": lambda t: Call(builtins.open, str(t), "w"),
    "partial": lambda t: Call(functools.partial, Call(os.mkdir, str(t))),
    "reduce by getattr": lambda t: Call(getattr, Call(__import__, "os"), "system"),
    "map over system": lambda t: Call(list, Call(map, os.system, [f"touch {t}"])),
    "default factory": lambda t: Call(collections.defaultdict, functools.partial(os.mkdir, str(t))),
    "methodcaller": lambda t: Call(operator.methodcaller("touch"), Path(t)),
    "torch.load": lambda t: Call(torch.load, str(t)),
    "torch.save": lambda t: Call(torch.save, [1], str(t)),
    "numpy.save": lambda t: Call(np.save, str(t), 1),
    "numpy file": lambda t: Call(np.memmap, str(t), "u1", "w+", 0, (3,)),
    "object array": lambda t: np.array([Call(os.mkdir, str(t))], dtype=object),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_calls_do_nothing(tmp_path: Path, name: str, protocol: int) -> None:
    target = tmp_path / "owned"
    path = write(tmp_path / "a.pkl", [HOSTILE[name](target)], protocol)
    try:
        loaded = load_foreign(path)
    except CheckpointError:
        pass
    else:
        assert loaded.inert
    assert not any(p.name.startswith("owned") for p in tmp_path.iterdir())


def test_the_hostile_pickles_would_run_elsewhere(tmp_path: Path) -> None:
    """The cases above mean something: the plain unpickler runs them."""
    pickle.loads(write(tmp_path / "a.pkl", HOSTILE["os.system"](tmp_path / "owned")).read_bytes())
    assert (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # the state of a function or class of ours cannot be changed: BUILD on what numpy.dtype stands for
        (b"cnumpy\ndtype\n}S'run'\nNsb.", "a state for"),
        (b"cnumpy\nndarray\n(N}S'x'\nNstb.", "a state for"),
        # a call of what is no function of ours
        (b"\x80\x02]\x8c\x01x\x85R.", "a call of"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "a call of"),
        (b"\x80\x02\x82\x01.", "a registered extension"),
        (b"P1\n.", "outside the file"),
        (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "data type 'O8'"),
        (b"ccopyreg\n_reconstructor\n(cbuiltins\nset\ncbuiltins\nobject\nNtR.", "made from its base"),
        (b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.", "the encoding"),
    ],
)
def test_programs_that_no_honest_file_holds_are_refused(tmp_path: Path, program: bytes, message: str) -> None:
    list(pickletools.genops(program))
    (tmp_path / "a.pkl").write_bytes(program)
    with pytest.raises(CheckpointError, match=f"refused: .*{message}"):
        load_foreign(tmp_path / "a.pkl")


def test_files_do_not_influence_each_other(tmp_path: Path) -> None:
    program = b"cevil\nThing\n(N}S'append'\nI1\nstb."
    (tmp_path / "a.pkl").write_bytes(program)
    with pytest.raises(CheckpointError):
        load_foreign(tmp_path / "a.pkl")
    assert callable(Bag.append)


def repack(source: Path, target: Path, edit: Any, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            data = edit(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return target


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.ones(100)}, source)
    cases = [
        (lambda n, d: d[:-8] if n.endswith("/data/0") else d, zipfile.ZIP_STORED, "another size"),
        (lambda n, d: d, zipfile.ZIP_DEFLATED, "compressed"),
        (lambda n, d: None if n.endswith("data.pkl") else d, zipfile.ZIP_STORED, "no torch checkpoint"),
        (lambda n, d: b"big" if n.endswith("byteorder") else d, zipfile.ZIP_STORED, "big-endian"),
    ]
    for number, (edit, compression, message) in enumerate(cases):
        with pytest.raises(CheckpointError, match=message):
            load_foreign(repack(source, tmp_path / f"{number}.pt", edit, compression))
    with zipfile.ZipFile(source, "a") as archive:
        archive.writestr("a/constants.pkl", b"")
    with pytest.raises(CheckpointError, match="TorchScript"):
        load_foreign(source)


def test_tensor_outside_its_storage_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "a.pt"
    torch.save({"w": torch.ones(7)}, source)
    for edit in (b"K\x08\x85", b"M\xff\xff\x85"):
        path = repack(source, tmp_path / "b.pt", lambda n, d, e=edit: d.replace(b"K\x07\x85", e))
        with pytest.raises(CheckpointError, match="outside its storage"):
            load_foreign(path)


def test_truncated_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save({"w": torch.ones(1000)}, buffer, _use_new_zipfile_serialization=not legacy)
        whole = buffer.getvalue()
        for share in (0.0, 0.3, 0.9):
            (tmp_path / "a.pt").write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(CheckpointError) as error:
                load_foreign(tmp_path / "a.pt")
            assert "\n" not in str(error.value)


def test_the_error_is_the_callers_choice(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        load_foreign(tmp_path / "absent.pkl", error=DataError)
