"""Recipes and the trainer's arguments: read and checked before anything is loaded."""
