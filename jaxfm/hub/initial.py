"""Where a new run's encoder comes from: its shape, its weights if any, and the tokenizer that fits them."""

import dataclasses
import pathlib

from jaxfm.config import ModelConfig
from jaxfm.core.encoder_config import CAUSAL, FULL, EncoderConfig, UnfitShapeError
from jaxfm.core.initial import Initial, Origin
from jaxfm.core.towers import TowersConfig
from jaxfm.data.text.tokenization import load_tokenizer
from jaxfm.errors import UserError
from jaxfm.families.registry import preset, with_sight
from jaxfm.hub.feature_extractors import read_feature_extractor
from jaxfm.hub.image_processors import read_image_processor
from jaxfm.hub.locate import commit_of, locate
from jaxfm.hub.multi_vector import read_multi_vector
from jaxfm.hub.pairs import PairCheckpoint, read_pair, read_pair_config
from jaxfm.hub.sentence_transformers import read_sentence_transformers
from jaxfm.hub.vocabulary import fit_vocabulary, has_tokenizer
from jaxfm.hub.weights import Checkpoint, read_checkpoint, read_config

SIZES = ("num_layers", "hidden_size", "num_heads", "head_size", "ffn_size")
"""Keys of `config.model` that change a preset's shape, named as those of `EncoderConfig`."""


def resolve(config: ModelConfig, *, tower: bool = False) -> Initial:
    """Finds and reads what `config.model` names.

    Args:
      config: the group `model`.
      tower: whether it may be the text tower of a pair, whose vectors come from its last token.

    Raises:
      UserError: contradicting or missing keys, and all that `locate` and `read_checkpoint` find.
    """
    if config.init == "scratch":
        encoder = as_asked(_from_preset(config), config)
        check_kind(encoder, config, f"config.model.preset: {config.preset!r}", tower=tower)
        notes = (f"weights: none, {_shape_name(config)} starts from random values",)
        return Initial(encoder, {}, (), tokenizer_folder(config), notes)
    check_no_preset(config)
    directory = locate(config.init, "config.model.init")
    checkpoint = read_checkpoint(directory)
    if checkpoint.encoder.reads_patches:
        return _of_patches(config, directory, checkpoint)
    check_kind(checkpoint.encoder, config, f"config.model.init: {config.init!r}", tower=tower)
    tokenizer = fitting_tokenizer(config, directory)
    encoder, params, notes = fit_vocabulary(checkpoint.encoder, checkpoint.params, tokenizer, directory)
    sentence, projection = read_multi_vector(directory) or read_sentence_transformers(directory) or (None, {})
    commit = commit_of(directory)
    other = commit_of(tokenizer) if tokenizer != directory else ""
    return Initial(
        encoder=as_asked(encoder, config),
        params={**params, **projection},
        labels=checkpoint.labels,
        tokenizer=tokenizer,
        notes=(_weights_note(config, commit, encoder), *checkpoint.notes, *notes),
        origin=Origin(config.init, commit, other, checkpoint.encoder.vocab_size),
        sentence=sentence,
    )


def check_kind(encoder: EncoderConfig, config: ModelConfig, what: str, *, tower: bool = False) -> None:
    """Raises UserError for a text tower where padding is not read, and for one-sided sight that nobody asked for."""
    if tower:
        return
    if encoder.reads_padding:
        raise UserError(
            f"{what} is the text tower of a pair: it reads padding as if it were text. It is trained beside images "
            "(task.text_init); here take an encoder of texts."
        )
    if encoder.sight != FULL and config.sight == "auto":
        raise UserError(
            f"{what} has tokens that see only those before them: a decoder, or the text tower of a pair. Set "
            f"config.model.sight={FULL} to train it as an encoder that sees both sides, or {CAUSAL} to leave it so."
        )


