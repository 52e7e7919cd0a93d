"""What a model that finds objects minimises (Carion et al. 2020, DETR; Fang et al. 2021, YOLOS)."""

# B batch, S segments (images in a row), M most objects of an image, Q detection tokens, C classes

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxfm.adapt_config import AdaptConfig
from jaxfm.core.objective import Loss, LossContext
from jaxfm.models import flops
from jaxfm.models.boxes import MatchingCosts, corners, generalized_overlap, match_batch, middles
from jaxfm.models.detector import Detector, Found
from jaxfm.models.dropout import DropoutKey, split_key
from jaxfm.models.inputs.augmentation import Augmentation, Moves, image_moves
from jaxfm.observe.metrics import weighted
from jaxfm.tasks.detection.spec import BOXES, LABELS, DetectionSpec
from jaxfm.tasks.image_batches import augmented

SEEN = 0.25
"""Share of an object that must be left after a crop for it to be looked for."""


@dataclasses.dataclass(frozen=True)
class DetectionLoss:
    """Weights of the parts of the loss.

    Attributes:
      costs: by which objects are given to detection tokens; those of boxes weigh the parts of the loss too.
      no_object: weight of a token without object in the cross-entropy.
      classes: weight of the cross-entropy in the loss.
      patches: weight of the same loss at the patches, each of which is to find the object that it lies in; 0: none.
    """

    costs: MatchingCosts = MatchingCosts()
    no_object: float = 0.1
    classes: float = 1.0
    patches: float = 0.0


class ImageSums(NamedTuple):
    """Sums of an image, or of several: [...] f32.

    Attributes:
      classes: cross-entropy, weighted.
      class_weight: of these.
      boxes: differences of middles and sides, in shares of the image.
      overlap: 1 minus the generalised overlap.
      objects: number of objects.
      right: those whose token says their class.
    """

    classes: jax.Array
    class_weight: jax.Array
    boxes: jax.Array
    overlap: jax.Array
    objects: jax.Array
    right: jax.Array


def batch_sums(found: Found, labels: jax.Array, targets: jax.Array, loss: DetectionLoss) -> ImageSums:
    """Returns the sums of each image [B, S], each of whose objects is given to a token of its own at the least cost.

    The choice has no gradient. Arguments are as of `models.boxes.match_batch`.
    """
    taken = match_batch(jax.lax.stop_gradient((found.logits, found.boxes)), labels, targets, loss.costs)
    one = jax.vmap(jax.vmap(lambda *image: image_sums(*image, no_object=loss.no_object)))
    return one(found.logits, found.boxes, labels, targets, taken)


def image_sums(
    logits_QC: jax.Array,
    boxes_Q4: jax.Array,
    labels_M: jax.Array,
    targets_M4: jax.Array,
    taken_M: jax.Array,
    no_object: float,
) -> ImageSums:
    """Returns the sums of one image whose objects are given to the tokens `taken_M`; see `models.boxes.match`."""
    is_object_M = labels_M >= 0
    none = logits_QC.shape[-1] - 1
    # Absent objects are written past the end, which `mode="drop"` leaves out.
    class_Q = jnp.full(len(logits_QC), none, jnp.int32)
    class_Q = class_Q.at[jnp.where(is_object_M, taken_M, len(class_Q))].set(labels_M, mode="drop")
    log_QC = jax.nn.log_softmax(logits_QC, axis=-1)
    weight_Q = jnp.where(class_Q == none, no_object, 1.0)
    said_Q = jnp.take_along_axis(log_QC, class_Q[:, None], axis=-1)[:, 0]
    found_M4 = boxes_Q4[taken_M]
    apart_M = jnp.abs(found_M4 - targets_M4).sum(axis=-1)
    overlap_M = generalized_overlap(corners(found_M4), corners(targets_M4))
    right_M = jnp.argmax(logits_QC[taken_M], axis=-1) == labels_M
    return ImageSums(
        -(weight_Q * said_Q).sum(),
        weight_Q.sum(),
        jnp.where(is_object_M, apart_M, 0.0).sum(),
        jnp.where(is_object_M, 1.0 - overlap_M, 0.0).sum(),
        is_object_M.sum().astype(jnp.float32),
        (right_M & is_object_M).sum().astype(jnp.float32),
    )


