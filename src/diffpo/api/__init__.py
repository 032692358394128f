"""What scripts and notebooks call: `train` and `evaluate` do what the commands do, and leave the process as it was."""