def resolve_pair(config: ModelConfig) -> tuple[PairCheckpoint, pathlib.Path]:
    """Reads both towers of what `config.model.init` names, and returns where their tokenizer is.

    Raises:
      UserError: they are not a pair of towers, and all that `locate` and `read_pair` find.
    """
    directory = _pair_directory(config)
    pair = read_pair(directory)
    if pair is None:
        raise _no_pair(config)
    if not has_tokenizer(directory):
        raise UserError(f"{directory}: holds no tokenizer, which the text tower of {config.init!r} needs.")
    return dataclasses.replace(pair, towers=_tower_dropout(pair.towers, config)), directory


def pair_shape(config: ModelConfig) -> TowersConfig:
    """Finds the shape alone of the pair that `config.model.init` names; of a hf: repository config.json is enough."""
    towers = read_pair_config(_pair_directory(config, ["config.json"]))
    if towers is None:
        raise _no_pair(config)
    return _tower_dropout(towers, config)


def _pair_directory(config: ModelConfig, only: list[str] | None = None) -> pathlib.Path:
    if config.keep_layers:
        raise UserError(
            f"config.model.keep_layers: is {config.keep_layers}, but {config.init!r} is a pair of towers. Leave it "
            "empty."
        )
    if config.init == "scratch" or config.init.startswith("run:"):
        raise _no_pair(config)
    return locate(config.init, "config.model.init", only) if only else locate(config.init, "config.model.init")


def _no_pair(config: ModelConfig) -> UserError:
    return UserError(
        f"config.task.text_init: is empty, and {config.init!r} has no text encoder beside that of images; name the "
        "weights of the text encoder (package:, dir:, hf:), or scratch with task.text_preset and model.tokenizer."
    )


def _tower_dropout(towers: TowersConfig, config: ModelConfig) -> TowersConfig:
    image, text = (as_asked(each, config) for each in (towers.image, towers.text))
    return dataclasses.replace(towers, image=image, text=text)


def _of_patches(config: ModelConfig, directory: pathlib.Path, checkpoint: Checkpoint) -> Initial:
    """Returns what weights of images or of sound are, which no tokenizer belongs to."""
    if config.tokenizer:
        raise UserError(f"config.model.tokenizer: is {config.tokenizer!r}, but {config.init!r} reads no texts.")
    commit, encoder = commit_of(directory), checkpoint.encoder
    return Initial(
        encoder=as_asked(encoder, config),
        params=checkpoint.params,
        labels=checkpoint.labels,
        tokenizer=None,
        notes=(_weights_note(config, commit, encoder), *checkpoint.notes),
        origin=Origin(config.init, commit),
        images=read_image_processor(directory) if encoder.reads_images else None,
        sound=read_feature_extractor(directory) if encoder.reads_sound else None,
    )


def _weights_note(config: ModelConfig, commit: str, encoder: EncoderConfig) -> str:
    at = f" at commit {commit}" if commit else ""
    return f"weights: {config.init}{at} ({encoder.family})"


def shape(config: ModelConfig) -> tuple[EncoderConfig, tuple[str, ...]]:
    """Finds the shape of what `config.model` names without its weights or its tokenizer, and says what was assumed.

    Raises:
      UserError: as `resolve`; of a hf: repository only config.json is needed.
    """
    if config.init == "scratch":
        encoder = as_asked(_from_preset(config), config)
        learned, _, size = config.tokenizer.removeprefix("train:").partition("/")
        if config.tokenizer == f"train:{learned}/{size}" and size.isdigit():
            return dataclasses.replace(encoder, vocab_size=int(size)), (
                f"vocabulary: {size}, as {config.tokenizer} says",
            )
        if encoder.reads_patches:
            return encoder, ()
        return encoder, (f"vocabulary: {encoder.vocab_size}, the usual one of {config.preset}",)
    check_no_preset(config)
    directory = locate(config.init, "config.model.init", ["config.json"])
    return as_asked(read_config(directory), config), (f"shape: config.json of {config.init}",)


