"""Fitting of fusion tables on labeled faces, and reports on their accuracy."""
