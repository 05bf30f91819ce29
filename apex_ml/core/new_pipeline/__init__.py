"""A first pipeline for a table: roles, types, levels and checks that follow from its profile."""
