"""Who runs where: single and sync."""
