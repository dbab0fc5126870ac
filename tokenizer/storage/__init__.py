"""What is written: whole or not at all, by one process at a time, and read without trust."""
