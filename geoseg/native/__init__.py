"""Optional C code; without it everything works, more slowly."""
