"""Tests of the demo that kills itself."""
