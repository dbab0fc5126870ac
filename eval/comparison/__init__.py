"""Methods, settings and seeds under one budget."""
