"""Write what TensorFlow makes of a few pictures: the values that tests/data hold data/resize.py and data/augment.py to.

    python3 -m venv build/tensorflow && build/tensorflow/bin/pip install tensorflow-cpu==2.21.0     # about 1.5 GB
    build/tensorflow/bin/python tools/tf_golden.py tests/data/golden/tensorflow.npz

Ideomotor is not imported here, and TensorFlow nowhere else. The pictures are made from seeds, by the tests once more, so the file holds
results only, and of large ones every fourth row and column. The calls are those of OpenVLA: the frame transform (Lanczos-3, antialiased,
rounded, clipped), the evaluation of models trained with augmentation (JPEG, Lanczos-3, centre crop of area 0.9), and the image operations
of its augmentation with their random numbers given.
"""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

NOISE = {"noise_256": (256, 256), "noise_480x640": (480, 640), "noise_96": (96, 96), "noise_180x320": (180, 320)}
SIZES = {56: 1, 224: 4}  # output size [px]: every how manieth row and column is kept
CROP_AREA = 0.9  # OpenVLA's evaluation
SIDE = np.sqrt(np.float32(CROP_AREA))

BRIGHTNESS = (-0.2, 0.07)  # added to values in [0, 1]
CONTRAST = (0.8, 1.2)
SATURATION = (0.8, 1.2)
HUE = (-0.05, 0.03)  # [turns]
OFFSETS = (0.0, 0.02, 0.05)  # [fraction of the picture] from the top and from the left


def pictures() -> dict[str, np.ndarray]:
    """Return uint8 pictures by name: noise, which hides nothing, and surfaces with edges, greys and pure colours."""
    made = {
        name: np.random.default_rng(number).integers(0, 256, (*shape, 3), dtype=np.uint8)
        for number, (name, shape) in enumerate(NOISE.items())
    }
    made["surfaces_256"] = surfaces(256, 256)
    made["surfaces_97x131"] = surfaces(97, 131)  # odd: JPEG's halved colours have a rest
    made["surfaces_48"] = surfaces(48, 48)
    made["noise_48"] = np.random.default_rng(len(NOISE)).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    return made


def surfaces(height: int, width: int) -> np.ndarray:
    """Return a smooth gradient with patches of eleven even colours, black, white, grey and the six pure ones among them."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([255 * x // width, 255 * y // height, 255 * (x + y) // (height + width)], -1).astype(np.uint8)
    colours = [(0, 0, 0), (255, 255, 255), (128, 128, 128), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)]
    colours += [(0, 255, 255), (255, 0, 255), (200, 120, 40), (40, 41, 42)]
    for number, colour in enumerate(colours):
        top, left = (number // 4) * height // 3, (number % 4) * width // 4
        picture[top + height // 16 : top + height // 4, left + width // 16 : left + width // 6] = colour
    return picture


def checksum(picture: np.ndarray) -> str:
    """Return the SHA-256 of a picture's values: a test says so when numpy makes other pictures from the same seed."""
    return hashlib.sha256(picture.tobytes()).hexdigest()


# --------------------------------------------------------------------------- in TensorFlow's environment


def lanczos3(tf: Any, image: Any, size: int) -> Any:
    """Return the picture at `size` as OpenVLA's data pipeline makes it."""
    resized = tf.image.resize(image, (size, size), method="lanczos3", antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def jpeg(tf: Any, image: Any) -> Any:
    """Encode with TensorFlow's defaults and decode."""
    return tf.io.decode_image(tf.io.encode_jpeg(image), expand_animations=False, dtype=tf.uint8)


def crop(tf: Any, image: Any, top: Any, left: Any) -> Any:
    """Return the square of side sqrt(0.9) at an offset, at the picture's own size, in floats."""
    corners = tf.constant([[top, left, top + SIDE, left + SIDE]], tf.float32)
    return tf.image.crop_and_resize(image[None], corners, [0], image.shape[:2])[0]


def centre_crop(tf: Any, image: Any) -> Any:
    """Crop uint8 as the evaluation does: through floats in [0, 1] and back."""
    offset = (1 - SIDE) / 2
    cropped = crop(tf, tf.image.convert_image_dtype(image, tf.float32), offset, offset)
    return levels(tf, tf.clip_by_value(cropped, 0, 1))


def levels(tf: Any, image: Any) -> Any:
    """Return floats as uint8."""
    return tf.image.convert_image_dtype(image, tf.uint8, saturate=True)


def augmented(tf: Any, image: Any) -> dict[str, Any]:
    """Return each operation alone, by name and parameter, as floats in [0, 1]; and a chain of all five as uint8."""
    unit = tf.image.convert_image_dtype(image, tf.float32)
    results = {f"crop.{offset}": crop(tf, unit, offset, offset) for offset in OFFSETS}
    results |= {f"brightness.{x}": tf.image.adjust_brightness(unit, x) for x in BRIGHTNESS}
    results |= {f"contrast.{x}": tf.image.adjust_contrast(unit, x) for x in CONTRAST}
    results |= {f"saturation.{x}": tf.image.adjust_saturation(unit, x) for x in SATURATION}
    results |= {f"hue.{x}": tf.image.adjust_hue(unit, x) for x in HUE}
    results = {name: tf.clip_by_value(value, 0, 1) for name, value in results.items()}
    for number in (0, 1):
        value = tf.clip_by_value(crop(tf, unit, OFFSETS[number + 1], OFFSETS[number + 1]), 0, 1)
        value = tf.clip_by_value(tf.image.adjust_brightness(value, BRIGHTNESS[number]), 0, 1)
        value = tf.clip_by_value(tf.image.adjust_contrast(value, CONTRAST[number]), 0, 1)
        value = tf.clip_by_value(tf.image.adjust_saturation(value, SATURATION[number]), 0, 1)
        value = tf.clip_by_value(tf.image.adjust_hue(value, HUE[number]), 0, 1)
        results[f"chain.{number}"] = levels(tf, value)
    return results


def golden(tf: Any) -> dict[str, np.ndarray]:
    """Return every result by `picture.operation.parameter`."""
    made = pictures()
    results: dict[str, Any] = {}
    for name in (*NOISE, "surfaces_256"):
        for size, step in SIZES.items():
            results[f"{name}.lanczos3.{size}"] = lanczos3(tf, made[name], size)[::step, ::step]
    for name in ("noise_48", "noise_96", "surfaces_256", "surfaces_97x131"):
        results[f"{name}.jpeg"] = jpeg(tf, made[name])[:: 2 if "256" in name else 1]
    for name in ("noise_48", "noise_96", "surfaces_97x131"):
        results[f"{name}.centre_crop"] = centre_crop(tf, made[name])
    for name in ("noise_256", "noise_180x320", "surfaces_256"):
        results[f"{name}.evaluation"] = centre_crop(tf, lanczos3(tf, jpeg(tf, made[name]), 224))[::4, ::4]
    for name in ("noise_48", "surfaces_48"):
        for operation, value in augmented(tf, made[name]).items():
            results[f"{name}.{operation}"] = value if operation.startswith("chain") else value[::3, ::3]
    sums = {f"{name}.sha256": np.array(checksum(picture)) for name, picture in made.items()}
    return sums | {name: np.asarray(value) for name, value in results.items()}


if __name__ == "__main__":
    import tensorflow as tf

    out = Path(sys.argv[1])
    arrays = golden(tf)
    np.savez_compressed(out, **arrays)
    print(f"{out}: {len(arrays)} arrays from TensorFlow {tf.__version__}, {out.stat().st_size} bytes")
