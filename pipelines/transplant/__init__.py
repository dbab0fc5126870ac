"""A quantizer put into an autoencoder that exists: where that is read from, its latents, and the training."""
