"""Tests of Holdfast; a package, so that `python -m tests.lab` and shared helpers can be imported."""
