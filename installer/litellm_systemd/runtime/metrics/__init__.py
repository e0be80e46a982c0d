"""Metrics for Prometheus: what is counted, where the counts are, and the process that serves them (ADR 0014)."""
