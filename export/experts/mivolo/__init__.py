"""MiVOLO, face and person."""
