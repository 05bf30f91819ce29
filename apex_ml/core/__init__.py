"""Pure functions on values: features, split, models, evaluation, promotion, drift."""
