"""Writes small RLDS datasets for tests, by the words of the format and none of the package's code."""

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def crc32c(data):
    """Castagnoli's checksum, bit by bit: reflected polynomial 0x82F63B78, through a table of 256."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def table_entry(value):
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


TABLE = [table_entry(value) for value in range(256)]


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(payload):
    length = struct.pack("<Q", len(payload))
    return length + struct.pack("<I", masked(length)) + payload + struct.pack("<I", masked(payload))


def varint(value):
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def delimited(number, payload):
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def encode(features):
    """Return the `tf.train.Example` of lists of bytes, of ints, or of floats (float32 arrays)."""
    entries = b""
    for key, values in features.items():
        if isinstance(values, np.ndarray) and values.dtype == np.float32:
            feature = delimited(2, delimited(1, values.tobytes()))
        elif len(values) and isinstance(values[0], bytes):
            feature = delimited(1, b"".join(delimited(1, value) for value in values))
        else:
            feature = delimited(3, delimited(1, b"".join(varint(int(value)) for value in values)))
        entries += delimited(1, delimited(1, key.encode()) + delimited(2, feature))
    return delimited(1, entries)


def tensor(dtype, *shape):
    return {
        "tensor": {
            "shape": {"dimensions": [str(n) for n in shape]} if shape else {},
            "dtype": dtype,
            "encoding": "none",
        }
    }


FEATURES = {
    "featuresDict": {
        "features": {
            "steps": {
                "sequence": {
                    "length": "-1",
                    "feature": {
                        "featuresDict": {
                            "features": {
                                "action": tensor("float32", 3),
                                "is_first": tensor("bool"),
                                "language_instruction": {"text": {}},
                                "observation": {
                                    "featuresDict": {
                                        "features": {
                                            "state": tensor("float64", 2),
                                            "front": {
                                                "image": {"shape": {"dimensions": ["8", "10", "3"]}, "dtype": "uint8"}
                                            },
                                        }
                                    }
                                },
                            }
                        }
                    },
                }
            }
        }
    }
}


def picture(episode, frame):
    """A picture that tells episode and frame by its colour."""
    image = np.zeros((8, 10, 3), np.uint8)
    image[..., 0], image[..., 1], image[:, 5:, 2] = 10 * episode, 5 * frame, 255
    return image


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def episode_record(episode, length) -> dict[str, Any]:
    """Action (episode, frame, 0.5), state (frame, -episode)."""
    frames = np.arange(length)
    rows = [np.full(length, episode), frames, np.full(length, 0.5)]
    return {
        "steps/action": np.stack(rows, 1).astype(np.float32).reshape(-1),
        "steps/is_first": [int(f == 0) for f in frames],
        "steps/language_instruction": [f"do {episode}".encode()] * length,
        "steps/observation/state": np.stack([frames, np.full(length, -episode)], 1).astype(np.float32).reshape(-1),
        "steps/observation/front": [png(picture(episode, int(f))) for f in frames],
    }


def write(folder: Path, records, split="train"):
    """Write one shard and both JSON files; return the shard."""
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / f"toy-{split}.tfrecord-00000-of-00001"
    shard.write_bytes(b"".join(framed(encode(record)) for record in records))
    info = {"name": "toy", "version": "1.0.0", "splits": [{"name": split, "shardLengths": [str(len(records))]}]}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "features.json").write_text(json.dumps(FEATURES))
    return shard
