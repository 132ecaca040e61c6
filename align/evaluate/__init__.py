"""Measurements on frozen models."""
