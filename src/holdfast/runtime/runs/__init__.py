"""Runs: durable functions, their steps, questions, artifacts, queues and schedules."""
