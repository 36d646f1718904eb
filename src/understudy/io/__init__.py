"""Checkpoints and logs."""
