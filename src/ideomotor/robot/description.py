"""Read an MJCF or URDF file of a robot with suspicion, and keep what tells its shape and its joints.

Both become one text and the meshes it names, which is all that MuJoCo then sees: it opens no file of its own. What is left out on
the way has no part in kinematics or shape: looks, inertias, motors, sensors, contacts.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from ideomotor.core.errors import UserError
from ideomotor.core.files import read_small

LARGEST_XML = 8 << 20  # [bytes] of one file
LARGEST_MESHES, MOST_MESHES = 256 << 20, 500  # [bytes] of all together, and how many
DEEPEST = 200  # elements inside each other; MuJoCo reads them by recursion
LARGEST_NUMBER = 1e4  # [m, rad, degrees] of an attribute
MOST = 20_000  # elements in all files together
REMEDY = "give the MJCF (.xml) or URDF (.urdf) file of one arm, its meshes and included files beside it"

GEOMETRY = ("box", "cylinder", "sphere", "capsule", "mesh")
BODY = ("body", "frame", "joint", "freejoint", "geom", "site")
KEPT = {  # MJCF: element -> children that stay
    "mujoco": ("compiler", "default", "asset", "worldbody"),
    "default": ("default", "joint", "geom", "site", "mesh"),
    "asset": ("mesh",),
    "worldbody": BODY,
    "body": BODY,
    "frame": BODY,
    # URDF
    "robot": ("link", "joint"),
    "link": ("collision",),
    "collision": ("origin", "geometry"),
    "geometry": GEOMETRY,
}
KEPT_OF_JOINT = ("parent", "child", "origin", "axis", "limit")  # URDF; a joint of MJCF has no children of use
KEPT_OF_COMPILER = ("angle", "eulerseq", "autolimits", "coordinate")
DROPPED = re.compile(  # attributes: looks and dynamics, and what a URDF says that MuJoCo keeps elsewhere
    "material|texture|user|mass|density|friction.*|armature|damping|stiffness|spring.*|sol.*|fluid.*|actuator.*|velocity|effort"
)
WORDS = "model name class childclass mesh file filename link contype conaffinity"  # attributes
REFUSED = "replicate composite flexcomp attach model hfield"  # elements that make bodies which are not in the text
OURS = {"fusestatic": "false", "discardvisual": "false"}  # of the compiler
INERTIA = {  # of every body, so that MuJoCo, which wants one, has nothing to say about it
    "body": '<inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>',
    "link": '<inertial><mass value="1"/><inertia ixx="1" iyy="1" izz="1" ixy="0" ixz="0" iyz="0"/></inertial>',
}


@dataclass(frozen=True)
class Description:
    """The text of a robot for MuJoCo, and what MuJoCo does not keep."""

    path: Path
    urdf: bool
    text: str
    meshes: dict[str, bytes]  # by the names that `text` gives them
    speed: dict[str, float] = field(default_factory=dict[str, float])  # [rad/s] by joint, where a URDF says it
    torque: dict[str, float] = field(default_factory=dict[str, float])  # [N m]
    bare: tuple[str, ...] = ()  # links of a URDF that are seen but have no collision shape


def read_description(path: Path) -> Description:
    """Return what a file says.

    Raises:
        UserError: it is no such file, or one that nobody would write for an arm.
    """
    root = _parse(path)
    if root.tag not in ("mujoco", "robot"):
        raise UserError(f"{path} begins with <{root.tag}>; {REMEDY}")
    root = _Includes(path).expanded(root)
    folders = [folder for e in root.iter("compiler") if (folder := e.get("meshdir") or e.get("assetdir"))]
    folder = folders[-1] if folders else ""
    clean = _kept(path, root)
    _check_numbers(path, clean)
    return _urdf(path, root, clean, folder) if root.tag == "robot" else _mjcf(path, clean, folder)


def _mjcf(path: Path, clean: ET.Element, folder: str) -> Description:
    ET.SubElement(clean, "compiler", OURS)
    for joint in clean.iter("joint"):
        joint.set("armature", "1")  # [kg m^2] with two joints about one axis, and none, MuJoCo warns
    meshes = _meshes(path, clean, "file", folder)
    return Description(path, urdf=False, text=ET.tostring(clean, "unicode"), meshes=meshes)


def _urdf(path: Path, root: ET.Element, clean: ET.Element, folder: str) -> Description:
    bare = tuple(
        str(link.get("name"))
        for link in root.findall("link")
        if link.find("visual") is not None and link.find("collision") is None
    )
    limits = {str(j.get("name")): limit for j in root.findall("joint") if (limit := j.find("limit")) is not None}
    stated = [
        {name: value for name, limit in limits.items() if (value := _number(limit.get(key, ""))) and value > 0}
        for key in ("velocity", "effort")
    ]
    for collision in clean.iter("collision"):
        collision.attrib.clear()  # two may share a name, which MuJoCo answers with a warning in a file
    for limit in clean.iter("limit"):
        if _number(limit.get("lower", "0")) == _number(limit.get("upper", "0")):  # no range; another warning
            limit.attrib.clear()
    ET.SubElement(ET.SubElement(clean, "mujoco"), "compiler", OURS)
    meshes = _meshes(path, clean, "filename", folder)
    return Description(
        path, urdf=True, text=ET.tostring(clean, "unicode"), meshes=meshes, speed=stated[0], torque=stated[1], bare=bare
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


# --------------------------------------------------------------------------------------------------------------- XML


def _parse(path: Path) -> ET.Element:
    """Return the root element. Entities are refused with the document type that would declare them."""
    if not path.is_file():
        raise UserError(f"{path} is not there, or no file; {REMEDY}")
    builder, depth, count = ET.TreeBuilder(), 0, 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth, count
        depth, count = depth + 1, count + 1
        _check_size(path, depth, count)
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise UserError(f"{path} declares a document type (<!DOCTYPE ...>), which no robot needs; take it out")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, refuse
    try:
        parser.Parse(read_small(path, LARGEST_XML), True)  # noqa: FBT003 (the name of this argument is not given away)
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is not XML ({error}); {REMEDY}") from error
    return builder.close()


class _Includes:
    """Puts included files in their place, from the folder of the first one and what lies below it."""

    def __init__(self, path: Path) -> None:
        self._path, self._folder, self._seen = path, path.resolve().parent, {path.resolve()}
        self._count = 0

    def expanded(self, element: ET.Element, depth: int = 0) -> ET.Element:
        """Return a copy of `element` without includes."""
        self._count += 1
        _check_size(self._path, depth, self._count)
        result = ET.Element(element.tag, element.attrib)
        for child in element:
            result.extend(self._included(child, depth) if child.tag == "include" else [self.expanded(child, depth + 1)])
        return result

    def _included(self, include: ET.Element, depth: int) -> list[ET.Element]:
        name = include.get("file", "")
        target = (self._folder / name).resolve()
        if not target.is_relative_to(self._folder):
            raise UserError(f"{self._path} includes '{name}', outside of its folder; copy that file into it")
        if target in self._seen:
            raise UserError(f"{self._path} includes '{name}' twice; take one out")
        self._seen.add(target)
        return list(self.expanded(_parse(target), depth + 1))  # its children; the root says no more than that it is one


def _check_size(path: Path, depth: int, count: int) -> None:
    if depth > DEEPEST or count > MOST:
        raise UserError(f"{path} holds more than {MOST:,} elements, or {DEEPEST} inside each other; {REMEDY}")


def _check_numbers(path: Path, root: ET.Element) -> None:
    for element in root.iter():
        for name, value in element.attrib.items():
            if name not in WORDS.split() and not all(abs(float(n)) <= LARGEST_NUMBER for n in _NUMBER.findall(value)):
                raise UserError(
                    f'{path}: <{element.tag} {name}="{value[:60]}"> is no number that an arm has; from -{LARGEST_NUMBER:g} to '
                    f"{LARGEST_NUMBER:g} is allowed"
                )


_NUMBER = re.compile(r"(?i)(?<!\S)[+-]?(?:(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?|nan|inf|infinity)(?!\S)")


def _kept(path: Path, element: ET.Element) -> ET.Element:
    """Return a copy of what concerns shape and joints."""
    attributes = {name: value for name, value in element.attrib.items() if not DROPPED.fullmatch(name)}
    if element.tag == "compiler":
        attributes = {name: value for name, value in attributes.items() if name in KEPT_OF_COMPILER}
    result = ET.Element(element.tag, attributes)
    if element.tag in INERTIA:
        result.append(ET.fromstring(INERTIA[element.tag]))
    wanted = KEPT_OF_JOINT if element.tag == "joint" else KEPT.get(element.tag, ())
    for child in element:
        if child.tag in REFUSED.split():
            raise UserError(f"{path} holds <{child.tag}>, which is not read here; write out the bodies of the arm")
        if child.tag in wanted:
            result.append(_kept(path, child))
    return result


# ------------------------------------------------------------------------------------------------------------- meshes


def _meshes(path: Path, clean: ET.Element, attribute: str, folder: str) -> dict[str, bytes]:
    """Return the meshes' content, and change the elements so that they name it."""
    elements = [element for element in clean.iter("mesh") if attribute in element.attrib]
    if len(elements) > MOST_MESHES:
        raise UserError(f"{path} names {len(elements):,} meshes, more than {MOST_MESHES}; {REMEDY}")
    contents: dict[str, bytes] = {}
    files: dict[Path, bytes] = {}
    for i, element in enumerate(elements):
        written = element.attrib[attribute]
        file = _found(path, written, folder)
        left = LARGEST_MESHES - sum(map(len, files.values()))
        contents[f"mesh{i}{file.suffix.lower()}"] = files[file] = files.get(file) or read_small(file, left)
        if attribute == "file":
            element.attrib.setdefault("name", Path(written).stem)
        element.set(attribute, f"mesh{i}{file.suffix.lower()}")
    return contents


def _found(path: Path, written: str, folder: str) -> Path:
    """Return the file of a mesh: beside `path`, in its folder for meshes, or in the ROS package that `path` is a part of."""
    name = written.removeprefix("file://")
    places: list[Callable[[], Path]] = []
    if written.startswith("package://"):
        package, _, name = written.removeprefix("package://").partition("/")
        places = [lambda p=p: p / name for p in path.resolve().parents if p.name == package]
    here = path.parent
    places += [lambda: here / folder / name, lambda: here / name, lambda: here / folder / Path(name).name]
    for place in places:
        if (file := place()).is_file():
            return file
    raise UserError(
        f"{path} names the mesh '{written}', which is not there; put it beside the file, or correct its path"
    )
