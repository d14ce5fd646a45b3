"""Commands on results: report, accuracy, decode, change, suggest."""
