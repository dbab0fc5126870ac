"""Private names and inner layouts of other packages: each sits behind one module, and here is said what to do once an
upgrade changes it. docs/development.md lists them; ruff's SLF rule keeps them out of all other modules."""

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel

from wvq.prior import PriorConfig, build_prior


def tiny_prior(architecture: Any) -> PreTrainedModel:
    sizes: dict[str, Any] = {"num_codes": 8, "num_tokens": 4, "hidden_size": 32, "num_layers": 1, "num_heads": 2}
    return build_prior(PriorConfig(architecture=architecture, **sizes))


def test_torchmetrics_network_of_lpips() -> None:
    """eval/metrics/perceptual.py: `_LPIPS` takes weights of a backbone; the public class downloads them."""
    from torchmetrics.functional.image import lpips

    network = getattr(lpips, "_LPIPS", None)
    assert network is not None, "find what torchmetrics calls LPIPS's network now, and use that in PerceptualSimilarity"
    assert {"net", "pnet_rand"} <= inspect.signature(network).parameters.keys(), (
        "_LPIPS takes other arguments: build it in PerceptualSimilarity with linear weights and without its download"
    )
    assert callable(getattr(lpips, "_get_tv_model_features", None)), (
        "tests/eval/metrics/test_image_quality.py replaces this function, to have torchmetrics' own values without a "
        "download: replace what torchmetrics calls now"
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_transformers_modules_that_are_read(architecture: Any) -> None:
    """prior/decoder/llama.py and gpt2.py read the matrices of models made of these classes and no others."""
    from wvq.prior.decoder.gpt2 import GPT2_MODULES
    from wvq.prior.decoder.llama import LLAMA_MODULES

    model = tiny_prior(architecture)
    known = {"llama": LLAMA_MODULES, "gpt2": GPT2_MODULES}[architecture]
    unknown = {type(module) for module in model.modules()} - known
    assert not unknown, (
        f"{architecture} is made of {unknown} too, so that it is called and not read: samples are right, and slower. "
        f"Read its code in transformers: where prior/decoder/{architecture}.py still computes the same "
        "(test_decoder.py), add the class to its list; else have it compute what is new"
    )


def test_torch_hooks_of_a_module() -> None:
    """prior/decoder/build.py: a model with hooks is called and not read, or they would not run."""
    module = nn.Linear(1, 1)
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
    module.register_forward_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 1, (
        "torch keeps hooks elsewhere: have build_decoder look there"
    )


def test_torch_counts_how_often_a_tensor_was_written() -> None:
    """prior/decoder/kept.py: by it, beside the sum of its bits, a decoder is found to be out of date."""
    weight = nn.Parameter(torch.zeros(2, device="cpu"))
    before = weight._version
    with torch.no_grad():
        weight.add_(1)
    assert weight._version > before, "find the counter's new name, or compare whole weights in kept_decoder"


def test_onednn_operators_of_packed_matrices() -> None:
    """prior/decoder/packed_linear.py multiplies by matrices that are reordered once, as the inductor does."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN, and multiplies by plain matrices")
    missing = [name for name in ("_reorder_linear_weight", "_linear_pointwise") if not hasattr(torch.ops.mkldnn, name)]
    assert not missing, (
        f"torch.ops.mkldnn has no {missing}: sampling on a CPU is right and up to twice as slow. Look up in "
        "torch/_inductor/mkldnn_lowerings.py what they are called now, and call that in PackedLinear"
    )
    assert "binary" in torch.ops.mkldnn._linear_pointwise.overloads(), "see above, for PackedLinear.plus and times"
    if torch.backends.mkl.is_available():
        missing = [name for name in ("_mkl_reorder_linear_weight", "_mkl_linear") if not hasattr(torch.ops.mkl, name)]
        assert not missing, f"torch.ops.mkl has no {missing}: look them up as well; without, Intel's CPUs have oneDNN"
    assert hasattr(torch.ops.aten, "_weight_int8pack_mm"), (
        "find torch's product of bfloat16 with int8 matrices for Int8Linear, or have it round its weights to bfloat16"
    )


def test_transformers_layers_that_fsdp_shards_by() -> None:
    """prior/loss.py: TokenLoss hands on the names of the layer classes, each of which FSDP gathers at once."""
    for architecture in ("llama", "gpt2"):
        model = tiny_prior(architecture)
        named = getattr(model, "_no_split_modules", None)
        assert named, (
            "transformers says elsewhere which layers stay whole: set TokenLoss._no_split_modules, which Accelerate "
            "reads, to LlamaDecoderLayer and GPT2Block; without it a sharded prior is gathered all at once"
        )
        assert set(named) <= {type(module).__name__ for module in model.modules()}, f"{named} is no layer of the model"


def test_accelerate_state_that_all_accelerators_share() -> None:
    """pipelines/training/accelerator.py: FSDP on CPUs, which Accelerate leaves to GPUs, is set in its shared state."""
    from accelerate.state import AcceleratorState, PartialState

    for state in (AcceleratorState, PartialState):
        assert isinstance(getattr(state, "_shared_state", None), dict), (
            f"{state.__name__} keeps its state elsewhere: set distributed_type (and fsdp_plugin) there in "
            "build_accelerator, until tests/pipelines/training/test_fsdp.py passes, or refuse FSDP on CPUs"
        )
    PartialState(cpu=True)
    assert "distributed_type" in PartialState._shared_state, "see above: the state has another name for the engine"


def test_accelerate_functions_that_are_not_documented() -> None:
    """pipelines/training/sharding.py shards the moving average; pipelines/generation.py halves what memory refuses."""
    from accelerate import utils
    from accelerate.utils import memory

    assert list(inspect.signature(utils.fsdp2_prepare_model).parameters) == ["accelerator", "model"], (
        "the moving average has to be sharded as the model is: see what Accelerator.prepare calls for FSDP2 now"
    )
    assert memory.should_reduce_batch_size(RuntimeError("CUDA out of memory.")), (
        "sample_images has to tell out of memory from other errors: see what find_executable_batch_size asks now"
    )


def test_torch_names_of_shards_and_their_json(tmp_path: Path) -> None:
    """pipelines/training/checkpoints/shards.py: processes know their files and such checkpoints by a name."""
    from torch.distributed.checkpoint import hf_storage, state_dict_saver

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        writer = hf_storage.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True)
        state_dict_saver.save({"ones": torch.ones(2)}, storage_writer=writer, no_dist=True)
    (file,) = tmp_path.iterdir()
    assert file.match("shard-00001-*.safetensors"), (
        "torch names shards otherwise: have ShardWriter.write and has_shards look for that"
    )
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["DCP_SHARDING_INFO"]) == {"ones": {"saved_offsets": [0]}}, (
            "torch says otherwise where a shard belongs: checkpoints of before may not be read"
        )


def test_torch_muon_state_and_options() -> None:
    """pipelines/training/muon.py makes Muon's step on shards itself, around the one of torch for the whole matrix."""
    matrix = nn.Parameter(torch.eye(4))
    matrix.grad = torch.eye(4)
    muon = torch.optim.Muon([matrix])
    muon.step()
    read = {"lr", "weight_decay", "momentum", "nesterov", "ns_coefficients", "eps", "ns_steps", "adjust_lr_fn"}
    assert muon.param_groups[0].keys() == read | {"params"}, (
        "torch.optim.Muon has other options: Muon._step_sharded has to do with each what torch/optim/_muon.py does"
    )
    assert muon.state[matrix].keys() == {"momentum_buffer"}, (
        "torch.optim.Muon keeps another state: Muon._step_sharded has to keep it too, sharded, or checkpoints of one "
        "and of several processes differ"
    )


def test_torchmetrics_sums_of_a_frechet_distance() -> None:
    """eval/frechet_metric.py inherits the sums, their reset and their reduction over processes."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature=feature_of(3))
    for side in ("real", "fake"):
        for name, shape in (("sum", (3,)), ("cov_sum", (3, 3)), ("num_samples", ())):
            value = getattr(metric, f"{side}_features_{name}", None)
            assert isinstance(value, torch.Tensor), "torchmetrics keeps other sums: declare them in FrechetDistance"
            assert value.shape == shape, "torchmetrics keeps other sums: declare them in FrechetDistance"
    assert isinstance(metric.inception, nn.Module), "torchmetrics calls its network something else; so must we"


def feature_of(dimension: int) -> nn.Module:
    network = nn.Identity()
    network.num_features = torch.tensor(dimension)
    return network


def test_torchmetrics_distance_of_given_statistics() -> None:
    """eval/benchmarks/peers.py times it alone, without the sums before it."""
    from torchmetrics.image import fid

    assert hasattr(fid, "_compute_fid"), "time what FrechetInceptionDistance.compute calls now, or drop the row"


def test_torch_fidelity_layers_of_inception(monkeypatch: pytest.MonkeyPatch) -> None:
    """eval/features/inception.py folds batch normalisation into convolutions, and applies layers in their order."""
    from torch_fidelity import feature_extractor_inceptionv3 as theirs

    monkeypatch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    network = theirs.FeatureExtractorInceptionV3("random", ["2048"])
    said = (
        "read torch-fidelity's new code: InceptionV3 has to apply the same layers, in the same order, up to the pooling"
    )
    names = """Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 MaxPool_1 Conv2d_3b_1x1 Conv2d_4a_3x3 MaxPool_2 Mixed_5b
        Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e Mixed_7a Mixed_7b Mixed_7c AvgPool fc"""
    assert [name for name, _ in network.named_children()] == names.split(), said
    for block in network.modules():
        if isinstance(block, theirs.BasicConv2d):
            assert [name for name, _ in block.named_children()] == ["conv", "bn"], said


def test_efficientnet_layers() -> None:
    """tokenizer/backbones/efficientnet.py folds batch normalisation and padding into convolutions, by private names."""
    from efficientnet_lite_pytorch import EfficientNet

    network: Any = EfficientNet.from_name("efficientnet-lite0", image_size=64)
    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert names == {"_bn0", "_bn1", "_bn2"}, (
        "fold what the layers are called now, in folded, or leave them as they are"
    )
    names = {name.rpartition(".")[2] for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert names == {"_conv_stem", "_conv_head", "_expand_conv", "_depthwise_conv", "_project_conv"}, "see above"


def test_accelerate_command_line_that_tests_use() -> None:
    """tests/launch_files.py reads the shipped files for `accelerate launch` as that command does."""
    from accelerate.commands import launch

    assert callable(getattr(launch, "_validate_launch_command", None)), (
        "see what accelerate's launch_command calls after its parser now, and call that in tests/launch_files.py"
    )


def test_torch_says_whether_a_backward_pass_runs() -> None:
    """tokenizer/quantizers/base.py: what is called in a backward pass is repeated, and belongs to no step."""
    seen: list[int] = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda _: seen.append(torch._C._current_graph_task_id()))
    x.sum().backward()
    assert seen[0] != -1 == torch._C._current_graph_task_id(), (
        "torch says otherwise whether a backward pass runs: ask in Quantizer.forward what torch/utils/checkpoint.py "
        "asks"
    )


def test_torch_optimizers_that_skip_a_step_by_a_tensor() -> None:
    """pipelines/training/loop.py asks for `_step_supports_amp_scaling` and gives `found_inf`, as torch.amp does."""
    weight = nn.Parameter(torch.ones(2))
    optimizer: Any = torch.optim.AdamW([weight], lr=1.0, fused=True)
    weight.grad = torch.full((2,), torch.nan)
    assert getattr(optimizer, "_step_supports_amp_scaling", False), (
        "torch says otherwise which optimizers do: see GradScaler.step, and ask that in Loop"
    )
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2)), "a fused AdamW no longer heeds found_inf: see GradScaler.step"
    assert not getattr(torch.optim.AdamW([weight]), "_step_supports_amp_scaling", False)
