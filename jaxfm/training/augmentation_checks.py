"""What a run whose training rows are changed cannot be: keys without effect, tasks and settings that contradict."""

from collections.abc import Mapping

from jaxfm.augment_config import TextAugmentConfig
from jaxfm.config import Config
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.core.objective import Augmentable, Objective
from jaxfm.errors import UserError
from jaxfm.training import supernet

KEY = "config.augment"


def check(config: Config, objective: Objective) -> Augmentable | None:
    """Returns the task's objective where its training rows are changed; None: nothing is asked for.

    Raises UserError for keys that contradict each other, the task or the rest of the config.
    """
    asked = config.augment
    shares = {"word_dropout": asked.word_dropout, "substitute": asked.substitute, "mixup": asked.mixup}
    on = [f"{KEY}.{name}" for name, value in shares.items() if value]
    _check_effects(asked, shares)
    if not on:
        return None
    name = config.task.name
    if not isinstance(objective, Augmentable):
        raise UserError(
            f"{on[0]}: the training rows of the task {name!r} cannot be changed so that its targets stay true. Set 0."
        )
    if asked.substitute and not asked.masked_lm:
        raise UserError(
            f"{KEY}.substitute: is {asked.substitute:g}, but {KEY}.masked_lm is empty. Name a masked LM: run:WORKDIR "
            "or hf:OWNER/NAME."
        )
    if config.distil.cache and (asked.word_dropout or asked.substitute):
        raise UserError(
            f"config.distil.cache: a teacher's outputs are kept for rows as they are, but {on[0]} changes them at each "
            "step. Set cache=False."
        )
    if asked.mixup:
        _check_mixup(config, objective)
    return objective


def _check_effects(asked: TextAugmentConfig, shares: Mapping[str, float]) -> None:
    """Raises UserError for keys without effect; `shares` are those that switch something on."""
    usual = TextAugmentConfig()
    needs = {"word_dropout": "dropped_to", "substitute": "masked_lm temperature", "mixup": "mixup_layers"}
    for needed, names in needs.items():
        for name in names.split():
            if getattr(asked, name) != getattr(usual, name) and not shares[needed]:
                raise UserError(
                    f"{KEY}.{name}: is {getattr(asked, name)!r}, but {KEY}.{needed} is 0, so that it has no effect. "
                    f"Set {KEY}.{needed}, or leave it out."
                )
    if (asked.start, asked.stop) != (usual.start, usual.stop):
        if not any(shares.values()):
            raise UserError(
                f"{KEY}.start and stop: are {asked.start:g} and {asked.stop:g}, but nothing is changed. Set "
                f"{', '.join(f'{KEY}.{name}' for name in shares)}, or leave them out."
            )
        if asked.start >= asked.stop:
            raise UserError(f"{KEY}.start: is {asked.start:g}, but must be below {KEY}.stop, {asked.stop:g}.")


def _check_mixup(config: Config, objective: Augmentable) -> None:
    shown = f"{KEY}.mixup: is {config.augment.mixup:g}, but"
    if problem := objective.mixup_problem():
        raise UserError(f"{shown} of the task {config.task.name!r} examples cannot be mixed: {problem}. Set 0.")
    if config.train.accumulate > 1:
        raise UserError(
            f"{shown} config.train.accumulate is {config.train.accumulate}: examples of the whole batch are mixed, "
            "which then has no micro-batches. Set 1."
        )
    others = {
        "config.distil.teacher": (config.distil.teacher, "a teacher sees examples as they are"),
        "config.exits.every": (config.exits.every, "early heads read other layers than the one that is mixed"),
        "config.supernet": (supernet.is_asked_for(config.supernet), "subnets leave out layers"),
    }
    for name, (value, why) in others.items():
        if value:
            raise UserError(f"{shown} not together with {name}: {why}. Take one of the two.")


def mixed_layers(config: Config, encoder: EncoderConfig) -> tuple[int, ...]:
    """Returns the numbers of layers after one of which hidden states are mixed.

    Raises UserError for numbers that the encoder does not have.
    """
    asked, layers = config.augment.mixup_layers, encoder.num_layers
    if not asked:
        return tuple(sorted({-(-share * layers // 12) for share in (7, 9, 12)}))
    if list(asked) != sorted(set(asked)) or not 0 <= asked[0] <= asked[-1] <= layers:
        raise UserError(
            f"{KEY}.mixup_layers: is {asked}, but must be ascending numbers from 0 (the embeddings) to {layers}, the "
            "layers of the encoder."
        )
    return asked
