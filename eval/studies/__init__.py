"""The paper's controlled studies of codebooks."""
