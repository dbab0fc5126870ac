"""The prior: its vocabulary, loss, optimizers and files."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import LlamaForCausalLM

from wvq.pipelines.command_line import parse
from wvq.pipelines.train_prior import PriorTraining, validate
from wvq.pipelines.training.muon import build_optimizers
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.prior.loss import TokenLoss
from wvq.tokenizer import InputError
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.tokens import TokenDataset

CONFIG = PriorConfig(hidden_size=32, num_layers=2, num_heads=2, num_codes=10, num_tokens=6, num_classes=3)


def tiny_prior(**changes) -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return build_prior(PriorConfig(**{**vars(CONFIG), **changes}))


def tokens_and_labels(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(CONFIG.num_codes, (count, CONFIG.num_tokens), generator=generator)
    return tokens, torch.randint(CONFIG.num_classes, (count,), generator=generator)


def token_dataset(folder: Path, split: str, tokens: list[list[int]], labels: list[int]) -> TokenDataset:
    datasets.Dataset.from_dict({"tokens": tokens, "label": labels}).save_to_disk(str(folder / split))
    about = {"num_codes": CONFIG.num_codes, "class_names": ["a", "b", "c"], "tokenizer_fingerprint": "f"}
    write_json(folder / "tokens.json", about)
    return TokenDataset(folder, split)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_vocabulary_is_codes_then_classes_then_the_null_class(num_classes):
    config = tiny_prior(num_classes=num_classes).config
    assert config.vocab_size == CONFIG.num_codes + num_classes + 1
    assert config.max_position_embeddings == CONFIG.num_tokens + 1
    assert (config.num_codes, config.num_tokens, config.num_classes) == (10, 6, num_classes)
    assert config.bos_token_id is config.eos_token_id is config.pad_token_id is None
    assert config.intermediate_size == 96  # 8/3 of 32 is 85.3; the next multiple of 32


def test_a_gpt2_has_the_same_vocabulary_and_learns_positions():
    config = tiny_prior(architecture="gpt2", attention_dropout=0.25).config
    assert config.model_type == "gpt2"
    assert (config.vocab_size, config.n_positions, config.attn_pdrop, config.resid_pdrop) == (14, 7, 0.25, 0.0)
    assert (config.num_codes, config.num_tokens, config.num_classes) == (10, 6, 3)


@pytest.mark.parametrize("tied", [False, True])
def test_a_prior_is_saved_and_loaded_bit_by_bit(tmp_path, tied):
    prior = tiny_prior(tie_embeddings=tied).eval()
    prior.config.tokenizer_fingerprint = "0123"
    prior.save_pretrained(tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    assert {**loaded.config.to_dict(), "_name_or_path": ""} == prior.config.to_dict()
    weights = loaded.state_dict()
    assert weights.keys() == prior.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in prior.state_dict().items())
    tokens, _ = tokens_and_labels(2)
    assert torch.equal(loaded(tokens).logits, prior(tokens).logits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -1}, "hidden_size is -1; it must be at least 1, or 0 for that of size"),
        ({"num_layers": -1}, "num_layers is -1; it must be at least 1, or 0 for that of size"),
        ({"num_heads": -1}, "num_heads is -1; it must be at least 1, or 0 for that of size"),
        ({"hidden_size": 30, "num_heads": 4}, r"hidden_size is 30; it must divide by 2 \* num_heads = 8"),
        ({"attention_dropout": 1.0}, r"attention_dropout is 1.0; it must be in \[0, 1\)"),
        ({"size": "huge"}, "size is 'huge'; valid are XS, S, M, B, L, XL, XXL, 3B"),
        ({"architecture": "rnn"}, "architecture is 'rnn'; valid are llama, gpt2"),
        ({"num_codes": 1}, "num_codes is 1; it must be at least 2"),
        ({"num_tokens": 0}, "num_tokens is 0; it must be at least 1"),
        ({"num_classes": -1}, "num_classes is -1; it must be at least 0"),
    ],
)
def test_bad_sizes_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        tiny_prior(**changes)


def test_a_size_of_the_table_is_taken_and_its_parts_can_be_replaced():
    assert PriorSize(size="L").shape == (1024, 24, 16)
    assert PriorSize(size="XS", num_layers=9).shape == (192, 9, 3)
    assert parse("train-prior", ["--model.size", "XL"]).model.shape == (1280, 36, 20)
    assert parse("train-prior", ["--model.size", "XL", "--model.num-heads", "10"]).model.shape == (1280, 36, 10)


# Table 1 of arXiv 2406.06525 gives these to three digits at best, with feed-forward widths rounded otherwise.
@pytest.mark.parametrize(("size", "millions"), [("B", 111), ("L", 343), ("XL", 775), ("XXL", 1400), ("3B", 3100)])
def test_the_large_sizes_have_llamagens_parameter_counts(size, millions):
    with torch.device("meta"):
        prior = build_prior(PriorConfig(size=size, num_codes=16_384, num_tokens=256, num_classes=1000))
    assert sum(parameter.numel() for parameter in prior.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_surprise_of_each_code_after_its_class_and_the_codes_before(smoothing):
    prior = tiny_prior().eval()
    tokens, labels = tokens_and_labels(3)
    labels[1] = CONFIG.num_classes  # the null class
    surprise = []
    for row, label in zip(tokens, labels, strict=True):
        for position, code in enumerate(row):
            prefix = torch.cat([CONFIG.num_codes + label[None], row[:position]])
            logs = prior(prefix[None]).logits[0, -1].double().log_softmax(dim=0)
            surprise.append(-(1 - smoothing) * logs[code] - smoothing * logs.mean())
    prior.train()  # without drop-out; smoothing is for training alone
    loss = TokenLoss(prior, CONFIG.num_codes, smoothing)(tokens, labels)
    torch.testing.assert_close(loss.double(), torch.stack(surprise).mean(), rtol=1e-5, atol=0)


def test_validation_is_the_loss_of_all_held_out_images_whatever_the_batches(tmp_path):
    tokens, labels = tokens_and_labels(259)  # a batch of 256 and one of 3
    prior = tiny_prior(attention_dropout=0.5)
    dataset = token_dataset(tmp_path, "evaluation", tokens.tolist(), labels.tolist())
    accelerator = Accelerator()
    model = TokenLoss(prior, CONFIG.num_codes, label_smoothing=0.3)
    loss = validate(model.to(accelerator.device), dataset, PriorTraining(), accelerator)
    of_tokens = TokenLoss(prior.cpu().eval(), CONFIG.num_codes).eval()
    assert loss == pytest.approx(of_tokens(tokens, labels).item(), rel=1e-5)
    three = validate(model, dataset, PriorTraining(evaluation_images=3), accelerator)
    assert three == pytest.approx(of_tokens(tokens[[0, 129, 258]], labels[[0, 129, 258]]).item(), rel=1e-5)


def test_a_token_dataset_gives_what_was_written(tmp_path):
    tokens, labels = tokens_and_labels(5)
    dataset = token_dataset(tmp_path, "train", tokens.tolist(), labels.tolist())
    assert torch.equal(dataset.tokens, tokens)
    assert dataset.tokens.dtype == dataset.labels.dtype == torch.int64
    assert (len(dataset), dataset.num_codes, dataset.tokenizer_fingerprint) == (5, 10, "f")
    assert dataset.class_names == ("a", "b", "c")
    batch = dataset.__getitems__([3, 0])
    assert torch.equal(batch["tokens"], tokens[[3, 0]])
    assert torch.equal(batch["labels"], labels[[3, 0]])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [False, True])
def test_optimizers_have_every_parameter_once_and_never_decay_vectors(optimizer, tied):
    prior = tiny_prior(tie_embeddings=tied)
    optimizers = build_optimizers(prior, PriorTraining(optimizer=optimizer, weight_decay=0.3))
    groups = [group for each in optimizers for group in each.param_groups]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in prior.parameters())
    for group in groups:
        assert group["peak"] == group["lr"] == PriorTraining().learning_rate
        assert all(parameter.ndim == (2 if group["weight_decay"] else 1) for parameter in group["params"])
        assert group["weight_decay"] in (0.0, 0.3)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rate", [0.0, 1e-5, None])
def test_rows_of_ids_have_their_own_learning_rate(architecture, tied, rate):
    prior = tiny_prior(architecture=architecture, tie_embeddings=tied)
    adamw, _ = build_optimizers(prior, PriorTraining(table_learning_rate=rate))
    own = {id(prior.get_input_embeddings().weight), id(prior.get_output_embeddings().weight)}
    peaks = {id(parameter): group["peak"] for group in adamw.param_groups for parameter in group["params"]}
    expected = PriorTraining().learning_rate
    assert all(peak == (expected if rate is None or key not in own else rate) for key, peak in peaks.items())
    assert own <= peaks.keys()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_muon_has_the_matrices_inside_the_layers_and_nothing_else(architecture):
    prior = tiny_prior(architecture=architecture)
    layers = prior.model.layers if architecture == "llama" else prior.transformer.h
    adamw, muon = build_optimizers(prior, PriorTraining(optimizer="muon"))
    assert isinstance(adamw, torch.optim.AdamW)
    assert isinstance(muon, torch.optim.Muon)
    given, others = ({id(p) for group in o.param_groups for p in group["params"]} for o in (muon, adamw))
    assert given == {id(p) for p in layers.parameters() if p.ndim == 2}
    assert others == {id(p) for p in prior.parameters()} - given


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_dropout": 1.5}, "class_dropout is 1.5; it must be 0 to 1"),
        ({"evaluation_images": -1}, "evaluation_images is -1; it must be at least 0"),
        ({"label_smoothing": 1.0}, r"label_smoothing is 1.0; it must be in \[0, 1\)"),
        (
            {"label_smoothing": 0.1, "sampled_ids": 8},
            "label_smoothing is 0.1 with sampled_ids 8",
        ),
        ({"sampled_ids": -1}, "sampled_ids is -1; it must be at least 0"),
        ({"table_learning_rate": -0.1}, "table_learning_rate is -0.1; it must be at least 0"),
        ({"ema_decay": -0.1}, r"ema_decay is -0.1; it must be in \[0, 1\)"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 10, "gradient_accumulation_steps": 4}, "batch_size is 10; it must divide by"),
    ],
)
def test_bad_training_options_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        PriorTraining(model=PriorSize(), **changes)
