"""The experts: one module per architecture."""
