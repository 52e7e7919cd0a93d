"""Losses over the similarities of all texts of a batch.

They are told similarities, not vectors: of one vector a text, of many (late interaction), of prefixes of vectors.
"""

# n groups of the batch, K texts a group, J = K - 1 texts beside the anchor, P known positives

import jax
import jax.numpy as jnp

from jaxfm.observe.metrics import Sums, weighted

ABSENT = -1  # number of a text that is not there
_NEVER = -1e30  # similarity of what does not count


def excluded(texts_nK: jax.Array, positives_nP: jax.Array | None) -> jax.Array:
    """Returns which texts are no negatives of which anchors, bool [n, n, J].

    Those are absent ones, texts equal to the anchor or to its positive, and texts that are known to fit the anchor. An
    anchor's own positive (index 0 of its own group) is excluded too: it is the target.
    """
    anchors_n, others_nJ = texts_nK[:, 0], texts_nK[:, 1:]
    no = (others_nJ == ABSENT)[None] | (anchors_n == ABSENT)[:, None, None]
    no |= others_nJ[None] == anchors_n[:, None, None]
    no |= others_nJ[None] == others_nJ[:, 0][:, None, None]
    if positives_nP is not None:
        for known_n in positives_nP.T:
            no |= others_nJ[None] == known_n[:, None, None]
    return no


def excluded_anchors(texts_nK: jax.Array, positives_nP: jax.Array | None) -> jax.Array:
    """Returns which anchors are no negatives of which positives, bool [n positives, n anchors]; see `excluded`."""
    no = excluded(texts_nK, positives_nP)[..., 0].T  # a positive that is none of an anchor's negatives, and the reverse
    anchors_n = texts_nK[:, 0]
    return no | (anchors_n[None, :] == anchors_n[:, None])


def info_nce(
    similarities_nnJ: jax.Array,
    texts_nK: jax.Array,
    positives_nP: jax.Array | None,
    scale: jax.Array,
    symmetric: bool,
) -> tuple[jax.Array, jax.Array, Sums]:
    """Cross-entropy of each anchor's positive among all texts of the batch (van den Oord et al. 2018, equation 4).

    Args:
      similarities_nnJ: of each anchor [n] to each text beside the anchors [n, J].
      texts_nK: number of each text, equal for equal texts; -1: absent.
      positives_nP: numbers of texts that are known to fit each anchor; None: its own positive alone.
      scale: of similarities, 1 / temperature.
      symmetric: also the anchor of each positive among all anchors, half of the loss each (Radford et al. 2021).

    Returns:
      Losses [n], weights [n] (1, or 0 where there is no group), and sums: "accuracy", the share of anchors whose
      positive is the most similar text; "negatives", texts that an anchor is compared with beside its positive.
    """
    count = len(texts_nK)
    valid_n = (texts_nK[:, 0] != ABSENT).astype(jnp.float32)
    own_n = jnp.diagonal(similarities_nnJ[..., 0]) * scale
    no = excluded(texts_nK, positives_nP)

    def entropy(target_n: jax.Array, others: jax.Array, no: jax.Array) -> jax.Array:
        logits = jnp.where(no, _NEVER, others * scale).reshape(count, -1)
        return jax.nn.logsumexp(jnp.concatenate([target_n[:, None], logits], axis=1), axis=1) - target_n

    loss_n = entropy(own_n, similarities_nnJ, no)
    if symmetric:
        back_n = entropy(own_n, similarities_nnJ[..., 0].T, excluded_anchors(texts_nK, positives_nP))
        loss_n = 0.5 * (loss_n + back_n)
    best_n = jnp.where(no, _NEVER, similarities_nnJ * scale).reshape(count, -1).max(axis=1)
    sums: Sums = {
        "accuracy": weighted(jnp.sum((own_n > best_n) * valid_n), valid_n.sum()),
        "negatives": weighted(jnp.sum(jnp.sum(~no, axis=(1, 2)) * valid_n), valid_n.sum()),
    }
    return loss_n * valid_n, valid_n, sums


