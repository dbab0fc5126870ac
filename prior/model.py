"""The prior: a plain transformers Llama or GPT-2 over codes, class ids and one null class."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.multi_scale import check_scales, scale_ends

from .generate import generation_config
from .order.sequences import TokenOrder, num_positions
from .turns import check_codes_per_position

PRIOR_CLASSES = {"llama": LlamaForCausalLM, "gpt2": GPT2LMHeadModel}
SIZES = {  # hidden_size, num_layers, num_heads; from B on those of LlamaGen (arXiv 2406.06525, table 1)
    "XS": (192, 6, 3),
    "S": (384, 8, 6),
    "M": (512, 8, 8),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1280, 36, 20),
    "XXL": (1536, 48, 24),
    "3B": (3200, 24, 32),
}


@dataclass(frozen=True)
class PriorSize:
    """Width and depth of a prior: one of the table `SIZES`, or one's own.

    Raises:
        InputError: for a name that is not listed, a negative number, or heads that do not divide the width.
    """

    architecture: Literal["llama", "gpt2"] = "llama"
    """Llama (rotary positions, RMS norm, SwiGLU) or GPT-2 (learnt positions, layer norm, GELU)."""
    size: Literal["XS", "S", "M", "B", "L", "XL", "XXL", "3B"] = "M"
    """From a few million parameters, for a CPU, to LlamaGen's sizes B to 3B."""
    hidden_size: int = 0
    """Width, which must divide by num_heads into an even number; 0 for that of `size`."""
    num_layers: int = 0
    """Transformer layers; 0 for those of `size`."""
    num_heads: int = 0
    """Attention heads; 0 for those of `size`."""
    tie_embeddings: bool = False
    """Whether the output layer is the transposed embedding."""
    attention_dropout: float = 0.0
    """Dropout of the attention weights, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.architecture not in PRIOR_CLASSES:
            raise InputError(f"architecture is '{self.architecture}'; valid are {', '.join(PRIOR_CLASSES)}")
        if self.size not in SIZES:
            raise InputError(f"size is '{self.size}'; valid are {', '.join(SIZES)}")
        for name in ("hidden_size", "num_layers", "num_heads"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1, or 0 for that of size")
        width, _, heads = self.shape
        if width % (2 * heads):
            raise InputError(f"hidden_size is {width}; it must divide by 2 * num_heads = {2 * heads}")
        if not 0 <= self.attention_dropout < 1:
            raise InputError(f"attention_dropout is {self.attention_dropout}; it must be in [0, 1)")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width, layers and heads: those of `size`, unless given."""
        width, layers, heads = SIZES[self.size]
        return self.hidden_size or width, self.num_layers or layers, self.num_heads or heads


@dataclass(frozen=True, kw_only=True)
class PriorConfig(PriorSize):
    """A prior's size and what it speaks about. Vocabulary: codes 0..K-1, then one id per class, then the null class.

    With free order one id per position stands between the codes and the classes.

    Raises:
        InputError: as `PriorSize`, for fewer than 2 codes or 1 token, numbers that M does not divide, or another order.
    """

    num_codes: int
    """Codes of the tokenizer, K; M * K with M codes at each position of its grid."""
    num_tokens: int
    """Tokens of an image, h * w * M."""
    num_classes: int = 0
    """Classes; 0 for an unconditional prior, which always sees the null class."""
    codes_per_position: int = 1
    """M: token t of an image is one of the K codes from (t mod M) * K on."""
    token_order: TokenOrder = "raster"
    """Whether it draws in raster order, or in any ("random"), see `wvq.prior.order.sequences`."""
    scales: tuple[int, ...] = ()
    """Scales of the tokens, which are then drawn a scale a pass; see `wvq.prior.next_scale`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("num_codes", 2), ("num_tokens", 1), ("num_classes", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        check_codes_per_position(self.codes_per_position, self.num_codes, self.num_tokens)
        if self.token_order not in get_args(TokenOrder):
            raise InputError(f"token_order is '{self.token_order}'; valid are {', '.join(get_args(TokenOrder))}")
        if self.scales:
            check_scales(self.scales)
            if scale_ends(self.scales)[-1] != self.num_tokens or self.codes_per_position != 1:
                raise InputError(f"scales are {self.scales}; {self.num_tokens} tokens do not fit to them")
            if self.token_order != "raster":
                raise InputError(f"token_order is '{self.token_order}'; a prior with scales draws them in their order")


def feed_forward_width(hidden_size: int) -> int:
    """A Llama's: 8/3 of its width, rounded up to a multiple of 32; of 256 from B's width on, as LlamaGen's are."""
    multiple = 32 if hidden_size < SIZES["B"][0] else 256
    return -(-hidden_size * 8 // 3 // multiple) * multiple


def build_prior(config: PriorConfig) -> LlamaForCausalLM | GPT2LMHeadModel:
    """A randomly initialised transformers model whose first token is a class id and whose other tokens are codes.

    With free order they are pairs of a position and a code. A GPT-2's feed-forward width is 4 times hidden_size, a
    Llama's that of `feed_forward_width`. num_codes, num_tokens, num_classes and codes_per_position are kept in the
    model's own config.json, and token_order where it is not raster, so that earlier versions read what they can;
    transformers' `generate` draws codes alone.
    """
    width, layers, heads = config.shape
    length = config.num_tokens * (1 if config.token_order == "raster" else 2) + 1
    shared: dict[str, Any] = {
        "vocab_size": config.num_codes + num_positions(config) + config.num_classes + 1,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if config.architecture == "llama":
        description: Any = LlamaConfig(
            hidden_size=width,
            intermediate_size=feed_forward_width(width),
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=length,
            attention_dropout=config.attention_dropout,
            **shared,
        )
    else:
        description = GPT2Config(
            n_embd=width,
            n_layer=layers,
            n_head=heads,
            n_positions=length,
            attn_pdrop=config.attention_dropout,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            **shared,
        )
    description.num_codes = config.num_codes
    description.num_tokens = config.num_tokens
    description.num_classes = config.num_classes
    description.codes_per_position = config.codes_per_position
    if config.token_order != "raster":
        description.token_order = config.token_order
    if config.scales:
        description.scales = list(config.scales)
    prior = PRIOR_CLASSES[config.architecture](description)
    prior.generation_config = generation_config(description)
    return prior


def transformer_layers(prior: LlamaForCausalLM | GPT2LMHeadModel) -> nn.ModuleList:
    """The layers of a prior, each a unit that can be compiled, recomputed or sharded."""
    layers = prior.model.layers if isinstance(prior, LlamaForCausalLM) else prior.transformer.h
    assert isinstance(layers, nn.ModuleList)
    return layers
