"""The prior: a plain transformers Llama over codes, class ids and one null class."""

from dataclasses import dataclass

from transformers import LlamaConfig, LlamaForCausalLM

from wvq.tokenizer.errors import InputError


@dataclass(frozen=True)
class PriorSize:
    """Width and depth of a prior."""

    hidden_size: int = 512
    """Width; it must divide by num_heads into an even number."""
    num_layers: int = 8
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads."""
    tie_embeddings: bool = False
    """Whether the output layer is the transposed embedding."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights, in [0, 1)."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "num_layers", "num_heads"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden_size % (2 * self.num_heads):
            raise InputError(
                f"hidden_size is {self.hidden_size}; it must divide by 2 * num_heads = {2 * self.num_heads}"
            )
        if not 0 <= self.attention_dropout < 1:
            raise InputError(f"attention_dropout is {self.attention_dropout}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PriorSize):
    """A prior's size and what it speaks about. Vocabulary: codes 0..K-1, then one id per class, then the null class."""

    num_codes: int
    """Codes of the tokenizer, K."""
    num_tokens: int
    """Tokens of an image, h * w."""
    num_classes: int = 0
    """Classes; 0 for an unconditional prior, which always sees the null class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("num_codes", 2), ("num_tokens", 1), ("num_classes", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")


def build_prior(config: PriorConfig) -> LlamaForCausalLM:
    """A randomly initialised `LlamaForCausalLM` whose first token is a class id and whose other tokens are codes.

    The feed-forward width is 8/3 of hidden_size, rounded up to a multiple of 32, as in Llama. num_codes, num_tokens and
    num_classes are kept in the model's own config.json.
    """
    description = LlamaConfig(
        vocab_size=config.num_codes + config.num_classes + 1,
        hidden_size=config.hidden_size,
        intermediate_size=-(-config.hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        max_position_embeddings=config.num_tokens + 1,
        tie_word_embeddings=config.tie_embeddings,
        attention_dropout=config.attention_dropout,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    description.num_codes = config.num_codes
    description.num_tokens = config.num_tokens
    description.num_classes = config.num_classes
    return LlamaForCausalLM(description)
