"""The data contract: typed models of the YAML file."""
