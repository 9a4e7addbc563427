"""Pictures of a MuJoCo world: which renderer, and the one that casts rays and needs no OpenGL.

Shapes: N pixels of an image in row-major order, M some of them, G geoms, H and W image height and width.

Surprises of `mj_multiRay`: geoms of alpha 0 are skipped and all others are opaque; planes are one-sided and end at their
half size; from inside of a geom one sees its far wall; sites, textures and lights are ignored; it works on the stack
of the MjData, so two threads need two of them.
"""

from dataclasses import dataclass
from typing import Protocol, assert_never, runtime_checkable

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, UInt8

from ideomotor.core.errors import unknown
from ideomotor.sim import gl
from ideomotor.sim.gl import AMBIENT, HEADLIGHT, LAMBERT

RAY_VERSION = 1  # raise it whenever a pixel changes: images of two versions are different data

BACKGROUND = (0.62, 0.68, 0.74)
CHECKER = ((0.62, 0.50, 0.38), (0.58, 0.46, 0.35))  # fields of the geom named "table"
CHECKER_PER_METRE = 8.0
LIGHT = (-0.3, 0.5, 1.6)  # [m, world] the one lamp, for shading and shadows alike
CUTOFF = 20.0  # [m] farther surfaces are background
SHADOW_MARGIN = 0.006  # [m] a surface does not shade itself
VISIBLE_GROUPS = np.array([1, 1, 1, 0, 0, 0], np.uint8)  # as OpenGL viewers draw by default
HIDDEN_GROUP = 5
NEAR = 1e-6  # [m] boxes are cut at this depth before they are projected
BOX_CORNERS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
BOX_EDGES = np.array([(a, a | bit) for bit in (1, 2, 4) for a in range(8) if not a & bit])


@dataclass(frozen=True)
class Ray:
    """Cast rays on the processor: no system package, the same pixels everywhere, made for up to 128 px."""

    size: int = 96  # [px] height and width
    antialias: bool = False  # render at twice the size and average 2 x 2, for pictures that people look at
    shadows: bool = False

    @property
    def profile(self) -> str:
        """What made the pixels, for `Camera.source`."""
        return f"ray-{RAY_VERSION} {_settings(self.size, shadows=self.shadows, antialias=self.antialias)}"


@dataclass(frozen=True)
class Egl:
    """OpenGL through EGL, without shadows or multisampling: faster above 128 px; needs system libraries."""

    size: int = 96  # [px] height and width

    @property
    def profile(self) -> str:
        """What made the pixels, for `Camera.source`; asks the driver for its name."""
        return f"egl-{gl.GL_VERSION} {_settings(self.size)}, {gl.driver('egl')}"


@dataclass(frozen=True)
class Osmesa:
    """OpenGL through OSMesa, without shadows or multisampling; needs a system library."""

    size: int = 96  # [px] height and width

    @property
    def profile(self) -> str:
        """What made the pixels, for `Camera.source`; asks the driver for its name."""
        return f"osmesa-{gl.GL_VERSION} {_settings(self.size)}, {gl.driver('osmesa')}"


Renderer = Ray | Egl | Osmesa


