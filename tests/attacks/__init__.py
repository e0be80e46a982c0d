"""What a client without a key can try against the service, bounded, and only on loopback.

`python -m tests.attacks` runs one attack. tests/integration/test_attacks.py runs all of them against the service with
and without its protections, and tests/bench/attacks.py compares the service with others (docs/security.md).
"""
