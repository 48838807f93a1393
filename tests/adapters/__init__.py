"""Tests of engines of other people."""
