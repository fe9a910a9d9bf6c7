"""The build: plan, steps in order, proof, publication."""
