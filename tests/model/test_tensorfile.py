"""Our reader and writer of safetensors against the library, and against files that lie."""

import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ideomotor.core.errors import UserError
from ideomotor.model import tensorfile
from ideomotor.model.picklefile import open_pickle
from ideomotor.model.tensorfile import (
    Safetensors,
    open_safetensors,
    read_header,
    write_safetensors,
    write_shards,
)
from ideomotor.model.tensors import Cast, InMemory, Joined, Renamed, Tensors

SECONDS, BYTES = 1.0, 4_000_000  # what finding a damage may take


def random_tensors() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 5, generator=generator)
    return {
        "bfloat": x.bfloat16(),
        "half": x[:3].half(),
        "single": x.reshape(2, 3, 5).contiguous(),
        "double": x.double(),
        "flags": x > 0,
        "integers": torch.arange(7),
        "bytes": torch.arange(9, dtype=torch.uint8),
        "eight": x.to(torch.float8_e4m3fn),
        "scalar": torch.tensor(3.5),
        "none": torch.zeros(0, 4),
        "näme with ümlaut": torch.ones(1),
    }


def read_all(tensors: Tensors) -> dict[str, Tensor]:
    found = {name: torch.empty(entry.shape, dtype=entry.dtype) for name, entry in tensors.entries.items()}
    for name, tensor in found.items():
        tensors.read(name, tensor)
    return found


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and bits(left[n]) == bits(right[n])
        for n in left
    )


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


# ------------------------------------------------------------------------------------------------ reading and writing


def test_what_the_library_wrote_is_read_bit_for_bit(tmp_path: Path):
    save_file(random_tensors(), tmp_path / "a.safetensors", {"format": "pt"})
    assert same(read_all(open_safetensors(tmp_path / "a.safetensors")), random_tensors())


def test_our_file_is_byte_for_byte_the_library_s(tmp_path: Path):
    for metadata in (None, {"format": "pt"}):
        save_file(random_tensors(), tmp_path / "theirs.safetensors", metadata)
        write_safetensors(tmp_path / "ours.safetensors", InMemory(random_tensors()), metadata)
        assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert same(load_file(tmp_path / "ours.safetensors"), random_tensors())


def test_shards_of_a_folder_are_read_by_us_and_by_the_library(tmp_path: Path):
    tensors = {f"t{i}": torch.full((100,), float(i)) for i in range(10)}
    write_shards(tmp_path, InMemory(tensors), largest=1000)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert [path.name for path in shards] == [f"model-{i + 1:05}-of-00005.safetensors" for i in range(5)]
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 4000}
    by_library = {name: tensor for path in shards for name, tensor in load_file(path).items()}
    assert same(by_library, tensors)
    assert all(name in load_file(tmp_path / file) for name, file in index["weight_map"].items())
    assert same(read_all(open_safetensors(tmp_path)), tensors)


