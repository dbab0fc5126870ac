"""The third training loop: a tokenizer whose reconstructions a perceptual loss and a discriminator judge."""
