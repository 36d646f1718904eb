"""Policies: distributions, networks, normalisation; students and teachers alike."""