def test_few_tensors_make_one_file_without_an_index(tmp_path: Path):
    write_shards(tmp_path, InMemory(random_tensors()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(read_all(open_safetensors(tmp_path)), random_tensors())


def test_a_tensor_larger_than_a_shard_has_its_own(tmp_path: Path):
    tensors = {"small": torch.zeros(1), "large": torch.ones(1000), "other": torch.zeros(1)}
    write_shards(tmp_path, InMemory(tensors), largest=100)
    assert [set(load_file(path)) for path in sorted(tmp_path.glob("model-*"))] == [{"small"}, {"large"}, {"other"}]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("place", ["contiguous", "transposed"])
def test_reading_into_another_dtype_or_order_converts_as_torch_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, place: str
):
    monkeypatch.setattr(tensorfile, "CHUNK", 64)  # several buffers for a tensor
    stored = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    save_file({"x": stored}, tmp_path / "a.safetensors")
    into = torch.empty(50, 7, dtype=dtype) if place == "contiguous" else torch.empty(7, 50, dtype=dtype).t()
    open_safetensors(tmp_path / "a.safetensors").read("x", into)
    assert torch.equal(into, stored.to(dtype))


def test_a_parameter_that_learns_can_be_filled(tmp_path: Path):
    write_safetensors(tmp_path / "a.safetensors", InMemory({"x": torch.ones(3)}))
    parameter = torch.nn.Parameter(torch.zeros(3))
    open_safetensors(tmp_path / "a.safetensors").read("x", parameter)
    assert parameter.tolist() == [1, 1, 1]
    InMemory({"x": torch.zeros(3)}).read("x", parameter)
    assert parameter.tolist() == [0, 0, 0]


def test_views_rename_join_and_cast(tmp_path: Path):
    write_safetensors(tmp_path / "a.safetensors", InMemory({"x": torch.ones(2), "n": torch.arange(2)}))
    file = open_safetensors(tmp_path / "a.safetensors")
    other = InMemory({"y": torch.zeros(1), "new": torch.full((2,), 7.0)})
    view = Cast(Joined(Renamed(file, {"new": "x", "n": "n"}), other), torch.bfloat16)
    expected = {"new": torch.full((2,), 7.0), "n": torch.arange(2), "y": torch.zeros(1)}
    assert same(read_all(view), {n: t.bfloat16() if t.is_floating_point() else t for n, t in expected.items()})


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, InMemory({"x": torch.ones(2)}))
    before = path.read_bytes()

    class Failing(InMemory):
        def read(self, name: str, into: Tensor) -> None:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="gone"):
        write_safetensors(path, Failing({"x": torch.zeros(2)}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------ damaged files


def file_of(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape: list[Any], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


LARGE = 2**50
DAMAGES = {
    "empty": (b"", "0 bytes; copy it again"),
    "seven bytes": (b"1234567", "7 bytes"),
    "a huge header": (LARGE.to_bytes(8, "little") + b"{}", "announce a header of 1,125,899,906,842,624 bytes"),
    "a header longer than the file": ((10_000).to_bytes(8, "little") + b"{}", "it is cut off, or another kind"),
    "a header of 100 MB and one byte": ((100_000_001).to_bytes(8, "little"), "at most 100,000,000"),
    "a text": (b"This is not a checkpoint at all.\n" * 10, "announce a header"),
    "a pickle": (pickle.dumps({"x": 1}), r"pickle of PyTorch under another name; give it its own name again \(\.pt\)"),
    "a zip file": (b"PK\x03\x04" + bytes(100), "pickle of PyTorch under another name"),
    "no JSON": (file_of(b"{nonsense"), "header cannot be read"),
    "no UTF-8": (file_of(b"\xff\xfe{}"), "header cannot be read"),
    "a list": (file_of([1, 2]), "no JSON object"),
    "deep nesting": (file_of(b'{"x":' + b"[" * 100_000), "header cannot be read"),
    "a name twice": (file_of(b'{"x":' + json.dumps(tensor([1], 0, 4)).encode() + b',"x":{}}', bytes(4)), "'x' twice"),
    "no offsets": (file_of({"x": {"dtype": "F32", "shape": [1]}}, bytes(4)), "has no dtype, shape and byte range"),
    "a text as shape": (file_of({"x": tensor(["3"], 0, 12)}, bytes(12)), r"has the shape \['3'\]"),
    "a negative side": (file_of({"x": tensor([-1, -1], 0, 4)}, bytes(4)), r"has the shape \[-1, -1\]"),
    "a side of true": (file_of({"x": tensor([True], 0, 4)}, bytes(4)), "has the shape"),
    "too many sides": (file_of({"x": tensor([1] * 1000, 0, 4)}, bytes(4)), "has the shape"),
    "another dtype": (file_of({"x": tensor([1], 0, 4, "Q4_1")}, bytes(4)), "dtype 'Q4_1'; known are BOOL, U8"),
    "more than its bytes": (file_of({"x": tensor([LARGE], 0, 4)}, bytes(4)), "its header gives it 4"),
    "beyond the end": (file_of({"x": tensor([LARGE], 0, 4 * LARGE)}, bytes(4)), "is cut off: its header describes"),
    "a backward range": (file_of({"x": tensor([1], 4, 0)}, bytes(4)), "its header gives it -4"),
    "shared bytes": (file_of({"x": tensor([1], 0, 4), "y": tensor([1], 2, 6)}, bytes(6)), "'y' shares bytes"),
    "a gap": (file_of({"x": tensor([1], 0, 4), "y": tensor([1], 8, 12)}, bytes(12)), "'y' leaves a gap"),
    "bytes left over": (file_of({"x": tensor([1], 0, 4)}, bytes(9)), "bytes that belong to no tensor"),
    "cut off": (file_of({"x": tensor([100], 0, 400)}, bytes(399)), "is cut off.*copy it again"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_refused_at_once_and_nothing_is_allocated_for_it(tmp_path: Path, name: str):
    content, message = DAMAGES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with pytest.raises(UserError, match=message) as error:
            open_safetensors(tmp_path)
        seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(error.value)
    assert seconds < SECONDS
    assert peak < BYTES


@pytest.mark.parametrize("name", sorted(DAMAGES.keys() - {"too many sides"}))  # torch has no such tensors
def test_the_library_refuses_the_same_files(tmp_path: Path, name: str):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGES[name][0])
    with pytest.raises((SafetensorError, OSError)):
        load_file(path)


def test_a_sparse_file_of_a_terabyte_is_judged_by_its_header(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of({"x": tensor([2], 0, 8)}))
    os.truncate(path, 2**40)
    start = time.perf_counter()
    with pytest.raises(UserError, match="belong to no tensor"):
        read_header(path)
    assert time.perf_counter() - start < SECONDS


MEASURE = """
import resource, sys
from pathlib import Path
from ideomotor.core.errors import UserError
from ideomotor.model.tensorfile import open_safetensors
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # [KB]
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_safetensors(path)
    except UserError:
        continue
    raise SystemExit(f"{path} was opened")
print(peak() - before)
"""


def test_no_damaged_file_costs_memory(tmp_path: Path):
    for i, (content, _) in enumerate(DAMAGES.values()):
        (tmp_path / f"{i}.safetensors").write_bytes(content)
    done = subprocess.run([sys.executable, "-c", MEASURE, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < BYTES / 1000


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    write_safetensors(path, InMemory({"x": torch.ones(1000)}))
    tensors = open_safetensors(path)
    os.truncate(path, 2000)
    with pytest.raises(UserError, match="ended while it was read"):
        tensors.read("x", torch.empty(1000))


# ------------------------------------------------------------------------------------------------ damaged folders


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    tensors = {f"t{i}": torch.full((10,), float(i)) for i in range(4)}
    write_shards(tmp_path, InMemory(tensors), largest=80)
    return tmp_path


def shard(folder: Path, i: int) -> Path:
    return folder / f"model-{i:05}-of-00002.safetensors"


def change_index(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    value = json.loads(path.read_text())
    change(value["weight_map"])
    path.write_text(json.dumps(value))


def without_second_shard(names: dict[str, str]) -> None:
    for name in ("t2", "t3"):
        del names[name]


FOLDER_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard gone": (lambda f: shard(f, 2).unlink(), "names model-00002-of-00002.safetensors, which is not there"),
    "a shard cut off": (lambda f: os.truncate(shard(f, 2), 100), "cut off"),
    "a shard not in the index": (
        lambda f: change_index(f, without_second_shard),
        "does not name model-00002-of-00002.safetensors, which is there",
    ),
    "a tensor not in the index": (
        lambda f: change_index(f, lambda n: n.pop("t3")),
        "does not name 1 tensor that the shards hold: t3",
    ),
    "a tensor not in its shard": (
        lambda f: change_index(f, lambda n: n.update(t9=shard(f, 1).name)),
        "names 1 tensor that no shard holds: t9",
    ),
    "a tensor in another shard": (
        lambda f: change_index(f, lambda n: n.update(t3=shard(f, 1).name)),
        "names another shard for 1 tensor: t3",
    ),
    "a tensor in two shards": (
        lambda f: save_file({"t0": torch.zeros(1), "t2": torch.zeros(1), "t3": torch.zeros(1)}, shard(f, 2)),
        "both hold the tensor t0",
    ),
    "a file elsewhere": (
        lambda f: change_index(f, lambda n: n.update(t3="../model-00002-of-00002.safetensors")),
        "no safetensors file of its folder",
    ),
    "an absolute path": (
        lambda f: change_index(f, lambda n: n.update(t3="/etc/passwd")),
        "'/etc/passwd', which is no safetensors file of its folder",
    ),
    "another kind of file": (
        lambda f: change_index(f, lambda n: n.update(t3="config.json")),
        "'config.json', which is no",
    ),
    "an index of junk": (lambda f: (f / "model.safetensors.index.json").write_text("{"), "is not JSON"),
    "an index without a map": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "no weight_map"),
    "no index": (lambda f: (f / "model.safetensors.index.json").unlink(), "2 shards without model.safetensors.index"),
    "both forms": (lambda f: save_file({"x": torch.zeros(1)}, f / "model.safetensors"), "and shards too; remove"),
}


@pytest.mark.parametrize("name", FOLDER_DAMAGES)
def test_a_folder_whose_index_and_shards_disagree_is_refused(sharded: Path, name: str):
    damage, message = FOLDER_DAMAGES[name]
    damage(sharded)
    start = time.perf_counter()
    with pytest.raises(UserError, match=message):
        open_safetensors(sharded)
    assert time.perf_counter() - start < SECONDS


def test_a_folder_without_weights_says_what_is_missing(tmp_path: Path):
    with pytest.raises(UserError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_safetensors(tmp_path)


def test_shards_may_be_links_to_a_store_of_files(sharded: Path):
    """As a hub's cache lays them out."""
    store = sharded / "store"
    store.mkdir()
    shard(sharded, 1).rename(store / "blob")
    shard(sharded, 1).symlink_to(store / "blob")
    assert (
        len(Safetensors([shard(sharded, 1), shard(sharded, 2)]).entries) == len(open_safetensors(sharded).entries) == 4
    )


# ------------------------------------------------------------------------------------------------ pickles


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def test_tensors_of_a_pickle_are_read_under_dotted_names(tmp_path: Path):
    inner = {"w": torch.randn(3, 2).t(), "b": torch.ones(2).bfloat16()}
    torch.save({"model": {"part": inner}, "step": 5, "names": ["a"]}, tmp_path / "a.pt")
    assert same(read_all(open_pickle(tmp_path / "a.pt")), {f"model.part.{name}": inner[name] for name in inner})


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.ones(1), "x": Bomb()}, "a.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds more than tensors \(\w+\.mkdir\).*would run code") as error:
        open_pickle(Path("a.pt"))
    assert "weights_only" not in str(error.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no whole file|no file of torch.save"),
        (b"nothing of the kind", "no file of torch.save"),
        (b"PK\x03\x04" + bytes(50), "cut off"),
    ],
)
def test_what_is_no_pickle_of_torch_is_refused(tmp_path: Path, content: bytes, message: str):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_pickle(tmp_path / "a.pt")


def test_a_pickle_that_was_cut_off_is_refused(tmp_path: Path):
    torch.save({"w": torch.ones(10_000)}, tmp_path / "a.pt")
    os.truncate(tmp_path / "a.pt", 20_000)
    with pytest.raises(UserError, match="cut off; copy it again"):
        open_pickle(tmp_path / "a.pt")


def test_a_pickle_without_tensors_or_a_missing_one_is_refused(tmp_path: Path):
    torch.save({"step": 5}, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no tensors"):
        open_pickle(tmp_path / "a.pt")
    with pytest.raises(UserError, match="is not there"):
        open_pickle(tmp_path / "b.pt")
