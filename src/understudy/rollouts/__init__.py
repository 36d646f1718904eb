"""Behaviour, collection, the dataset, evaluation episodes."""
