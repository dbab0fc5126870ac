"""Which sampling options suit a pipeline best, found on training images."""
