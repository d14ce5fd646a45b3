"""Scene in, results out: the only room that sees both geo and model."""
