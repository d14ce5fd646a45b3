"""Training recipes, one YAML a file."""
