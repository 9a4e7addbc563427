"""Draw the pictures of README and docs: the world as people like to see it, the shipped policy at work, and those of the shield."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from shield_pictures import draw as draw_shield

from ideomotor.cli.names import arm_named, tasks_named
from ideomotor.policy.local import LocalPolicy, load_policy
from ideomotor.sim.env import EnvConfig, TabletopEnv
from ideomotor.sim.render import Ray, open_renderer

SEEDS = (420_001, 420_002, 420_005, 420_004)  # of the animation; neither trained on nor kept for measurements
LARGE = Ray(size=256, antialias=True, shadows=True)
FRAME_MS = 100  # the world's own speed


def picture(env: TabletopEnv, caption: str) -> Image.Image:
    """Return both cameras side by side, the wrist at the policy's own resolution, with a caption below."""
    large = open_renderer(LARGE, env.world.model)
    try:
        front = Image.fromarray(large.render(env.world.data, "front"))
    finally:
        large.close()
    wrist = Image.fromarray(env.image("wrist")).resize((128, 128), Image.Resampling.NEAREST)
    small = Image.fromarray(env.image("front")).resize((128, 128), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (256 + 128, 256 + 20), "white")
    canvas.paste(front, (0, 0))
    canvas.paste(small, (256, 0))
    canvas.paste(wrist, (256, 128))
    ImageDraw.Draw(canvas).text((6, 260), caption, fill="black")
    return canvas


def episode(env: TabletopEnv, policy: LocalPolicy, seed: int, task: str) -> list[Image.Image]:
    """Return the frames of one episode of the policy."""
    env.reset(seed=seed, options={"task": task})
    policy.reset(env.instruction)
    frames = [picture(env, env.instruction)]
    executed = policy.pipeline.config.chunk.executed
    while not env.done:
        for action in policy.act(env.observation()).actions[:executed]:
            env.advance(np.asarray(action)[None])
            frames.append(picture(env, env.instruction))
            if env.done:
                break
    print(f"seed {seed}, {task}: {'success' if env.success else 'failure'} after {env.steps} steps")
    return frames


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    draw_shield(out)
    world = TabletopEnv(EnvConfig(arm_named("panda"), tasks_named("pick,place_on")))
    world.reset(seed=SEEDS[1], options={"task": "place_on"})
    picture(world, world.instruction).resize((768, 552), Image.Resampling.LANCZOS).save(out / "world.png")
    shipped = load_policy("shipped")
    frames: list[Image.Image] = []
    for number, seed in enumerate(SEEDS):
        frames += episode(world, shipped, seed, ("place_on", "pick")[number % 2])
    frames = [frame.quantize(200, dither=Image.Dither.NONE) for frame in frames]
    frames[0].save(
        out / "policy.gif", save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, optimize=True
    )
    print(f"{out}: world.png, policy.gif ({(out / 'policy.gif').stat().st_size / 1e6:.1f} MB)")