def patch_sums(
    found: Found, batch: Mapping[str, jax.Array], labels: jax.Array, targets: jax.Array, no_object: float
) -> ImageSums:
    """Returns the sums over the patches of a batch, each of which is to say the object that its middle lies in.

    Of several it is the smallest. The patches of an object count 1 together; those in none have `no_object` as weight.
    It is what detectors without anchors learn (Tian et al. 2019, FCOS), here by the heads of the detection tokens: what
    patches know of their objects need not wait for the matching to become stable.

    Args:
      found: at each token, [B, T, ...].
      batch: rows of images.
      labels: int32 [B, S, M], -1: absent.
      targets: f32 [B, S, M, 4].
      no_object: weight.
    """
    cells_BT2, segments = batch["cells"], labels.shape[1]
    is_patch_BT = (cells_BT2[..., 0] >= 0) & (batch["segment_ids"] > 0)
    middle_BT2 = ((cells_BT2 + 0.5) / jnp.maximum(batch["grids"], 1))[..., ::-1]  # column, row
    own_BTS = (batch["segment_ids"] - 1)[..., None] == jnp.arange(segments)
    corners_BSM4 = corners(targets)
    middle_BT112 = middle_BT2[:, :, None, None, :]
    inside_BTSM = (middle_BT112 >= corners_BSM4[:, None, ..., :2]).all(axis=-1)
    inside_BTSM &= (middle_BT112 < corners_BSM4[:, None, ..., 2:]).all(axis=-1)
    inside_BTSM &= (labels >= 0)[:, None] & own_BTS[..., None] & is_patch_BT[..., None, None]
    shape = (*is_patch_BT.shape, -1)
    area_BTN = jnp.where(inside_BTSM, jnp.prod(targets[..., 2:], axis=-1)[:, None], jnp.inf).reshape(shape)
    chosen_BT = area_BTN.argmin(axis=-1)
    has_BT = inside_BTSM.any(axis=(-2, -1))
    one_BTN = jax.nn.one_hot(chosen_BT, area_BTN.shape[-1]) * has_BT[..., None]
    # What is chosen is at hand as a product with one-hot vectors: rows may be cut along their tokens.
    many_BN = one_BTN.sum(axis=1)
    weight_BT = jnp.einsum("BTN,BN->BT", one_BTN, 1.0 / jnp.maximum(many_BN, 1.0), precision="highest")
    objects_BN4 = targets.reshape(len(targets), -1, 4)
    target_BT4 = jnp.einsum("BTN,BNF->BTF", one_BTN, objects_BN4, precision="highest")
    label_BT = jnp.einsum("BTN,BN->BT", one_BTN, labels.reshape(len(labels), -1).astype(jnp.float32)).astype(jnp.int32)
    none = found.logits.shape[-1] - 1
    class_BT = jnp.where(has_BT, label_BT, none)
    said_BT = jnp.take_along_axis(jax.nn.log_softmax(found.logits), class_BT[..., None], axis=-1)[..., 0]
    class_weight_BT = jnp.where(has_BT, weight_BT, jnp.where(is_patch_BT, no_object, 0.0))
    apart_BT = jnp.abs(found.boxes - target_BT4).sum(axis=-1)
    overlap_BT = generalized_overlap(corners(found.boxes), corners(target_BT4))
    right_BT = jnp.argmax(found.logits, axis=-1) == class_BT
    return ImageSums(
        -(class_weight_BT * said_BT).sum(),
        class_weight_BT.sum(),
        (weight_BT * apart_BT).sum(),
        (weight_BT * (1.0 - overlap_BT)).sum(),
        weight_BT.sum(),
        (weight_BT * right_BT).sum(),
    )


def total_loss(sums: ImageSums, loss: DetectionLoss) -> jax.Array:
    """Returns the loss of images whose sums are added: a mean over tokens, plus means over objects."""
    objects = jnp.maximum(sums.objects, 1.0)
    boxes = loss.costs.boxes * sums.boxes + loss.costs.overlap * sums.overlap
    return loss.classes * sums.classes / jnp.maximum(sums.class_weight, 1e-9) + boxes / objects


class Seen(NamedTuple):
    """What the model says of the images of a batch as they are changed at this step, and their objects there.

    Attributes:
      found: by the detection tokens, [B, S, Q, ...].
      at_patches: by each token of the rows, [B, T, ...]; None where these are not asked.
      labels: int32 [B, S, M].
      boxes: f32 [B, S, M, 4].
    """

    found: Found
    at_patches: Found | None
    labels: jax.Array
    boxes: jax.Array


