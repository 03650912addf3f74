"""The training loop, its configuration, sampling, reproduction, several processes."""
