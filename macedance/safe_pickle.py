"""Reads other people's pickles and torch checkpoints without running anything that is in them.

Only numbers, strings, plain containers, numpy arrays and torch tensors are built. Every other class or function that a
file names becomes an inert bag: a class of ours that takes any arguments and state, keeps them as attributes and does
nothing. The opcodes that call something (REDUCE, NEWOBJ, BUILD, ...) refuse whatever is not of this module.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from macedance.errors import CheckpointError, DataError

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# Kinds of numpy data that hold no Python objects: bool, integers, floats, complex, bytes, text.
ARRAY_KINDS = "biufcSU"

STORAGE_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}


class Bag:
    """What stands for an object of a class that is not ours to run: its arguments and its state, as data.

    ``vars(bag)`` is the state; ``bag_args`` are the constructor's arguments; the class carries the foreign name.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Bag:
        """Keep the arguments."""
        bag = super().__new__(cls)
        bag.__dict__.update(bag_args=args, bag_items=[], bag_kwargs=kwargs)
        return bag

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        for part in parts:
            if isinstance(part, dict):
                self.__dict__.update({key: value for key, value in part.items() if isinstance(key, str)})
            elif part is not None:
                self.__dict__["bag_state"] = part

    def append(self, item: Any) -> None:
        """Keep an item of what was a list."""
        self.__dict__["bag_items"].append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Keep items of what was a list."""
        self.__dict__["bag_items"].extend(items)

    add = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__["bag_items"].append((key, value))


@dataclass(frozen=True)
class ForeignFile:
    """The content of a foreign file.

    Attributes:
        content: Plain containers of numbers, strings, arrays, tensors and bags.
        inert: Names of the classes and functions that the file asked for and that became bags.
    """

    content: Any
    inert: tuple[str, ...]


def load_foreign(path: str | Path, *, error: type[CheckpointError] | type[DataError] = CheckpointError) -> ForeignFile:
    """Read a pickle or a torch checkpoint (zip or legacy format) of unknown origin.

    Args:
        path: The file.
        error: What to raise: CheckpointError for models, DataError for data sets.

    Returns:
        The content, tensors on the CPU, and the names of everything that was made inert.

    Raises:
        CheckpointError: (or `error`) The file is missing, damaged, compressed, of another byte order, TorchScript, or
            asks for something that no honest file asks for.
    """
    path = Path(path)
    expected = "a pickle or a torch checkpoint"
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic == ZIP_MAGIC:
                return _read_zip(file)
            return _read_legacy_or_plain(file)
    except OSError as problem:
        raise error(f"cannot read the file: {problem.strerror or problem}", where=path, expected=expected) from problem
    except _RefusedError as problem:
        raise error(f"refused: {problem}", where=path, expected=expected) from problem
    except MemoryError as problem:
        raise error("the file asks for more memory than there is", where=path, expected=expected) from problem
    except Exception as problem:  # a damaged pickle fails in any way
        kind = type(problem).__name__
        raise error(f"the file is foreign or damaged ({kind}: {problem})", where=path, expected=expected) from problem


class _RefusedError(Exception):
    """The file asks for something that no honest file asks for."""


class _Array(np.ndarray):
    """An array under construction; every way to fill it goes through a check of its data type."""

    def __new__(cls, *args: Any) -> _Array:
        return super().__new__(cls, (0,), np.uint8)

    def __setstate__(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        data = data.encode("latin1") if isinstance(data, str) else data
        if not isinstance(dtype, _DType) or not isinstance(data, bytes):
            raise _RefusedError("an array that holds Python objects")
        checked: Any = (1, tuple(int(n) for n in shape), dtype.real(), bool(fortran), data)
        super().__setstate__(checked)


class _DType:
    """A numpy data type: its code and byte order only, never one with Python objects or fields."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def real(self) -> np.dtype[Any]:
        """The numpy data type."""
        return np.dtype(self.order + self.code)


class _Dict(dict[Any, Any]):
    """A dictionary whose pickled attributes are left out (they could hide its methods)."""

    def __setstate__(self, state: Any) -> None: ...


@dataclass(frozen=True)
class _Function:
    """A function of ours that a file may ask for by the name of the function that it stands in for."""

    run: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.run(*args)


def _make_dtype(code: Any = "", *flags: Any) -> _DType:
    if isinstance(code, _DType):
        return code
    if not isinstance(code, str) or np.dtype(code).kind not in ARRAY_KINDS:
        raise _RefusedError(f"a numpy data type {code!r}")
    return _DType(np.dtype(code).str[1:])


