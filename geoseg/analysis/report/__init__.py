"""A report on a prediction: one HTML file that works offline."""
