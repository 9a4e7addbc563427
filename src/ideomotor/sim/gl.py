"""Pictures through OpenGL without a display: EGL or OSMesa, chosen by name, with the settings that make them fast.

Surprises: shadows and multisampling are 98 % of the cost of a picture in software OpenGL, so both are off; MuJoCo reads them
from the model before the context exists. MuJoCo's own `Renderer` takes its back end from `MUJOCO_GL` at import; here the
name decides, and the variable is not read. One process can use one of the two: PyOpenGL binds to the first.
"""

import functools
import importlib
import weakref
from typing import Any, Literal

import mujoco
import numpy as np
from jaxtyping import UInt8

from ideomotor.core.errors import UserError, unknown

GL_VERSION = 1  # raise it whenever our settings change pixels

BackEnd = Literal["egl", "osmesa"]
PACKAGES = {"egl": "libegl1 libegl-mesa0 libgl1-mesa-dri", "osmesa": "libosmesa6"}  # of Debian and Ubuntu
NAMES = {"egl": "EGL", "osmesa": "OSMesa"}
AMBIENT, LAMBERT, HEADLIGHT = (
    0.42,
    0.33,
    0.25,
)  # shares of the light in all renderers; the last keeps wrist pictures readable
MAX_GEOMS = 2000  # that one picture can hold


def open_context(back_end: BackEnd, size: int) -> Any:
    """Return a current OpenGL context of MuJoCo for pictures of `size` pixels.

    Raises:
        UserError: the library is absent, or another back end is in use already.
    """
    try:
        context = importlib.import_module(f"mujoco.{back_end}").GLContext(size, size)
        context.make_current()
    # Absent libraries show in PyOpenGL as None without attributes, a failed load, or a context that cannot be made.
    except (ImportError, AttributeError, OSError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{NAMES[back_end]} pictures cannot be made here ({error}). Install its library "
            f"(Debian, Ubuntu: apt-get install {PACKAGES[back_end]}) and use one back end in a process; "
            "or render with Ray(), which needs none."
        ) from error
    return context


@functools.cache
def driver(back_end: BackEnd) -> str:
    """Return the name and version of the OpenGL driver, e.g. "llvmpipe (LLVM 15.0.6, 256 bits), Mesa 22.3.6"."""
    context = open_context(back_end, 16)
    try:
        opengl = importlib.import_module("OpenGL.GL")
        names = [opengl.glGetString(opengl.GL_RENDERER), opengl.glGetString(opengl.GL_VERSION)]
        return ", ".join(name.decode() for name in names)
    finally:
        context.free()


class GlRenderer:
    """An offscreen OpenGL renderer of one model; square pictures."""

    def __init__(self, model: mujoco.MjModel, size: int, back_end: BackEnd) -> None:
        """Change the model's picture settings (no shadows, no multisampling, the light of the ray renderer) and open a context."""
        self.size = size
        self._model = model
        model.vis.quality.offsamples = 0
        model.vis.quality.shadowsize = 0
        model.light_castshadow[:] = 0
        model.vis.headlight.ambient[:] = AMBIENT
        model.vis.headlight.diffuse[:] = HEADLIGHT
        model.vis.headlight.specular[:] = 0
        model.light_ambient[:], model.light_diffuse[:], model.light_specular[:] = 0, LAMBERT, 0
        model.vis.global_.offwidth = max(size, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(size, model.vis.global_.offheight)
        self._context = open_context(back_end, size)
        self._mjr: Any = mujoco.MjrContext(model, int(mujoco.mjtFontScale.mjFONTSCALE_100))
        mujoco.mjr_setBuffer(int(mujoco.mjtFramebuffer.mjFB_OFFSCREEN), self._mjr)
        self._scene = mujoco.MjvScene(model, MAX_GEOMS)
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_HAZE"):
            self._scene.flags[int(getattr(mujoco.mjtRndFlag, flag))] = 0
        self._option = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = int(mujoco.mjtCamera.mjCAMERA_FIXED)
        self._rectangle = mujoco.MjrRect(0, 0, size, size)
        self._free = weakref.finalize(self, _free, self._context, self._mjr)
        self._free.atexit = False  # the display may be gone by then

    def render(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Return what `camera` sees: RGB, upright."""
        index = int(mujoco.mj_name2id(self._model, int(mujoco.mjtObj.mjOBJ_CAMERA), camera))
        if index < 0:
            raise unknown("camera", camera, [self._model.camera(i).name for i in range(self._model.ncam)])
        self._camera.fixedcamid = index
        everything = int(mujoco.mjtCatBit.mjCAT_ALL)
        mujoco.mjv_updateScene(self._model, data, self._option, None, self._camera, everything, self._scene)
        self._context.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, self._mjr)
        image_HW3 = np.empty((self.size, self.size, 3), np.uint8)
        mujoco.mjr_readPixels(image_HW3, None, self._rectangle, self._mjr)
        return image_HW3[::-1].copy()  # OpenGL's first row is the lowest

    def close(self) -> None:
        """Free the context."""
        self._free()


def _free(context: Any, mjr: Any) -> None:
    context.make_current()  # else the buffers of whichever context is current would be freed
    mjr.free()
    context.free()