@dataclasses.dataclass(frozen=True)
class DetectionObjective:
    """A model that finds objects, and its loss (implements jaxfm.core.objective.WholeBatchObjective).

    The loss has means over the objects of the whole batch, as published, so that it is no sum over micro-batches.

    Attributes:
      spec: what is trained.
      weights: of the parts of the loss.
      augmentation: of training images; None: none.
    """

    spec: DetectionSpec
    weights: DetectionLoss = DetectionLoss()
    augmentation: Augmentation | None = None

    whole_batch = True

    def loss(self, model: Detector, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """The loss of all images of the batch, over all devices and hosts; rows that fill it up count nothing."""
        return self.compare(model, self.embed(model, batch, context.key), batch, context)

    def embed(self, model: Detector, batch: Mapping[str, jax.Array], key: DropoutKey) -> Seen:
        """Returns what the model says of changed images, and where their objects are then."""
        augment_key, model_key = split_key(key, 2)
        assert augment_key is not None
        inputs, augmentation = model.encoder.embeddings, self.augmentation
        seen, _ = augmented(inputs, batch, augmentation, augment_key, segments=self.spec.segments)
        labels, boxes = batch[LABELS], batch[BOXES]
        if augmentation is not None and augmentation.moves:
            patches = self.spec.encoder.patches
            moves = image_moves(
                batch, augmentation, patches.size, patches.channels, augment_key, segments=self.spec.segments
            )
            labels, boxes = moved_objects(labels, boxes, moves)
        x_BTD = model.encoder(seen, key=model_key)
        at_patches = model.found(x_BTD) if self.weights.patches else None
        return Seen(model.found(model.of_detection_tokens(x_BTD, seen)), at_patches, labels, boxes)

    def compare(self, model: Detector, embedded: Seen, batch: Mapping[str, jax.Array], context: LossContext) -> Loss:
        """Returns the loss of what `embed` gave, weighted by the number of images."""
        del model, context
        ids_S = jnp.arange(1, self.spec.segments + 1)
        present_BS = (batch["segment_ids"][:, None, :] == ids_S[:, None]).any(axis=-1)
        each = batch_sums(embedded.found, embedded.labels, embedded.boxes, self.weights)
        sums = ImageSums(*(jnp.where(present_BS, values, 0.0).sum() for values in each))
        images = present_BS.sum().astype(jnp.float32)
        metrics = {
            "class_loss": weighted(sums.classes, sums.class_weight),
            "box_loss": weighted(sums.boxes, sums.objects),
            "overlap_loss": weighted(sums.overlap, sums.objects),
            "class_accuracy": weighted(sums.right, sums.objects),
        }
        total = total_loss(sums, self.weights)
        if embedded.at_patches is not None:
            at_patches = patch_sums(embedded.at_patches, batch, embedded.labels, embedded.boxes, self.weights.no_object)
            total += self.weights.patches * total_loss(at_patches, self.weights)
            metrics["patch_accuracy"] = weighted(at_patches.right, at_patches.objects)
        return Loss(total * images, images, metrics)

    def outputs(self, model: Detector, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Returns classes and boxes; see `outputs` of the spec."""
        return self.spec.outputs(model, batch)

    def logits_per_row(self) -> float:
        """A number a class, and four of a box, of each token."""
        return self.spec.segments * self.spec.tokens * (len(self.spec.labels) + 5)

    def flops_per_row(self, adapt: AdaptConfig) -> float:
        """Those of the map of patches, of the layers and of both heads."""
        spec, width = self.spec, self.spec.encoder.hidden_size
        head = 4 * flops.dense_flops(width, width)
        head += flops.dense_flops(width, len(spec.labels) + 1) + flops.dense_flops(width, 4)
        patches = flops.patch_flops_per_row(spec.encoder, spec.row_length, adapt)
        layers = flops.encoder_flops_per_row(spec.encoder, spec.row_length, adapt)
        return patches + layers + spec.segments * spec.tokens * head


def moved_objects(labels_BSM: jax.Array, boxes_BSM4: jax.Array, moves: Moves) -> tuple[jax.Array, jax.Array]:
    """Returns labels and boxes in images that are moved without turning; label -1 of what is mostly outside.

    A box is cut at the edge of its image. Where less than `SEEN` of it is left the object is not looked for.
    """
    sides_BS14 = jnp.stack([moves.width, moves.height, moves.width, moves.height], axis=-1)[..., None, :]
    corners_BSM4 = (corners(boxes_BSM4) - 0.5) * sides_BS14  # pixels from the middle
    moved = moves.moved
    # The map says where each pixel of the result is read; a pixel of the image goes the way back.
    scale = jnp.stack([moved.e, moved.a, moved.e, moved.a], axis=-1)[..., None, :]
    shift = jnp.stack([moved.f, moved.c, moved.f, moved.c], axis=-1)[..., None, :]
    found = (corners_BSM4 - shift) / scale / sides_BS14 + 0.5
    first, last = jnp.minimum(found[..., :2], found[..., 2:]), jnp.maximum(found[..., :2], found[..., 2:])
    cut_first, cut_last = jnp.clip(first, 0.0, 1.0), jnp.clip(last, 0.0, 1.0)
    whole, left = (jnp.prod(end - start, axis=-1) for start, end in ((first, last), (cut_first, cut_last)))
    stays = (labels_BSM >= 0) & (left >= SEEN * whole) & (left > 0)
    boxes = middles(jnp.concatenate([cut_first, cut_last], axis=-1))
    return jnp.where(stays, labels_BSM, -1), jnp.where(stays[..., None], boxes, 0.0)
