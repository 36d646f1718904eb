"""Who runs where: single, sync, async and Ray, and the evaluator beside them."""
