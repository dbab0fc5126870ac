"""Where the package makes tensors on the CPU by intent, without saying so at the call (device_watch.py).

Not listed, since it is so everywhere: random numbers are where the generator given is, and what a module makes while it
is made itself moves with it.
"""

ROOMS = {
    "wvq.tokenizer.data": "images are read, decoded and put in order on the CPU",
}

_WHICH = "which images are taken, and in which order"
_LABELS = "classes, which the prior moves to where it is"
_FEATURES = "rows of feature sets, which are kept on the CPU"
_CPU_BENCHMARK = "what is measured here runs on the CPU"

FUNCTIONS = {
    "wvq.tokenizer.transplant.latents.LatentDataset.take": "latents are read on the CPU, by safetensors",
    "wvq.pipelines.class_conditional.ClassConditionalPipeline.labels_of": _LABELS,
    "wvq.pipelines.labels.labels_of": _LABELS,
    "wvq.pipelines.sample._sample": _LABELS,
    "wvq.pipelines.train_prior.validate": _WHICH,
    "wvq.pipelines.train_prior.write_samples": _LABELS,
    "wvq.eval.codebook.examine_tokenizer": _WHICH,
    "wvq.eval.comparison.scoring.score": _LABELS,
    "wvq.eval.feature_scores._interval": _FEATURES,
    "wvq.eval.features.sample_note.read_sample_note": "classes that a file names",
    "wvq.eval.features.samples.sample_features": _LABELS,
    "wvq.eval.perturbation.SomeImages.__getitems__": _WHICH,
    "wvq.eval.perturbation.evaluate_perturbation": _WHICH,
    "wvq.eval.references.classes_of_samples": _LABELS,
    "wvq.eval.benchmarks.evaluation._compare_scores": _FEATURES,
    "wvq.eval.benchmarks.quantizers.build_step": _CPU_BENCHMARK,
    "wvq.eval.benchmarks.quantizers.measure": _CPU_BENCHMARK,
    "wvq.eval.benchmarks.sample_size.benchmark_sample_size": _FEATURES,
    "wvq.eval.benchmarks.sampling._compare": "seconds that were measured",
}
"""By the outermost function: what its tensors are."""
