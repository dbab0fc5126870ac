"""Other people's quantizers, each as its paper has it."""
