"""The word-level tokenizer of the shipped model.

Words carry the space before them, and the space before a digit belongs to the word on its left, so
concatenating tokens gives the text back exactly and every digit is the same token wherever it stands:
`"### 12"` is `"### ", "1", "2"`.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AddedToken, PreTrainedTokenizerFast

from latent_ext.evaluation.arithmetic import generate

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<unk>"
START_LATENT, END_LATENT, LATENT = "<|start-latent|>", "<|end-latent|>", "<|latent|>"

_PATTERN = r" ?[A-Za-z]+(?: (?=[0-9]))?|### (?=[0-9])|###|<<|>>|[^A-Za-z]"
_SYMBOLS = ["### ", "###", "<<", ">>", "+", "-", "*", "/", "=", ".", ",", "?", "#", " ", "\n", *"0123456789"]
_SAMPLE = 4000


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Builds the tokenizer; the vocabulary is the same in every run.

    Returns:
        A fast tokenizer with `<|endoftext|>` as end and padding token. The three latent tokens are added
        tokens that are not special: they survive `skip_special_tokens=True`, on which LatentTTS scripts
        depend.
    """
    pre_tokenizer = pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated")
    words: set[str] = set()
    for problem in generate(_SAMPLE, split="train", steps=(1, 6), seed=0):
        words.update(piece for piece, _ in pre_tokenizer.pre_tokenize_str(problem.question))
    entries = [END_OF_TEXT, UNKNOWN, *_SYMBOLS, *sorted(words - set(_SYMBOLS))]
    backend = Tokenizer(models.WordLevel({entry: i for i, entry in enumerate(entries)}, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizer
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.add_tokens(
        [AddedToken(t, special=False, normalized=False) for t in (START_LATENT, END_LATENT, LATENT)]
    )
    return tokenizer
