"""What the model of a config costs, before there is a run of it."""

from jaxfm.config import AUTO, Config
from jaxfm.parallel.chips import Chip
from jaxfm.planning.costs import costs, parameters_of
from jaxfm.planning.estimate import Subject
from jaxfm.schema import replaced


def costs_of(config: Config, chip: Chip | None = None) -> dict[str, float]:
    """Returns the costs of the model that a config trains, as `costs`; without data, its head has two classes.

    Raises:
      UserError: no encoder has the sizes of `config.model` together, or the number of rows of a batch is not known.
    """
    if config.train.batch_size == AUTO and chip is None:
        config = replaced(config, {"train.batch_size": 1})  # the others do not depend on it
    subject = Subject.of(config)
    return costs(subject.objective, parameters_of(subject.objective), subject.config, chip)
