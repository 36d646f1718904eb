"""What a round of the loop learns from: a dataset that the teacher labels, or the rollout itself."""
