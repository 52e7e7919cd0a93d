"""A simulation of secure aggregation: a server that learns the sum of the clients' arrays, and no client's own.

Bonawitz et al. 2017 (section 4, figure 4), with all parties in one process. Each client rounds its numbers to integers
modulo 2^32 or 2^64 and adds masks to them: one for each other client of the round, which the other subtracts, and one
of its own. Of each pair the mask comes from a key that both derive (Diffie-Hellman); the secrets behind the masks are
shared among the clients (`shamir`), so that the masks of who drops out, and the own masks of who stays, can be taken
off the sum by `threshold` clients together. Whatever a client does, it gives away its share of one of the two secrets
of another client, never of both: the server cannot unmask a client by saying that it is gone.

It is called a simulation because there is no network between the parties: no signatures and no public-key directory
tell who sends a key, and shares are handed over in the clear. What it computes, and what a server that keeps to the
protocol sees, is that of the protocol. The masks are SHAKE-256 of the keys.
"""

import dataclasses
import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxfm.errors import UserError
from jaxfm.federation import shamir

Arrays = Mapping[str, np.ndarray]
Words = dict[str, np.ndarray]
"""Path -> uint32 or uint64 array: integers modulo 2^32 or 2^64."""
Draw = Callable[[int], int]

_SECRET_BITS = 256
# RFC 3526, group 14 (2048 bits), generator 2: 2^2048 - 2^1984 - 1 + 2^64 (floor(2^1918 pi) + 124476).
_PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0"
    "A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651EC"
    "E45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC980"
    "4F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2"
    "261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Real numbers as integers modulo 2^bits, in units of 2^-fraction; sums of them are exact until they wrap around.

    Attributes:
      bits: 32 or 64.
      fraction: binary places after the point.
      clients: the most that are added up: each value must be below 2^(bits - 1) / clients in units.
    """

    bits: int
    fraction: int
    clients: int

    def __post_init__(self) -> None:
        """Raises UserError for a modulus that there is none of, or without room for a value of 1."""
        if self.bits not in (32, 64):
            raise UserError(f"secure aggregation modulo 2^{self.bits}: must be 2^32 or 2^64.")
        if not 0 <= self.fraction or self.limit < 1:
            raise UserError(
                f"secure aggregation modulo 2^{self.bits} with {self.fraction} binary places: a sum of {self.clients} "
                "clients has no room for values of 1. Take fewer places, or 2^64."
            )

    @property
    def dtype(self) -> np.dtype:
        """Of the integers."""
        return np.dtype(np.uint32 if self.bits == 32 else np.uint64)

    @property
    def limit(self) -> float:
        """The largest size of a value that no sum of the clients takes out of range."""
        return (2.0 ** (self.bits - 1) - self.clients) / self.clients / 2.0**self.fraction

    def encode(self, values: Arrays) -> Words:
        """Returns each value rounded to the nearest unit (halves to even), modulo 2^bits.

        Raises UserError for a value that is not finite or above `limit`: its sum could wrap around unseen.
        """
        words = {}
        for path, array in values.items():
            largest = float(np.max(np.abs(array), initial=0.0))
            if not largest <= self.limit:
                raise UserError(
                    f"secure aggregation: {path} has a value of size {largest:g}; modulo 2^{self.bits} with "
                    f"{self.fraction} binary places, sums of {self.clients} clients have room for {self.limit:g}."
                )
            scaled = np.rint(np.asarray(array, np.float64) * 2.0**self.fraction)
            words[path] = scaled.astype(np.int64).astype(self.dtype)
        return words

    def decode(self, words: Arrays) -> dict[str, np.ndarray]:
        """Returns the values of integers, f64: those of the upper half of the range are negative."""
        signed = np.dtype(np.int32 if self.bits == 32 else np.int64)
        return {path: each.view(signed).astype(np.float64) / 2.0**self.fraction for path, each in words.items()}


class Party:
    """A client of one round: its secrets, the shares of others' that it holds, and what it gives away of them.

    Attributes:
      number: of the client.
      public_key: of its pairs' masks.
    """

    def __init__(self, number: int, draw: Draw = secrets.randbelow) -> None:
        """`draw`: a number from 0 to below its argument; of the operating system's generator by default."""
        self.number, self._draw = number, draw
        self._pair_secret, self._own_secret = (draw(2**_SECRET_BITS) for _ in range(2))
        self.public_key = pow(2, self._pair_secret, _PRIME)
        self._held: dict[int, tuple[tuple[int, int], tuple[int, int]]] = {}  # of whom -> (x, share) of both secrets

    def shares_for(self, others: Sequence[int], threshold: int) -> dict[int, tuple[tuple[int, int], tuple[int, int]]]:
        """Returns what each client of the round keeps: (x, share) of the secret of pairs, and of its own mask."""
        pair, own = (
            shamir.share(secret, len(others), threshold, self._draw) for secret in (self._pair_secret, self._own_secret)
        )
        return {other: ((x, pair[x]), (x, own[x])) for x, other in enumerate(others, start=1)}

    def keep(self, sender: int, shares: tuple[tuple[int, int], tuple[int, int]]) -> None:
        """Keeps the shares of another client's secrets."""
        self._held[sender] = shares

    def masked(self, words: Words, keys: Mapping[int, int], round_number: int) -> Words:
        """Returns the integers with all masks on; `keys`: of all clients of the round, its own included."""
        seeds = {
            other: pair_seed(self._pair_secret, key, self.number, other)
            for other, key in keys.items()
            if other != self.number
        }
        masked = _with_mask(words, own_seed(self._own_secret), round_number, 1)
        for other, seed in seeds.items():
            masked = _with_mask(masked, seed, round_number, 1 if self.number < other else -1)
        return masked

    def reveal(self, arrived: Sequence[int], gone: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Returns a share of each client: of its own mask where its numbers arrived, of its pairs' where it is gone.

        Once for a round: what was given away is forgotten with the rest, so that nobody gets the other half later.

        Raises UserError where a client is said to be both, or where the shares were given away before.
        """
        both = sorted(set(arrived) & set(gone))
        if both:
            raise UserError(f"client {self.number}: refuses to unmask client {both[0]}, said to be here and gone.")
        if not self._held:
            raise UserError(f"client {self.number}: has given away its shares of this round already.")
        held, self._held = self._held, {}
        return {
            **{other: held[other][1] for other in arrived},
            **{other: held[other][0] for other in gone},
        }


@dataclasses.dataclass(frozen=True)
class Round:
    """What a server has seen of a simulated round.

    Attributes:
      total: path -> f64, the sum over the clients whose numbers arrived.
      masked: client -> what it sent.
      gone: clients that had exchanged keys and then sent nothing.
      bytes_sent: of masked integers, by all clients together.
    """

    total: dict[str, np.ndarray]
    masked: dict[int, Words]
    gone: tuple[int, ...]
    bytes_sent: int


def least_threshold(clients: int) -> int:
    """Returns the fewest clients that may unmask together: more than half, or a server could ask two halves."""
    return clients // 2 + 1


def default_threshold(clients: int) -> int:
    """Returns two thirds of the clients, rounded up, and at least `least_threshold`."""
    return max(math.ceil(2 * clients / 3), least_threshold(clients))


def simulate(
    values: Mapping[int, Arrays],
    form: FixedPoint,
    *,
    clients: Sequence[int] | None = None,
    threshold: int = 0,
    round_number: int = 0,
    draw: Draw = secrets.randbelow,
) -> Round:
    """Runs a round of secure aggregation with all parties in this process, and returns the sum.

    Args:
      values: client -> its arrays, of those who come as far as to send them; the same paths and shapes for all.
      form: the integers.
      clients: all that have exchanged keys; those without values are gone. Those of `values` by default.
      threshold: clients that must stay until the end; two thirds by default.
      round_number: makes each round's masks others.
      draw: of secrets; of the operating system's generator by default. The sum does not depend on it.

    Raises:
      UserError: fewer than three clients, or fewer than the threshold stayed, a threshold out of range, values that the
        integers have no room for.
    """
    everyone = sorted(values if clients is None else clients)
    arrived = sorted(values)
    gone = tuple(client for client in everyone if client not in values)
    threshold = check(everyone, arrived, threshold, form)
    parties = {client: Party(client, draw) for client in everyone}
    keys = {client: party.public_key for client, party in parties.items()}
    for client, party in parties.items():
        for other, shares in party.shares_for(everyone, threshold).items():
            parties[other].keep(client, shares)
    masked = {client: parties[client].masked(form.encode(values[client]), keys, round_number) for client in arrived}
    revealed = {client: parties[client].reveal(arrived, gone) for client in arrived[:threshold]}
    shares_of = {client: dict(each[client] for each in revealed.values()) for client in everyone}
    total = unmask(masked, shares_of, keys, gone, round_number)
    size = sum(each.nbytes for words in masked.values() for each in words.values())
    return Round(form.decode(total), masked, gone, size)


def unmask(
    masked: Mapping[int, Words],
    shares_of: Mapping[int, Mapping[int, int]],
    keys: Mapping[int, int],
    gone: Sequence[int],
    round_number: int,
) -> Words:
    """Returns the sum of what arrived without its masks: all that the server does, from what it was sent.

    Args:
      masked: client -> integers with masks.
      shares_of: client -> x -> share, of its own mask's secret where it is in `masked`, else of its pairs'.
      keys: client -> public key.
      gone: clients whose pairs' masks stand in the sum without their counterpart.
      round_number: as the clients have it.
    """
    total: Words = {}
    for words in masked.values():
        total = {path: total[path] + each if total else each for path, each in words.items()}
    for client in masked:
        total = _with_mask(total, own_seed(shamir.recover(shares_of[client])), round_number, -1)
    for absent in gone:
        secret = shamir.recover(shares_of[absent])
        for client in masked:
            # The client has added (or subtracted) this mask, and the absent one never took it away again.
            seed = pair_seed(secret, keys[client], absent, client)
            total = _with_mask(total, seed, round_number, -1 if client < absent else 1)
    return total


def pair_seed(secret: int, other_key: int, number: int, other: int) -> bytes:
    """Returns the key of a pair's masks, 32 bytes: both derive the same one, from their secret and the other's key."""
    common = pow(other_key, secret, _PRIME).to_bytes(256, "big")
    return hashlib.sha256(b"pair %d %d " % (min(number, other), max(number, other)) + common).digest()


def own_seed(secret: int) -> bytes:
    """Returns the key of a client's own mask, 32 bytes."""
    return hashlib.sha256(b"own " + secret.to_bytes(_SECRET_BITS // 8, "big")).digest()


def _with_mask(words: Words, seed: bytes, round_number: int, sign: int) -> Words:
    """Returns integers with a mask added (1) or subtracted (-1), modulo 2^bits."""
    masked = {}
    for path in sorted(words):
        each = words[path]
        stream = hashlib.shake_256(b"%b %d %b" % (seed, round_number, path.encode())).digest(each.nbytes)
        mask = np.frombuffer(stream, each.dtype.newbyteorder("<")).astype(each.dtype, copy=False).reshape(each.shape)
        masked[path] = each + mask if sign > 0 else each - mask
    return masked


def check(everyone: Sequence[int], arrived: Sequence[int], threshold: int, form: FixedPoint) -> int:
    """Returns the threshold, two thirds of the clients for 0; UserError for a round whose sum cannot be read."""
    threshold = threshold or default_threshold(len(everyone))
    least = least_threshold(len(everyone))
    if len(everyone) < 3 or len(arrived) < 2:
        raise UserError(
            f"secure aggregation of {len(arrived)} of {len(everyone)} clients: needs three or more, of which two or "
            "more send their numbers: a sum of one hides nothing, and of a sum of two each knows the other's part."
        )
    if not least <= threshold <= len(everyone):
        raise UserError(f"secure aggregation: the threshold {threshold} must be from {least} to {len(everyone)}.")
    if len(arrived) < threshold:
        raise UserError(
            f"secure aggregation: {len(arrived)} of {len(everyone)} clients are left, and {threshold} must be to take "
            "the masks off the sum. Nothing of this round can be read."
        )
    if len(everyone) > form.clients:
        raise UserError(f"secure aggregation: {len(everyone)} clients, and the integers have room for {form.clients}.")
    return threshold
