"""Vision-language-action models the whole way, from demonstrations to a measured policy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ideomotor.core.spec import Embodiment
    from ideomotor.data.opening import open_dataset
    from ideomotor.policy.local import load_policy

__version__ = "0.1.0"
__all__ = ["Embodiment", "load_policy", "open_dataset"]

_HOME = {
    "Embodiment": "ideomotor.core.spec",
    "load_policy": "ideomotor.policy.local",
    "open_dataset": "ideomotor.data.opening",
}


def __getattr__(name: str) -> Any:
    """Import the few public names when they are first used, so that `import ideomotor` stays instant."""
    if name not in _HOME:
        raise AttributeError(f"module 'ideomotor' has no attribute '{name}'; it offers {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
