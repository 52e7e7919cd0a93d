"""Plans a run before it is paid for: `python -m jaxfm.plan --config=configs/mlm.py:bert_large --topology=v5e:16x16`.

The real train step is compiled by the real TPU compiler (extra `tpu`; no TPU is needed), for GPUs it is lowered.
Neither data nor weights nor a tokenizer need be there. See docs/scaling.md.
"""

import logging
import sys

import jax
import ml_collections
from absl import flags

from jaxfm import files
from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.observe.progress import Progress
from jaxfm.planning import output, sweep
from jaxfm.planning.advice import advise
from jaxfm.planning.estimate import Plan, Subject, make_plan
from jaxfm.planning.hardware import parse_topology
from jaxfm.programs import program
from jaxfm.tasks.registry import from_config_dict
from jaxfm.training import grid

USAGE = (
    "usage: python -m jaxfm.plan CONFIG --topology=v5e:16x16 [--slices=N] [--price=USD a chip hour] [--sweep]\n"
    "  [--output=plan.json] [--config.KEY=VALUE ...]\n"
    "  CONFIG: a name (ner, mlm:continue) or --config=FILE.py[:variant]"
)


def plan(config: Config | ml_collections.ConfigDict, topology: str, slices: int = 1) -> Plan:
    """Says what a run needs on a topology, and how fast it can be.

    Args:
      config: a checked Config, or a ConfigDict as a config file returns it.
      topology: "v5e:16x16", "v5p:4x4x8", ..., "gpu:h100:16".
      slices: how many of these a network joins.

    Raises:
      UserError: an unknown topology, no TPU compiler, a mesh or batch that does not fit the chips.
    """
    return make_plan(_subject(config), parse_topology(topology, slices))


def _subject(config: Config | ml_collections.ConfigDict) -> Subject:
    checked = config if isinstance(config, Config) else from_config_dict(config)
    return Subject.of(checked)


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if values.config is None or values.topology is None:
        raise UserError(f"--{'config' if values.config is None else 'topology'} is missing.\n{USAGE}")
    if values.price is not None and values.price <= 0:
        raise UserError(f"--price={values.price}: must be above 0 (USD for a chip and hour).")
    topology = parse_topology(values.topology, values.slices)
    # Chips are described, not used: nothing but the CPU is looked for, of that as many as there are GPUs to stand for.
    jax.config.update("jax_platforms", "cpu")
    # A cache of compiled programs cannot give back those for chips that are not there.
    jax.config.update("jax_enable_compilation_cache", False)
    if topology.chip.kind == "gpu":
        jax.config.update("jax_num_cpu_devices", topology.size)
    logging.getLogger("jax").setLevel(logging.ERROR)
    progress, subject = Progress(None), _subject(values.config)
    if values.sweep and grid.asks_for_several(subject.config):
        raise UserError(
            "--sweep: is for one run. Leave config.train.seeds, learning_rates and weight_decays at their defaults."
        )
    if values.sweep:
        plans = sweep.run(subject, topology, values.compile, lambda text: print(text, file=sys.stderr))
        progress.table(sweep.table(plans, values.price))
    else:
        plans = [make_plan(subject, topology)]
    best = plans[0]
    progress.headline(output.headline(best))
    for note in best.notes:
        progress.say(f"  {note}")
    for table in output.tables(best, values.price):
        progress.table(table)
    for sentence in advise(best):
        progress.say(sentence)
    if values.output:
        whole = output.to_dict(best, values.price)
        others = [output.to_dict(each, values.price) for each in plans[1:]]
        files.write_json(
            files.output_file(values.output, "--output"), whole | ({"others": others} if values.sweep else {})
        )
    if best.memory.fits is False:
        raise UserError(f"{best.settings['model']} does not fit {topology.name}: {advise(best)[0]}.")


def run() -> None:
    """Defines the flags and runs the program."""
    program.define_config_flag()
    flags.DEFINE_string("topology", None, "Chips: v5e:16x16, v5p:4x4x8, ..., gpu:h100:16; an unknown one lists all.")
    flags.DEFINE_integer("slices", 1, "How many such slices a network joins.")
    flags.DEFINE_float("price", None, "USD for a chip and hour; adds the cost of 1e9 tokens.")
    flags.DEFINE_bool("sweep", False, "Try meshes, batches and remat instead of the config's own.")
    flags.DEFINE_integer("compile", 6, "How many of the ways that --sweep finds are compiled.", lower_bound=1)
    flags.DEFINE_string("output", None, "JSON file for the plan.")
    program.run(main, USAGE)
