"""Code in C, optional: everything works without it."""
