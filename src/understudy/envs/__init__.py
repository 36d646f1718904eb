"""Environments: one contract, and every library brought to it."""
