"""Members: what gives a score to a user and an item, and their weighted sum."""
