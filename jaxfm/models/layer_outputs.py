"""What the layers of an encoder say on the way: hidden states, queries, keys, values and scores of attention."""

# B batch, T tokens, N heads, K heads of keys and values, H head dim, D model, L layers

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxfm.models.encoder import Encoder
from jaxfm.models.inputs.inputs import Inputs
from jaxfm.models.rotary import rotate, rotation
from jaxfm.models.stack import Attention, EncoderLayer


@dataclasses.dataclass(eq=False)
class Recording:
    """What the passes of an encoder leave while it is recorded, first to last.

    Attributes:
      states: of each pass [L + 1, B, T, D]: what layer 0, 1, ... reads, and last what the encoder gives. Between
        pre-norm layers that is the residual stream as the next layer's norm leaves it.
      inputs: of each pass, the segments and positions of its tokens.
    """

    states: list[jax.Array] = dataclasses.field(default_factory=list)
    inputs: list[Inputs] = dataclasses.field(default_factory=list)

    def __call__(self, states_LBTD: jax.Array, inputs: Inputs) -> None:
        """Adds a pass."""
        self.states.append(states_LBTD)
        self.inputs.append(inputs)


def record(encoder: Encoder) -> Recording:
    """Returns where the passes of this encoder object are recorded from now on."""
    recording = Recording()
    encoder.record = recording
    return recording


def queries_keys_values(encoder: Encoder, layer: int, read_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns a layer's queries [B, T, N, H], keys and values [B, T, K, H] of what it reads, before any rotation."""
    own = _attention(encoder, layer)
    q_BTNH, k_BTKH, v_BTKH = own.query(read_BTD), own.key(read_BTD), own.value(read_BTD)
    if own.query_norm is not None and own.key_norm is not None:
        q_BTNH, k_BTKH = own.query_norm(q_BTNH), own.key_norm(k_BTKH)
    return q_BTNH, k_BTKH, v_BTKH


def attention_scores(encoder: Encoder, layer: int, read_BTD: jax.Array, positions_BT: jax.Array) -> jax.Array:
    """Returns a layer's scores of attention before the softmax, f32 [B, N, T, T]; no token is masked.

    Of encoders without relative positions: their biases are not added.
    """
    config = encoder.config
    q_BTNH, k_BTKH, _ = queries_keys_values(encoder, layer, read_BTD)
    if config.position_embedding == "rope":
        turned = rotation(positions_BT, config.head_dim, config.global_rope_theta)
        q_BTNH, k_BTKH = rotate(q_BTNH, turned), rotate(k_BTKH, turned)
    k_BTNH = jnp.repeat(k_BTKH, config.num_heads // config.kv_heads, axis=2)
    products_BNTT = jnp.einsum(
        "BTNH,BSNH->BNTS", q_BTNH.astype(jnp.float32), k_BTNH.astype(jnp.float32), precision="highest"
    )
    return products_BNTT * config.head_dim**-0.5


def _attention(encoder: Encoder, layer: int) -> Attention:
    config = encoder.config
    place = layer * config.layer_groups // config.num_layers if config.layer_groups else layer
    graphdef, parameters = nnx.split(encoder.layers)
    one: EncoderLayer = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[place], parameters))
    return one.attention
