"""A masked language model as a classifier: the scores of a few words at a mask are those of the classes.

Schick and Schütze 2021 (PET), section 3; Gao et al. 2021 (LM-BFF), section 4.
"""

# B batch, T tokens, S segments (examples in a row), D model, E embedding, W label words, C classes

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxfm.core.build import Build
from jaxfm.core.encoder_config import EncoderConfig
from jaxfm.models.dropout import DropoutKey
from jaxfm.models.heads import MaskedLM, pool_at
from jaxfm.models.inputs.text import word_table
from jaxfm.models.products import einsum


class PromptedClassifier(MaskedLM):
    """A `MaskedLM` whose every segment has one mask; the logit of a class is the mean over those of its words there.

    It has the parameters of the masked language model alone, so that it can be used before it is trained.
    """

    def __init__(
        self,
        config: EncoderConfig,
        build: Build,
        rngs: nnx.Rngs,
        *,
        mask_token: int,
        words: Sequence[int],
        classes: Sequence[int],
        segments: int,
    ):
        """Makes encoder and vocabulary head.

        Args:
          config: of the encoder.
          build: how it computes.
          rngs: for the weights.
          mask_token: number of the mask token.
          words: tokens of the label words, W.
          classes: of each of these words, the number of its class; each class has a word.
          segments: most examples of a row.
        """
        assert len(words) == len(classes) and set(classes) == set(range(max(classes) + 1))
        super().__init__(config, build, rngs)
        self.mask_token, self.words, self.classes, self.segments = mask_token, tuple(words), tuple(classes), segments

    def __call__(self, batch: Mapping[str, jax.Array], *, key: DropoutKey | None = None) -> jax.Array:
        """Returns logits [B, S, C] in f32, unspecified where a row has no such segment; `key` turns dropout on."""
        return self.head(self.features(batch, key))

    def features(self, batch: Mapping[str, jax.Array], key: DropoutKey | None = None) -> jax.Array:
        """Returns what the decoder reads at the mask of each segment [B, S, E]; `key` turns dropout on."""
        masks_BT = batch["tokens"] == self.mask_token
        x_BSD = pool_at(self.hidden(batch, key), batch["segment_ids"], masks_BT, self.segments)
        return x_BSD if self.transform is None else self.transform(x_BSD)

    def head(self, x_BSE: jax.Array) -> jax.Array:
        """Returns the logits [B, S, C] in f32 of `features`."""
        # Of the vocabulary the rows of the label words alone: its whole scores would be the largest array of a step.
        own, words = self.decoder.embedding, jnp.asarray(self.words)
        table_VE = word_table(self.encoder.embeddings) if own is None else own[...]
        logits_BSW = einsum("BSE,WE->BSW", x_BSE, table_VE[words].astype(x_BSE.dtype), jnp.float32)
        if self.decoder.bias is not None:
            logits_BSW += self.decoder.bias[...][words]
        return self._of_classes(logits_BSW)

    def of_vocabulary(self, logits_BTV: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
        """Returns the same of the logits of a vocabulary at every token."""
        masks_BT = jnp.asarray(batch["tokens"]) == self.mask_token
        logits_BSV = pool_at(logits_BTV, jnp.asarray(batch["segment_ids"]), masks_BT, self.segments)
        return self._of_classes(logits_BSV[..., jnp.asarray(self.words)])

    def _of_classes(self, logits_BSW: jax.Array) -> jax.Array:
        of_class_WC = np.asarray(self.classes)[:, None] == np.arange(max(self.classes) + 1)
        mean_WC = (of_class_WC / of_class_WC.sum(axis=0)).astype(np.float32)
        return jnp.einsum("BSW,WC->BSC", logits_BSW, mean_WC, precision="highest")
