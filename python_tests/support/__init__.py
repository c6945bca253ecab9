"""What tests share: oracles, calls by name, and ways to run an op."""
