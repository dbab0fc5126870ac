"""What makes reconstructions sharp: perceptual losses, discriminators, and the losses of adversarial training."""