def sigmoid(
    similarities_nn: jax.Array, texts_nK: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, Sums]:
    """Binary cross-entropy of whether each two of a batch belong together (Zhai et al. 2023, SigLIP, algorithm 1).

    Args:
      similarities_nn: of each anchor to the positive of each group.
      texts_nK: as `info_nce`.
      scale: of similarities.
      bias: added to scaled similarities: most pairs do not belong together.

    Returns:
      Losses [n], summed over the anchor's pairs, weights [n], and the sums of `info_nce`.
    """
    valid_n = (texts_nK[:, 0] != ABSENT).astype(jnp.float32)
    own_nn = jnp.eye(len(texts_nK), dtype=bool)
    no_nn = excluded(texts_nK, None)[..., 0] & ~own_nn
    logits_nn = similarities_nn * scale + bias
    terms_nn = jax.nn.log_sigmoid(jnp.where(own_nn, logits_nn, -logits_nn))
    loss_n = -jnp.where(no_nn, 0.0, terms_nn).sum(axis=1)
    best_n = jnp.where(no_nn | own_nn, _NEVER, logits_nn).max(axis=1)
    sums: Sums = {
        "accuracy": weighted(jnp.sum((jnp.diagonal(logits_nn) > best_n) * valid_n), valid_n.sum()),
        "negatives": weighted(jnp.sum(jnp.sum(~(no_nn | own_nn), axis=1) * valid_n), valid_n.sum()),
    }
    return loss_n * valid_n, valid_n, sums


def cosent(similarity_n: jax.Array, scores_n: jax.Array, valid_n: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the loss, a number, of the order of all pairs of a batch (CoSENT: Su 2022; Huang et al. 2024).

    log(1 + sum of exp(scale (s_i - s_j)) over all i, j of which j has the higher score).
    """
    difference_nn = scale * (similarity_n[:, None] - similarity_n[None, :])
    wrong_nn = (scores_n[:, None] < scores_n[None, :]) & (valid_n[:, None] * valid_n[None, :] > 0)
    exponents = jnp.where(wrong_nn, difference_nn, _NEVER).reshape(-1)
    return jax.nn.logsumexp(jnp.concatenate([jnp.zeros(1, exponents.dtype), exponents]))


def triplet(similarities_nJ: jax.Array, texts_nK: jax.Array, margin: float) -> tuple[jax.Array, jax.Array]:
    """Returns max(0, margin + s(anchor, negative) - s(anchor, positive)) of each negative, and weights [n, J - 1].

    Negatives are those of the group (Schroff et al. 2015, equation 3, with similarities in place of distances).
    """
    weights = (texts_nK[:, 2:] != ABSENT).astype(jnp.float32)
    losses = jax.nn.relu(margin + similarities_nJ[:, 1:] - similarities_nJ[:, :1])
    return losses * weights, weights


def margin_mse(
    similarities_nJ: jax.Array, teacher_nJ: jax.Array, texts_nK: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Squared error of the margins between a group's first passage and each other one, and weights [n, J - 1].

    Hofstaetter et al. 2020, equation 7. The student's scores are its similarities times `scale`.
    """
    weights = (texts_nK[:, 2:] != ABSENT).astype(jnp.float32)
    student = scale * (similarities_nJ[:, :1] - similarities_nJ[:, 1:])
    return jnp.square(student - (teacher_nJ[:, :1] - teacher_nJ[:, 1:])) * weights, weights


def divergence(
    similarities_nJ: jax.Array, teacher_nJ: jax.Array, texts_nK: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Kullback-Leibler divergence of the student's shares of a group's passages from the teacher's, and weights [n]."""
    present = texts_nK[:, 1:] != ABSENT
    valid_n = (texts_nK[:, 0] != ABSENT).astype(jnp.float32)
    student = jax.nn.log_softmax(jnp.where(present, similarities_nJ * scale, _NEVER), axis=-1)
    teacher = jax.nn.log_softmax(jnp.where(present, teacher_nJ, _NEVER), axis=-1)
    terms = jnp.where(present, jnp.exp(teacher) * (teacher - student), 0.0)
    return terms.sum(axis=-1) * valid_n, valid_n
