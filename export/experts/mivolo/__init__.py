"""MiVOLO, with face and person, as an expert."""
