"""Checkpoints, logs, run folders, and exported students."""
