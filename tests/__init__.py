"""Tests of Holdfast; a package, so that `python -m tests.lab` and shared parts can be imported."""
