"""The programs by name: what `jaxfm NAME` runs and what `jaxfm --help` says of it. It imports none of them.

A new program is a module of this room with a function `run()`, a line here, and a file like jaxfm/train.py that starts
it as `python -m jaxfm.NAME`.
"""

import dataclasses

from jaxfm.errors import UserError, did_you_mean

TRAINING, USING, TEXT, INSTALLATION = "train", "use a trained model", "prepare text", "about this installation"
GROUPS = (TRAINING, USING, TEXT, INSTALLATION)


@dataclasses.dataclass(frozen=True)
class Program:
    """A program of `jaxfm`.

    Attributes:
      name: as it is called; its module is `module`.
      group: of `GROUPS`, under which it is listed.
      doc: what it does, in a line that follows its name.
    """

    name: str
    group: str
    doc: str

    @property
    def module(self) -> str:
        """The module whose function `run()` is the program."""
        return f"jaxfm.programs.{self.name.replace('-', '_')}"


PROGRAMS = (
    Program("check", TRAINING, "looks at the data before training: leaks, rare labels, errors"),
    Program("audit", TRAINING, "says what is wrong with labelled data: wrong labels, copies"),
    Program("train", TRAINING, "trains a model, or resumes a run that was stopped"),
    Program("seeds", TRAINING, "trains several seeds of a config: mean and standard deviation"),
    Program("search", TRAINING, "searches for the best values of keys: trials that resume exactly"),
    Program("subnets", TRAINING, "finds the best smaller model inside a supernet, and cuts it out"),
    Program("self-train", TRAINING, "trains on a model's own labels of unlabelled texts, in rounds"),
    Program("continual", TRAINING, "trains on data that come in stages; says what is forgotten"),
    Program("federated", TRAINING, "trains over many clients whose data stay apart: a simulation"),
    Program("plan", TRAINING, "says what a run needs on TPUs or GPUs that are not here"),
    Program("from-trainer", TRAINING, "shows a script of transformers' Trainer as a command of jaxfm"),
    Program("evaluate", USING, "scores a run on a split, or two runs against each other"),
    Program("stress", USING, "scores a run on changed inputs: typos, names, noise; a gate"),
    Program("drift", USING, "compares new data with a run's: train again, look or nothing"),
    Program("runs", USING, "shows a table over many runs, the best one first"),
    Program("checkpoints", USING, "lists, verifies or thins out the checkpoints of a run"),
    Program("predict", USING, "labels texts, or a file of them, or fills their masks"),
    Program("select", USING, "chooses the next texts to label: active learning"),
    Program("explain", USING, "says which words, or patches, a result is due to"),
    Program("probe", USING, "says how much of texts' labels is in a run's vectors"),
    Program("bias", USING, "looks for bias: exchanged terms, scores by group, stereotypes"),
    Program("leaks", USING, "says what a model gives away of its training texts"),
    Program("retrieve", USING, "finds the texts of a corpus that fit a query, or answers"),
    Program("assist", USING, "answers customers' dialogues, or hands over to a person"),
    Program("serve", USING, "serves trained models over HTTP, with a page to try them on"),
    Program("export", USING, "writes a model for transformers, ONNX or JAX without jaxfm"),
    Program("quantise", USING, "rounds a run's weights to 8 or 4 bits, if it keeps its score"),
    Program("prune", USING, "drops heads, neurons, layers and words that a run needs least"),
    Program("compress", USING, "finds the best smaller form of a run within a target"),
    Program("verify", USING, "compares two models, runs or exports, number by number"),
    Program("mine", TEXT, "finds hard negatives for pairs of texts"),
    Program("convert", TEXT, "writes tagged sentences in the form of another tool"),
    Program("tokenizer", TEXT, "learns a tokenizer from text"),
    Program("prepare", TEXT, "prepares a corpus for pretraining: deduplicated, packed"),
    Program("doctor", INSTALLATION, "shows versions, devices and caches, and trains a tiny model"),
    Program("reference", INSTALLATION, "writes the reference: every key, program or Python name"),
    Program("launch", INSTALLATION, "lists the scripts that start runs elsewhere, or runs one"),
    Program("completion", INSTALLATION, "prints a completion script for bash, zsh or fish"),
    Program("version", INSTALLATION, "prints the version"),
)


def find(name: str) -> Program:
    """Returns the program of that name, written with - or _; an unknown one is a UserError that names the nearest."""
    for program in PROGRAMS:
        if program.name == name.replace("_", "-"):
            return program
    raise UserError(f"there is no program {name!r}. {did_you_mean(name, [each.name for each in PROGRAMS])}")


def overview(command: str) -> str:
    """Returns what `jaxfm --help` prints, for a command that is called so."""
    lines = [f"usage: {command} PROGRAM ...", "", "Trains and uses encoder foundation models in JAX."]
    width = 1 + max(len(each.name) for each in PROGRAMS)
    for group in GROUPS:
        lines += ["", f"{group}:"]
        lines += [f"  {each.name:<{width}} {each.doc}" for each in PROGRAMS if each.group == group]
    lines += [
        "",
        f"{command} PROGRAM --help    shows the flags of a program",
        f"{command} train ner --help  shows the keys of a config too",
        "",
        "to begin:",
        f"  {command} doctor",
        f"  {command} train ner --workdir runs/ner",
        f'  {command} predict --workdir runs/ner "Ada Lovelace was born in London."',
    ]
    return "\n".join(lines)
