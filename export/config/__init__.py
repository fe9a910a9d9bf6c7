"""What experts.toml can say, and the contract that every graph honors."""
