"""Patterns, their words and tokens, and the class logits of a prompt beside transformers' masked language model."""

import pathlib
from typing import Any

import numpy as np
import pytest

from jaxfm.config import Config
from jaxfm.errors import UserError
from jaxfm.tasks.classification.few_labels import PromptConfig
from jaxfm.tasks.classification.prompts import make_prompt, parse_pattern, tokenize_prompts
from jaxfm.tasks.classification.task import ClassificationTask
from jaxfm.training.initial import resolve
from jaxfm.training.setup import prepare
from tests import tiny

LABELS = ("LOC", "PER")
WORDS = "PER=met|saw,LOC=town"
PATTERN = "{text} in the {mask} ."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Weights with a masked-LM head, `masked_lm`."""
    folder = tmp_path_factory.mktemp("prompts")
    tiny.write_masked_lm_weights(folder / "masked_lm")
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: pathlib.Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.AutoTokenizer.from_pretrained(folder / "masked_lm")


@pytest.fixture(scope="module")
def spaced() -> Any:
    """A tokenizer of bytes, in which a word after a space is another token, and a mask takes the space before it."""
    tokenizers, transformers = pytest.importorskip("tokenizers"), pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    special = ["<pad>", "<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(["it was good", "it was great", "it was bad , good", "the great ones"] * 20, trainer)
    mask = transformers.AddedToken("<mask>", lstrip=True, special=True, normalized=False)
    names = dict(pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, mask_token=mask, **names)


def config(folder: pathlib.Path, *, pairs: bool = False, **values: Any) -> Config:
    prompt: dict[str, Any] = {
        "model__init": f"dir:{folder / 'masked_lm'}",
        "data__row_length": 64,
        "task__prompt__pattern": "{text} {mask} {text_b}" if pairs else PATTERN,
        "task__prompt__words": WORDS,
    }
    return tiny.classification_config(folder, pairs=pairs, **prompt | values)


def create(values: Config) -> tuple[ClassificationTask, Any]:
    from jaxfm.tasks import registry

    task, loaded = registry.create(values, resolve(values.model))
    assert isinstance(task, ClassificationTask)
    return task, loaded


@pytest.mark.parametrize(
    ("pattern", "pairs", "message"),
    [
        (
            "{text} It was great.",
            False,
            r"has \{mask\} 0 times, but must have it once, as in '\{text\} It was \{mask\}",
        ),
        ("It was {mask}.", False, r"has \{text\} 0 times"),
        ("{text} {mask} {mask}", False, r"has \{mask\} 2 times"),
        ("{text} {mask}", True, r"has \{text_b\} 0 times, but must have it once, as in '\{text\}\? \{mask\}, \{text_b"),
        ("{text} {mask} {text_b}", False, r"has \{text_b\}, but the examples are single texts"),
        ("{text} {masks}", False, r"\{masks\} is not a field\. Did you mean 'mask'\?"),
        ("{text} {mask!r}", False, r"is not a field"),
        ("{text} {mask", False, r"Fields stand in braces"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused(pattern: str, pairs: bool, message: str) -> None:
    with pytest.raises(UserError, match=rf"config\.task\.prompt\.pattern: .*{message}"):
        parse_pattern(pattern, pairs)


def test_braces_and_order() -> None:
    assert parse_pattern("{{{mask}}} of {text}", False) == [("{", ""), ("", "mask"), ("}", ""), (" of ", "text")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("PER=met", r"the class 'LOC' has no word; there are words for 'PER'"),
        ("PER=met,LOC=", r"the class 'LOC' has no word"),
        ("PER=met,LOK=town", r"'LOK' is not a class of the data\. Did you mean 'LOC'\?"),
        ("PER=met,LOC=town,old", r"'old' is not CLASS=WORD"),
        (
            "PER=met,LOC=towns",
            r"the word 'towns' of the class 'LOC' is 2 tokens of this tokenizer \(town ##s\).*'town'",
        ),
        ("PER=met,LOC=met", r"'met' of the class 'PER' is the same token as 'met' of 'LOC'"),
        ("PER=met,LOC=☃", r"the word '☃' of the class 'LOC' is 1 tokens of this tokenizer \(\[UNK\]\)"),
        ("", r"the word 'LOC' of the class 'LOC' is 3 tokens"),
    ],
)
def test_words_that_cannot_be_used_are_refused(words: str, message: str, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=rf"config\.task\.prompt\.words: .*{message}"):
        make_prompt(PromptConfig(PATTERN, words), LABELS, False, tokenizer)


def test_the_words_of_each_class(tokenizer: Any) -> None:
    prompt = make_prompt(PromptConfig(PATTERN, WORDS), LABELS, False, tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(prompt.words)) == ["town", "met", "saw"]
    assert prompt.classes == (0, 1, 1) and prompt.mask_token == tokenizer.mask_token_id
    odd = make_prompt(PromptConfig(PATTERN, "a, b=met,c=d=saw"), ("a, b", "c=d"), False, tokenizer)
    assert tokenizer.convert_ids_to_tokens(list(odd.words)) == ["met", "saw"]


def test_words_after_a_space_are_other_tokens(spaced: Any) -> None:
    prompt = make_prompt(PromptConfig("{text} it was {mask}", "n=bad,p=good|great"), ("n", "p"), False, spaced)
    assert spaced.convert_ids_to_tokens(list(prompt.words)) == ["Ġbad", "Ġgood", "Ġgreat"]
    (ids,), _ = tokenize_prompts(prompt, spaced, [("the great ones", None)], 64, False)
    assert ids.tolist() == spaced("the great ones it was<mask>")["input_ids"]
    with pytest.raises(UserError, match=r"the word 'goods' of the class 'p' is 2 tokens .* The nearest is 'good'\."):
        make_prompt(PromptConfig("{text} it was {mask}", "n=bad,p=goods"), ("n", "p"), False, spaced)


def test_the_text_is_cut_and_never_the_pattern(tokenizer: Any) -> None:
    prompt = make_prompt(PromptConfig(PATTERN, WORDS), LABELS, False, tokenizer)
    text = "old town near hull and the old town went left . met"
    every, rest = tokenizer.tokenize(text), ["in", "the", "[MASK]", "."]
    for window in range(8, 20):
        (ids,), (is_cut,) = tokenize_prompts(prompt, tokenizer, [(text, None)], window, False)
        kept = every[: window - len(rest) - 2]
        assert tokenizer.convert_ids_to_tokens(ids.tolist()) == ["[CLS]", *kept, *rest, "[SEP]"]
        assert is_cut == (len(kept) < len(every))
    with pytest.raises(UserError, match=r"takes 6 tokens, and an example has 6 in all: there is no room for a text"):
        tokenize_prompts(prompt, tokenizer, [(text, None)], 6, False)


def test_of_a_pair_the_longer_text_is_cut_first(tokenizer: Any) -> None:
    prompt = make_prompt(PromptConfig("{text} {mask} {text_b}", WORDS), LABELS, True, tokenizer)
    texts = ("old town near the town", "went to the old town and left")
    for window, first, second in ((12, 4, 5), (11, 4, 4), (10, 3, 4), (15, 5, 7), (14, 5, 6)):
        (ids,), _ = tokenize_prompts(prompt, tokenizer, [texts], window, True)
        one, other = (tokenizer.tokenize(text) for text in texts)
        expected = ["[CLS]", *one[:first], "[MASK]", *other[:second], "[SEP]"]
        assert tokenizer.convert_ids_to_tokens(ids.tolist()) == expected, window


def test_a_mask_in_a_text_is_no_second_mask(tokenizer: Any) -> None:
    prompt = make_prompt(PromptConfig(PATTERN, WORDS), LABELS, False, tokenizer)
    (ids,), _ = tokenize_prompts(prompt, tokenizer, [("the [MASK] town", None)], 32, False)
    tokens = ["[CLS]", "the", "[UNK]", "town", "in", "the", "[MASK]", ".", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == tokens


@pytest.mark.parametrize("pairs", [False, True])
def test_logits_are_those_of_transformers_at_the_mask(folder: pathlib.Path, tokenizer: Any, pairs: bool) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    values = config(folder, pairs=pairs, train__steps=1)
    task, loaded = create(values)
    from jaxfm.parallel.mesh import make_mesh

    setup = prepare(values, task, loaded, make_mesh(values.parallel.mesh))
    assert set(loaded) == {*_flat(setup.session.abstract.params)}  # nothing is new
    outputs = setup.evaluate(setup.initial_state().params, task.datasets["test"])["outputs"]
    ours = task.encoded["test"].per_example(outputs)
    assert len(task.datasets["test"]) < len(ours)  # several to a row
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder / "masked_lm").eval()
    ids = tokenizer.convert_tokens_to_ids(["town", "met", "saw"])
    whole_E = ~task.encoded["test"].cut
    assert whole_E.sum() > 12
    for example, logits, is_whole in zip(task.examples["test"], ours, whole_E, strict=True):
        if not is_whole:
            continue
        whole = f"{example.text} [MASK] {example.pair}" if pairs else f"{example.text} in the [MASK] ."
        arrays = tokenizer(whole, return_tensors="pt")
        with torch.no_grad():
            at_mask = model(**arrays).logits[0, arrays["input_ids"][0].tolist().index(tokenizer.mask_token_id)].numpy()
        town, met, saw = at_mask[ids]
        np.testing.assert_allclose(logits, [town, (met + saw) / 2], atol=2e-5)


def _flat(tree: Any) -> Any:
    from jaxfm.training.paths import flat

    return flat(tree)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task__kind": "multi", "eval__metric": "auto"}, r"config\.task\.kind: is 'multi', but one word stands at"),
        ({"task__head": "linear"}, r"config\.task\.head: is 'linear', but with config\.task\.prompt\.pattern"),
        ({"task__prompt__pattern": ""}, r"config\.task\.prompt\.words: are of a pattern"),
        ({"task__fit": "setfit"}, r"config\.task\.head: is 'family', but with config\.task\.fit=setfit"),
    ],
)
def test_what_does_not_go_with_a_prompt_is_refused(folder: pathlib.Path, values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        create(config(folder, **values))


def test_weights_without_a_masked_lm_head_are_refused(folder: pathlib.Path) -> None:
    tiny.write_weights(folder / "headless")
    with pytest.raises(UserError, match=r"have no masked-LM head \(transform/ is missing\)"):
        create(config(folder, model__init=f"dir:{folder / 'headless'}"))
