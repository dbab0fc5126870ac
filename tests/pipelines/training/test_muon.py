"""Muon for the kernels of convolutions, and what an optimizer of a tokenizer is given."""

from typing import Any

import pytest
import torch
from torch import nn

from wvq.pipelines.train_tokenizer import (
    TokenizerTraining,
    build_tokenizer_optimizers,
    clipped,
)
from wvq.pipelines.training import muon
from wvq.pipelines.training.muon import Muon
from wvq.tokenizer import TokenizerConfig, VQTokenizer
from wvq.tokenizer.data import DataConfig

OPTIONS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.3}


def test_a_kernel_is_the_matrix_that_it_multiplies_patches_by():
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(6, 4, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = Muon([kernel], **OPTIONS)
    torchs = torch.optim.Muon([matrix], adjust_lr_fn="match_rms_adamw", **OPTIONS)
    for _ in range(3):
        kernel.grad = torch.randn_like(kernel)
        matrix.grad = kernel.grad.flatten(1).clone()
        ours.step()
        torchs.step()
        torch.testing.assert_close(kernel.flatten(1), matrix, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("together", [1, 200, 2**25])
def test_matrices_of_one_shape_are_orthogonalized_together(together: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(muon, "_TOGETHER", together)
    torch.manual_seed(0)
    shapes = [(6, 12), (6, 12), (12, 6), (6, 3, 2, 2), (6, 12), (8, 8)]
    own = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    others = [nn.Parameter(matrix.detach().flatten(1).clone()) for matrix in own]
    ours, torchs = Muon(own, **OPTIONS), torch.optim.Muon(others, adjust_lr_fn="match_rms_adamw", **OPTIONS)
    for _ in range(3):
        for matrix, other in zip(own, others, strict=True):
            matrix.grad = torch.randn_like(matrix)
            other.grad = matrix.grad.flatten(1).clone()
        ours.step()
        torchs.step()
    for matrix, other in zip(own, others, strict=True):
        torch.testing.assert_close(matrix.flatten(1), other, rtol=1e-5, atol=1e-6)


def toy_tokenizer() -> tuple[VQTokenizer, TokenizerTraining]:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 16, "channels": 1}
    model = TokenizerConfig(base_channels=8, channel_multipliers=(1, 2), codebook_size=16, codebook_dim=4, **sizes)
    return VQTokenizer(model), TokenizerTraining(model=model, data=DataConfig(**sizes), optimizer="muon")


def test_every_parameter_has_one_optimizer_and_codes_have_not_muon():
    tokenizer, config = toy_tokenizer()
    adamw, of_kernels = optimizers = build_tokenizer_optimizers(tokenizer, config, "muon")
    groups = [group["params"] for optimizer in optimizers for group in optimizer.param_groups]
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in tokenizer.parameters())
    network, codebook = adamw.param_groups
    assert {p.ndim for p in network["params"]} == {1}
    assert {p.ndim for p in of_kernels.param_groups[0]["params"]} == {4}
    assert [id(p) for p in codebook["params"]] == [id(tokenizer.quantizer.weight)]
    named = clipped(optimizers)
    assert len(named["network"]) == len(list(tokenizer.parameters())) - 1
    assert named["codebook"] == codebook["params"]


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_step_that_is_not_made_leaves_kernels_and_codes_as_they_were(kind: str):
    tokenizer, config = toy_tokenizer()
    optimizers: list[Any] = build_tokenizer_optimizers(tokenizer, config, kind)
    states = []
    for bad in (0.0, 1.0, 0.0):
        for parameter in tokenizer.parameters():
            parameter.grad = torch.full_like(parameter, float("nan") if bad else 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = 0.1
            optimizer.found_inf = torch.tensor(bad)
            optimizer.step()
        states.append([value.detach().clone() for value in tokenizer.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(states[0], states[1], strict=True))
    assert not any(torch.equal(one, two) for one, two in zip(states[1], states[2], strict=True))


def test_with_muon_a_tokenizer_learns_an_image_in_fewer_steps():
    images = torch.linspace(-1, 1, 16).expand(4, 1, 16, 16) * torch.tensor([1.0, -1.0, 0.5, -0.5]).view(4, 1, 1, 1)
    errors = {}
    for kind in ("muon", "adamw"):
        tokenizer, config = toy_tokenizer()
        optimizers = build_tokenizer_optimizers(tokenizer, config, kind)
        for _ in range(30):
            output = tokenizer(images)
            error = (output.reconstructions - images).square().mean()
            (error + output.quantizer.loss).backward()
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = 0.003
                optimizer.step()
                optimizer.zero_grad()
            errors[kind] = error.item()
    assert errors["muon"] < errors["adamw"]
