"""Distillation of Janus-Pro into a light head."""
