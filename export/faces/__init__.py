"""Faces of known age and faces to verify on: drawn, photographed, noise."""
