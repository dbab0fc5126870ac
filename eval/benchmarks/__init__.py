"""What things cost, beside named peers; one file a command."""
