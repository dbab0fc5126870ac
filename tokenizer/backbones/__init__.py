"""Frozen networks, whose features perceptual losses and discriminators see."""
