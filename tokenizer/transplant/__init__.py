"""What a tokenizer is made of whose autoencoder exists already: its two halves, projectors, cached latents."""
