"""Which documented commands are run by tests/docs/test_commands_run.py, and why the others are not."""

import pathlib
import re
from collections.abc import Sequence

from tests.docs.pages import Command

# Pages whose commands are run, in their order, each page in a folder of its own.
RUN_PAGES = (
    "README.md",
    "docs/audio.md",
    "docs/audit.md",
    "docs/causal.md",
    "docs/checkpoints.md",
    "docs/classification.md",
    "docs/data_check.md",
    "docs/detection.md",
    "docs/embeddings.md",
    "docs/explaining.md",
    "docs/exporting.md",
    "docs/few_shot.md",
    "docs/generation.md",
    "docs/howto/imbalanced_classes.md",
    "docs/howto/labelling_tools.md",
    "docs/howto/long_documents.md",
    "docs/howto/out_of_memory.md",
    "docs/howto/probes.md",
    "docs/howto/small_data.md",
    "docs/howto/tpu_pod.md",
    "docs/image_classification.md",
    "docs/image_generation.md",
    "docs/image_text.md",
    "docs/index.md",
    "docs/late_interaction.md",
    "docs/masked_images.md",
    "docs/multi_host.md",
    "docs/mup.md",
    "docs/ner.md",
    "docs/nested_ner.md",
    "docs/optimizers.md",
    "docs/recommendation.md",
    "docs/pretraining.md",
    "docs/qa.md",
    "docs/relations.md",
    "docs/reliability.md",
    "docs/retrieval.md",
    "docs/seeds.md",
    "docs/seq2seq.md",
    "docs/speech_recognition.md",
    "docs/splits.md",
    "docs/trackers.md",
    "docs/trust.md",
    "docs/tutorial.md",
    "docs/using.md",
    "docs/zero_shot.md",
)
# Commands that are not run on any page, by the beginning or a part of them -> why.
NOT_RUN = {
    r"^(jaxfm |python -m jaxfm\.)serve ": "serves until it is stopped; tests/programs/test_serve.py does so",
    r"^(jaxfm |python -m jaxfm\.)search |(^| )jaxfm search ": "trains many runs; tests/programs/test_search.py does so",
    r"distil\.|runs/teacher": "trains a teacher first; tests/training/test_distillation.py does so",
    r"augment\.": "needs a masked LM; tests/training/test_augmentation.py trains with all of it",
    r"supernet|runs/(half|tuned)": "trains a supernet first; tests/programs/test_subnets.py does so",
    r"runs/exits|exits\.every": "trains early heads first; tests/programs/test_model_exits.py does so",
    r"log\.tracker=": "needs a tracker; tests/observe/test_trackers.py has those that are installed",
    r"checkpoint\.mirror=": "needs a bucket; tests/training/test_mirror.py has stores in folders and in memory",
    r"^(jaxfm |python -m jaxfm\.)quantise |adapt\.quantise": "scores many times: tests/programs/test_quantise.py",
    r"^(jaxfm |python -m jaxfm\.)audit (?!.*--folds=0)": "trains a run a fold; tests/programs/test_audit.py does so",
    r"^(jaxfm |python -m jaxfm\.)(bias|leaks) ": "tests/programs/test_bias.py and test_leaks.py",
    r"^(jaxfm |python -m jaxfm\.)assist ": "needs answers and dialogues: tests/programs/test_assist.py",
    r"^(jaxfm |python -m jaxfm\.)(prune|compress) |runs/r1": "many models: tests/programs/test_prune.py",
    r"^(jaxfm |python -m jaxfm\.)(select|self-train|self_train) |--data jsonl:DIR --workdir runs/b$": (
        "needs a run and unlabelled texts, or trains several: tests/programs/test_select.py and test_self_train.py"
    ),
    r"^(jaxfm |python -m jaxfm\.)continual |grow_head": "trains many runs: tests/programs/test_continual.py",
    r"^(jaxfm |python -m jaxfm\.)federated ": "trains many clients; tests/programs/test_federated.py does so",
    r"^launch/federated_local\.py": "needs Flower; tests/launch/test_federated_local.py has federations",
    r"privacy\.": "needs dp-accounting and many rows; tests/training/test_private_rows.py trains so",
    r"^(jaxfm |python -m jaxfm\.)stress |task\.perturb": "scores many times: tests/programs/test_stress.py",
    r"^(jaxfm |python -m jaxfm\.)drift |^launch/drift_": (
        "needs a run, new data and, at set times, cron or a cluster: tests/programs/test_drift.py, tests/launch"
    ),
    r"--replay=": "needs a run that stopped; tests/training/test_skipped_batch.py replays one of every task",
    r"--push[ =]": "needs a repository of the hub; tests/hub/test_push.py has a stand-in for it",
    r"data\.source=parquet:DIR": "trains for minutes on the optional data",
    r"^make ": "makes environments; that the target exists is tested",
    r"^(python -m profiles\.|profiles/)": "measures for minutes to hours; tests/profiles runs each script on little",
    r"^launch/(tpu_pod|slurm|gke_xpk|slurm_workers)\.sh|^launch/gke_(jobset|workers)\.py": (
        "needs a cluster; tests/launch has stand-ins for it"
    ),
    r"^(jaxfm |python -m jaxfm\.)plan ": "compiles for TPUs or GPUs, minutes and gigabytes; tests/planning does so",
    r"runs/zero_shot": "needs a masked language model; tests/programs/test_fitted_run.py asks a small one",
    r"=hf:": "downloads weights or data from the hub; tests/hub reads files as they are there",
    r":(mrpc|conll2003|wnut17)\b": "downloads data; tests/data reads prepared ones of the same kind",
    r"array_record:/data|^jaxfm export --workdir runs/base": "is of a run on a pod",
    r"^launch/workers\.py|jaxfm launch workers": "trains many runs; tests/launch/test_workers.py has a stand-in",
    r"grow\.layers=": "grows within hundreds of updates; tests/training/test_growth.py does so in four",
    r"\.\./shared/": "trains on the optional data for half an hour",
    r"from-trainer ": "reads a script of the reader's; tests/programs/test_from_trainer.py has one",
    r"--plugin[ =]": "needs the plugin that the page shows; tests/core/test_extensions.py trains with it",
    r"profile\.steps=": "records steps that a run of two does not have; tests/training/test_profiled_runs.py",
    r"array_record:corpus": "needs 200 GiB at 256 rows of 512 tokens; tests/tasks/masked_lm trains from shards",
    r"batch_size=auto": "fills the memory of the machine; tests/training/test_batch_size.py",
}


def reasons(command: Command) -> Sequence[str]:
    """Why a command is not run; empty for one that is."""
    return [why for pattern, why in NOT_RUN.items() if re.search(pattern, shown(command))]


def shown(command: Command) -> str:
    """The command without the quotes that only a shell needs, and without the folder of its interpreter."""
    words = list(command.words)
    words[0] = re.sub(r"^\.venv-[\d.]+/bin/", "", words[0])
    return " ".join(words)


def program_words(words: Sequence[str]) -> list[str] | None:
    """A command as `jaxfm PROGRAM ...`, which `python -m jaxfm.PROGRAM ...` equals; None for one that is neither."""
    if pathlib.PurePath(words[0]).name == "jaxfm":
        return ["jaxfm", *words[1:]]
    if pathlib.PurePath(words[0]).name == "python" and words[1] == "-m" and words[2].partition(".")[0] == "jaxfm":
        program = words[2].partition(".")[2]
        return ["jaxfm", *([program] if program else []), *words[3:]]
    return None
