"""What HDF5 files of strangers may not do: point elsewhere, load code, claim more than they hold."""

import multiprocessing
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import hdf5_writer as writer

from ideomotor.core.errors import UserError
from ideomotor.data.dataset import Reading
from ideomotor.data.hdf5.files import array, looks_like_hdf5, member, open_file, open_hdf5, read_all, text_attribute
from ideomotor.data.hdf5.robomimic import RobomimicDataset


@pytest.fixture
def secret(tmp_path):
    """A file outside of the dataset that no dataset may reach."""
    path = tmp_path / "secret.hdf5"
    with h5py.File(path, "w") as file:
        file["x"] = np.full((3, 7), 42.0)
    (tmp_path / "raw").write_bytes(np.full((3, 7), 42.0).tobytes())
    return path


def external_link(file, secret):
    file["data/demo_0/actions"] = h5py.ExternalLink(str(secret), "x")


def soft_link(file, secret):
    file["hidden"] = h5py.ExternalLink(str(secret), "/")
    file["data/demo_0/actions"] = h5py.SoftLink("/hidden/x")


def link_to_the_group(file, secret):
    del file["data"]
    file["elsewhere/demo_0/actions"] = np.zeros((3, 7))
    file["data"] = h5py.SoftLink("/elsewhere")


def virtual(file, secret):
    layout = h5py.VirtualLayout((3, 7), "f8")
    layout[:] = h5py.VirtualSource(str(secret), "x", (3, 7))
    file.create_virtual_dataset("data/demo_0/actions", layout)


def external_storage(file, secret):
    file.create_dataset("data/demo_0/actions", (3, 7), "f8", external=[(str(secret.parent / "raw"), 0, 168)])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (external_link, "'actions' is a ExternalLink, which is not followed"),
        (soft_link, "'actions' is a SoftLink, which is not followed"),
        (link_to_the_group, "'data' is a SoftLink, which is not followed"),
        (virtual, "stored in other files, which are not followed"),
        (external_storage, "stored in other files, which are not followed"),
    ],
)
def test_nothing_outside_of_the_file_is_read(tmp_path, secret, how, message):
    (tmp_path / "d").mkdir()
    path = writer.robomimic(tmp_path / "d" / "a.hdf5", {0: 3})
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/actions"]
        how(file, secret)
    with pytest.raises(UserError, match=message):
        open_hdf5(path, Reading())


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (h5py.string_dtype(), ["pickle"] * 3),
        (np.dtype("V16"), np.zeros(3, "V16")),
        (np.dtype([("a", "f4"), ("b", "i4")]), np.zeros(3, [("a", "f4"), ("b", "i4")])),
        (h5py.ref_dtype, None),
        (np.dtype("c16"), np.zeros(3, "c16")),
        (h5py.vlen_dtype(np.float32), None),
    ],
)
def test_whatever_is_no_number_is_refused(tmp_path, dtype, value):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (3,), dtype=dtype, data=value)
    with (
        open_file(tmp_path / "a.h5") as file,
        pytest.raises(UserError, match="a.h5/x holds .*; numbers of at most 64 bits"),
    ):
        array(member(file, "x"), tmp_path / "a.h5/x")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (1 << 40, 7), "chunks": (64, 7)}, "claims 61572651155456 bytes, of which 0 are stored"),
        ({"shape": (1 << 20, 1 << 10), "chunks": (1 << 20, 1 << 6)}, "has chunks of"),
        ({"shape": (8, 7), "scaleoffset": 2}, "compressed by the filter 6; .*h5repack"),
        ({"shape": ()}, "single value"),
    ],
)
def test_claims_that_no_honest_file_makes_are_refused(tmp_path, options, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", dtype="f8", **options)
    with open_file(tmp_path / "a.h5") as file, pytest.raises(UserError, match=message):
        array(member(file, "x"), "x")


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"fletcher32": True}]
)
def test_the_compressions_of_the_field_are_read(tmp_path, options):
    values = np.arange(700.0).reshape(100, 7)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=values, **options)
        file.create_dataset("zeros", data=np.zeros((1 << 20, 8), np.uint8), compression="gzip")
    with open_file(tmp_path / "a.h5") as file:
        assert (read_all(array(member(file, "x"), "x"), "x") == values).all()
        assert read_all(array(member(file, "zeros"), "zeros"), "zeros").shape == (1 << 20, 8)  # honest, and small


def test_attributes_that_are_no_text_are_none(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["text"], file.attrs["bytes"], file.attrs["number"] = "a", np.bytes_(b"b"), 1
        file.attrs.create("many", ["a", "b"], dtype=h5py.string_dtype())
    with open_file(tmp_path / "a.h5") as file:
        found = [text_attribute(file, name, "a") for name in ("text", "bytes", "number", "many", "none")]
    assert found == ["a", "b", None, None, None]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as HDF5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "cannot be read as HDF5"),
        (b"text", "cannot be"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path, content, message):
    (tmp_path / "a.hdf5").write_bytes(content)
    with pytest.raises(UserError, match=message):
        open_file(tmp_path / "a.hdf5")


def test_a_folder_of_other_hdf5_files_is_refused_with_the_three_layouts(tmp_path, secret):
    assert looks_like_hdf5(tmp_path)
    assert looks_like_hdf5(secret)
    with pytest.raises(UserError, match=r"secret.hdf5 holds x, .*robomimic.*LIBERO.*ALOHA"):
        open_hdf5(tmp_path, Reading())
    (tmp_path / "empty").mkdir()
    assert not looks_like_hdf5(tmp_path / "empty")
    with pytest.raises(UserError, match="holds no HDF5 files"):
        open_hdf5(tmp_path / "empty", Reading())


@pytest.mark.parametrize("method", ["fork", "forkserver"])
@pytest.mark.filterwarnings("ignore:This process")  # fork beside threads, as a user may do it
def test_other_processes_open_the_file_themselves(tmp_path, method):
    dataset = RobomimicDataset(writer.robomimic(tmp_path / "a.hdf5", {3: 2, 7: 2}))
    assert dataset.image(1, 0, "agentview")[0, 0, 0] == 7
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=writer.send_corner, args=(dataset, 1, theirs))
    process.start()
    assert ours.poll(30)
    assert ours.recv() == 7
    process.join()


def test_a_file_that_was_cut_is_refused_or_read_but_never_crashes(tmp_path):
    content = writer.robomimic(tmp_path / "a.hdf5", {0: 3}).read_bytes()
    (tmp_path / "b").mkdir()
    for size in range(0, len(content), 997):
        (tmp_path / "b" / "a.hdf5").write_bytes(content[:size])
        with pytest.raises(UserError, match="cannot be read as HDF5"):
            open_hdf5(tmp_path / "b" / "a.hdf5", Reading())
