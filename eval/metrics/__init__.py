"""Scores of features and images: from tensors to numbers."""
