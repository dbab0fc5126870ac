"""Where other people meet a pipeline: its card, its repository on the hub, and the libraries that load its folder."""
