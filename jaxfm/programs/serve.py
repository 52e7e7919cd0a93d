"""Serves trained models over HTTP: `python -m jaxfm.serve --workdir=runs/ner [--workdir=runs/sst2 ...]`, with a page
at / to try them on. A model is called by the name of its directory, or by another: `--workdir=people=runs/ner`.

Requests are packed into rows together. The server answers when /ready does: until then programs are compiled. SIGTERM
and Ctrl-C stop it in order: what it has accepted is answered.

It listens at this machine alone unless --host says otherwise. With the environment variable JAXFM_TOKEN each request
needs the header `Authorization: Bearer TOKEN`.
"""

import os
import pathlib
import re
import sys
from collections.abc import Sequence

from absl import flags

from jaxfm import files
from jaxfm.core.task import ReadsEntities
from jaxfm.errors import UserError, install_hint
from jaxfm.programs import plugins, program
from jaxfm.programs.model import Model
from jaxfm.programs.model_exits import NEVER
from jaxfm.serving.served import Limits
from jaxfm.training.saved_run import open_run

USAGE = (
    "usage: python -m jaxfm.serve --workdir=[NAME=]DIR [--workdir=...] [--host=127.0.0.1] [--port=8000] "
    "[--entities=DIR] [--no_exit]"
)
TOKEN = "JAXFM_TOKEN"
_LEAST_TOKEN = 16  # characters: shorter ones can be guessed
_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"


def named(given: Sequence[str]) -> dict[str, str]:
    """Returns name -> run directory of the values of --workdir.

    Raises UserError for two of one name, and for a name that cannot be part of an address.
    """
    found: dict[str, str] = {}
    for each in given:
        name, sign, directory = each.partition("=")
        if not sign:
            name, directory = pathlib.Path(each).resolve().name, each
        if not re.fullmatch(_NAME, name):
            raise UserError(
                f"--workdir={each}: {name!r} cannot be the name of a model: letters, digits, '.', '_' and '-' can. "
                "Give another: --workdir=NAME=DIR."
            )
        if name in found:
            raise UserError(f"--workdir={each}: there is a model {name!r} already. Give another: --workdir=NAME=DIR.")
        found[name] = directory
    return found


def load_models(
    directories: dict[str, str], entities: str | None = None, precision: str = "", *, exits: bool = True
) -> dict[str, Model]:
    """Opens runs; those that relate entities with a run that finds them, where one is given.

    `precision`: see --precision; `exits`: whether inputs of runs with early heads may leave there.

    Raises UserError: no run, no checkpoint, a run of entities that no model has a use for.
    """
    finders: dict[str, str] = {}
    if entities is not None:  # known before the weights are read
        for name, directory in directories.items():
            if isinstance(open_run(files.user_path(directory, "--workdir")).predictor(), ReadsEntities):
                finders[name] = entities
        if not finders:
            raise UserError(f"--entities={entities}: no model of --workdir relates entities: leave out the flag.")
    models = {
        name: Model(directory, entities=finders.get(name), precision=precision, exit=None if exits else NEVER)
        for name, directory in directories.items()
    }
    for name, model in models.items():
        if model.reads_files:
            raise UserError(
                f"--workdir: {name} is a run of the task {model.task}, whose files are not served. Take "
                f"jaxfm.predict --workdir={directories[name]} FILE."
            )
    return models


def token_of(environment: dict[str, str] | os._Environ[str]) -> str:
    """Returns the token that requests must carry, "" for none; UserError for one that can be guessed or not be sent."""
    token = environment.get(TOKEN, "")
    if token and (len(token) < _LEAST_TOKEN or not re.fullmatch(r"[\x21-\x7e]+", token)):
        raise UserError(
            f"{TOKEN}: must have at least {_LEAST_TOKEN} characters, none of them a space or outside of ASCII. For "
            "instance: openssl rand -hex 32."
        )
    return token


def main() -> None:
    """The program."""
    values = flags.FLAGS
    if not values.workdir:
        raise UserError(f"--workdir is missing.\n{USAGE}")
    try:
        from jaxfm.serving import server
        from jaxfm.serving.app import Service
    except ImportError as error:
        raise UserError(f"jaxfm.serve needs the package {error.name}: {install_hint('serve')}.") from None
    token = token_of(os.environ)
    directories = named(values.workdir)
    limits = Limits(
        inputs=values.max_inputs,
        characters=values.max_characters,
        queue=values.max_queue,
        body=values.max_body_mib * 2**20,
        batch=values.max_batch_mib * 2**20,
        batch_inputs=values.batch_inputs,
        wait=values.wait_ms / 1000,
        deadline=values.deadline,
    )
    models = load_models(directories, values.entities, values.precision, exits=not values.no_exit)
    for name, model in models.items():
        leaves = f"; {model.exit_note}" if model.exit_note else ""
        print(f"{name}: {model.task}, step {model.step} of {model.workdir}{leaves}")
    if not token and values.host not in server.LOOPBACK:
        print(f"WARNING: everybody who reaches {values.host} may ask; set {TOKEN} to change that")
    service = Service(models, limits)
    still_compiles = server.serve(
        service,
        host=values.host,
        port=values.port,
        token=token,
        hosts=values.allow_host,
        say=lambda text: print(text, flush=True),
    )
    print(f"stopped: {service.lost} requests took too long and were given up" if service.lost else "stopped")
    if still_compiles:  # see server.serve
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def run() -> None:
    """Defines the flags and runs the program."""
    plugins.define_plugin_flag()
    default = Limits()
    flags.DEFINE_multi_string("workdir", [], "A run directory, or NAME=DIR; give the flag once a model.")
    flags.DEFINE_string("entities", None, "A run that finds the entities for models that relate them.")
    flags.DEFINE_enum(
        "precision", "", ["", "f32", "bf16"], "Of activations; as in the run's training, if empty (as jaxfm.predict)."
    )
    flags.DEFINE_bool("no_exit", False, "Whether inputs take all layers, of models with early heads too.")
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen at; 0.0.0.0: all of this machine's.")
    flags.DEFINE_integer("port", 8000, "Port to listen at; 0: one that is free.", lower_bound=0, upper_bound=65535)
    flags.DEFINE_multi_string(
        "allow_host", [], "A name by which requests may call the server, where others are to be refused."
    )
    flags.DEFINE_integer("max_inputs", default.inputs, "Inputs of a request.", lower_bound=1)
    flags.DEFINE_integer("max_characters", default.characters, "Characters of a request's texts.", lower_bound=1)
    flags.DEFINE_integer(
        "max_queue", default.queue, "Inputs that wait for a model; more are refused (429).", lower_bound=1
    )
    flags.DEFINE_integer("max_body_mib", default.body // 2**20, "MiB of a request.", lower_bound=1)
    flags.DEFINE_integer("max_batch_mib", default.batch // 2**20, "MiB of a batch.", lower_bound=1)
    flags.DEFINE_integer("batch_inputs", default.batch_inputs, "Inputs that are computed together.", lower_bound=1)
    flags.DEFINE_float(
        "wait_ms", 1000 * default.wait, "Milliseconds that, under load, a request waits for others to share its rows.",
        lower_bound=0.0,
    )  # fmt: skip
    flags.DEFINE_float(
        "deadline", default.deadline, "Seconds after which a request without an answer gets none (504).",
        lower_bound=0.1,
    )  # fmt: skip
    program.run(main, USAGE)
