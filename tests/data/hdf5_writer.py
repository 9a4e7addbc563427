"""Writes small HDF5 datasets as robomimic, LIBERO and ALOHA lay them out, with h5py and none of the package's code."""

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image

ENV_ARGS: dict[str, Any] = {
    "env_name": "Lift",
    "env_version": "1.4.1",
    "type": 1,
    "env_kwargs": {
        "robots": ["Panda"],
        "control_freq": 20,
        "reward_shaping": False,
        "controller_configs": {"type": "OSC_POSE", "control_delta": True, "input_max": 1, "input_min": -1},
    },
}


def opened(path: Path, mode: str = "r+") -> Any:
    """Open a file; h5py ships no types."""
    return h5py.File(path, mode)


def send_corner(dataset, episode, connection):
    """In another process: send the number that the corner of the first image holds."""
    connection.send(int(dataset.image(episode, 0, "agentview")[0, 0, 0]))


def picture(height, width, episode, frame):
    """Red above, blue below, the corner at the upper left tells episode and frame."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 0] = 200
    image[height // 2 :, :, 2] = 200
    image[0, 0] = (episode, frame, 7)
    return image


def robomimic(path: Path, lengths, masks=None, env_args=ENV_ARGS, images=True) -> Path:
    """Demo i has the actions (i, frame, 0, 0, 0, 0, 1); `lengths` by demo number."""
    with opened(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths.values())
        if env_args is not None:
            data.attrs["env_args"] = json.dumps(env_args)
        for number, length in lengths.items():
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo.attrs["model_file"] = "<mujoco/>"
            actions = np.zeros((length, 7))
            actions[:, 0], actions[:, 1], actions[:, 6] = number, np.arange(length), 1
            demo["actions"] = actions
            demo["states"] = np.zeros((length, 32))
            demo["rewards"] = np.arange(length) == length - 1
            demo["rewards"][...] = demo["rewards"][()]
            demo["dones"] = np.zeros(length, np.int64)
            for group, shift in (("obs", 0), ("next_obs", 1)):
                demo[f"{group}/robot0_eef_pos"] = np.full((length, 3), 0.25 + shift)
                demo[f"{group}/robot0_eef_quat"] = np.tile([0.0, 0.0, 0.0, 1.0], (length, 1))
                demo[f"{group}/robot0_gripper_qpos"] = np.tile([0.04, -0.04], (length, 1))
                demo[f"{group}/object"] = np.zeros((length, 10))
                if images:
                    frames = np.stack([picture(8, 10, number, f + shift) for f in range(length)])
                    demo.create_dataset(f"{group}/agentview_image", data=frames, compression="gzip")
                    demo[f"{group}/agentview_depth"] = np.zeros((length, 8, 10, 1), np.float32)
        for name, demos in (masks or {}).items():
            file[f"mask/{name}"] = np.array([demo.encode() for demo in demos])
    return path


def libero_states(length):
    """MuJoCo's state before action t: time, seven joints that move by 0.1 a step, two fingers, and more."""
    states = np.zeros((length, 20))
    states[:, 0] = np.arange(length) / 20
    states[:, 1:8] = 0.1 * np.arange(length)[:, None] + np.arange(7)
    return states


def libero(path: Path, lengths, released, size=8) -> Path:
    """One task. Released: observations after the action; else before it, without attributes."""
    with opened(path, "w") as file:
        data = file.create_group("data")
        if released:
            data.attrs["env_name"] = "Libero_Kitchen_Tabletop_Manipulation"
            data.attrs["problem_info"] = json.dumps({"language_instruction": "open the drawer"})
            data.attrs["macros_image_convention"] = "opengl"
            data.attrs["bddl_file_name"] = "a.bddl"
            data.attrs["bddl_file_content"] = "(define)"
            data.attrs["env_args"] = json.dumps(ENV_ARGS)
            data.attrs["num_demos"], data.attrs["total"] = len(lengths), sum(lengths.values())
        for number, length in lengths.items():
            demo = data.create_group(f"demo_{number}")
            actions = np.zeros((length, 7))
            actions[:, 0], actions[:, 6] = np.arange(length) / 10, -1
            demo["actions"] = actions
            demo["states"] = libero_states(length)
            observed = libero_states(length + 1)[1 if released else 0 :][:length]
            demo["obs/joint_states"] = observed[:, 1:8]
            demo["obs/gripper_states"] = np.tile([0.04, -0.04], (length, 1))
            demo["obs/ee_states"] = np.tile([0.1, 0.2, 0.3, 3.0, 0.0, 0.5], (length, 1))
            demo["obs/ee_pos"] = np.tile([0.1, 0.2, 0.3], (length, 1))
            demo["obs/ee_ori"] = np.tile([3.0, 0.0, 0.5], (length, 1))
            demo["robot_states"] = np.zeros((length, 9))
            demo["rewards"] = (np.arange(length) == length - 1).astype(np.uint8)
            demo["dones"] = (np.arange(length) == length - 1).astype(np.uint8)
            for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                demo[f"obs/{camera}"] = np.stack([picture(size, size, number, f) for f in range(length)])
            demo["obs/agentview_depth"] = np.zeros((length, size, size, 1), np.float32)
            if released:
                demo.attrs["num_samples"] = length
                demo.attrs["model_file"] = "<mujoco/>"
                demo.attrs["init_state"] = demo["states"][0]
    return path


def jpeg(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def aloha(
    path: Path, length, images="raw", width=14, offset=0, cameras=("cam_high", "cam_left_wrist"), bgr=False
) -> Path:
    """`images`: "raw", "padded" JPEG, "vlen" JPEG buffers. Action (frame + offset, 0, ...), qpos its negative."""
    with opened(path, "w") as file:
        file.attrs["sim"] = False
        file.attrs["compress"] = images != "raw"
        action = np.zeros((length, width), np.float32)
        action[:, 0] = np.arange(length) + offset
        file["action"] = action
        file["observations/qpos"] = -action
        file["observations/qvel"] = 0 * action
        file["observations/effort"] = 0 * action
        file["base_action"] = np.zeros((length, 2), np.float32)
        lengths = np.zeros((len(cameras), length), np.float32)
        for number, camera in enumerate(cameras):
            frames = [picture(16, 24, number, f)[..., :: -1 if bgr else 1] for f in range(length)]
            key = f"observations/images/{camera}"
            if images == "raw":
                file.create_dataset(key, data=np.stack(frames), chunks=(1, 16, 24, 3))
                continue
            files = [jpeg(np.ascontiguousarray(frame)) for frame in frames]
            lengths[number] = [len(content) for content in files]
            if images == "padded":
                longest = max(map(len, files)) + 5
                file[key] = np.stack([np.frombuffer(content.ljust(longest, b"\0"), np.uint8) for content in files])
            else:
                stored = file.create_dataset(key, (length,), dtype=h5py.vlen_dtype(np.uint8))
                for frame, content in enumerate(files):
                    stored[frame] = np.frombuffer(content, np.uint8)
        if images == "padded":
            file["compress_len"] = lengths[::-1]  # in the recorder's order of cameras, not that of the keys
        file["observations/images_depth/cam_high"] = np.zeros((length, 4), np.float32)
    return path
