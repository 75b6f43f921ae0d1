"""The tokenizer of a checkpoint, with the strings that its layout puts behind the base tokenizer's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerBase

from latent_ext.models.checkpoint import CheckpointError
from latent_ext.models.layouts import Checkpoint


def tokenizer_of(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer.

    Raises:
        CheckpointError: if there is no usable one.
    """
    try:
        with warnings.catch_warnings():
            # transformers reads the config.json beside it, whose old names the user did not write.
            warnings.filterwarnings("ignore", "`rope_scaling` is deprecated", FutureWarning)
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.tokenizer_directory, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"model: {checkpoint.source} has no usable tokenizer: {reason}") from None
    known = tokenizer.get_added_vocab()
    for text in checkpoint.new_tokens:
        if text not in known:
            _add(tokenizer, text)
    return tokenizer


def name_tokens(tokenizer: PreTrainedTokenizerBase, ids: Mapping[str, int]) -> bool:
    """Gives strings to ids that have none, for a layout that looks its tokens up; True if the tokenizer changed.

    Args:
        tokenizer: changed in place.
        ids: by string, ascending ids; those between the tokenizer's last and the first of them get ``[PAD]``.

    Raises:
        ValueError: if one of the strings has another id, or the ids do not follow the tokenizer's own.
    """
    known = tokenizer.get_vocab()
    changed = False
    for text, wanted in ids.items():
        if text in known:
            if known[text] != wanted:
                raise ValueError(f"tokenizer: {text!r} has id {known[text]}; {wanted} is needed")
            continue
        if len(tokenizer) == wanted - 1 and "[PAD]" not in known:
            tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        if len(tokenizer) != wanted:
            raise ValueError(
                f"tokenizer: has {len(tokenizer)} tokens; {text!r} is to be the one with id {wanted}"
            )
        _add(tokenizer, text)
        changed = True
    return changed


def _add(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    # Not special: published scripts decode with skip_special_tokens and keep these.
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False)])
