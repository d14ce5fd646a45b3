"""Objects as features: measured, written to files, read back."""
