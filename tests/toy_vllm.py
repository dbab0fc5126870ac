"""Of vLLM what the guides use of it, as far as it is documented: an engine that runs a model of transformers."""

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM


class LogitsProcessor:
    """What the engine takes: classes that derive from this one."""


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    seed: int | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True
    extra_args: dict[str, Any] | None = None


class LLM:
    """All requests in one batch, each drawn with the generator of its seed."""

    def __init__(
        self,
        model: str,
        skip_tokenizer_init: bool,
        logits_processors: list[type] | None = None,
        max_num_seqs: int = 256,
    ):
        assert skip_tokenizer_init
        self.model: Any = AutoModelForCausalLM.from_pretrained(model)
        self.processors: list[Any] = [kind(None, "cpu", False) for kind in logits_processors or ()]
        assert all(isinstance(processor, LogitsProcessor) for processor in self.processors)

    @torch.no_grad()
    def generate(self, prompts: list[dict[str, list[int]]], given: Any) -> list[Any]:
        params = given if isinstance(given, list) else [given] * len(prompts)
        starts = [prompt["prompt_token_ids"] for prompt in prompts]
        drawn: list[list[int]] = [[] for _ in prompts]
        draws = [torch.Generator().manual_seed(one.seed or 0) for one in params]
        for processor in self.processors:
            for one in params:
                processor.validate_params(one)
            added = [(row, *of_row) for row, of_row in enumerate(zip(params, starts, drawn, strict=True))]
            processor.update_state(SimpleNamespace(removed=[], added=added, moved=[]))
        for _ in range(params[0].max_tokens):
            sequences = [start + tokens for start, tokens in zip(starts, drawn, strict=True)]
            logits = self.model(torch.tensor(sequences)).logits[:, -1]
            for row, one in enumerate(params):
                allowed = logits[row, one.allowed_token_ids].clone()
                logits[row] = -float("inf")
                logits[row, one.allowed_token_ids] = allowed
            for processor in self.processors:
                logits = processor.apply(logits)
            for row, scores in enumerate(logits.softmax(dim=-1)):
                noise = torch.empty_like(scores).exponential_(generator=draws[row])
                drawn[row].append(int((scores / noise).argmax()))
            for processor in self.processors:
                processor.update_state(None)
        return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)]) for tokens in drawn]


def modules() -> dict[str, ModuleType]:
    """By the names under which they are imported."""
    names = ("vllm", "vllm.v1", "vllm.v1.sample", "vllm.v1.sample.logits_processor")
    made: dict[str, Any] = {name: ModuleType(name) for name in names}
    made["vllm"].LLM, made["vllm"].SamplingParams = LLM, SamplingParams
    made["vllm.v1.sample.logits_processor"].LogitsProcessor = LogitsProcessor
    return made
