"""In which order the tokens of an image follow each other, and how several of them are drawn at once."""
