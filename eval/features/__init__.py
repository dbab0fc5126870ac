"""From images to features: extractors, sources of images, and passes over whole sets."""
