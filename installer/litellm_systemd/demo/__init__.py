"""The model of configs/demo.yml: it answers without a provider, a network or an account."""
