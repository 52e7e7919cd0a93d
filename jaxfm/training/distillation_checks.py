"""What a run that learns from teachers cannot be: settings that contradict, or shapes that cannot be compared."""

import dataclasses
from collections.abc import Sequence

from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import LearnsFromTeachers, Objective
from jaxfm.distil_config import LAYER_LOSSES, DistilConfig
from jaxfm.errors import UserError
from jaxfm.training import supernet

KEY = "config.distil"


def check(config: Config, objective: Objective) -> LearnsFromTeachers | None:
    """Returns the objective that learns from teachers; None: nobody asks for any.

    Raises UserError for settings that contradict each other or the task.
    """
    asked = config.distil
    if not config.distil.teacher:
        changed = [
            each.name
            for each in dataclasses.fields(asked)
            if getattr(asked, each.name) != getattr(DistilConfig(), each.name)
        ]
        if changed:
            raise UserError(
                f"{KEY}.{changed[0]}: is {getattr(asked, changed[0])!r}, but {KEY}.teacher is empty. Name a teacher: "
                "run:WORKDIR."
            )
        return None
    of_layers = [name for name in LAYER_LOSSES if getattr(asked, name)]
    if not (asked.soft or of_layers):
        raise UserError(f"{KEY}.soft: is 0, as are hidden, attention and relations: nothing is learned from a teacher.")
    _check_rest(config, of_layers)
    name = config.task.name
    if not isinstance(objective, LearnsFromTeachers):
        raise UserError(f"{KEY}.teacher: models of the task {name!r} cannot learn from a teacher. Leave it empty.")
    if asked.soft and (problem := objective.distillation_problem()):
        raise UserError(f"{KEY}.soft: is {asked.soft:g}, but of the task {name!r} {problem}. Set 0.")
    if asked.cache and objective.draws:
        raise UserError(
            f"{KEY}.cache: of the task {name!r} what a model sees of a row is drawn anew at each step (masks, changed "
            "images), so that a teacher's outputs cannot be kept. Set False."
        )
    return objective


def _check_rest(config: Config, of_layers: Sequence[str]) -> None:
    """Raises UserError for other parts of a config that do not go with a teacher."""
    asked = config.distil
    if supernet.is_asked_for(config.supernet):
        raise UserError(
            f"{KEY}.teacher: subnets (config.supernet) learn from the largest of them. Leave one of both empty."
        )
    if config.exits.every:
        raise UserError(
            f"{KEY}.teacher: early heads (config.exits) learn from the last one. Set config.exits.every=0, or leave "
            "the teacher empty."
        )
    if config.grow.layers:
        raise UserError(f"{KEY}.teacher: a model that grows (config.grow.layers) cannot learn from a teacher.")
    if not of_layers:
        return
    shown = f"{KEY}.{of_layers[0]}: is {getattr(asked, of_layers[0]):g}, but"
    if len(asked.teachers) > 1:
        raise UserError(
            f"{shown} {KEY}.teacher names {len(asked.teachers)}, whose layers cannot be averaged. Name one, or learn "
            f"from outputs alone ({KEY}.soft)."
        )
    if asked.cache:
        raise UserError(f"{shown} {KEY}.cache keeps outputs alone. Set cache=False.")
    if config.train.accumulate > 1:
        raise UserError(
            f"{shown} config.train.accumulate is {config.train.accumulate}: what layers say is compared by means over "
            "the tokens of the whole batch. Set 1."
        )
    if config.optim.mup and asked.hidden:
        raise UserError(f"{shown} config.optim.mup has no rule for a map between two widths. Set mup=0.")


def layer_pairs(
    config: Config, student: EncoderConfig, teachers: Sequence[EncoderConfig]
) -> tuple[tuple[int, int], ...]:
    """Returns (layer of the student, layer of the teacher), from 1, of the pairs that are compared; () for none.

    Raises UserError for layers or heads that cannot be compared.
    """
    asked, layers = config.distil, config.distil.layers
    if not (asked.hidden or asked.attention):
        if layers:
            raise UserError(f"{KEY}.layers: is {layers}, but {KEY}.hidden and {KEY}.attention are 0. Leave it empty.")
        return ()
    teacher = teachers[0]
    mine, known = student.num_layers, teacher.num_layers
    if not layers:
        if known % mine:
            raise UserError(
                f"{KEY}.layers: is empty, but the {mine} layers of the student do not divide the {known} of the "
                f"teacher. Give {mine} numbers from 1 to {known} (0: none)."
            )
        layers = tuple(layer * (known // mine) for layer in range(1, mine + 1))
    if len(layers) != mine or not all(0 <= layer <= known for layer in layers) or not any(layers):
        raise UserError(
            f"{KEY}.layers: is {layers}, but must be a number from 1 to {known} (0: none) for each of the student's "
            f"{mine} layers."
        )
    if asked.attention:
        _check_attention(student, teacher)
    return tuple((number, layer) for number, layer in enumerate(layers, start=1) if layer)


def _check_attention(student: EncoderConfig, teacher: EncoderConfig) -> None:
    if student.num_heads != teacher.num_heads:
        raise UserError(
            f"{KEY}.attention: the student has {student.num_heads} heads and the teacher {teacher.num_heads}, and "
            f"heads are compared one by one. Give the student {teacher.num_heads} (config.model.num_heads), or take "
            "relations."
        )
    for who, encoder in (("student", student), ("teacher", teacher)):
        if encoder.has_relative_positions or encoder.local_window:
            what = "biases by distance" if encoder.has_relative_positions else "layers that see a window"
            raise UserError(f"{KEY}.attention: the {who} ({encoder.family}) has {what}. Set 0, or take relations.")


def relation_heads(config: Config, student: EncoderConfig, teacher: EncoderConfig) -> int:
    """Returns by how many heads relations are computed.

    Raises UserError where that number does not divide the widths of both models' queries, keys and values.
    """
    heads = config.distil.relation_heads or teacher.num_heads
    for who, encoder in (("student", student), ("teacher", teacher)):
        for count, what in ((encoder.num_heads, "queries"), (encoder.kv_heads, "keys and values")):
            if count * encoder.head_dim % heads:
                raise UserError(
                    f"{KEY}.relation_heads: {heads} does not divide the width of the {who}'s {what}, "
                    f"{count * encoder.head_dim}. Give a number that does."
                )
    if config.distil.relation_layer > teacher.num_layers:
        raise UserError(
            f"{KEY}.relation_layer: is {config.distil.relation_layer}, but the teacher has {teacher.num_layers} layers."
        )
    return heads