def _from_preset(config: ModelConfig) -> EncoderConfig:
    if not config.preset:
        raise UserError("config.model.init: 'scratch' needs config.model.preset, the encoder's shape.")
    encoder, asked = preset(config.preset), _asked_sizes(config)
    if not asked:
        return encoder
    width = asked.get("hidden_size", encoder.hidden_size)
    if encoder.embedding_scale == encoder.hidden_size**0.5:  # it goes with the width (see EncoderConfig)
        encoder = dataclasses.replace(encoder, embedding_scale=width**0.5)
    try:
        return dataclasses.replace(encoder, **asked)
    except UnfitShapeError as error:
        sizes = ", ".join(f"{name} {getattr(encoder, name) if name not in asked else asked[name]}" for name in SIZES)
        raise UserError(f"config.model: no encoder like {config.preset} has {sizes}: {error}.") from error


def _asked_sizes(config: ModelConfig) -> dict[str, int]:
    """Returns the sizes that are given in place of the preset's."""
    values = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_heads": config.num_heads,
        "head_size": config.head_size,
        "ffn_size": config.ffn_size,
    }
    return {name: size for name, size in values.items() if size}


def _shape_name(config: ModelConfig) -> str:
    sizes = ", ".join(f"{name} {size}" for name, size in _asked_sizes(config).items())
    return f"{config.preset} with {sizes}" if sizes else config.preset


def tokenizer_folder(config: ModelConfig) -> pathlib.Path | None:
    """Returns the directory that `config.model.tokenizer` names; None where it names none, or one to be learned."""
    if not config.tokenizer or config.tokenizer.startswith("train:"):
        return None
    return locate(config.tokenizer, "config.model.tokenizer")


def fitting_tokenizer(config: ModelConfig, directory: pathlib.Path) -> pathlib.Path:
    """Returns the tokenizer's directory: the one `config.model.tokenizer` names, else the one beside the weights.

    Raises UserError if both exist and most of their entries have different numbers: equal sizes prove nothing.
    """
    named = tokenizer_folder(config)
    if named is None or not has_tokenizer(directory):
        return named or directory
    own, other = load_tokenizer(directory).get_vocab(), load_tokenizer(named).get_vocab()
    alike = sum(own.get(piece) == number for piece, number in other.items())
    if 2 * alike < min(len(own), len(other)):  # it may have grown to more than twice its size
        raise UserError(
            f"config.model.tokenizer: only {alike:,} of the {len(other):,} entries of {named} have the number that the "
            f"vocabulary of {config.init!r} gives them: it is not the tokenizer of these weights. Leave it empty."
        )
    return named


def check_no_preset(config: ModelConfig) -> None:
    """Raises UserError for a preset, or sizes of one, beside weights, which bring their shape with them."""
    if config.preset:
        raise UserError(
            f"config.model.preset: is {config.preset!r}, but the shape comes from the weights of {config.init!r}. "
            "Leave it empty, or set config.model.init=scratch."
        )
    for name, size in _asked_sizes(config).items():
        raise UserError(
            f"config.model.{name}: is {size}, but the shape comes from the weights of {config.init!r}. Leave it 0, or "
            "set config.model.init=scratch; fewer layers of loaded weights: config.model.keep_layers; smaller shapes "
            "inside them: config.supernet."
        )


def as_asked(encoder: EncoderConfig, config: ModelConfig) -> EncoderConfig:
    """Returns the encoder with `config.model.dropout`, `attention_dropout` and `sight`, if these are set.

    Raises UserError for a sight that an encoder of patches cannot have.
    """
    if config.sight not in ("auto", encoder.sight):
        if encoder.reads_patches:
            raise UserError(
                f"config.model.sight: is {config.sight!r}, but patches of images have no order. Leave it auto."
            )
        encoder = with_sight(encoder, config.sight)
    if config.dropout is not None:
        encoder = dataclasses.replace(encoder, dropout=config.dropout, attention_dropout=config.dropout)
    if config.attention_dropout is not None:
        encoder = dataclasses.replace(encoder, attention_dropout=config.attention_dropout)
    return encoder
