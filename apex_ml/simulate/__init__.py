"""Generate orders whose process is known: true probabilities, Bayes loss, and named quirks of delivered files."""
