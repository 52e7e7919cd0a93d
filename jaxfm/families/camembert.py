"""CamemBERT (Martin et al. 2020): RoBERTa's tensors and function; only transformers' class differs."""

import dataclasses

from jaxfm.families import roberta

FAMILY = dataclasses.replace(roberta.FAMILY, name="camembert", architecture="Camembert")
