"""Vector quantizers: from features to codes, and how codes follow the features."""
