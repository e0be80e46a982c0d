"""Queries to AWS and the EC2 instance metadata. The only package that uses botocore."""
