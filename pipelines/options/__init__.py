"""The options of a command: what they are, without the modules of the models; recipes; help; completion."""