def _only_bytes(data: Any) -> bytes:
    """Bytes as they are in the file; a number would ask for that many zeros."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise _RefusedError(f"a buffer made of a {type(data).__name__}")
    return bytes(data)


def _make_scalar(dtype: _DType, data: bytes) -> Any:
    return np.frombuffer(_only_bytes(data), dtype.real(), count=1)[0]


def _make_buffer_array(buffer: Any, dtype: _DType, shape: tuple[int, ...], order: str) -> np.ndarray:
    flat = np.frombuffer(_only_bytes(buffer), dtype.real())
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _make_tensor(storage: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    count = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if count else -1
    if min((offset, *size, *stride)) < 0 or last >= storage.numel() or count > storage.numel():
        raise _RefusedError("a tensor that reaches outside its storage")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset)


def _make_typed_tensor(
    storage: Tensor, offset: int, size: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise _RefusedError("a tensor without a data type")
    whole = storage.numel() // dtype.itemsize * dtype.itemsize
    return _make_tensor(storage[:whole].view(dtype), offset, size, stride)


def _make_from_base(cls: Any, base: Any, state: Any) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, Bag)):
        raise _RefusedError(f"an object of {cls!r} made from its base")
    return cls() if state is None else cls(state)


def _make_bytes(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise _RefusedError(f"the encoding {encoding!r}")
    return text.encode(encoding)


def _global_table() -> dict[str, Any]:
    table: dict[str, Any] = {
        "collections.OrderedDict": _Dict,
        "collections.defaultdict": _Function(lambda *args: _Dict()),
        "numpy.ndarray": _Array,
        "numpy.dtype": _Function(_make_dtype),
        "_codecs.encode": _Function(_make_bytes),
        "copyreg._reconstructor": _Function(_make_from_base),
        "copy_reg._reconstructor": _Function(_make_from_base),
        "torch.Size": _Function(lambda items=(): tuple(items)),
        "torch.device": _Function(lambda *args: ":".join(str(x) for x in args)),
        "torch._utils._rebuild_tensor": _Function(_make_tensor),
        "torch._utils._rebuild_tensor_v2": _Function(_make_tensor),
        "torch._utils._rebuild_tensor_v3": _Function(_make_typed_tensor),
        "torch._utils._rebuild_parameter": _Function(lambda data, *args: data),
        "torch._utils._rebuild_parameter_with_state": _Function(lambda data, *args: data),
    }
    for package in ("numpy.core", "numpy._core"):
        table[f"{package}.multiarray._reconstruct"] = _Function(lambda *args: _Array())
        table[f"{package}.multiarray.scalar"] = _Function(_make_scalar)
        table[f"{package}.numeric._frombuffer"] = _Function(_make_buffer_array)
    for module in ("builtins", "__builtin__"):
        table[f"{module}.set"] = _Function(lambda items=(): set(items))
        table[f"{module}.frozenset"] = _Function(lambda items=(): frozenset(items))
        table[f"{module}.list"] = _Function(lambda items=(): list(items))
        table[f"{module}.dict"] = _Dict
        table[f"{module}.tuple"] = _Function(lambda items=(): tuple(items))
        table[f"{module}.complex"] = _Function(lambda real=0.0, imag=0.0: complex(float(real), float(imag)))
        table[f"{module}.bytearray"] = _Function(
            lambda data=b"", encoding="latin1": (
                _make_bytes(data, encoding) if isinstance(data, str) else _only_bytes(data)
            )
        )
    for name, dtype in STORAGE_DTYPES.items():
        table[f"torch.{name}"] = table[f"torch.storage.{name}"] = dtype
    table |= {str(dtype): dtype for dtype in set(STORAGE_DTYPES.values())}
    return table


_PythonUnpickler: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Unpickler(_PythonUnpickler):
    """The unpickler in Python (the compiled one cannot be told what BUILD and REDUCE may touch)."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_PythonUnpickler.dispatch)

    def __init__(self, file: IO[bytes], storage: Callable[[Any], Tensor] | None = None) -> None:
        super().__init__(file, encoding="latin1")
        self.table = _global_table()
        self.storage = storage
        self.bags: dict[str, type[Bag]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Our own stand-in for a name, or a bag; nothing is ever imported."""
        full = f"{module}.{name}"
        if full in self.table:
            return self.table[full]
        if full not in self.bags:
            self.bags[full] = type(name.rpartition(".")[2], (Bag,), {"__module__": module, "__slots__": ()})
        return self.bags[full]

    def get_extension(self, code: int) -> None:
        raise _RefusedError("a registered extension")

    def persistent_load(self, key: Any) -> Any:
        if self.storage is None or not isinstance(key, tuple) or not key or key[0] != "storage":
            raise _RefusedError("an object kept outside the file")
        return self.storage(key)

    def _check_callable(self, function: Any) -> None:
        ours = isinstance(function, _Function) or function in (_Array, _Dict)
        if not ours and not (isinstance(function, type) and issubclass(function, Bag)):
            raise _RefusedError(f"a call of {function!r}")

    def load_reduce(self) -> None:
        """Call, if it is ours, what lies under the arguments."""
        self._check_callable(self.stack[-2])
        super().load_reduce()

    def load_newobj(self) -> None:
        """Make an object of a class, if it is ours."""
        self._as_call(self.stack.pop(), {})

    def load_newobj_ex(self) -> None:
        """Make an object of a class with named arguments, if it is ours."""
        kwargs = self.stack.pop()
        self._as_call(self.stack.pop(), kwargs)

    def _as_call(self, args: Any, kwargs: Any) -> None:
        function = self.stack.pop()
        self._check_callable(function)
        self.append(function(*args, **kwargs) if issubclass(type(function), type) else function(*args))

    def _instantiate(self, klass: Any, args: Any) -> None:
        self._check_callable(klass)
        self.append(klass(*args))

    def load_build(self) -> None:
        """Give an object its state, if it is one that keeps state as data."""
        if type(self.stack[-2]) not in (_Array, _DType, _Dict) and not isinstance(self.stack[-2], Bag):
            raise _RefusedError(f"a state for {type(self.stack[-2]).__name__}")
        state = self.stack.pop()
        self.stack[-1].__setstate__(state)

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
    dispatch[pickle.BUILD[0]] = load_build


def _read_zip(file: IO[bytes]) -> ForeignFile:
    with zipfile.ZipFile(file) as archive:
        names = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError("a zip file that is no torch checkpoint")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}constants.pkl" in names:
            raise _RefusedError("a TorchScript archive, which is a program")
        if any(info.compress_type != zipfile.ZIP_STORED for info in names.values()):
            raise _RefusedError("a compressed archive, which torch never writes")
        if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
            raise _RefusedError("a checkpoint of a big-endian machine")
        known: dict[str, Tensor] = {}

        def storage(key: Any) -> Tensor:
            _, dtype, name, _, count = key[:5]
            if name not in known:
                known[name] = _storage_tensor(archive.read(f"{root}data/{name}"), dtype, int(count))
            return known[name]

        unpickler = _Unpickler(io.BytesIO(archive.read(pickles[0])), storage)
        return ForeignFile(unpickler.load(), tuple(unpickler.bags))


def _read_legacy_or_plain(file: IO[bytes]) -> ForeignFile:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    first = _Unpickler(file)
    content = first.load()
    if type(content) is not int or content != LEGACY_MAGIC:
        return ForeignFile(content, tuple(first.bags))
    _Unpickler(file).load()  # protocol version
    system = _Unpickler(file).load()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise _RefusedError("a checkpoint of a big-endian machine")
    # The numbers stand after the pickle, which says how many there are: storages are made first and filled afterwards,
    # the tensors are views of them.
    known: dict[str, Tensor] = {}

    def storage(key: Any) -> Tensor:
        _, dtype, name, _, count = key[:5]
        if not isinstance(dtype, torch.dtype) or not 0 <= int(count) * dtype.itemsize <= size:
            raise _RefusedError("a storage larger than the file")
        if len(key) > 5 and key[5] is not None:
            raise _RefusedError("a storage that is part of another (saved by torch below 0.4)")
        return known.setdefault(str(name), torch.zeros(int(count), dtype=dtype))

    unpickler = _Unpickler(file, storage)
    content = unpickler.load()
    for name in _Unpickler(file).load():
        target = known[str(name)]
        count = int.from_bytes(file.read(8), "little")
        if count != target.numel():
            raise _RefusedError("a storage of another size than stated")
        target.copy_(_storage_tensor(file.read(count * target.itemsize), target.dtype, count))
    return ForeignFile(content, tuple(unpickler.bags))


def _storage_tensor(data: bytes, dtype: Any, count: int) -> Tensor:
    if not isinstance(dtype, torch.dtype):
        raise _RefusedError("a storage of unknown type")
    if dtype != torch.uint8 and len(data) != count * dtype.itemsize:
        raise _RefusedError("a storage of another size than stated")
    return torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype)
