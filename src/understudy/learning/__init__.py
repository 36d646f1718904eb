"""What a round of the loop learns from, and how: a labelled dataset, the rollout, a replay, shared gradients."""