@runtime_checkable
class RunningRenderer(Protocol):
    """A renderer at work on one model."""

    def render(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Return what `camera` sees: RGB, upright."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


def open_renderer(config: Renderer, model: mujoco.MjModel) -> RunningRenderer:
    """Start the renderer that `config` describes on `model`; keep it, starting one may take 0.3 s.

    Raises:
        UserError: EGL or OSMesa is asked for and its library is absent.
    """
    match config:
        case Ray(size, antialias, shadows):
            running = RayRenderer(model, size * (1 + antialias), shadows=shadows)
            return _Averaged(running) if antialias else running
        case Egl(size):
            return gl.GlRenderer(model, size, "egl")
        case Osmesa(size):
            return gl.GlRenderer(model, size, "osmesa")
        case _:
            assert_never(config)


def _settings(size: int, *, shadows: bool = False, antialias: bool = False) -> str:
    words = {True: "on", False: "off"}
    return f"{size} px, shadows {words[shadows]}, anti-aliasing {words[antialias]}, mujoco {mujoco.__version__}"


@dataclass(frozen=True)
class _Hits:
    """What rays met first."""

    geom: Int32[np.ndarray, " N"]  # -1 where nothing
    distance: Float64[np.ndarray, " N"]  # [m] -1 where nothing
    normal: Float64[np.ndarray, "N 3"]  # [world]


@dataclass(frozen=True)
class _Lens:
    """The pixel grid of a camera, in the plane at depth 1: x right, y up."""

    u: Float64[np.ndarray, " W"]
    v: Float64[np.ndarray, " H"]
    scale: Float64[np.ndarray, "H W"]  # makes (u, v, -1) a unit vector
    focal: float  # [px]


@dataclass(frozen=True)
class _StaticLayer:
    """What a camera sees of all that cannot move."""

    key: tuple[bytes, ...]  # the poses and colours it was made from
    rays: Float64[np.ndarray, "N 3"]
    hits: _Hits
    image: UInt8[np.ndarray, "N 3"]


class RayRenderer:
    """Casts one ray per pixel and shades what it meets.

    What cannot move is cast alone, for a camera fixed in the world only once; per frame only the rays in rectangles around the
    moving geoms are cast again. The pixels are the same. (Not with shadows: the arm shades the table.)
    """

    def __init__(self, model: mujoco.MjModel, size: int, *, shadows: bool = False, cache: bool = True) -> None:
        self.size = size
        self._model = model
        self._shadows = shadows
        self._cache = cache and not shadows
        moving_G = model.body_weldid[model.geom_bodyid] != 0
        self._moving_M = np.flatnonzero(moving_G)
        self._static_M = np.flatnonzero(~moving_G)
        aabb_M6 = np.asarray(model.geom_aabb).reshape(-1, 6)[self._moving_M]
        self._corner_M83 = aabb_M6[:, None, :3] + BOX_CORNERS * aabb_M6[:, None, 3:]  # [m, geom frame]
        self._table = int(mujoco.mj_name2id(model, int(mujoco.mjtObj.mjOBJ_GEOM), "table"))
        self._lenses: dict[tuple[int, float], _Lens] = {}
        self._layers: dict[int, _StaticLayer] = {}

    def render(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        """Return what `camera` sees: RGB, upright."""
        index = self._index(camera)
        if self._cache:
            image_N3 = self._render_over_static(data, index)
        else:
            ray_N3 = self._rays(data, index)
            origin = data.cam_xpos[index]
            image_N3 = self._shade(data, origin, ray_N3, self._cast(data, origin, ray_N3))
        return image_N3.reshape(self.size, self.size, 3)

    def segment(self, data: mujoco.MjData, camera: str) -> Int32[np.ndarray, "H W"]:
        """Return the geom that each pixel shows, -1 for none."""
        index = self._index(camera)
        hits = self._cast(data, data.cam_xpos[index], self._rays(data, index))
        return hits.geom.reshape(self.size, self.size)

    def close(self) -> None:
        """Forget the cached layers."""
        self._layers.clear()

    def _index(self, camera: str) -> int:
        index = int(mujoco.mj_name2id(self._model, int(mujoco.mjtObj.mjOBJ_CAMERA), camera))
        if index < 0:
            raise unknown("camera", camera, [self._model.camera(i).name for i in range(self._model.ncam)])
        return index

    def _lens(self, index: int) -> _Lens:
        fovy = float(self._model.cam_fovy[index])
        if (index, fovy) not in self._lenses:
            focal = 0.5 * self.size / np.tan(np.deg2rad(fovy) / 2)
            u_W = (np.arange(self.size) + 0.5 - self.size / 2) / focal
            scale_HW = 1.0 / np.sqrt(u_W[None, :] ** 2 + u_W[:, None] ** 2 + 1.0)
            self._lenses[index, fovy] = _Lens(u_W, -u_W, scale_HW, float(focal))
        return self._lenses[index, fovy]

    def _rays(self, data: mujoco.MjData, index: int) -> Float64[np.ndarray, "N 3"]:
        """Return unit directions in the world. Elementwise: matrix products depend on the machine in their last bits."""
        lens = self._lens(index)
        world_from_cam = data.cam_xmat[index].reshape(3, 3)
        ray_HW3 = np.empty((self.size, self.size, 3))
        for k in range(3):
            row_W = lens.u * world_from_cam[k, 0] - world_from_cam[k, 2]
            plane_HW = row_W[None, :] + (lens.v * world_from_cam[k, 1])[:, None]
            np.multiply(plane_HW, lens.scale, out=ray_HW3[:, :, k])
        return ray_HW3.reshape(-1, 3)

    def _cast(
        self,
        data: mujoco.MjData,
        origin: Float[np.ndarray, "3"],
        ray_N3: Float64[np.ndarray, "N 3"],
        *,
        static: bool = True,
    ) -> _Hits:
        """Return what the rays from `origin` [m, world] meet; `static` includes what cannot move."""
        count = len(ray_N3)
        hits = _Hits(np.empty(count, np.int32), np.empty(count), np.empty((count, 3)))
        mujoco.mj_multiRay(
            self._model,
            data,
            np.array(origin),
            ray_N3.reshape(-1),
            VISIBLE_GROUPS,
            static,
            -1,
            hits.geom,
            hits.distance,
            hits.normal.reshape(-1),
            count,
            CUTOFF,
        )
        return hits

    def _render_over_static(self, data: mujoco.MjData, index: int) -> UInt8[np.ndarray, "N 3"]:
        layer = self._static_layer(data, index)
        image_N3 = layer.image.copy()
        pixel_M = np.flatnonzero(self._moving_pixels(data, index))
        if not len(pixel_M):
            return image_N3
        origin = data.cam_xpos[index]
        ray_M3 = layer.rays[pixel_M]
        hits = self._cast(data, origin, ray_M3, static=False)
        background_M = layer.hits.distance[pixel_M]
        nearer_M = np.flatnonzero((hits.geom >= 0) & ((background_M < 0) | (hits.distance < background_M)))
        seen = _Hits(hits.geom[nearer_M], hits.distance[nearer_M], hits.normal[nearer_M])
        image_N3[pixel_M[nearer_M]] = self._shade(data, origin, ray_M3[nearer_M], seen)
        return image_N3

    def _static_layer(self, data: mujoco.MjData, index: int) -> _StaticLayer:
        """Return the cached layer, made anew if the camera or anything in it was moved or painted."""
        static_M, model = self._static_M, self._model
        parts = (
            data.cam_xpos[index],
            data.cam_xmat[index],
            model.cam_fovy[index],
            data.geom_xpos[static_M],
            data.geom_xmat[static_M],
            model.geom_rgba[static_M],
            model.mat_rgba,
        )
        key = tuple(part.tobytes() for part in parts)
        layer = self._layers.get(index)
        if layer is None or layer.key != key:
            origin, ray_N3 = data.cam_xpos[index], self._rays(data, index)
            group_M = model.geom_group[self._moving_M].copy()
            try:
                model.geom_group[self._moving_M] = HIDDEN_GROUP
                hits = self._cast(data, origin, ray_N3)
            finally:
                model.geom_group[self._moving_M] = group_M
            layer = _StaticLayer(key, ray_N3, hits, self._shade(data, origin, ray_N3, hits))
            self._layers[index] = layer
        return layer

    def _moving_pixels(self, data: mujoco.MjData, index: int) -> Bool[np.ndarray, " N"]:
        """Mark the pixels in the rectangles that the bounding boxes of the moving geoms can cover."""
        moving_M, size = self._moving_M, self.size
        world_from_geom = data.geom_xmat[moving_M].reshape(-1, 3, 3)
        cam_from_geom = np.einsum("ck,mcj->mkj", data.cam_xmat[index].reshape(3, 3), world_from_geom)
        centre_M3 = (data.geom_xpos[moving_M] - data.cam_xpos[index]) @ data.cam_xmat[index].reshape(3, 3)
        corner_M83 = np.einsum("mkj,mcj->mck", cam_from_geom, self._corner_M83) + centre_M3[:, None]
        point_MK3, inside_MK = _before_camera(corner_M83)
        plane_MK2 = point_MK3[:, :, :2] / -point_MK3[:, :, 2:] * self._lens(index).focal
        low_M2 = plane_MK2.min(1, where=inside_MK[:, :, None], initial=np.inf)
        high_M2 = plane_MK2.max(1, where=inside_MK[:, :, None], initial=-np.inf)
        # Columns count to the right, rows down. One pixel of margin; a box behind the camera has low > high and marks nothing.
        first_M2 = np.floor(np.stack([low_M2[:, 0], -high_M2[:, 1]], axis=1) + size / 2 - 1).clip(0, size)
        last_M2 = np.ceil(np.stack([high_M2[:, 0], -low_M2[:, 1]], axis=1) + size / 2 + 1).clip(0, size)
        mask_HW = np.zeros((size, size), bool)
        for (left, top), (right, bottom) in zip(
            first_M2.astype(int).tolist(), last_M2.astype(int).tolist(), strict=True
        ):
            mask_HW[top:bottom, left:right] = True
        return mask_HW.reshape(-1)

    def _shade(
        self, data: mujoco.MjData, origin: Float[np.ndarray, "3"], ray_N3: Float64[np.ndarray, "N 3"], hits: _Hits
    ) -> UInt8[np.ndarray, "N 3"]:
        """Return the colours of the hits: ambient light, the lamp, a headlight. Elementwise in float32."""
        ray_3N = ray_N3.T.astype(np.float32, order="C")
        normal_3N = hits.normal.T.astype(np.float32, order="C")
        distance_N = hits.distance.astype(np.float32)
        place_3N = [np.float32(origin[k]) + distance_N * ray_3N[k] for k in range(3)]
        to_light_3N = [np.float32(LIGHT[k]) - place_3N[k] for k in range(3)]
        lamp_N = _dot(normal_3N, to_light_3N) / np.sqrt(_dot(to_light_3N, to_light_3N))
        np.maximum(lamp_N, 0, out=lamp_N)
        if self._shadows:
            lamp_N[self._shaded(data, place_3N, (hits.geom >= 0) & (lamp_N > 0))] = 0
        head_N = np.maximum(-_dot(normal_3N, ray_3N), 0)
        intensity_N = np.float32(AMBIENT) + np.float32(LAMBERT) * lamp_N + np.float32(HEADLIGHT) * head_N
        intensity_N[hits.geom < 0] = 1
        field_N = self._colour_rows(hits.geom, place_3N)
        rgb_C3 = self._colours()
        image_N3 = np.empty((len(field_N), 3), np.uint8)
        for k in range(3):
            value_N = rgb_C3[:, k][field_N] * intensity_N
            np.clip(value_N, 0, 1, out=value_N)
            value_N *= 255
            image_N3[:, k] = value_N
        return image_N3

    def _colours(self) -> Float32[np.ndarray, "C 3"]:
        """Return the colours of now: one a geom, then the second field of the checker, then (index -1) the background."""
        model = self._model
        rgb_G3 = model.geom_rgba[:, :3].copy()
        painted_G = model.geom_matid >= 0
        if painted_G.any():
            rgb_G3[painted_G] = model.mat_rgba[model.geom_matid[painted_G], :3]
        if self._table >= 0:
            rgb_G3[self._table] = CHECKER[0]
        return np.concatenate([rgb_G3, [CHECKER[1], BACKGROUND]]).astype(np.float32)

    def _colour_rows(
        self, geom_N: Int32[np.ndarray, " N"], place_3N: list[Float32[np.ndarray, " N"]]
    ) -> Int32[np.ndarray, " N"]:
        """Return the row of `_colours` for each pixel."""
        if self._table < 0:
            return geom_N
        step = np.float32(CHECKER_PER_METRE)
        parity_N = (np.floor(place_3N[0] * step) + np.floor(place_3N[1] * step)).astype(np.int32) & 1
        return np.where((geom_N == self._table) & (parity_N == 1), np.int32(self._model.ngeom), geom_N)

    def _shaded(
        self, data: mujoco.MjData, place_3N: list[Float32[np.ndarray, " N"]], lit_N: Bool[np.ndarray, " N"]
    ) -> Int[np.ndarray, " M"]:
        """Return the pixels, among those turned to the lamp, that something keeps from it."""
        pixel_M = np.flatnonzero(lit_N)
        if not len(pixel_M):
            return pixel_M
        light = np.array(LIGHT)
        from_light_M3 = np.stack([place_3N[k][pixel_M].astype(np.float64) - light[k] for k in range(3)], axis=1)
        distance_M = np.sqrt(from_light_M3[:, 0] ** 2 + from_light_M3[:, 1] ** 2 + from_light_M3[:, 2] ** 2)
        blocked = self._cast(data, light, from_light_M3 / distance_M[:, None])
        return pixel_M[(blocked.geom >= 0) & (blocked.distance < distance_M - SHADOW_MARGIN)]


def _before_camera(
    corner_M83: Float64[np.ndarray, "M 8 3"],
) -> tuple[Float64[np.ndarray, "M K 3"], Bool[np.ndarray, "M K"]]:
    """Return the corners of what boxes have before the camera, and which of the points are in use.

    Points are in the camera's frame (it looks along -z): the corners, and where an edge passes the near plane.
    """
    depth_M8 = -corner_M83[:, :, 2]
    before_M8 = depth_M8 >= NEAR
    start, end = BOX_EDGES.T
    passes_ME = before_M8[:, start] != before_M8[:, end]
    rise_ME = np.where(passes_ME, depth_M8[:, end] - depth_M8[:, start], 1.0)
    share_ME = (NEAR - depth_M8[:, start]) / rise_ME
    cut_ME3 = corner_M83[:, start] + share_ME[:, :, None] * (corner_M83[:, end] - corner_M83[:, start])
    cut_ME3[:, :, 2] = -NEAR
    corner_M83 = np.where(before_M8[:, :, None], corner_M83, -1.0)
    return np.concatenate([corner_M83, cut_ME3], axis=1), np.concatenate([before_M8, passes_ME], axis=1)


class _Averaged:
    """A ray renderer of twice the size, averaged 2 x 2."""

    def __init__(self, running: RayRenderer) -> None:
        self._running = running

    def render(self, data: mujoco.MjData, camera: str) -> UInt8[np.ndarray, "H W 3"]:
        image = self._running.render(data, camera).astype(np.uint16)
        total = image[0::2, 0::2] + image[0::2, 1::2] + image[1::2, 0::2] + image[1::2, 1::2]
        return ((total + 2) // 4).astype(np.uint8)

    def close(self) -> None:
        self._running.close()


def _dot(
    a_3N: list[Float32[np.ndarray, " N"]] | Float32[np.ndarray, "3 N"],
    b_3N: list[Float32[np.ndarray, " N"]] | Float32[np.ndarray, "3 N"],
) -> Float32[np.ndarray, " N"]:
    return a_3N[0] * b_3N[0] + a_3N[1] * b_3N[1] + a_3N[2] * b_3N[2]
