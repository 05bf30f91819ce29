"""A table that no contract describes yet: its columns, their relation to a target, and their change."""
