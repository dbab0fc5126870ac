"""What every training loop shares: processes, the run's folder, checkpoints, guards, signals, memory."""
