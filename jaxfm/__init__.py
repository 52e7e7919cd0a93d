"""jaxfm: pretrain and fine-tune encoder foundation models in JAX.

The programs as functions: `jaxfm.check(config)`, `jaxfm.audit(config, workdir)`,
`jaxfm.train(config, workdir, data=...)`, `jaxfm.evaluate`, `jaxfm.compare`, `jaxfm.predict`, `jaxfm.export`,
`jaxfm.quantise`, `jaxfm.prune`, `jaxfm.compress`,
`jaxfm.load(workdir)`, a trained model to call again and again;
`jaxfm.stress`, which changes inputs on purpose; `jaxfm.drift`, which compares new data with those of a run;
`jaxfm.bias` and `jaxfm.leaks`, which look for what a model should not have learned;
`jaxfm.retrieve` and `jaxfm.open_index`, which search a corpus; `jaxfm.mine`, which finds hard negatives;
`jaxfm.open_assistant`, which answers customers or hands them over to a person;
`jaxfm.probe`, which says how much of texts' labels is in vectors; `jaxfm.explain`, which says which words results are
due to.
`jaxfm.select`, which chooses what to label next, `jaxfm.self_train`, which learns from unlabelled texts, and
`jaxfm.continual`, which learns from new data in stages.
`jaxfm.select`, which chooses what to label next, and `jaxfm.self_train`, which learns from unlabelled texts.
`jaxfm.federated`, which trains over many clients.
`jaxfm.register`, `register_metric` and `register_loss` add what is yours. All are imported when first asked for:
`import jaxfm` alone takes no time.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxfm.config import Config as Config
    from jaxfm.core.extensions import register_loss as register_loss
    from jaxfm.core.extensions import register_metric as register_metric
    from jaxfm.programs.assist import open_assistant as open_assistant
    from jaxfm.programs.assistant import Assistant as Assistant
    from jaxfm.programs.audit import audit as audit
    from jaxfm.programs.bias import bias as bias
    from jaxfm.programs.check import check as check
    from jaxfm.programs.compress import compress as compress
    from jaxfm.programs.continual import continual as continual
    from jaxfm.programs.drift import drift as drift
    from jaxfm.programs.evaluate import compare as compare
    from jaxfm.programs.evaluate import evaluate as evaluate
    from jaxfm.programs.explain import explain as explain
    from jaxfm.programs.export import export as export
    from jaxfm.programs.federated import federated as federated
    from jaxfm.programs.leaks import leaks as leaks
    from jaxfm.programs.mine import mine as mine
    from jaxfm.programs.model import Model as Model
    from jaxfm.programs.model import load as load
    from jaxfm.programs.predict import predict as predict
    from jaxfm.programs.probe import probe as probe
    from jaxfm.programs.prune import prune as prune
    from jaxfm.programs.quantise import quantise as quantise
    from jaxfm.programs.retrieve import retrieve as retrieve
    from jaxfm.programs.search_index import SearchIndex as SearchIndex
    from jaxfm.programs.search_index import open_index as open_index
    from jaxfm.programs.select import select as select
    from jaxfm.programs.self_train import self_train as self_train
    from jaxfm.programs.stress import stress as stress
    from jaxfm.programs.train import train as train
    from jaxfm.tasks.registry import register as register

__version__ = "0.1.0"

_HOME = {
    "Assistant": "jaxfm.programs.assistant",
    "Config": "jaxfm.config",
    "Model": "jaxfm.programs.model",
    "SearchIndex": "jaxfm.programs.search_index",
    "audit": "jaxfm.programs.audit",
    "bias": "jaxfm.programs.bias",
    "check": "jaxfm.programs.check",
    "compare": "jaxfm.programs.evaluate",
    "compress": "jaxfm.programs.compress",
    "continual": "jaxfm.programs.continual",
    "drift": "jaxfm.programs.drift",
    "evaluate": "jaxfm.programs.evaluate",
    "explain": "jaxfm.programs.explain",
    "export": "jaxfm.programs.export",
    "federated": "jaxfm.programs.federated",
    "leaks": "jaxfm.programs.leaks",
    "load": "jaxfm.programs.model",
    "mine": "jaxfm.programs.mine",
    "open_assistant": "jaxfm.programs.assist",
    "open_index": "jaxfm.programs.search_index",
    "predict": "jaxfm.programs.predict",
    "probe": "jaxfm.programs.probe",
    "prune": "jaxfm.programs.prune",
    "quantise": "jaxfm.programs.quantise",
    "register": "jaxfm.tasks.registry",
    "register_loss": "jaxfm.core.extensions",
    "register_metric": "jaxfm.core.extensions",
    "retrieve": "jaxfm.programs.retrieve",
    "select": "jaxfm.programs.select",
    "self_train": "jaxfm.programs.self_train",
    "stress": "jaxfm.programs.stress",
    "train": "jaxfm.programs.train",
}
__all__ = [*_HOME]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'jaxfm' has no attribute {name!r}")
    import importlib
    import warnings

    with warnings.catch_warnings():
        # In a notebook without ipywidgets tqdm, which the hub's packages import, warns of it. jaxfm has its own bar.
        warnings.filterwarnings("ignore", module="tqdm.*")
        return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
