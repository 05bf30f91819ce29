"""Where a step runs: a local process or a container."""
