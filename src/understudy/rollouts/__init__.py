"""Behaviour, collection, the dataset, the replay, evaluation episodes."""
