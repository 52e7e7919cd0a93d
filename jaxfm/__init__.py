"""jaxfm: pretrain and fine-tune encoder foundation models in JAX.

The programs as functions: `jaxfm.check(config)`, `jaxfm.train(config, workdir)`, `jaxfm.evaluate`, `jaxfm.predict` and
`jaxfm.load(workdir)`, a trained model to call again and again. They are imported when first asked for: `import jaxfm`
alone takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxfm.config import Config as Config
    from jaxfm.programs.check import check as check
    from jaxfm.programs.evaluate import evaluate as evaluate
    from jaxfm.programs.predict import Model as Model
    from jaxfm.programs.predict import load as load
    from jaxfm.programs.predict import predict as predict
    from jaxfm.programs.train import train as train

__version__ = "0.1.0"

_HOME = {
    "Config": "jaxfm.config",
    "check": "jaxfm.programs.check",
    "Model": "jaxfm.programs.predict",
    "evaluate": "jaxfm.programs.evaluate",
    "load": "jaxfm.programs.predict",
    "predict": "jaxfm.programs.predict",
    "train": "jaxfm.programs.train",
}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'jaxfm' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
