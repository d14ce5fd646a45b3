"""What people do after a prediction: count, compare, check, report, and choose what to label."""
