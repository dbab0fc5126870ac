"""A tokenizer whose decoder alone was trained further goes on with the prior of its tokens."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_pipelines import tiny_prior, tiny_tokenizer

from wvq.pipelines import ClassConditionalPipeline
from wvq.tokenizer import InputError


def test_a_prior_fits_a_tokenizer_whose_decoder_alone_was_trained_further(tmp_path: Path):
    """It makes the same tokens; one whose encoder or codes changed does not."""
    tokenizer, prior = tiny_tokenizer(), tiny_prior()
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    prior.config.token_fingerprint = tokenizer.token_fingerprint
    refined = tiny_tokenizer()
    with torch.no_grad():
        for parameter in (*refined.decoder.parameters(), *refined.from_codebook.parameters()):
            parameter += 1
    ClassConditionalPipeline(refined, prior).save_pretrained(tmp_path)
    loaded = ClassConditionalPipeline.from_pretrained(tmp_path)
    assert loaded.prior.config.tokenizer_fingerprint == refined.fingerprint != tokenizer.fingerprint
    assert loaded.prior.config.token_fingerprint == tokenizer.token_fingerprint
    for part in (refined.encoder, refined.to_codebook, refined.quantizer):
        other = copy.deepcopy(refined)
        part = other.get_submodule(next(name for name, module in refined.named_modules() if module is part))
        with torch.no_grad():
            next(part.parameters()).add_(1)
        with pytest.raises(InputError, match="do not belong together"):
            ClassConditionalPipeline(other, prior)
