import socket
import threading

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ideomotor.core.types import Chunk, Observation
from ideomotor.policy import wire

NUMBERS = ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", ">f4", ">i8"]


def packed(value) -> bytes:
    message = msgpack.packb(value)
    assert isinstance(message, bytes)  # its stub also allows None
    return message


def array_map(**changes):
    fields = {"__ndarray__": True, "dtype": "<f4", "shape": [1], "data": np.float32(1.0).tobytes(), **changes}
    return packed({"a": fields})


def test_bytes_of_a_message_are_those_of_the_msgpack_specification():
    # fixmap 1, fixstr "s", fixmap 4, keys in order, true, fixstr "<f4", fixarray [1], bin8 of 4 bytes: 1.0f
    expected = b"\x81\xa1s\x84\xab__ndarray__\xc3\xa5dtype\xa3<f4\xa5shape\x91\x01\xa4data\xc4\x04\x00\x00\x80\x3f"
    assert wire.encode({"s": np.array([1.0], np.float32)}) == expected


@given(
    st.sampled_from(NUMBERS).flatmap(
        lambda kind: npst.arrays(
            kind,
            npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
            elements={"allow_nan": False, "allow_infinity": False} if "f" in kind else None,
        )
    )
)
def test_decoding_undoes_encoding_of_arrays(array):
    back = wire.decode(wire.encode({"a": array}))["a"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype.newbyteorder("=")
    assert back.flags.writeable


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(VALUES)
def test_decoding_undoes_encoding_of_values(value):
    assert wire.decode(wire.encode(value)) == value


@given(st.binary(max_size=64))
def test_random_bytes_are_a_value_or_a_wire_error(data):
    try:
        wire.decode(data)
    except wire.WireError:
        return


@given(st.data())
def test_changed_bytes_are_a_value_or_a_wire_error(data):
    message = bytearray(wire.encode({"a": np.arange(4, dtype=np.int16), "b": ["text", 1.5]}))
    position = data.draw(st.integers(0, len(message) - 1))
    message[position] = data.draw(st.integers(0, 255))
    try:
        wire.decode(bytes(message))
    except wire.WireError:
        return


@pytest.mark.parametrize(
    "kind",
    [
        "|O",
        "O",
        "|V4",
        "<U1",
        "|S4",
        "<c8",
        "<M8[s]",
        "<m8",
        ">f4",
        "f4",
        "<f16",
        "<f1",
        "[('a','<f4')]",
        "<f4, <f4",
        "__import__('os')",
        "",
        4,
        None,
        ["<f4"],
    ],
)
def test_types_other_than_plain_numbers_are_refused(kind):
    with pytest.raises(wire.WireError, match="has the type"):
        wire.decode(array_map(dtype=kind))


@pytest.mark.parametrize("shape", [[-1], [1.0], [True], "1", [1] * 9, [2**40, 2**40], None])
def test_shapes_that_are_none_are_refused(shape):
    with pytest.raises(wire.WireError, match="shape"):
        wire.decode(array_map(shape=shape))


@pytest.mark.parametrize("data", [b"", b"\0" * 3, b"\0" * 5, "text", None])
def test_bytes_that_do_not_fill_the_shape_exactly_are_refused(data):
    with pytest.raises(wire.WireError, match="needs 4 bytes"):
        wire.decode(array_map(data=data))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x82\xa1a\x01\xa1a\x02", "same key twice"),
        (b"\x81\x01\x02", "no msgpack message"),  # a number as key
        (b"\x81\xc4\x01a\x02", "keys are text"),  # bytes as key
        (b"\x81\xa8__evil__\x01", "unknown marker"),
        (b"\xc7\x01\x05x", "no msgpack message|extension"),
        (b"\xd6\xff\x00\x00\x00\x00", "no form on the wire|no msgpack message"),  # a msgpack timestamp
        (b"\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00", "finite"),
        (b"\x91" * 40 + b"\x01", "deeper than 16"),
        (b"\x91" * 5000 + b"\x01", "no msgpack message"),
        (b"\xdd\xff\xff\xff\xff", "no msgpack message"),  # a list of 4e9 items
        (b"\x01\x02", "no msgpack message"),  # surplus bytes
        (b"", "no msgpack message"),
    ],
)
def test_broken_rules_are_refused(data, message):
    with pytest.raises(wire.WireError, match=message):
        wire.decode(data)


def test_too_many_keys_are_refused():
    with pytest.raises(wire.WireError, match="no msgpack message"):
        wire.decode(packed({str(i): 0 for i in range(5000)}))


@pytest.mark.parametrize(
    "value",
    [
        np.array([None]),
        np.array(["a"]),
        np.array([1j]),
        np.zeros(1, "V4"),
        object(),
        {1: 2},
        {"__ndarray__": 1},
        np.array([np.nan]),
        float("inf"),
        np.zeros((1,) * 9),
    ],
)
def test_values_without_a_form_are_not_sent(value):
    with pytest.raises(wire.WireError):
        wire.encode({"a": value})


def test_stream_carries_messages_of_any_size():
    left, right = socket.socketpair()
    with left, right:
        image = np.random.default_rng(0).integers(0, 256, (600, 800, 3), np.uint8)
        thread = threading.Thread(target=wire.send, args=(left, {"image": image}, 5.0))
        thread.start()
        np.testing.assert_array_equal(wire.receive(right, 5.0)["image"], image)
        thread.join()


def test_stalled_and_closed_streams_are_errors():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"\0\0")  # half of a length
        with pytest.raises(wire.TimedOut):
            wire.receive(right, 0.05)
        left.close()
        with pytest.raises(wire.Closed):
            wire.receive(right, 1.0)


def test_announced_size_is_capped_before_it_is_read():
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(wire.WireError, match="announced"):
            wire.receive(right, 1.0)


def test_observation_and_chunk_come_back_equal():
    observation = Observation(
        1.5, {"front": np.arange(12, dtype=np.uint8).reshape(2, 2, 3)}, np.array([1.0, 2.0], np.float32)
    )
    back = wire.observation_from_wire(wire.decode(wire.encode(wire.observation_to_wire(observation))))
    assert back.time == 1.5
    np.testing.assert_array_equal(back.images["front"], observation.images["front"])
    np.testing.assert_array_equal(back.state, observation.state)
    chunk = Chunk(1.0, 1.1, 0.1, np.ones((4, 7)), "name", 3)
    again = wire.chunk_from_wire(wire.decode(wire.encode(wire.chunk_to_wire(chunk))))
    np.testing.assert_array_equal(again.actions, chunk.actions)
    assert (again.obs_time, again.t0, again.dt, again.policy_id, again.sequence) == (1.0, 1.1, 0.1, "name", 3)


def test_observation_with_a_wrong_image_is_refused():
    value = wire.observation_to_wire(Observation(0.0, {}, np.zeros(2)))
    value["images"] = [["front", np.zeros((2, 2))]]
    with pytest.raises(wire.WireError, match="image front"):
        wire.observation_from_wire(value)
