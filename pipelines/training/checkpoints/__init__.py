"""What a checkpoint of a run holds, and how it is written: whole or in shards, at once or beside the loop."""
